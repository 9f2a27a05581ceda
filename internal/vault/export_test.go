package vault

import (
	"context"
	"time"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

// In makes a vault lie in a place that is made already.
func (c Config) In(place store.Store) Config {
	c.instead = place
	return c
}

// WithFormatKept makes a vault look at its repository's format again after so long, where a quarter of an hour is usual.
func (c Config) WithFormatKept(d time.Duration) Config {
	c.formatKept = d
	return c
}

// BundleName reads the name of a bundle.
func BundleName(name string) (dir, first string, count int, ok bool) {
	b, ok := parseBundleName(name)
	return b.dir, b.first, b.count, ok
}

// MoveLists stores all directories and entries of backups again in other packs, as a clean-up does that joins packs. Those in which
// they lay before stay.
func (v *Vault) MoveLists(ctx context.Context) error {
	return v.eachContent(ctx, (*repo.Writer).Rewrite, func(i repo.Info) bool { return i.ID.Prefix() != "" })
}

// MarkData marks all chunks as unused, as a clean-up does that has seen no backup which uses them.
func (v *Vault) MarkData(ctx context.Context) error {
	return v.eachContent(ctx, (*repo.Writer).Delete, func(i repo.Info) bool { return i.ID.Prefix() == "" })
}

func (v *Vault) eachContent(ctx context.Context, do func(*repo.Writer, context.Context, repo.ContentID) error, want func(repo.Info) bool) error {
	if err := v.repo.Refresh(ctx); err != nil {
		return err
	}
	var all []repo.ContentID
	err := v.repo.EachContent(ctx, false, func(i repo.Info) error {
		if want(i) {
			all = append(all, i.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.repo.Write(ctx, repo.WriteOptions{}, func(ctx context.Context, w *repo.Writer) error {
		for _, id := range all {
			if err := do(w, ctx, id); err != nil {
				return err
			}
		}
		return nil
	})
}
