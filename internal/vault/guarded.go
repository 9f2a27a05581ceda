package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"holdfast/internal/vault/store"
)

// guarded is a place whose deletions can be put under a guard: while one is set, each deletion asks it first, and what
// the place keeps under lock is counted and left for another time.
type guarded struct {
	store.Store
	guard atomic.Pointer[guard]
}

type guard struct {
	may     func(context.Context) error // an error ends the work: we are no longer the one who may delete
	end     context.CancelCauseFunc     // kopia tries again what fails, unless its context has ended
	deleted atomic.Int64

	mu     sync.Mutex // guards what follows
	locked []string
}

// keep notes what the place's own lock keeps for now.
func (g *guard) keep(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.locked = append(g.locked, name)
}

func (g *guard) freed() Freed {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Freed{Objects: g.deleted.Load(), Locked: int64(len(g.locked)), locked: slices.Clone(g.locked)}
}

func (g *guarded) Delete(ctx context.Context, name string) error {
	now := g.guard.Load()
	if now == nil {
		return g.Store.Delete(ctx, name)
	}
	if err := now.may(ctx); err != nil {
		err = fmt.Errorf("delete %s: %w", name, err)
		now.end(err)
		return err
	}
	err := g.Store.Delete(ctx, name)
	switch {
	case errors.Is(err, store.ErrLocked):
		now.keep(name)
		return nil
	case err == nil:
		now.deleted.Add(1)
	case errors.Is(err, store.ErrDenied): // nothing that follows would go either
		now.end(err)
	}
	return err
}

// Close lets go of the place.
func (g *guarded) Close() {
	if c, ok := g.Store.(interface{ Close() }); ok {
		c.Close()
	}
}

// watch puts deletions under a guard until done is called; ctx ends when it refuses. One at a time; nil = nothing is asked.
func (g *guarded) watch(ctx context.Context, may func(context.Context) error) (now *guard, guardedCtx context.Context, done func(), err error) {
	if may == nil {
		may = func(context.Context) error { return nil }
	}
	ctx, end := context.WithCancelCause(ctx)
	now = &guard{may: may, end: end}
	if !g.guard.CompareAndSwap(nil, now) {
		end(nil)
		return nil, nil, nil, errors.New("something else is being let go of in this vault already")
	}
	return now, ctx, func() { g.guard.Store(nil); end(nil) }, nil
}
