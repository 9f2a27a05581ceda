package repo

import (
	"context"
	"errors"
	"testing"
	"time"

	"holdfast/internal/vault/repo/epoch"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/store"
)

// at opens the repository by a clock that the test sets.
func (x fixed) at(t *testing.T, s store.Store, now *time.Time) *Repository {
	t.Helper()
	r, err := openWith(t.Context(), s, x.f, x.raw, testPassword, Options{Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func storesA(ctx context.Context, w *Writer) error {
	_, err := w.Store(ctx, []byte("a"), "", false)
	return err
}

// Packs that lay for long without an index, as while a host slept, may have been freed as nobody's: they are not made known, neither
// by the flush that is asked for nor by the one that comes by itself, and the session is over.
func TestPacksThatMayHaveBeenFreedAreNotMadeKnown(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	flush := func(w *Writer) error { return w.Flush(ctx) }
	more := func(w *Writer) error { _, err := w.Store(ctx, []byte("more"), "", false); return err }
	for name, c := range map[string]struct {
		slept time.Duration
		then  func(*Writer) error
		late  bool
	}{
		"a flush after a day":             {25 * time.Hour, flush, true},
		"a content after a day":           {25 * time.Hour, more, true},
		"a flush by a clock set back":     {-30 * 24 * time.Hour, flush, true},
		"a content by a clock set back":   {-30 * 24 * time.Hour, more, true},
		"a flush after a night":           {11 * time.Hour, flush, false},
		"a content after a night":         {11 * time.Hour, more, false},
		"a content by a clock a bit back": {-time.Hour, more, false},
	} {
		now := time.Now()
		s := x.place(t)
		w, err := x.at(t, s, &now).NewWriter(ctx, WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.packSize = 100
		if _, err := w.Store(ctx, noise(1, 1000), "", false); err != nil {
			t.Fatal(err)
		}
		now = now.Add(c.slept)
		if err := c.then(w); errors.Is(err, epoch.ErrTooSlow) != c.late || !c.late && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(blobsOf(t, w.repo, "xn")); (n == 0) != c.late {
			t.Errorf("%s: %d indexes are stored", name, n)
		}
		if err := errors.Join(storesA(ctx, w), w.Flush(ctx)); errors.Is(err, epoch.ErrTooSlow) != c.late {
			t.Errorf("%s, and the session goes on: %v", name, err)
		}
		if err := w.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// sleepy is a place of a host that sleeps while an index is on its way.
type sleepy struct {
	*repotest.Store
	sleep func()
}

func (s sleepy) Put(ctx context.Context, name string, data store.Data) error {
	if name[len(blobDir)] == 'x' {
		s.sleep()
	}
	return s.Store.Put(ctx, name, data)
}

// An index that arrives when the packs may have been freed goes again.
func TestAnIndexThatArrivesTooLateGoesAgain(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	now := time.Now().Add(-120 * time.Hour) // the place dates by the true clock
	w, err := x.at(t, sleepy{x.place(t), func() { now = now.Add(120 * time.Hour) }}, &now).NewWriter(ctx, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(storesA(ctx, w), w.Flush(ctx)); !errors.Is(err, epoch.ErrTooSlow) {
		t.Errorf("flushed: %v", err)
	}
	if left := blobsOf(t, w.repo, "xn"); len(left) > 0 {
		t.Errorf("it is there: %v", left)
	}
}

// A process whose clock was a month ahead when it opened the repository, and is set right, does not rely on what is long gone.
func TestAClockThatIsSetBackHidesNothing(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	if err := x.open(t, s).Write(ctx, WriteOptions{}, storesA); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(30 * 24 * time.Hour)
	r := x.at(t, s, &now)
	now = time.Now()
	other := x.open(t, s)
	id := other.Name([]byte("a"))
	i, err := other.ContentInfo(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func(context.Context, *Writer) error{
		func(ctx context.Context, w *Writer) error { return w.Delete(ctx, id) },
		func(ctx context.Context, w *Writer) error {
			return w.Indexes().AdvanceWatermark(ctx, time.Now().Add(time.Hour))
		},
	} {
		if err := other.Write(ctx, WriteOptions{}, do); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.DeleteBlob(ctx, i.Pack); err != nil {
		t.Fatal(err)
	}
	now = now.Add(10 * 24 * time.Hour)
	if err := r.Write(ctx, WriteOptions{}, storesA); err != nil {
		t.Fatal(err)
	}
	if _, err := x.open(t, s).Content(ctx, id); err != nil {
		t.Errorf("stored and flushed: %v", err)
	}
}
