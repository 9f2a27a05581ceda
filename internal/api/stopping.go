package api

import (
	"holdfast/internal/agent"
	"holdfast/internal/problem"
)

// stopWords words what a host's rounds say while they end what runs there. They say the same whether the whole application
// stops or that host alone does: which it is, the agreed state tells. Hosts that refuse an agreed state that looks old are told what
// helps then. Any other problem is as it was.
func stopWords(x problem.Problem, host string, s agent.Snapshot) problem.Problem {
	switch x.Code {
	case "cluster.stopping":
	case "database.agreed-state-old":
		x.Remedy = "put back the newest etcd data on every host that has a member, and move no data directory meanwhile; a forced failover is refused. Step by step: " +
			"lost-majority.md of the handbook, \"When etcd was put back from an old backup\""
		return x
	default:
		return x
	}
	if _, all := s.Agreed[agent.KeyStopping]; all {
		x.Remedy = "to run it again: start the agents that have ended, then: holdfast cluster start"
		return x
	}
	return problem.Problem{
		Code: "host.stopping", Subject: host, Severity: problem.Degraded, Title: "this host is being stopped, the others go on",
		Meaning: "What runs on it ends in good order, and its agent after that. The others serve, as far as the plan has others.",
		Remedy:  "to run it again, once it has ended: holdfast agent --plan PLAN --host " + host,
	}
}
