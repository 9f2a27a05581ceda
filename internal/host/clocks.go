package host

import (
	"fmt"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/problem"
)

const (
	// apartMax is by how much the clocks of two hosts may differ. No database is judged by them, but retention, schedules and moments
	// to restore are.
	apartMax = 5 * time.Minute
	// apartHeard is how old a host's word about its clock may be.
	apartHeard = 10 * time.Second
)

// clocksApart says that this host's clock and those of hosts that are heard differ; nil = they do not. Which of them is
// wrong nobody here can tell. Pure.
func clocksApart(self string, peers []agent.PeerFacts) *problem.Problem {
	var words []string
	for _, p := range peers {
		if p.AgentAge < apartHeard && p.Ahead.Abs() > apartMax {
			side := "ahead of"
			if p.Ahead < 0 {
				side = "behind"
			}
			words = append(words, fmt.Sprintf("that of %s is %s %s it", p.Host, p.Ahead.Abs().Round(time.Minute), side))
		}
	}
	if len(words) == 0 {
		return nil
	}
	return &problem.Problem{Code: "host.clock-differs", Subject: self, Severity: problem.Degraded,
		Title:   "its clock is not that of the others: " + strings.Join(words, ", "),
		Meaning: "This host lets go of no backup and no log: what is old by a wrong clock may be new. Who is the primary is never judged by these clocks; schedules, the moments that are restored to, and how long a request waits are: a switchover that one host took may be too old for another.",
		Remedy:  "find out which clock is wrong (chronyc tracking on each host), and set it right"}
}
