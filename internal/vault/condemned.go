package vault

import (
	"context"
	"errors"
	"maps"
	"slices"

	"holdfast/internal/vault/store"
)

// condemnedFile names what would have been let go of if the place did not keep it under lock: its lock is not renewed,
// so that it goes once its time is over. Nothing is deleted because it stands there; each run writes its part anew, so that
// what is wanted again is not in it any more.
const condemnedFile = "condemned.json"

// packsPart is the part of [Vault.Reclaim].
const packsPart = "repository"

type condemned struct {
	Parts map[string][]string `json:"parts"`
}

// condemn notes what a lock kept from one part of the vault going.
func (v *Vault) condemn(ctx context.Context, part string, names []string) error {
	var all condemned
	if _, err := v.getRecord(ctx, condemnedFile, &all); err != nil {
		return err
	}
	slices.Sort(names)
	if slices.Equal(all.Parts[part], names) {
		return nil
	}
	parts := maps.Clone(all.Parts)
	if parts == nil {
		parts = map[string][]string{}
	}
	parts[part] = names
	if len(names) == 0 {
		delete(parts, part)
	}
	return v.putRecord(ctx, condemnedFile, condemned{parts})
}

// doomed are the names whose locks are not renewed.
func (v *Vault) doomed(ctx context.Context) (map[string]bool, error) {
	var all condemned
	// A copy that is away may know more of them: then their locks are renewed, which keeps them longer.
	if _, err := v.getRecord(ctx, condemnedFile, &all); err != nil && !errors.Is(err, store.ErrUnseen) {
		return nil, err
	}
	out := map[string]bool{}
	for _, names := range all.Parts {
		for _, n := range names {
			out[n] = true
		}
	}
	return out, nil
}

// condemnedIn are the names of one part.
func (v *Vault) condemnedIn(ctx context.Context, part string) (map[string]bool, error) {
	var all condemned
	if _, err := v.getRecord(ctx, condemnedFile, &all); err != nil && !errors.Is(err, store.ErrUnseen) {
		return nil, err
	}
	out := map[string]bool{}
	for _, n := range all.Parts[part] {
		out[n] = true
	}
	return out, nil
}

// lockTeller is a place that says without a deletion whether it keeps a blob under lock.
type lockTeller interface {
	Locked(ctx context.Context, name string) (bool, error)
}

// underLock reports whether any copy says that it keeps a blob still. A place that cannot be asked says nothing.
func (v *Vault) underLock(ctx context.Context, name string) (bool, error) {
	open, _ := v.copiesAlone()
	if v.recorder != nil && v.members == nil {
		open[""] = v.recorder.Store
	}
	for _, c := range sortedKeys(open) {
		place, ok := open[c].(lockTeller)
		if !ok {
			continue
		}
		if locked, err := place.Locked(ctx, name); err != nil || locked {
			return locked, err
		}
	}
	return false, nil
}
