package host

import (
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
)

func TestTheRateOfABaseBackup(t *testing.T) {
	said := func(limit string) *agent.Asked { return &agent.Asked{Args: map[string]string{agent.ArgLimit: limit}} }
	for name, c := range map[string]struct {
		asked *agent.Asked
		want  int64
		bad   bool
	}{
		"the schedule's":            {want: 50},
		"asked for without a limit": {asked: said("")},
		"asked for with one":        {asked: said("7"), want: 7},
		"no number":                 {asked: said("fast"), bad: true},
	} {
		if got, err := baseLimit(plan.Backup{Limit: 50}, c.asked); got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.want)
		}
	}
}
