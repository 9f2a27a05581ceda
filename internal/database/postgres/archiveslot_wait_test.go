package postgres

import (
	"errors"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/database"
)

// asked is a clock that goes on with each question.
type asked struct {
	clock.Clock
	at time.Time
}

func (a *asked) Now() time.Time { return a.at }

func TestAnArchiveThatOnlyVisitsIsWaitedFor(t *testing.T) {
	broken := errors.New("the session ended")
	for name, c := range map[string]struct {
		there    bool
		from     int // the question from which on the archive is there; 0 = it does not come
		err      error
		want     database.LSN
		question int // how many are asked
	}{
		"it is there":                       {there: true, from: 1, want: 7, question: 1},
		"it comes back within its round":    {there: true, from: 3, want: 7, question: 3},
		"it does not come back":             {there: true, question: 6}, // 0.4 s each
		"it has no slot there":              {question: 1},
		"a server that is lost ends it too": {there: true, err: broken, question: 1},
	} {
		clk, n := &asked{at: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}, 0
		got, err := confirmed(t.Context(), clk, func() (database.LSN, bool, error) {
			n++
			if n > 1 {
				clk.at = clk.at.Add(archiveBack / 5)
			}
			if c.from != 0 && n >= c.from {
				return 7, true, nil
			}
			return 0, c.there, c.err
		})
		if got != c.want || !errors.Is(err, c.err) || n != c.question {
			t.Errorf("%s: %s, %v after %d questions; want %s after %d", name, got, err, n, c.want, c.question)
		}
	}
}
