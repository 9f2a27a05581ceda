package vault

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/clock"
	"holdfast/internal/vault/attempt"
	"holdfast/internal/vault/store"
)

// What is read through a list (log, bundles, receipts, requests, pages of the catalog) is told as stored, and what it takes the
// place of goes, when a list shows it. A store whose lists lag would otherwise show neither for a while: a hole in log that is
// held, a refusal that nobody counts. On a store that lists at once this costs no more than that list.

// errUnlisted is a store that has taken a blob, finds it, and does not list it.
var errUnlisted = errors.New("it was stored, and no list shows it yet")

// untilListed repeats look, which lists, while that does not show what was stored: as often as a request to the place is repeated.
// What look gives as another error ends it, for a list repeats by itself what may pass.
func (v *Vault) untilListed(ctx context.Context, look func(context.Context) (listed bool, err error)) error {
	tries := attempt.Tries{Patience: v.patience, Clock: clock.Real(), Passes: func(error) bool { return true }}
	return tries.Do(ctx, func(ctx context.Context) error {
		listed, err := look(ctx)
		switch {
		case err != nil:
			return attempt.Final{Err: err}
		case !listed:
			return errUnlisted
		}
		return nil
	})
}

// isListed waits until a place lists a blob.
func (v *Vault) isListed(ctx context.Context, place store.Store, name string) error {
	err := v.untilListed(ctx, func(ctx context.Context) (listed bool, err error) {
		err = place.List(ctx, name, func(i store.Info) error {
			listed = listed || i.Name == name
			return nil
		})
		return listed, err
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", name, err)
	}
	return nil
}
