package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"holdfast/internal/vault/store"
)

// unmounted is a place that can go away as a folder does that is not mounted any more: nothing is there, and that is no error.
type unmounted struct {
	store.Store
	gone *atomic.Bool
}

func (u unmounted) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if u.gone.Load() {
		return fmt.Errorf("read %s: %w", name, store.ErrNotFound)
	}
	return u.Store.Get(ctx, name, offset, length, to)
}

func (u unmounted) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	if u.gone.Load() {
		return nil
	}
	return u.Store.List(ctx, prefix, each)
}

// A place that is away for a while does not make the repository forget what it holds.
func TestAPlaceThatWasAwayIsReadFromAgain(t *testing.T) {
	x := newFormat(t)
	s := unmounted{x.place(t), &atomic.Bool{}}
	r := x.open(t, s)
	var id ContentID
	err := r.Write(t.Context(), WriteOptions{}, func(ctx context.Context, w *Writer) (err error) {
		id, err = w.Store(ctx, []byte("a"), "", false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.gone.Store(true)
	if _, err := r.Content(t.Context(), id); !errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrContentNotFound) {
		t.Errorf("read while it is away: %v", err)
	}
	if err := r.Refresh(t.Context()); !errors.Is(err, errNoIndexes) {
		t.Errorf("refreshed while it is away: %v", err)
	}
	s.gone.Store(false)
	if got, err := r.Content(t.Context(), id); err != nil || string(got) != "a" {
		t.Errorf("read when it is back: %q, %v", got, err)
	}
}
