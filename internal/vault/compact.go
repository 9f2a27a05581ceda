package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/vault/repo"
)

// Compacted is what one run of compaction came to.
type Compacted struct {
	Days   int  `json:"days"`   // each of them has one index now instead of one for each flush
	Joined bool `json:"joined"` // of many days
}

// compactMax bounds how many days one run joins: what is left is for the next.
const compactMax = 40

// Compact writes, for indexes of the repository that are many and settled, one that says the same. So a vault opens as quickly
// after a year as after a week. Nothing is deleted, so that it needs no right to do so: what it stands for is
// freed by [Vault.Reclaim]. It refuses while a copy is away or behind, for an index that is in that copy alone would be passed
// over for ever. One host at a time does either; the caller sees to that.
func (v *Vault) Compact(ctx context.Context, may func(context.Context) error) (Compacted, error) {
	var out Compacted
	if v.guard == nil {
		return out, fmt.Errorf("join the indexes of vault %s: %w", v.name, ErrReadOnly)
	}
	if err := v.MayDelete(ctx); err != nil {
		return out, err
	}
	v.repoMu.Lock()
	defer v.repoMu.Unlock()
	if err := v.broken(); err != nil {
		return out, err
	}
	err := v.repo.Write(ctx, repo.WriteOptions{Purpose: "holdfast-compact"}, func(ctx context.Context, w *repo.Writer) error {
		indexes := w.Indexes()
		if err := indexes.Refresh(ctx); err != nil {
			return err
		}
		for out.Days < compactMax {
			if err := may(ctx); err != nil {
				return err
			}
			one, err := indexes.CompactOne(ctx)
			if err != nil {
				return err
			}
			if !one {
				break
			}
			out.Days++
			if err := indexes.Refresh(ctx); err != nil {
				return err
			}
		}
		if err := indexes.MaybeAdvance(ctx); err != nil {
			return err
		}
		var err error
		out.Joined, err = indexes.MaybeCheckpoint(ctx)
		return err
	})
	if err = errors.Join(err, v.broken()); err != nil {
		return out, fmt.Errorf("join the indexes of vault %s: %w", v.name, err)
	}
	return out, nil
}
