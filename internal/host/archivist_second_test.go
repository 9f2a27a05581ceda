package host

import (
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
)

func TestHowItStandsWithTheSecondPlaceIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		s    backup.Status
		want map[string]problem.Severity
	}{
		"nothing waits there":       {backup.Status{SpillRoom: 100}, nil},
		"some log waits there":      {backup.Status{Spilled: 1 << 30, SpillHolds: 84, SpillRoom: 100}, map[string]problem.Severity{"backup.log-spilled": problem.Degraded}},
		"it is nearly full":         {backup.Status{Spilled: 1 << 30, SpillHolds: 85, SpillRoom: 100}, map[string]problem.Severity{"backup.log-spilled": problem.Critical}},
		"its disk cannot be asked":  {backup.Status{Spilled: 1 << 30, SpillError: "gone"}, map[string]problem.Severity{"backup.log-spilled": problem.Critical, "backup.second-place": problem.Critical}},
		"its disk is not there yet": {backup.Status{SpillError: "no such file"}, map[string]problem.Severity{"backup.second-place": problem.Critical}},
	} {
		got := secondProblems("orders", "/mnt/second", c.s)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", name, got)
		}
		for _, p := range got {
			if c.want[p.Code] != p.Severity || p.Subject != "orders" {
				t.Errorf("%s: %s, %s", name, p.Code, p.Severity)
			}
		}
	}
}
