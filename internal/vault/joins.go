package vault

import (
	"context"
	"errors"

	"holdfast/internal/vault/filestore"
)

// mayJoin reports whether a clean-up may join packs that are half empty: not where a copy's disk has no more room than is kept for
// the log, for joining writes what they hold before it frees anything, and a clean-up that cannot write it frees nothing at all.
func (v *Vault) mayJoin(ctx context.Context) (bool, error) {
	short, err := v.shortOfRoom()
	if short {
		v.log.InfoContext(ctx, "packs are not joined: a copy's disk has no more room than is kept for the log")
	}
	return !short && err == nil, err
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
