package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/store"
)

// guarded is a place whose deletions can be put under a guard: while one is set, each deletion asks it first, and what
// the place keeps under lock is counted and left for another time. What the catalog keeps is deleted in batches, each after
// the vault has written down that it may be gone: see [Vault.intend].
type guarded struct {
	store.Store
	guard atomic.Pointer[guard]
}

type guard struct {
	vault   *Vault
	may     func(context.Context) error // an error ends the work: we are no longer the one who may delete
	end     context.CancelCauseFunc     // kopia tries again what fails, unless its context has ended
	lanes   int                         // deletions at a time
	deleted atomic.Int64

	mu      sync.Mutex // guards what follows
	locked  []string
	waiting []string // for their batch to be full, or for finish
	asked   map[string]bool
}

// keep notes what the place's own lock keeps for now.
func (g *guard) keep(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.locked = append(g.locked, name)
}

// leave notes what a lock is known to keep: in this work it is not asked for again.
func (g *guard) leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.asked[name] {
		g.asked[name] = true
		g.locked = append(g.locked, name)
	}
}

func (g *guard) freed() Freed {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Freed{Objects: g.deleted.Load(), Locked: int64(len(g.locked)), locked: slices.Clone(g.locked)}
}

func (g *guarded) Delete(ctx context.Context, name string) error {
	now := g.guard.Load()
	switch {
	case now == nil:
		return g.Store.Delete(ctx, name)
	case !catalogued(name):
		_, err := now.delete(ctx, g.Store, name)
		return err
	}
	return now.carryOut(ctx, g.Store, now.wait(name))
}

// finish deletes what waits. Whoever set the guard calls it once all is asked for; what waits when the work is broken off
// stays.
func (g *guarded) finish(ctx context.Context) error {
	now := g.guard.Load()
	return now.carryOut(ctx, g.Store, now.take(1))
}

// wait adds a name to those that are to be deleted, and gives the batch when it is full.
func (g *guard) wait(name string) []string {
	g.mu.Lock()
	if !g.asked[name] {
		g.asked[name] = true
		g.waiting = append(g.waiting, name)
	}
	g.mu.Unlock()
	return g.take(pageRows)
}

// take gives what waits when it is at least so many.
func (g *guard) take(least int) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) < least {
		return nil
	}
	names := g.waiting
	g.waiting = nil
	return names
}

// carryOut deletes a batch. Any error ends the work: what is left of it comes up again in the next run.
func (g *guard) carryOut(ctx context.Context, from store.Store, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if err := g.vault.intend(ctx, names); err != nil {
		g.end(err)
		return err
	}
	var mu sync.Mutex // guards stay
	var stay []string
	var work errgroup.Group
	work.SetLimit(g.lanes)
	for _, name := range names {
		work.Go(func() error {
			whole, err := true, context.Cause(ctx)
			if err == nil {
				whole, err = g.delete(ctx, from, name)
			}
			if whole {
				mu.Lock()
				stay = append(stay, name)
				mu.Unlock()
			}
			if err != nil {
				g.end(err)
			}
			return err
		})
	}
	err := work.Wait()
	if err = errors.Join(err, g.vault.carriedOut(ctx, stay)); err != nil {
		g.end(err)
	}
	return err
}

// delete deletes one blob by may's leave. whole = it is there as it was, for sure.
func (g *guard) delete(ctx context.Context, from store.Store, name string) (whole bool, err error) {
	if err := g.may(ctx); err != nil {
		err = fmt.Errorf("delete %s: %w", name, err)
		g.end(err)
		return true, err
	}
	err = from.Delete(ctx, name)
	switch {
	case errors.Is(err, store.ErrLocked):
		g.keep(name)
		return g.vault.members == nil, nil // of several copies one may have let it go
	case err == nil:
		g.deleted.Add(1)
	case errors.Is(err, store.ErrDenied): // nothing that follows would go either
		g.end(err)
	}
	return false, err
}

// Close lets go of the place.
func (g *guarded) Close() {
	if c, ok := g.Store.(interface{ Close() }); ok {
		c.Close()
	}
}

// watch puts deletions under a guard until done is called; ctx ends when it refuses. One at a time; may nil = nothing is
// asked.
func (g *guarded) watch(ctx context.Context, v *Vault, lanes int, may func(context.Context) error) (now *guard, guardedCtx context.Context, done func(), err error) {
	if may == nil {
		may = func(context.Context) error { return nil }
	}
	ctx, end := context.WithCancelCause(ctx)
	now = &guard{vault: v, may: may, end: end, lanes: lanes, asked: map[string]bool{}}
	if !g.guard.CompareAndSwap(nil, now) {
		end(nil)
		return nil, nil, nil, errors.New("something else is being let go of in this vault already")
	}
	return now, ctx, func() { g.guard.Store(nil); end(nil) }, nil
}
