// Package upkeep frees what no listed snapshot of a repository uses any more. Start at [Run].
package upkeep

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/vault/repo"
)

// ErrClock is returned by [Run] when the clock here and the one of the place differ by more than five minutes.
var ErrClock = errors.New("the clock here and the one of the repository's place differ")

// Own writes into the repository that nobody but owner cleans it up, so that a stock kopia program leaves it alone. It counts when w
// is flushed.
func Own(ctx context.Context, w *repo.Writer, owner string) error { return errors.New("not yet") }

// Run marks what is unused, joins packs that are half empty, and deletes what has been unused for long enough. between (nil =
// nothing) is called after the marking and may change the schedule; now is by the repository's clock. w is a writer of r that
// has stored nothing. One run at a time; the caller sees to that. Cut off anywhere it leaves everything that is listed whole.
func Run(ctx context.Context, r *repo.Repository, w *repo.Writer, s Safety, between func(ctx context.Context, now time.Time) error) error {
	return errors.New("not yet")
}
