package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/repo"
	"holdfast/internal/vault/store"
)

const (
	packPrefixes  = "pq" // of packs: of data, and of what has a prefix itself
	sessionPrefix = "s"  // of the markers of writers
	logPrefix     = "_"  // of what a stock kopia program told of itself
	logsKept      = 30 * 24 * time.Hour
	deleteLanes   = 8
	clockSlack    = time.Second // a place may keep times in whole seconds
)

// errPackLost is returned when a pack is nowhere and its contents count: whatever lost it may have lost an index too, and what that
// knew would look unused.
var errPackLost = errors.New("it holds what counts, and is gone: nothing is deleted")

// errNothingKnown is returned when an index is empty beside packs: then it is the index that is lost.
var errNothingKnown = errors.New("no index knows any content, and there are packs: nothing is deleted")

// deletePacks deletes packs that no index knows, and markers of writers that are no more.
//
// The order is what makes it safe beside writers. A writer leaves a marker, stores packs, then an index that knows them, and takes the
// marker away. Packs are listed first, markers second and the index is read last: a pack that is listed either has its marker or is
// known, or is of a writer whose marker is gone for another reason, and then its age protects it.
func (u *upkeep) deletePacks(ctx context.Context) error {
	packs, err := u.list(ctx, strings.Split(packPrefixes, "")...)
	if err != nil {
		return err
	}
	markers, err := u.list(ctx, sessionPrefix)
	if err != nil {
		return err
	}
	if err := u.r.Refresh(ctx); err != nil {
		return err
	}
	known := map[string]bool{}                                 // true = something in it counts
	err = u.r.EachContent(ctx, true, func(i repo.Info) error { // a deleted one may still be found to be used
		known[i.Pack] = known[i.Pack] || !i.Deleted
		return nil
	})
	if err != nil {
		return fmt.Errorf("look which packs are known: %w", err)
	}
	if len(known) == 0 && len(packs) > 0 {
		return errNothingKnown
	}
	if err := u.allThere(ctx, known, packs); err != nil {
		return err
	}
	alive := map[string]bool{}
	for _, b := range markers {
		if u.since(b.Time) < u.safety.SessionExpirationAge {
			alive[repo.SessionOf(b.Name)] = true
		}
	}
	free := func(b repo.Blob) bool {
		age := u.since(b.Time)
		session := repo.SessionOf(b.Name)
		_, named := known[b.Name]
		return age >= 0 && age >= u.safety.PackDeleteMinAge && !named && (session == "" || !alive[session])
	}
	doomed := slices.DeleteFunc(append(packs, markers...), func(b repo.Blob) bool { return !free(b) })
	return u.delete(ctx, doomed)
}

// allThere errs unless each pack in which something counts is there. One that was not listed may have been stored since.
func (u *upkeep) allThere(ctx context.Context, known map[string]bool, listed []repo.Blob) error {
	missing := maps.Clone(known)
	for _, b := range listed {
		delete(missing, b.Name)
	}
	for pack, counts := range missing {
		if !counts || pack == "" { // an entry that leads nowhere leads into no pack
			continue
		}
		_, err := u.r.StatBlob(ctx, pack)
		if isGone(err) {
			err = errors.Join(errPackLost, err)
		}
		if err != nil {
			return fmt.Errorf("look for pack %s: %w", pack, err)
		}
	}
	return nil
}

// deleteLogs deletes what a stock kopia program told of itself long ago.
func (u *upkeep) deleteLogs(ctx context.Context) error {
	logs, err := u.list(ctx, logPrefix)
	if err != nil {
		return err
	}
	return u.delete(ctx, slices.DeleteFunc(logs, func(b repo.Blob) bool { return u.since(b.Time) < logsKept }))
}

func (u *upkeep) list(ctx context.Context, prefixes ...string) (out []repo.Blob, err error) {
	for _, p := range prefixes {
		err := u.r.EachBlob(ctx, p, func(b repo.Blob) error {
			out = append(out, b)
			return ctx.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("list what begins with %s: %w", p, err)
		}
	}
	return out, nil
}

// delete deletes blobs. What the place keeps under lock stays for another run; a marker may stay where we may not delete it.
func (u *upkeep) delete(ctx context.Context, doomed []repo.Blob) error {
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(deleteLanes)
	for _, b := range doomed {
		if each.Err() != nil {
			break
		}
		g.Go(func() error {
			err := u.r.DeleteBlob(each, b.Name)
			if errors.Is(err, store.ErrLocked) || errors.Is(err, store.ErrDenied) && strings.HasPrefix(b.Name, sessionPrefix) {
				u.log.DebugContext(each, "not deleted", "blob", b.Name, "err", err)
				return nil
			}
			if err != nil {
				return fmt.Errorf("delete %s: %w", b.Name, err)
			}
			return nil
		})
	}
	if err := cmp.Or(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	if len(doomed) > 0 {
		u.log.InfoContext(ctx, "unused blobs deleted", "blobs", len(doomed))
	}
	return nil
}
