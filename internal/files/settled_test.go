package files

import (
	"testing"
	"time"
)

func TestUntilWhenAChangeCouldLeaveTheTimeOfAFile(t *testing.T) {
	now := time.Unix(2e9, 5e8)
	for name, c := range map[string]struct{ age, want time.Duration }{
		"changed just now":                             {time.Millisecond, 19 * time.Millisecond},
		"changed a tick ago":                           {tick, 0},
		"changed long ago":                             {time.Hour, 0},
		"a file server's clock is a little ahead":      {-time.Millisecond, 21 * time.Millisecond},
		"a time far ahead":                             {-time.Hour, 0},
		"whole seconds, half a second ago":             {time.Second / 2, 3 * time.Second / 2},
		"whole seconds, two and a half of them ago":    {5 * time.Second / 2, 0},
		"whole seconds, and half of one of them ahead": {-time.Second / 2, 5 * time.Second / 2},
	} {
		if got := unsettled(now.Add(-c.age), now); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
