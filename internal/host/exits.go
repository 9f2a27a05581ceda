package host

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/keeper"
)

// exits tells at once when the process under a keeper ends, so that nobody waits for the next look.
type exits struct {
	dir   string // the keeper's directory
	clock clock.Clock
	log   *slog.Logger
	tell  chan struct{}
}

func newExits(dir string, c clock.Clock, log *slog.Logger) *exits {
	return &exits{dir: dir, clock: c, log: log, tell: make(chan struct{}, 1)}
}

// lookEvery is how often a directory without a live keeper is looked at again.
const lookEvery = 250 * time.Millisecond

func (e *exits) run(ctx context.Context) error {
	for {
		client, state, err := keeper.Find(e.dir)
		if err == nil && state.Condition == keeper.Alive {
			for exit := range client.Watch(ctx) {
				e.log.Info("server process ended", "reason", exit.Reason, "tree_gone", exit.TreeGone, "keeper_lost", exit.KeeperLost)
				select {
				case e.tell <- struct{}{}:
				default:
				}
			}
		}
		t := e.clock.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C():
		}
	}
}
