package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/vault/store"
)

// readings is a place that counts how often an index was read.
type readings struct {
	store.Store
	indexes atomic.Int32
}

func (p *readings) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if strings.HasPrefix(name, blobDir+"x") {
		p.indexes.Add(1)
	}
	return p.Store.Get(ctx, name, offset, length, to)
}

// settledIndexes is a repository whose first epoch can be compacted: each of these texts has an index of its own there.
func settledIndexes(t *testing.T, x fixed, p store.Store, texts ...string) *Repository {
	t.Helper()
	ctx, r := t.Context(), x.open(t, p)
	for _, text := range texts {
		err := r.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error {
			_, err := w.Store(ctx, []byte(text), "", false)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range 2 {
		if err := p.Put(ctx, fmt.Sprintf("%sxe%d", blobDir, n+1), store.Bytes([]byte("epoch-marker"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

// An index that is in memory is not read once more to be joined with others.
func TestIndexesAreJoinedAsTheyAreKnown(t *testing.T) {
	ctx, x := t.Context(), newFormat(t)
	p := &readings{Store: x.place(t)}
	r := settledIndexes(t, x, p, "a", "b", "c")
	before := p.indexes.Load()
	if did, err := r.epochs.CompactOne(ctx); !did || err != nil {
		t.Fatal(did, err)
	}
	if n := p.indexes.Load() - before; n > 0 {
		t.Errorf("%d indexes were read", n)
	}
	if got := blobsOf(t, r, "xs0_"); len(got) != 1 {
		t.Errorf("joined they are %q", got)
	}
	for _, name := range blobsOf(t, r, "xn0_") {
		if err := r.DeleteBlob(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	last := x.open(t, p)
	for _, text := range []string{"a", "b", "c"} {
		if got, err := last.Content(ctx, last.Name([]byte(text))); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// One that was taken away says what does not count any more, though it is known still.
func TestAnIndexThatWasTakenAwayIsNotJoined(t *testing.T) {
	ctx, x := t.Context(), newFormat(t)
	r := settledIndexes(t, x, x.place(t), "a", "b")
	if err := r.DeleteBlob(ctx, blobsOf(t, r, "xn0_")[1]); err != nil {
		t.Fatal(err)
	}
	if did, err := r.epochs.CompactOne(ctx); did || !errors.Is(err, store.ErrNotFound) {
		t.Errorf("joined: %v, %v", did, err)
	}
	if got := blobsOf(t, r, "xs"); len(got) > 0 {
		t.Errorf("there is %q", got)
	}
}

// The indexes tell of everything in a pack, wherever that lies by now: nothing is lost with it.
func TestWhetherTheIndexesTellOfAPack(t *testing.T) {
	ctx, x := t.Context(), newFormat(t)
	p := x.place(t)
	r := settledIndexes(t, x, p, "a")
	pack, id := blobsOf(t, r, "p")[0], r.Name([]byte("a"))
	told := func(when string, from *Repository, pack string, want bool) {
		t.Helper()
		if got, err := from.Told(ctx, pack, 0); err != nil || got != want {
			t.Errorf("%s: told %v, %v", when, got, err)
		}
	}
	write := func(f func(ctx context.Context, w *Writer) error) {
		t.Helper()
		if err := r.Write(ctx, WriteOptions{}, f); err != nil {
			t.Fatal(err)
		}
	}
	told("as it was stored", r, pack, true)
	behind := x.open(t, p)
	write(func(ctx context.Context, w *Writer) error { return w.Rewrite(ctx, id) })
	told("moved elsewhere", r, pack, true)
	for _, other := range blobsOf(t, r, "p") {
		if other != pack {
			told("what was stored later than anything that is known", behind, other, false)
		}
	}
	write(func(ctx context.Context, w *Writer) error { return w.Delete(ctx, id) })
	told("deleted", r, pack, true)
	if err := errors.Join(r.epochs.AdvanceWatermark(ctx, r.now().Add(time.Hour)), r.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	told("deleted so long ago that it counts no more", r, pack, true)
	for _, name := range blobsOf(t, r, "xn") {
		if err := r.DeleteBlob(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	told("without any index", x.open(t, p), pack, false)
	if _, err := r.Told(ctx, "p00", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a pack that is not there: %v", err)
	}
}
