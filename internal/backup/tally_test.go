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
