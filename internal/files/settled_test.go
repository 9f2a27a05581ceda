package files

import (
	"testing"
	"time"
)

func TestUntilWhenAChangeCouldLeaveTheTimeOfAFile(t *testing.T) {
	now := time.Unix(2e9, 5e8)
	for name, c := range map[string]struct{ age, stood, want time.Duration }{ // stood = for how long the clock of file times has stood still
		"changed just now":                                  {time.Millisecond, 0, 19 * time.Millisecond},
		"changed a tick ago":                                {tick, 0, 0},
		"changed long ago":                                  {time.Hour, 0, 0},
		"a file server's clock is a little ahead":           {-time.Millisecond, 0, 21 * time.Millisecond},
		"a time far ahead":                                  {-time.Hour, 0, 0},
		"whole seconds, half a second ago":                  {time.Second / 2, 0, 3 * time.Second / 2},
		"whole seconds, two and a half of them ago":         {5 * time.Second / 2, 0, 0},
		"whole seconds, and half of one of them ahead":      {-time.Second / 2, 0, 5 * time.Second / 2},
		"changed two ticks ago, where the machine was held": {2 * tick, 2 * tick, tick},
		"changed two ticks ago, where it was held before":   {2 * tick, 2*tick - 1, 0},
		"changed within a tick, where it was held":          {tick / 2, tick / 2, tick},
		"a time far ahead, where the machine was held":      {-time.Hour, tick, 0},
	} {
		if got := unsettled(now.Add(-c.age), now, now.Add(-c.stood)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
