package vault

import (
	"context"
	"errors"

	"github.com/kopia/kopia/repo/object"

	"holdfast/internal/problem"
)

// doubt looks why an object of the repository could not be read: it reads the packs that hold it from every copy, whole,
// and holds them against the catalog. It reports whether one copy has any of them bad and another good; that copy is asked
// last from now on, so that reading the object again is worth it.
func (v *Vault) doubt(ctx context.Context, id object.ID) bool {
	if v.members == nil || ctx.Err() != nil {
		return false
	}
	if err := v.refresh(ctx); err != nil {
		v.log.WarnContext(ctx, "catalog not read", "err", err)
		return false
	}
	found := false
	if list, ok := id.IndexObjectID(); ok { // the list of its chunks comes first: without it they are not known
		found = v.doubt(ctx, list)
	}
	contents, err := v.repo.VerifyObject(ctx, id)
	if err != nil {
		return found
	}
	seen := map[string]bool{}
	for _, c := range contents {
		info, err := v.repo.ContentReader().ContentInfo(ctx, c)
		if err != nil || seen[string(info.PackBlobID)] {
			continue
		}
		seen[string(info.PackBlobID)] = true
		differ, err := v.members.Examine(ctx, blobName(info.PackBlobID))
		if err != nil {
			return found
		}
		found = found || differ
	}
	return found
}

// connect opens the repository, and when that fails for another reason than the key tries again with each other copy asked
// first: what is read on the way to an open repository proves itself only there. When it fails, the files are let go too.
func (v *Vault) connect(ctx context.Context, cfg Config) error {
	err := v.connectOnce(ctx, cfg)
	for i := 1; err != nil && v.members != nil && i <= len(cfg.Others) && ctx.Err() == nil; i++ {
		if p, ok := errors.AsType[*problem.Problem](err); ok && p.Code == "vault.wrong-key" {
			break
		}
		v.members.Prefer(i)
		if v.connectOnce(ctx, cfg) != nil {
			continue // the first trouble is the one that is told
		}
		v.log.ErrorContext(ctx, "what opens the vault is damaged in one copy, another is read first", "err", err)
		return nil
	}
	if err != nil {
		closeStore(v.files)
	}
	return err
}
