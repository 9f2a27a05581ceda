package host

import (
	"testing"
	"time"

	"holdfast/internal/plan"
)

// What was worked out for one schedule does not go on to count when the plan has another.
func TestAChoreIsSpreadByTheScheduleThatCounts(t *testing.T) {
	var s spread
	for _, c := range []struct {
		of   plan.Schedule
		want time.Duration
	}{
		{plan.Schedule{Cron: "0 5 * * 0"}, careJitter},
		{plan.Schedule{Cron: "0 5 * * 0"}, careJitter},
		{plan.Schedule{Cron: "*/10 * * * *"}, time.Minute},
		{plan.Schedule{}, 0},
		{plan.Schedule{Every: 20 * time.Minute}, 2 * time.Minute},
	} {
		if got := s.within(c.of); got != c.want {
			t.Errorf("%+v is spread over %s, want %s", c.of, got, c.want)
		}
	}
	line := plan.Schedule{Cron: "0 5 * * 0"}                            // to read it allocates
	if n := testing.AllocsPerRun(1, func() { s.within(line) }); n > 0 { // the first run is not counted
		t.Errorf("asked again it is worked out anew: %v allocations", n)
	}
}
