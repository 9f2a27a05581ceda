package vault

import (
	"context"
	"errors"

	"holdfast/internal/problem"
	"holdfast/internal/vault/repo"
)

// doubt looks why an object of the repository could not be read: it reads the packs that hold it from every copy, whole,
// and holds them against the catalog. It reports whether one copy has any of them bad and another good; that copy is asked
// last from now on, so that reading the object again is worth it.
func (v *Vault) doubt(ctx context.Context, id repo.ObjectID) bool {
	if v.members == nil || ctx.Err() != nil {
		return false
	}
	if err := v.refresh(ctx); err != nil {
		v.log.WarnContext(ctx, "catalog not read", "err", err)
		return false
	}
	found := false
	if list, ok := id.List(); ok { // the list of its chunks comes first: without it they are not known
		found = v.doubt(ctx, list)
	}
	contents, err := v.repo.VerifyObject(ctx, id)
	if err != nil {
		return found
	}
	seen := map[string]bool{}
	for _, c := range contents {
		info, err := v.repo.ContentInfo(ctx, c)
		if err != nil || seen[string(info.Pack)] {
			continue
		}
		seen[string(info.Pack)] = true
		differ, err := v.members.Examine(ctx, blobName(info.Pack))
		if err != nil {
			return found
		}
		found = found || differ
	}
	return found
}

// opener opens the repository in a place.
type opener func(ctx context.Context, place *pinned, cfg Config) error

// connect opens the repository. When indexes are damaged in every copy, it is opened past them. When it fails, the files are let
// go too.
func (v *Vault) connect(ctx context.Context, cfg Config) error {
	err := v.connectAny(ctx, cfg, func(ctx context.Context, place *pinned, cfg Config) error { return v.openOver(ctx, place, cfg) })
	if err == nil {
		return nil
	}
	if _, ok := unreadIn(err); ok && v.connectAny(ctx, cfg, v.openPast) == nil {
		return nil
	}
	closeStore(v.files)
	return err
}

// connectAny opens the repository, and when that fails for another reason than the key tries again with each other copy asked
// first: what is read on the way to an open repository proves itself only there.
func (v *Vault) connectAny(ctx context.Context, cfg Config, open opener) error {
	if v.members != nil {
		v.members.Prefer(0)
	}
	err := v.connectOnce(ctx, cfg, open)
	for i := 1; err != nil && v.members != nil && i <= len(cfg.Others) && ctx.Err() == nil; i++ {
		if p, ok := errors.AsType[*problem.Problem](err); ok && p.Code == "vault.wrong-key" {
			break
		}
		v.members.Prefer(i)
		if v.connectOnce(ctx, cfg, open) != nil {
			continue // the first trouble is the one that is told
		}
		v.log.ErrorContext(ctx, "what opens the vault is damaged in one copy, another is read first", "err", err)
		return nil
	}
	return err
}
