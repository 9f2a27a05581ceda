package reminders

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// flaky fails for its first rounds.
type flaky struct{ failures, rounds int }

func (f *flaky) SendReminders(_ context.Context, instance string) (int64, error) {
	f.rounds++
	if f.rounds <= f.failures {
		return 0, errors.New("database unavailable")
	}
	return 2, nil
}

func TestRunGoesOnAfterFailuresAndTellsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		sender := &flaky{failures: 3}
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		if err := Run(ctx, sender, "worker-1", time.Second, slog.New(slog.NewTextHandler(&out, nil))); err != nil {
			t.Fatal(err)
		}
		if sender.rounds != 5 {
			t.Errorf("%d rounds in 4.5 s, want 5", sender.rounds)
		}
		for text, times := range map[string]int{"reminders wait": 1, "reminders go on": 1, "count=2": 2} {
			if n := strings.Count(out.String(), text); n != times {
				t.Errorf("%q is there %d times, want %d:\n%s", text, n, times, out.String())
			}
		}
	})
}
