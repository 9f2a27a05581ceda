package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/store"
)

// lostLanes is how many packs that a list lacks are looked up at a time.
const lostLanes = 16

// LostPackError says that a content cannot be read because the pack in which it lies is not there.
type LostPackError struct {
	Pack string // without the folder
	Err  error  // store.ErrNotFound, with store.ErrUnseen beside it where a place does not answer
}

func (e *LostPackError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *LostPackError) Unwrap() error { return e.Err }

// LostPacks are the packs in which contents lie that count, and that are certainly not there. It lists the packs once: the indexes
// name them, so that the contents are gone through only where one is missing.
func (r *Repository) LostPacks(ctx context.Context) (map[string]bool, error) {
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	missing, err := r.notListed(ctx)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	needed := map[string]bool{}
	err = r.EachContent(ctx, false, func(i Info) error { // a pack of which everything was moved or deleted is gone rightly
		if missing[i.Pack] {
			needed[i.Pack] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.certainlyGone(ctx, needed)
}

// notListed are the packs that an index names and that no list has. The list comes behind the indexes: a pack is stored before an
// index names it.
func (r *Repository) notListed(ctx context.Context) (map[string]bool, error) {
	_, open := r.known.mark()
	missing := map[string]bool{}
	for _, x := range open {
		for _, name := range x.Packs() {
			if name != "" {
				missing[name] = true
			}
		}
	}
	for _, kind := range []string{packData, packSpecial} {
		err := r.EachBlob(ctx, kind, func(b Blob) error { delete(missing, b.Name); return nil })
		if err != nil {
			return nil, fmt.Errorf("list the packs: %w", err)
		}
	}
	return missing, nil
}

// certainlyGone leaves out the packs that are there after all, or may be in a place that does not answer.
func (r *Repository) certainlyGone(ctx context.Context, packs map[string]bool) (map[string]bool, error) {
	gone := map[string]bool{}
	var mu sync.Mutex // guards gone
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lostLanes)
	for name := range packs {
		g.Go(func() error {
			_, err := r.StatBlob(ctx, name)
			switch {
			case isGone(err):
				mu.Lock()
				defer mu.Unlock()
				gone[name] = true
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return fmt.Errorf("look for pack %s: %w", name, err)
			}
			return nil
		})
	}
	return gone, g.Wait()
}

// lost reports whether a content lies in a pack that this session was told is gone.
func (w *Writer) lost(i Info) bool { return w.options.Lost[i.Pack] }

// Has reports whether the repository holds all of an object that was stored earlier, so that it may be referred to again. Only where
// packs are lost is more looked at than the first of its contents: they are stored and freed together.
func (w *Writer) Has(ctx context.Context, id ObjectID) (bool, error) {
	first := id
	if list, indirect := id.List(); indirect {
		first = list
	}
	content, _, ok := first.Content()
	if !ok {
		return false, nil
	}
	if has, err := w.holds(ctx, content); !has || err != nil || len(w.options.Lost) == 0 {
		return has, err
	}
	all, err := w.repo.VerifyObject(ctx, id)
	if errors.Is(err, ErrContentNotFound) || isGone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if has, err := w.holds(ctx, c); !has || err != nil {
			return has, err
		}
	}
	return true, nil
}

func (w *Writer) holds(ctx context.Context, id ContentID) (bool, error) {
	i, err := w.ContentInfo(ctx, id)
	if errors.Is(err, ErrContentNotFound) {
		return false, nil
	}
	return err == nil && !i.Deleted && !w.lost(i), err
}
