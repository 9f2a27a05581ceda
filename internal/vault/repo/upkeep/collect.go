package upkeep

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/vault/repo"
)

const (
	manifestPrefix = "m"     // of contents that hold manifests; whoever joins those deletes them
	looksMax       = 5       // at the list of snapshots in one run
	deletedFlush   = 100_000 // marks after which they are written
)

// collect marks as deleted what no listed snapshot uses, and takes such marks away from what one uses.
func (u *upkeep) collect(ctx context.Context) error {
	m := newMarks(u.r)
	for range looksMax { // some may be listed while others are looked through; what is listed later still, the next run finds
		n, err := m.listedNow(ctx)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := u.r.Refresh(ctx); err != nil {
			return err
		}
	}
	unused, wronged, err := u.sort(ctx, m)
	if err != nil {
		return err
	}
	for _, id := range wronged { // first: what is used comes before what takes room
		if err := u.w.Undelete(ctx, id); err != nil {
			return fmt.Errorf("take the mark from content %s, which is used: %w", id, err)
		}
	}
	if err := u.w.Flush(ctx); err != nil {
		return err
	}
	for n, id := range unused {
		if err := u.w.Delete(ctx, id); err != nil {
			return fmt.Errorf("mark content %s as deleted: %w", id, err)
		}
		if n%deletedFlush == deletedFlush-1 {
			if err := u.w.Flush(ctx); err != nil {
				return err
			}
		}
	}
	u.log.InfoContext(ctx, "unused contents marked", "snapshots", len(m.listed), "used", len(m.contents), "marked", len(unused), "unmarked", len(wronged))
	return u.w.Flush(ctx)
}

// sort gives what is unused and old enough, and what is used and marked as deleted all the same.
func (u *upkeep) sort(ctx context.Context, m *marks) (unused, wronged []repo.ContentID, err error) {
	now := earlier(u.start, u.r.Now())
	err = u.r.EachContent(ctx, true, func(i repo.Info) error {
		switch {
		case i.ID.Prefix() == manifestPrefix:
		case m.used(i.ID):
			if i.Deleted {
				wronged = append(wronged, i.ID)
			}
		case !i.Deleted && now.Sub(time.Unix(i.Time, 0)) >= u.safety.MinContentAgeSubjectToGC:
			unused = append(unused, i.ID)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for unused contents: %w", err)
	}
	return unused, wronged, nil
}
