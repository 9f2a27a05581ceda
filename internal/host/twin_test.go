package host

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/cluster/memory"
)

// at is a clock that stands where it is put.
type at struct {
	clock.Clock
	now time.Time
}

func (a *at) Now() time.Time { return a.now }

func TestWhetherTwoMachinesRunAsOneHost(t *testing.T) {
	look := func(x *twins) {
		t.Helper()
		if err := x.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() (first, second *twins, now *at) {
		shared := memory.New()
		now = &at{clock.Real(), time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
		return newTwins("h2", "/a", shared.Open("h2"), now), newTwins("h2", "/b", shared.Open("h2 again"), now), now
	}
	t.Run("an agent that was started anew is no other machine", func(t *testing.T) {
		first, second, _ := begin()
		look(first)
		look(second)
		look(second)
		if got := second.problems(); len(got) > 0 {
			t.Errorf("%v", got)
		}
	})
	t.Run("nor is one whose last write comes late", func(t *testing.T) {
		first, second, _ := begin()
		look(first)
		look(second)
		look(first) // written before it ended
		look(second)
		look(second)
		if got := second.problems(); len(got) > 0 {
			t.Errorf("%v", got)
		}
	})
	t.Run("two that live both say so, and name the other", func(t *testing.T) {
		first, second, now := begin()
		for range 3 {
			look(first)
			look(second)
			now.now = now.now.Add(twinPace)
		}
		for _, x := range []*twins{first, second} {
			got := x.problems()
			if len(got) != 1 || got[0].Code != "host.runs-twice" || !strings.Contains(got[0].Title, "in /a on") || !strings.Contains(got[0].Title, "in /b on") {
				t.Errorf("%v", got)
			}
		}
		for range 15 { // the second was ended
			look(first)
			now.now = now.now.Add(twinPace)
		}
		if got := first.problems(); len(got) > 0 {
			t.Errorf("it is over, and still told: %v", got)
		}
	})
}
