package copies_test

import (
	"errors"
	"testing"

	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/store"
)

// What is in none of the copies that answer is not lost while another is away; and whoever insists on all copies is not told
// that it is not there, nor given a list in which one had no part.
func TestWhatIsNotInTheCopiesThatAnswerMayBeInTheOneThatIsAway(t *testing.T) {
	w := makeWorld(t, 2)
	ctx := t.Context()
	w.put(t, "both", "x")
	w.sync(t)
	if err := w.places[1].Store.Put(ctx, "there", store.Bytes("y")); err != nil {
		t.Fatal(err)
	}
	look := func(name string) (notFound, unseen bool, err error) {
		_, err = w.all.Stat(ctx, name)
		_, readErr := store.Read(ctx, w.all, name)
		if errors.Is(err, store.ErrUnseen) != errors.Is(readErr, store.ErrUnseen) {
			t.Errorf("looking says %v, reading %v", err, readErr)
		}
		return errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUnseen), err
	}
	names := func() error {
		_, err := w.all.Names(ctx, "")
		return errors.Join(err, w.all.List(ctx, "", func(store.Info) error { return nil }))
	}
	if notFound, unseen, err := look("nowhere"); !notFound || unseen {
		t.Errorf("with every copy: %v", err)
	}
	done := w.all.Insist()
	if _, _, err := look("there"); err != nil {
		t.Errorf("with every copy: %v", err)
	}
	if err := names(); err != nil || len(w.all.Away()) != 0 {
		t.Errorf("with every copy: %v, %v", err, w.all.Away())
	}
	w.places[1].away.Store(true)
	for range 2 { // as it fails, and while it is left alone
		if notFound, unseen, err := look("there"); notFound || !unseen || !errors.Is(err, copies.ErrCopyAway) {
			t.Errorf("insisting: %v", err)
		}
		if _, _, err := look("both"); err != nil {
			t.Errorf("what is there: %v", err)
		}
		if err := names(); !errors.Is(err, copies.ErrCopyAway) {
			t.Errorf("insisting, a list: %v", err)
		}
	}
	done()
	done() // twice is no harm
	if notFound, unseen, err := look("there"); !notFound || !unseen || !errors.Is(err, errAway) {
		t.Errorf("without insisting: %v", err)
	}
	if err := names(); err != nil || len(w.all.Away()) != 1 {
		t.Errorf("without insisting, a list: %v, %v", err, w.all.Away())
	}
	if err := w.all.Delete(ctx, "both"); !errors.Is(err, copies.ErrCopyAway) {
		t.Errorf("deleted: %v", err)
	}
}
