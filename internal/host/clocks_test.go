package host

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
)

// A host whose clock has jumped dates what it stores by that clock, too: only the others tell.
func TestClocksThatDifferAreTold(t *testing.T) {
	peer := func(host string, age, ahead time.Duration) agent.PeerFacts {
		return agent.PeerFacts{Host: host, AgentAge: age, Ahead: ahead}
	}
	for name, c := range map[string]struct {
		peers []agent.PeerFacts
		want  string // "" = no problem
	}{
		"alone":                 {nil, ""},
		"alike":                 {[]agent.PeerFacts{peer("b2", 0, time.Second), peer("b3", 0, -apartMax)}, ""},
		"one is ahead":          {[]agent.PeerFacts{peer("b2", 0, 14*24*time.Hour), peer("b3", 0, time.Second)}, "that of b2 is 336h0m0s ahead of it"},
		"ours has jumped ahead": {[]agent.PeerFacts{peer("b2", 0, -apartMax-time.Second), peer("b3", 0, -2*apartMax)}, "that of b2 is 5m0s behind it, that of b3 is 10m0s behind it"},
		"a word of long ago":    {[]agent.PeerFacts{peer("b2", apartHeard, time.Hour), peer("b3", database.Never, time.Hour)}, ""},
	} {
		p := clocksApart("b1", c.peers)
		if got := p != nil; got != (c.want != "") || got && !strings.HasSuffix(p.Title, c.want) {
			t.Errorf("%s: %v", name, p)
		}
	}
}
