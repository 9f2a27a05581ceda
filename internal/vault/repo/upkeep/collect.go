package upkeep

import (
	"context"
	"errors"
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
	m := newMarks(u.r, newGonePacks(u.r, u.options.GivenUp))
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
	if err := u.unmark(ctx, wronged, m.gone); err != nil { // first: what is used comes before what takes room
		return err
	}
	for n, id := range unused {
		if err := u.w.Delete(ctx, id); err != nil {
			return fmt.Errorf("mark content %s as deleted: %w", id, err)
		}
		if n%deletedFlush == deletedFlush-1 {
			if err := u.flush(ctx); err != nil {
				return err
			}
		}
	}
	u.marks = m
	if m.lost > 0 {
		u.log.WarnContext(ctx, "listed snapshots use contents that were given up", "contents", m.lost)
	}
	u.log.InfoContext(ctx, "unused contents marked", "snapshots", len(m.listed), "used", len(m.contents), "marked", len(unused), "unmarked", len(wronged))
	return u.flush(ctx)
}

// unmark takes the mark from what is used. What cannot be read from a pack that is gone, or that was given up, stays marked: whoever
// uses it cannot be read until somebody stores it again.
func (u *upkeep) unmark(ctx context.Context, wronged []repo.Info, gone *gonePacks) error {
	for _, i := range wronged {
		if err := u.options.May(ctx); err != nil {
			return err
		}
		err := u.w.Undelete(ctx, i.ID)
		if isLost(err) {
			lost, asked := gone.has(ctx, i.Pack)
			if lost {
				continue
			}
			err = errors.Join(err, asked)
		}
		if err != nil {
			return fmt.Errorf("take the mark from content %s, which is used: %w", i.ID, err)
		}
	}
	return u.flush(ctx)
}

// sort gives what is unused and old enough, and what is used and marked as deleted all the same.
func (u *upkeep) sort(ctx context.Context, m *marks) (unused []repo.ContentID, wronged []repo.Info, err error) {
	now := earlier(u.start, u.r.Now())
	err = u.r.EachContent(ctx, true, func(i repo.Info) error {
		switch {
		case i.ID.Prefix() == manifestPrefix:
		case m.used(i.ID):
			if i.Deleted {
				wronged = append(wronged, i)
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
