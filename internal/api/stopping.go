package api

import (
	"holdfast/internal/agent"
	"holdfast/internal/problem"
)

// stopWords words what a host's rounds say while they end what runs there. They say the same whether the whole application
// stops or that host alone does: which it is, the agreed state tells. Any other problem is as it was.
func stopWords(x problem.Problem, host string, s agent.Snapshot) problem.Problem {
	if x.Code != "cluster.stopping" {
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
