package upkeep

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/store"
)

// gonePacks asks once for each pack from which something could not be read whether it is there.
type gonePacks struct {
	r       *repo.Repository
	givenUp func(ctx context.Context, pack string) (bool, error)

	mu    sync.Mutex // guards what follows; held while the place is asked
	asked map[string]bool
}

func newGonePacks(r *repo.Repository, givenUp func(ctx context.Context, pack string) (bool, error)) *gonePacks {
	return &gonePacks{r: r, givenUp: givenUp, asked: map[string]bool{}}
}

// has reports whether a pack is gone for certain, or was given up. Where it may be in a place that does not answer, that is an error.
func (g *gonePacks) has(ctx context.Context, pack string) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gone, ok := g.asked[pack]; ok {
		return gone, nil
	}
	_, err := g.r.StatBlob(ctx, pack)
	gone := isGone(err)
	if err == nil {
		gone, err = g.givenUp(ctx, pack)
	}
	if err != nil && !gone {
		return false, fmt.Errorf("look for pack %s: %w", pack, err)
	}
	g.asked[pack] = gone
	if gone {
		g.r.Log().WarnContext(ctx, "listed snapshots use what was given up", "pack", pack)
	}
	return gone, nil
}

// isLost reports whether an error may say that what was to be read is nowhere any more.
func isLost(err error) bool {
	return isGone(err) || errors.Is(err, store.ErrShort) || errors.Is(err, format.ErrDamaged)
}

// isGone reports whether an error says that something is nowhere, for certain.
func isGone(err error) bool {
	return errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen)
}
