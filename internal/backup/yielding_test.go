package backup

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"
)

// What yields does so on a thread of its own, and gives back what its work came to.
func TestWorkThatYieldsDoesSoAlone(t *testing.T) {
	nice := func() (int, int) {
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Error(err)
		}
		return 20 - raw, unix.Gettid()
	}
	y := beginYielding(t.Context(), slog.New(slog.DiscardHandler))
	var first, second, own [2]int
	own[0], own[1] = nice()
	failed := errors.New("it could not")
	if err := y.do(func() error { first[0], first[1] = nice(); return failed }); !errors.Is(err, failed) {
		t.Errorf("the work came to %v", err)
	}
	if err := y.do(func() error { second[0], second[1] = nice(); return nil }); err != nil {
		t.Error(err)
	}
	y.end()
	if want := min(own[0]+yieldBy, 19); first[0] != want || first != second {
		t.Errorf("nice %d on thread %d, then %d on thread %d; want %d", first[0], first[1], second[0], second[1], want)
	}
	if after, _ := nice(); after != own[0] {
		t.Errorf("the rest of the process went from nice %d to %d", own[0], after)
	}
}

// Whoever waits for the vault, and log that waits for long or has become much, is not kept waiting.
func TestWhatIsUrgentDoesNotYield(t *testing.T) {
	const size = 16 << 20
	for _, c := range []struct {
		what    string
		votes   bool
		waiting int64
		age     float64 // of the last piece
		want    bool
	}{
		{"a segment that has just come", false, size, 0.5, false},
		{"a beginning that is due", false, 1000, 1.5, false},
		{"nothing", false, 0, 0, false},
		{"a commit waits for the vault", true, 1000, 0, true},
		{"the vault was away", false, urgentFrom*size + 1, 1, true},
		{"it is late", false, 1000, 2.1, true},
	} {
		if got := urgent(c.votes, c.waiting, size, c.age); got != c.want {
			t.Errorf("%s: urgent %t, want %t", c.what, got, c.want)
		}
	}
}
