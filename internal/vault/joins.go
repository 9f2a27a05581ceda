package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/repo/upkeep"
)

// leaveJoinsOut makes this run of a clean-up join no packs that are half empty where a copy's disk has no more room than is kept
// for the log: joining writes what they hold before it frees anything, and a clean-up that cannot write it frees nothing at all.
// upkeep leaves joining out until something was deleted since it joined last, so that is what its schedule is told. What is due to
// be deleted in this run or in the next one, an hour later or more, is.
func (v *Vault) leaveJoinsOut(ctx context.Context, now time.Time) error {
	short, err := v.shortOfRoom()
	if err != nil || !short {
		return err
	}
	s, err := upkeep.GetSchedule(ctx, v.repo)
	if err != nil {
		return fmt.Errorf("read when packs were joined: %w", err)
	}
	joined, deleted := s.Last(upkeep.TaskRewrite), s.Last(upkeep.TaskDelete)
	if !joined.IsZero() && deleted.Before(joined) {
		return nil // it is left out already
	}
	s.Report(upkeep.TaskRewrite, upkeep.RunInfo{Start: now, End: now, Success: true})
	if err := upkeep.SetSchedule(ctx, v.repo, s); err != nil {
		return fmt.Errorf("leave the joining of packs out: %w", err)
	}
	v.log.InfoContext(ctx, "packs are not joined: a copy's disk has no more room than is kept for the log")
	return nil
}

// shortOfRoom reports whether a directory among the copies has no more room than is kept for the log.
func (v *Vault) shortOfRoom() (bool, error) {
	var errs []error
	for _, place := range v.rawPlaces() {
		d, ok := place.(interface {
			Room() (filestore.Room, error)
		})
		if !ok {
			continue
		}
		room, err := d.Room()
		if err == nil && room.Short() {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, errors.Join(errs...)
}
