package sim

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
)

// storeTimeout is how long a caller waits for a store that does not answer.
const storeTimeout = time.Second

// slowStore is the store as a host's actions reach it: with a way there, a way back, and answers that are lost.
type slowStore struct {
	*memory.Store
	h *host
}

// Get implements [cluster.Store].
func (s slowStore) Get(ctx context.Context, key string) (cluster.Entry, error) {
	if err := s.way(ctx, "get "+key); err != nil {
		return cluster.Entry{}, err
	}
	e, err := s.Store.Get(ctx, key)
	if err == nil {
		err = s.way(ctx, "get "+key)
	}
	return e, err
}

// Put implements [cluster.Store].
func (s slowStore) Put(ctx context.Context, key string, value []byte, ifRevision int64) (int64, error) {
	if err := s.way(ctx, "put "+key); err != nil {
		return 0, err
	}
	rev, err := s.Store.Put(ctx, key, value, ifRevision)
	if h := s.h; h.eatNext && err == nil {
		h.eatNext, h.eatUntil = false, h.w.now+h.w.between(50*time.Millisecond, 4*time.Second)
		return 0, fmt.Errorf("put %s: %w", key, cluster.ErrUnavailable)
	}
	if lost := s.way(ctx, "put "+key); lost != nil {
		return 0, lost // it may have happened
	}
	if err == nil && s.h.w.chance(100) {
		return 0, fmt.Errorf("put %s: %w", key, cluster.ErrUnavailable)
	}
	return rev, err
}

func (s slowStore) way(ctx context.Context, what string) error {
	w := s.h.w
	if err := w.Wait(ctx, s.h.name, w.storeWay()); err != nil {
		return err
	}
	if w.reachesStore(s.h) {
		return nil
	}
	if err := w.Wait(ctx, s.h.name, storeTimeout); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", what, cluster.ErrUnavailable)
}

// storeWay is one direction of a store call, with its share of the quorum's work.
func (w *World) storeWay() time.Duration {
	d := w.between(200*time.Microsecond, 4*time.Millisecond)
	if w.slow > 0 {
		d += time.Duration(w.rng.Int64N(int64(w.slow)))
	}
	return d
}
