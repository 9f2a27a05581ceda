package host

import (
	"testing"
	"time"

	"holdfast/internal/backup"
)

// Whoever hears of the lag as late as it may be heard, and takes it at its word, is never told too little.
func TestTheLagThatIsToldIsNeverTooLittle(t *testing.T) {
	began := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	for _, age := range []time.Duration{-time.Second, 0, time.Millisecond, 999 * time.Millisecond, time.Second, 59*time.Second + 1, time.Hour} {
		got, heard := lag(began, began.Add(age)), began.Add(age+saidFor)
		if covered := heard.Add(-got); covered.After(began) || covered.Before(began.Add(-2*time.Second)) || got%time.Second != 0 {
			t.Errorf("of %s ago it is told as %s", age, got)
		}
	}
	if got := lag(time.Time{}, began); got >= 0 {
		t.Errorf("what is not known is told as %s", got)
	}

	a := &archivist{}
	for _, c := range []struct{ at, behind, want time.Duration }{
		{0, -1, -1},
		{10 * time.Second, 2 * time.Second, 8 * time.Second},
		{20 * time.Second, -1, 8 * time.Second}, // another receiver, which knows nothing yet
		{21 * time.Second, 15 * time.Second, 8 * time.Second},
		{22 * time.Second, time.Second, 21 * time.Second},
	} {
		a.covers(backup.Status{Behind: c.behind}, began.Add(c.at))
		if c.want < 0 && !a.covered.IsZero() || c.want >= 0 && !a.covered.Equal(began.Add(c.want)) {
			t.Errorf("%s behind at %s: covered until %s", c.behind, c.at, a.covered)
		}
	}
}
