package cli

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/event"
)

func TestTheHistoryTellsHowOftenAndWhy(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	e := event.Event{At: at, Host: "h2", Room: "database", Subject: "records", What: "clone from=h1 did not succeed: no space left", Because: []string{"it has no data"}, Took: event.Duration(2 * time.Second)}
	for _, c := range []struct {
		times int
		again string
	}{{0, ""}, {1, ""}, {214, "; 214 times since 2030-01-02 02:04:05"}} {
		e.Times, e.Since = c.times, at.Add(-time.Hour)
		var out strings.Builder
		if err := writeEvent(&out, e); err != nil {
			t.Fatal(err)
		}
		want := "2030-01-02 03:04:05.000  h2  database records: clone from=h1 did not succeed: no space left (2s" + c.again + ")\n                           it has no data\n"
		if out.String() != want {
			t.Errorf("%d times: %q, want %q", c.times, out.String(), want)
		}
	}
}
