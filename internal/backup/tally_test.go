package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A server is left for the small messages that it sends when nothing waits any more, never for what it has to catch up.
func TestWhichServerIsLeft(t *testing.T) {
	began := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	many := func(n, bytes int) func(*tally) {
		return func(y *tally) {
			for range n {
				y.add(bytes, false, began)
			}
		}
	}
	for _, c := range []struct {
		what string
		from tally
		say  func(*tally)
		took time.Duration
		want bool
	}{
		{"one that commits often", tally{since: began, look: time.Second}, many(500, 900), time.Second, true},
		{"one that commits seldom", tally{since: began, look: time.Second}, many(499, 900), time.Second, false},
		{"one that was not looked at long enough", tally{since: began, look: time.Second}, many(500, 900), time.Second - 1, false},
		{"one that writes much at once", tally{since: began, look: time.Second}, many(500, bulk), time.Second, false},
		{"one that only answers", tally{since: began, look: time.Second}, many(500, 0), time.Second, false},
		{"one of which something waits still", tally{look: glance}, many(500, 900), time.Second, false},
		{"one that commits on with all of its log taken", tally{look: glance}, func(y *tally) {
			y.add(900, true, began)
			many(20, 900)(y)
		}, glance, true},
		{"one that has become quiet meanwhile", tally{look: glance}, func(y *tally) {
			y.add(900, true, began)
			many(19, 900)(y)
		}, glance, false},
	} {
		y := c.from
		c.say(&y)
		if got := y.busy(busyAt, began.Add(c.took)); got != c.want {
			t.Errorf("%s: left %t, want %t", c.what, got, c.want)
		}
	}
}

// One that was busy is left at once when as much has gathered as it commits, and is looked at again now and then.
func TestWhatHasGatheredNeedsNoLook(t *testing.T) {
	began := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	y := tally{since: began, look: time.Second}
	for range 500 {
		y.add(1000, false, began)
	}
	if y.clear(busyAt, began.Add(time.Hour)) {
		t.Error("one that was not left yet is left without a look")
	}
	if !y.busy(busyAt, began.Add(time.Second)) {
		t.Fatal("it is not left")
	}
	visit := func(gathered int, caught bool) bool {
		y = y.visited(began)
		y.add(gathered-10, false, began)
		y.add(10, caught, began)
		return y.busy(busyAt, began.Add(time.Second))
	}
	if visit(2*busyAt*1000, false) {
		t.Error("it is left while something waits still")
	}
	if visit(2*busyAt*1000-1, true) {
		t.Error("it is left without a look though too little has gathered")
	}
	for i := range glances - 1 {
		if !visit(2*busyAt*1000, true) {
			t.Fatalf("visit %d: it is looked at", i+1)
		}
	}
	if visit(2*busyAt*1000, true) {
		t.Fatal("it is never looked at")
	}
	if !visit(2*busyAt*1000, true) {
		t.Error("after that look it is looked at again")
	}
	if got := (&tally{since: began, look: time.Second, mean: 700, unlooks: 3}); got.busy(busyAt, began.Add(time.Second)) || got.mean != 700 || got.unlooks != 0 {
		t.Errorf("one that has said nothing: %+v", *got)
	}
}

// Whoever comes back and finds log removed does not call all that this stream has taken a gap; the end of a timeline and of
// the context stay what they are.
func TestARefusalToGoOnIsNoGap(t *testing.T) {
	refused := sayOnly(fmt.Errorf("start streaming: %w", &pgconn.PgError{Code: "58P01", Message: "requested WAL segment has already been removed"}))
	if _, ok := errors.AsType[*pgconn.PgError](refused); ok || !strings.Contains(refused.Error(), "already been removed") {
		t.Errorf("the server's refusal came back as %v", refused)
	}
	for _, err := range []error{nil, errTimelineEnded, context.Canceled} {
		if got := sayOnly(err); !errors.Is(got, err) {
			t.Errorf("%v came back as %v", err, got)
		}
	}
}
