// Package reminders is the worker that sends each due reminder once. It listens on nothing.
package reminders

import (
	"context"
	"log/slog"
	"time"
)

// Sender sends what is due and says how many that were. Repeating it is harmless.
type Sender interface {
	SendReminders(ctx context.Context, instance string) (int64, error)
}

// Run makes a round each interval until ctx ends, and then returns nil. A round that fails is logged and
// made again: the database keeps what is due.
func Run(ctx context.Context, s Sender, instance string, every time.Duration, log *slog.Logger) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failures := 0
	for {
		round, cancel := context.WithTimeout(ctx, 10*time.Second)
		sent, err := s.SendReminders(round, instance)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			if failures == 1 || failures%60 == 0 {
				log.WarnContext(ctx, "reminders wait", "attempts", failures, "err", err)
			}
		default:
			if failures > 0 {
				log.InfoContext(ctx, "reminders go on", "attempts", failures)
				failures = 0
			}
			if sent > 0 {
				log.InfoContext(ctx, "reminders sent", "count", sent)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
