package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/repo"
)

const (
	shortPercent = 60 // of a full pack: below it a pack is short
	rewriteLanes = 4  // contents that are moved at a time
)

// pack is what the index says of one pack.
type pack struct {
	name    string
	total   int64 // bytes of all its contents, the deleted ones too
	live    int   // contents that are used
	oldest  int64 // of those, in seconds
	newest  int64
	members []repo.Info // those that are used; only of packs that are joined
}

// rewrite moves what is used in short packs to new ones. What is deleted or unused stays where it is, and its pack as long as it
// does: moved, it would be as young as on its first day, and where packs are joined more often than a mark takes it would never go.
func (u *upkeep) rewrite(ctx context.Context) error {
	if err := u.r.Refresh(ctx); err != nil {
		return err
	}
	packs := map[string]*pack{}
	err := u.r.EachContent(ctx, true, func(i repo.Info) error {
		p := packs[i.Pack]
		if p == nil {
			p = &pack{name: i.Pack}
			packs[i.Pack] = p
		}
		p.add(i, u.wanted(i))
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for short packs: %w", err)
	}
	chosen := short(packs, int64(u.r.MaxPackSize())*shortPercent/100, u.r.Now().Add(-u.safety.RewriteMinAge).Unix())
	moved := map[string]*pack{}
	for _, p := range chosen {
		moved[p.name] = p
	}
	err = u.r.EachContent(ctx, false, func(i repo.Info) error {
		if p := moved[i.Pack]; p != nil && u.wanted(i) {
			p.members = append(p.members, i)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for short packs: %w", err)
	}
	for _, p := range chosen {
		if err := u.move(ctx, p); err != nil {
			return err
		}
	}
	u.log.InfoContext(ctx, "short packs joined", "packs", len(chosen))
	return u.flush(ctx)
}

// wanted reports whether a content is used by what was listed when this run began, or holds manifests.
func (u *upkeep) wanted(i repo.Info) bool {
	return !i.Deleted && (i.ID.Prefix() == manifestPrefix || u.marks.used(i.ID))
}

func (p *pack) add(i repo.Info, wanted bool) {
	p.total += int64(i.Packed)
	if !wanted {
		return
	}
	if p.live++; p.live == 1 || i.Time < p.oldest {
		p.oldest = i.Time
	}
	p.newest = max(p.newest, i.Time)
}

// short are the packs that are worth joining, the oldest first, so that what was stored together stays together. One alone of its
// kind has nothing to be joined with; one that got something after a moment (in seconds) is left alone.
func short(packs map[string]*pack, below, before int64) []*pack {
	kinds := map[byte][]*pack{}
	for _, p := range packs {
		if p.name != "" && p.live > 0 && p.total < below && p.newest <= before {
			kinds[p.name[0]] = append(kinds[p.name[0]], p)
		}
	}
	var out []*pack
	for _, all := range kinds {
		if len(all) > 1 {
			out = append(out, all...)
		}
	}
	slices.SortFunc(out, func(a, b *pack) int {
		return cmp.Or(cmp.Compare(a.name[0], b.name[0]), cmp.Compare(a.oldest, b.oldest), cmp.Compare(a.name, b.name))
	})
	return out
}

// move stores the contents of a pack again, in the order in which they lie there.
func (u *upkeep) move(ctx context.Context, p *pack) error {
	if err := u.options.May(ctx); err != nil { // what is moved may be flushed at any time
		return err
	}
	if err := u.onlyListed(ctx, p); err != nil {
		return err
	}
	slices.SortFunc(p.members, func(a, b repo.Info) int { return cmp.Compare(a.Offset, b.Offset) })
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(rewriteLanes)
	for _, i := range p.members {
		if each.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := u.w.Rewrite(each, i.ID); err != nil {
				return fmt.Errorf("move content %s out of pack %s: %w", i.ID, p.name, err)
			}
			return nil
		})
	}
	p.members = nil
	return cmp.Or(g.Wait(), ctx.Err())
}

// onlyListed leaves out the manifests of a pack that another writer has joined with others since the packs were chosen. Moved, they
// would count again, and could list what was deleted.
func (u *upkeep) onlyListed(ctx context.Context, p *pack) error {
	if !slices.ContainsFunc(p.members, func(i repo.Info) bool { return i.ID.Prefix() == manifestPrefix }) {
		return nil
	}
	if err := u.r.Refresh(ctx); err != nil {
		return err
	}
	var left []repo.Info
	for _, i := range p.members {
		if i.ID.Prefix() == manifestPrefix {
			now, err := u.r.ContentInfo(ctx, i.ID)
			if errors.Is(err, repo.ErrContentNotFound) || err == nil && now.Deleted {
				continue
			}
			if err != nil {
				return err
			}
		}
		left = append(left, i)
	}
	p.members = left
	return nil
}

// attempt writes down that packs are about to be joined.
func (u *upkeep) attempt(ctx context.Context) error {
	u.schedule.attempted(u.r.Now())
	return u.writeDown(ctx)
}

// since is the time between a blob's and the begin of this run, both by the place's clock.
func (u *upkeep) since(t time.Time) time.Duration { return u.start.Add(clockSlack).Sub(t) }
