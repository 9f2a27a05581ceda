package host

import (
	"context"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/keeper"
)

// exits tells at once when the process under a keeper ends, so that nobody waits for the next look.
type exits struct {
	dir   string // the keeper's directory
	clock clock.Clock
	tell  chan struct{}
}

func newExits(dir string, c clock.Clock) *exits {
	return &exits{dir: dir, clock: c, tell: make(chan struct{}, 1)}
}

// lookEvery is how often a directory without a live keeper is looked at again.
const lookEvery = 250 * time.Millisecond

func (e *exits) run(ctx context.Context) error {
	for {
		client, state, err := keeper.Find(e.dir)
		if err == nil && state.Condition == keeper.Alive {
			for range client.Watch(ctx) {
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
