package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/repo/kepttest"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/store"
)

// Two processes write the same and other things at once, many goroutines each; whoever opens afterwards reads all of it.
func TestTwoWritersAtOnce(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(ctx, blobDir+formatBlob, store.Bytes(x.raw)); err != nil {
		t.Fatal(err)
	}
	var all errgroup.Group
	for host := range 2 {
		r := x.open(t, s)
		var uploaded atomic.Int64
		w, err := r.NewWriter(ctx, WriteOptions{OnUpload: func(n int64) { uploaded.Add(n) }})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() error {
			var lanes errgroup.Group
			for lane := range 4 {
				lanes.Go(func() error {
					for n := range 12 {
						seed := uint64(n) // what everybody stores
						if n%3 == 0 {
							seed = uint64(1000*host + 100*lane + n)
						}
						if _, err := w.Store(ctx, noise(seed, 1<<20), "", true); err != nil {
							return err
						}
						if _, err := w.Store(ctx, fmt.Appendf(nil, "directory %d", seed), "k", true); err != nil {
							return err
						}
						if n == 6 {
							if err := w.Flush(ctx); err != nil {
								return err
							}
						}
					}
					return nil
				})
			}
			err := errors.Join(lanes.Wait(), w.Flush(ctx), w.Close(ctx))
			if uploaded.Load() < 20<<20 {
				err = errors.Join(err, fmt.Errorf("told of %d bytes", uploaded.Load()))
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	r := x.open(t, s)
	for host := range 2 {
		for lane := range 4 {
			for n := range 12 {
				for _, seed := range []uint64{uint64(n), uint64(1000*host + 100*lane + n/3*3)} {
					want := noise(seed, 1<<20)
					if seed == uint64(n) && n%3 == 0 {
						continue
					}
					if got, err := r.Content(ctx, r.Name(want)); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("content %d: %d bytes, %v", seed, len(got), err)
					}
				}
			}
		}
	}
	if left := blobsOf(t, r, markerPrefix); len(left) > 0 {
		t.Errorf("markers are left: %v", left)
	}
}

func blobsOf(t testing.TB, r *Repository, prefix string) (names []string) {
	t.Helper()
	if err := r.EachBlob(t.Context(), prefix, func(b Blob) error { names = append(names, b.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

// denied is a place where nothing may be deleted.
type denied struct{ store.Store }

func (d denied) Delete(context.Context, string) error {
	return fmt.Errorf("delete: %w", store.ErrDenied)
}

func TestWhereDeletingIsDeniedMarkersStay(t *testing.T) {
	x := newFormat(t)
	r := x.open(t, denied{x.place(t)})
	err := r.Write(t.Context(), WriteOptions{}, func(ctx context.Context, w *Writer) error {
		_, err := w.Store(ctx, []byte("a"), "", false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := blobsOf(t, r, markerPrefix); len(got) != 1 {
		t.Errorf("markers: %v", got)
	}
	if err := r.DeleteBlob(t.Context(), "p00"); !errors.Is(err, store.ErrDenied) {
		t.Errorf("deleting a pack that cannot be deleted: %v", err)
	}
}

// unseen is a place of which one blob is in a copy that does not answer.
type unseen struct {
	store.Store
	prefix string
}

func (u unseen) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if strings.HasPrefix(name, u.prefix) {
		return fmt.Errorf("%w: %w", store.ErrNotFound, store.ErrUnseen)
	}
	return u.Store.Get(ctx, name, offset, length, to)
}

func TestWhatMayBeInAnotherCopyIsNotTakenForLost(t *testing.T) {
	x := newFormat(t)
	s := x.place(t)
	var id ContentID
	err := x.open(t, s).Write(t.Context(), WriteOptions{}, func(ctx context.Context, w *Writer) (err error) {
		id, err = w.Store(ctx, []byte("a"), "", false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.open(t, unseen{s, blobDir + "p"}).Content(t.Context(), id); !errors.Is(err, store.ErrUnseen) || !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a pack that may be elsewhere: %v", err)
	}
	_, err = Open(t.Context(), unseen{s, blobDir + formatBlob}, testPassword, Options{})
	if !errors.Is(err, store.ErrUnseen) || !errors.Is(err, ErrNotInitialized) {
		t.Errorf("a format that may be elsewhere: %v", err)
	}
	_, err = openWith(t.Context(), unseen{s, blobDir + "x"}, x.f, x.raw, testPassword, Options{})
	if e, ok := errors.AsType[*IndexError](err); !ok || !errors.Is(err, store.ErrUnseen) || !strings.HasPrefix(e.Blob, "xn0_") {
		t.Errorf("an index that may be elsewhere: %v", err)
	}
}

func TestInitializeOnce(t *testing.T) {
	s := repotest.New()
	if _, err := Open(t.Context(), s, testPassword, Options{}); !errors.Is(err, ErrNotInitialized) || errors.Is(err, store.ErrUnseen) {
		t.Errorf("opened nothing: %v", err)
	}
	if err := Initialize(t.Context(), s, testPassword, nil); err != nil {
		t.Fatal(err)
	}
	if err := Initialize(t.Context(), s, "other", nil); !errors.Is(err, ErrInitialized) {
		t.Errorf("initialised again: %v", err)
	}
	r, err := Open(t.Context(), s, testPassword, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.MaxPackSize() != 20<<20 {
		t.Errorf("packs of %d bytes", r.MaxPackSize())
	}
	again, err := r.Rewrapped("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context(), blobDir+formatBlob, store.Bytes(again)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), s, testPassword, Options{}); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("opened with the old password: %v", err)
	}
	r2, err := Open(t.Context(), s, "other", Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r2.NewWriter(t.Context(), WriteOptions{}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a writer of what was opened for reading: %v", err)
	}
	k1, err1 := r.DeriveKey("p", 32)
	k2, err2 := r2.DeriveKey("p", 32)
	if !bytes.Equal(k1, k2) || len(k1) != 32 || err1 != nil || err2 != nil {
		t.Error("another password, another key")
	}
}

// A format that asks for more than this program can ends the writing, and is told once.
func TestANewerFormatEndsTheWriting(t *testing.T) {
	x := newFormat(t)
	s := x.place(t)
	now := time.Unix(1_700_000_000, 0)
	told := 0
	r, err := openWith(t.Context(), s, x.f, x.raw, testPassword, Options{
		Now: func() time.Time { return now }, Fatal: func(error) { told++ }, FormatKept: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.NewWriter(t.Context(), WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store(t.Context(), []byte("a"), "", false); err != nil {
		t.Fatal(err)
	}
	raw := bytes.Replace(x.raw, []byte("scrypt-65536-8-1"), []byte("scrypt-of-future"), 1)
	if err := s.Replace(t.Context(), blobDir+formatBlob, store.Bytes(raw)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	for range 2 {
		if err := w.Flush(t.Context()); !errors.Is(err, format.ErrTooNew) {
			t.Errorf("flushed to a format of the future: %v", err)
		}
		if _, err := r.NewWriter(t.Context(), WriteOptions{}); !errors.Is(err, format.ErrTooNew) {
			t.Errorf("a writer to a format of the future: %v", err)
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	if got := blobsOf(t, r, "p"); len(got) > 0 {
		t.Errorf("stored all the same: %v", got)
	}
}

// What a session stored it sees at once, others when it is flushed, and those of another process when they look.
func TestWhoSeesWhat(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	r, other := x.open(t, s), x.open(t, s)
	w, err := r.NewWriter(ctx, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.Store(ctx, []byte("hello"), "m", false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.Content(ctx, id); err != nil || string(got) != "hello" {
		t.Errorf("the session reads %q, %v", got, err)
	}
	if _, err := r.Content(ctx, id); !errors.Is(err, ErrContentNotFound) {
		t.Errorf("seen before it is flushed: %v", err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Content(ctx, id); err != nil || string(got) != "hello" {
		t.Errorf("the repository reads %q, %v", got, err)
	}
	if _, err := other.Content(ctx, id); !errors.Is(err, ErrContentNotFound) {
		t.Errorf("seen by others before they look: %v", err)
	}
	before := other.revision()
	if err := other.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Content(ctx, id); err != nil || string(got) != "hello" || other.revision() == before {
		t.Errorf("another process reads %q, %v", got, err)
	}
	if err := w.Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	if i, err := w.ContentInfo(ctx, id); err != nil || !i.Deleted {
		t.Errorf("deleted, and the session sees %+v, %v", i, err)
	}
	if i, err := r.ContentInfo(ctx, id); err != nil || i.Deleted {
		t.Errorf("deletion seen before it is flushed: %+v, %v", i, err)
	}
	if err := w.Delete(ctx, r.Name([]byte("never"))); !errors.Is(err, ErrContentNotFound) {
		t.Errorf("deleted what is not there: %v", err)
	}
	if err := errors.Join(w.Flush(ctx), w.Undelete(ctx, id), w.Flush(ctx), w.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store(ctx, []byte("late"), "", false); !errors.Is(err, errClosed) {
		t.Errorf("stored after the end: %v", err)
	}
	if i, err := x.open(t, s).ContentInfo(ctx, id); err != nil || i.Deleted {
		t.Errorf("undeleted: %+v, %v", i, err)
	}
}

// Entries are given in the order of names, whoever made them.
func TestEachContentSeesTheSession(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	r := x.open(t, x.place(t))
	want := map[ContentID]bool{}
	w, err := r.NewWriter(ctx, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close(ctx) }()
	for n := range 40 {
		id, err := w.Store(ctx, fmt.Appendf(nil, "%d", n), "m", false)
		if err != nil {
			t.Fatal(err)
		}
		want[id] = true
		if n%5 == 0 {
			err = w.Delete(ctx, id)
			delete(want, id)
		}
		if n == 20 {
			err = errors.Join(err, w.Flush(ctx))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store(ctx, fmt.Appendf(nil, "other %d", n), "", false); err != nil {
			t.Fatal(err)
		}
	}
	for _, deletedToo := range []bool{false, true} {
		var got []ContentID
		if err := w.EachContentOf(ctx, "m", deletedToo, func(i Info) error { got = append(got, i.ID); return nil }); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(got, ContentID.Compare) || deletedToo && len(got) != 40 || !deletedToo && len(got) != len(want) {
			t.Errorf("%d contents, deleted too %v: %v", len(got), deletedToo, got)
		}
	}
}

// What another clock stored later is deleted all the same, and stored again counts again.
func TestTheLatestEntryCountsWhateverTheClockSays(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	step := func(at time.Time, f func(w *Writer) error) {
		t.Helper()
		r, err := openWith(ctx, s, x.f, x.raw, testPassword, Options{Now: func() time.Time { return at }})
		if err == nil {
			err = r.Write(ctx, WriteOptions{}, func(_ context.Context, w *Writer) error { return f(w) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	state := func() string {
		t.Helper()
		r := x.open(t, s)
		i, err := r.ContentInfo(ctx, r.Name([]byte("a")))
		switch {
		case errors.Is(err, ErrContentNotFound):
			return "unknown"
		case err != nil:
			t.Fatal(err)
		case i.Deleted:
			return "deleted"
		}
		if got, err := r.Content(ctx, i.ID); err != nil || string(got) != "a" {
			t.Fatalf("%q, %v", got, err)
		}
		return "stored"
	}
	now := time.Now()
	put := func(w *Writer) error { _, err := w.Store(ctx, []byte("a"), "", false); return err }
	drop := func(w *Writer) error { return w.Delete(ctx, w.repo.Name([]byte("a"))) }
	for n, c := range []struct {
		at   time.Time
		do   func(*Writer) error
		want string
	}{
		{now, put, "stored"},
		{now.Add(-time.Hour), drop, "deleted"},
		{now.Add(-2 * time.Hour), put, "stored"},
		{now.Add(-2 * time.Hour), drop, "deleted"},
		{now.Add(-time.Hour), func(w *Writer) error { return w.Indexes().AdvanceWatermark(ctx, now.Add(time.Minute)) }, "unknown"},
		{now.Add(-3 * time.Hour), put, "stored"},
	} {
		step(c.at, c.do)
		if got := state(); got != c.want {
			t.Fatalf("step %d: the content is %s, want %s", n, got, c.want)
		}
	}
}

// After ten minutes what was stored is made known without being asked.
func TestALongSessionIsFlushed(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	now := time.Unix(1_700_000_000, 0)
	r, err := openWith(ctx, s, x.f, x.raw, testPassword, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.NewWriter(ctx, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Store(ctx, []byte("first"), "", false)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(flushAfter + time.Second)
	if _, err := w.Store(ctx, []byte("second"), "", false); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
	r = x.open(t, s)
	if got, err := r.Content(ctx, first); err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := r.Content(ctx, r.Name([]byte("second"))); !errors.Is(err, ErrContentNotFound) {
		t.Errorf("what was stored behind the flush: %v", err)
	}
	if left := blobsOf(t, r, markerPrefix); len(left) > 0 {
		t.Errorf("markers of a session that stored nothing since: %v", left)
	}
}

// The kept vault, which kopia 0.23.1 wrote: every content is what its name says, every pack says what the index says of it, and what
// is written on into it is read back.
func TestTheKeptVaultIsReadAndWrittenOn(t *testing.T) {
	ctx := t.Context()
	s := repotest.Kept(t)
	r, err := Open(ctx, s, kepttest.Password, Options{})
	if err != nil {
		t.Fatal(err)
	}
	contents := map[ContentID][]byte{}
	byPack := map[string]map[ContentID]Info{}
	err = r.EachContent(ctx, true, func(i Info) error {
		p, err := r.Content(ctx, i.ID)
		if name := r.Name(p); err == nil && !bytes.Equal(name.Hash(), i.ID.Hash()) {
			err = fmt.Errorf("%s holds %s", i.ID, name)
		}
		contents[i.ID] = p
		if byPack[i.Pack] == nil {
			byPack[i.Pack] = map[ContentID]Info{}
		}
		byPack[i.Pack][i.ID] = i
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	packs := append(blobsOf(t, r, packData), blobsOf(t, r, packSpecial)...)
	if len(contents) < 10 || len(byPack) != len(packs) {
		t.Errorf("%d contents in %d packs; %d packs are stored", len(contents), len(byPack), len(packs))
	}
	var fresh ContentID
	err = r.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error {
		for _, name := range packs {
			held, err := w.Recover(ctx, name, 0, false)
			if err != nil {
				return err
			}
			for _, i := range held {
				if known := byPack[name][i.ID]; known != i {
					return fmt.Errorf("%s says %+v, the index %+v", name, i, known)
				}
			}
			if len(held) != len(byPack[name]) {
				return fmt.Errorf("%s says %d contents, the index %d", name, len(held), len(byPack[name]))
			}
		}
		for id, p := range contents { // all is there already
			if got, err := w.Store(ctx, p, id.Prefix(), true); err != nil || got != id {
				return fmt.Errorf("%s is stored as %s: %w", id, got, err)
			}
		}
		if w.open != nil {
			return errors.New("something of it was stored again")
		}
		for id := range contents {
			if err := w.Rewrite(ctx, id); err != nil {
				return err
			}
		}
		var err error
		fresh, err = w.Store(ctx, []byte("new"), "", true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range packs { // everything was rewritten
		if err := r.DeleteBlob(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = Open(ctx, s, kepttest.Password, Options{}); err != nil {
		t.Fatal(err)
	}
	contents[fresh] = []byte("new")
	for id, want := range contents {
		if got, err := r.Content(ctx, id); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", id, len(got), len(want), err)
		}
	}
}

// The parts of a pack lie where other programs look for them.
func TestPacksAreAsOthersReadThem(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	r := x.open(t, s)
	var id ContentID
	err := r.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) (err error) {
		id, err = w.Store(ctx, bytes.Repeat([]byte("compressible "), 1000), "k", false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := r.ContentInfo(ctx, id)
	if err != nil || i.Offset != packPreamble || i.Compression != 0x1101 || i.Version != 3 || i.Original != 13000 || i.Packed > 500 {
		t.Errorf("%+v, %v", i, err)
	}
	if !strings.HasPrefix(i.Pack, "q") || len(i.Pack) < 1+32+1+1+16+2 || SessionOf(i.Pack) == "" || SessionOf("pff") != "" {
		t.Errorf("pack %s", i.Pack)
	}
	raw, err := r.ReadBlob(ctx, i.Pack)
	if err != nil {
		t.Fatal(err)
	}
	tr, ok := readTrailer(raw)
	if !ok || tr.offset%packUnit != 0 || int(tr.offset+tr.length)+int(raw[len(raw)-1])+1 != len(raw) || len(tr.under) != 32 {
		t.Errorf("trailer %+v of %d bytes", tr, len(raw))
	}
	indexes := blobsOf(t, r, "x")
	if len(indexes) != 1 || !strings.HasPrefix(indexes[0], "xn0_") || !strings.HasSuffix(indexes[0], "-"+SessionOf(i.Pack)+"-c1") {
		t.Errorf("indexes %v", indexes)
	}
}

// counting counts what is asked of a place.
type counting struct {
	store.Store
	lists atomic.Int64
}

func (c *counting) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	c.lists.Add(1)
	return c.Store.List(ctx, prefix, each)
}

// A content that was moved into another pack while a repository was open is found there; a pack that is lost is not looked for again and
// again.
func TestAContentThatWasMovedIsFound(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := &counting{Store: x.place(t)}
	now := time.Now()
	open := func() *Repository {
		t.Helper()
		r, err := openWith(ctx, s, x.f, x.raw, testPassword, Options{Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	var id ContentID
	err := r.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) (err error) {
		id, err = w.Store(ctx, []byte("moved"), "", false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	old := blobsOf(t, r, "p")[0]
	behind := open()
	if err := open().Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error { return w.Rewrite(ctx, id) }); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteBlob(ctx, old); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if err := behind.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error { return w.Rewrite(ctx, id) }); err != nil {
		t.Errorf("moved once more: %v", err)
	}
	if got, err := r.Content(ctx, id); err != nil || string(got) != "moved" {
		t.Errorf("%q, %v", got, err)
	}
	for _, pack := range blobsOf(t, r, "p") {
		if err := r.DeleteBlob(ctx, pack); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	before := s.lists.Load()
	for range 100 {
		if got, err := r.Content(ctx, id); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	if n := s.lists.Load() - before; n == 0 || n > 20 {
		t.Errorf("%d lists to read what is lost", n)
	}
}

// Contents of every size come back, compressed or not, from the session and from the repository.
func TestContentsOfEverySize(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	want := map[ContentID][]byte{}
	err := x.open(t, s).Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error {
		for _, size := range []int{0, 1, 15, 16, 17, 4095, 4096, 70_000, 1 << 20, 9 << 20} {
			for _, p := range [][]byte{noise(uint64(size), size), bytes.Repeat([]byte("z"), size)} {
				for _, prefix := range []string{"", "k"} {
					id, err := w.Store(ctx, p, prefix, size%2 == 0)
					if err != nil {
						return err
					}
					if got, err := w.Content(ctx, id); err != nil || !bytes.Equal(got, p) {
						return fmt.Errorf("the session reads %d bytes of %d: %w", len(got), size, err)
					}
					want[id] = p
				}
			}
		}
		for _, prefix := range []string{"a", "kk", "A", "1"} {
			if _, err := w.Store(ctx, nil, prefix, false); !errors.Is(err, index.ErrID) {
				return fmt.Errorf("prefix %q: %w", prefix, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r := x.open(t, s)
	for id, p := range want {
		if got, err := r.Content(ctx, id); err != nil || !bytes.Equal(got, p) {
			t.Errorf("%s: %d bytes of %d, %v", id, len(got), len(p), err)
		}
	}
}

// Damage is told as damage, wherever it is, and never is it taken for content.
func TestDamageIsTold(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	s := x.place(t)
	var id ContentID
	err := x.open(t, s).Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) (err error) {
		id, err = w.Store(ctx, []byte("a"), "", false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r := x.open(t, s)
	if n := s.Spoil(blobDir + "p"); n != 1 {
		t.Fatalf("%d packs", n)
	}
	if p, err := r.Content(ctx, id); !errors.Is(err, format.ErrDamaged) {
		t.Errorf("read %q, %v", p, err)
	}
	err = r.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error {
		_, err := w.Recover(ctx, blobsOf(t, r, "p")[0], 0, true)
		return err
	})
	if !errors.Is(err, format.ErrDamaged) {
		t.Errorf("taken up: %v", err)
	}
	s.Spoil(blobDir + "x")
	_, err = openWith(ctx, s, x.f, x.raw, testPassword, Options{})
	if e, ok := errors.AsType[*IndexError](err); !ok || e.Blob != blobsOf(t, r, "x")[0] {
		t.Errorf("opened with a damaged index: %v", err)
	}
}

func FuzzTrailer(f *testing.F) {
	f.Add(trailer{under: make([]byte, 32), offset: 4096, length: 100}.append(nil))
	f.Add([]byte{})
	f.Add([]byte{5, 0, 0, 0, 0, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		if tr, ok := readTrailer(b); ok {
			again, ok := readTrailer(tr.append(nil))
			if !ok || again.offset != tr.offset || again.length != tr.length || !bytes.Equal(again.under, tr.under) {
				t.Errorf("%+v comes back as %+v", tr, again)
			}
		}
	})
}

// Set by benchmarks: what the engine adds to the place.
func BenchmarkStore(b *testing.B) {
	x := newFormat(b)
	ctx := b.Context()
	pages := func(n uint64) []byte { // half noise, half zeros, as pages of a database
		p := make([]byte, 1<<20)
		for at := 0; at < len(p); at += 8192 {
			copy(p[at:at+4096], noise(n<<8+uint64(at/8192), 4096))
		}
		return p
	}
	for _, lanes := range []int{1, 2} {
		b.Run(fmt.Sprintf("%d goroutines", lanes), func(b *testing.B) {
			r := x.open(b, discard{x.place(b)})
			w, err := r.NewWriter(ctx, WriteOptions{})
			if err != nil {
				b.Fatal(err)
			}
			base := make([][]byte, lanes)
			for l := range base {
				base[l] = pages(uint64(l))
			}
			b.SetBytes(1 << 20)
			var next atomic.Int64
			var g errgroup.Group
			b.ResetTimer()
			for l := range lanes {
				g.Go(func() error {
					p := base[l]
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return nil
						}
						copy(p, fmt.Appendf(nil, "%20d", n))
						if _, err := w.Store(ctx, p, "", true); err != nil {
							return err
						}
					}
				})
			}
			if err := errors.Join(g.Wait(), w.Flush(ctx), w.Close(ctx)); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// discard is a place that forgets packs.
type discard struct{ store.Store }

func (d discard) Put(ctx context.Context, name string, data store.Data) error {
	if strings.HasPrefix(name, blobDir+"p") {
		return nil
	}
	return d.Store.Put(ctx, name, data)
}

func BenchmarkOpen100000(b *testing.B) {
	x := newFormat(b)
	ctx := b.Context()
	for _, blobs := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d index blobs", blobs), func(b *testing.B) {
			s := x.place(b)
			r := x.open(b, s)
			for n := range blobs {
				all := index.Builder{}
				for c := range 100_000 / blobs {
					id := r.Name(fmt.Appendf(nil, "%d %d", n, c))
					all.Add(Info{ID: id, Pack: fmt.Sprintf("p%032x-s00", c/100), Time: 1_700_000_000, Offset: uint32(c), Packed: 500, Original: 1000, Version: 3})
				}
				sealed, err := r.indexOf(all, newSession(time.Now()))
				if err != nil {
					b.Fatal(err)
				}
				for _, one := range sealed {
					if err := s.Put(ctx, blobDir+"xn0_"+one.name, store.Bytes(one.bytes)); err != nil {
						b.Fatal(err)
					}
				}
			}
			for b.Loop() {
				x.open(b, s)
			}
		})
	}
}

// However the set of indexes grows and shrinks, what is found is what the indexes of the set say.
func TestTheIndexesThatCountAreTheOnesThatAreSearched(t *testing.T) {
	x := newFormat(t)
	r := x.open(t, x.place(t))
	all := map[string]*index.Index{}
	holds := map[string][]ContentID{}
	for n := range 150 {
		b := index.Builder{}
		for c := range 1 + n%120 {
			id := r.Name(fmt.Appendf(nil, "%d %d", n, c))
			b.Add(Info{ID: id, Pack: "p", Time: 1})
			holds[fmt.Sprint(n)] = append(holds[fmt.Sprint(n)], id)
		}
		raw, err := b.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		if all[fmt.Sprint(n)], err = index.Open(raw); err != nil {
			t.Fatal(err)
		}
	}
	var k knownIndexes
	for step, span := range [][2]int{{0, 1}, {0, 10}, {0, 60}, {0, 150}, {20, 150}, {20, 30}, {25, 140}} {
		set := map[string]*index.Index{}
		for n := span[0]; n < span[1]; n++ {
			set[fmt.Sprint(n)] = all[fmt.Sprint(n)]
		}
		since, _ := k.mark()
		k.use(set, time.Time{}, since, time.Now())
		if len(k.merged) > partsMax+1 {
			t.Errorf("step %d: %d parts are searched", step, len(k.merged))
		}
		for name, ids := range holds {
			for _, id := range ids {
				if _, _, ok := k.find(id); ok != (set[name] != nil) {
					t.Fatalf("step %d: a content of index %s is found: %v", step, name, ok)
				}
			}
		}
	}
	since, _ := k.mark()
	k.add("149", all["149"]) // while a list is read
	k.use(map[string]*index.Index{}, time.Time{}, since, time.Now())
	if _, _, ok := k.find(holds["149"][0]); !ok {
		t.Error("what was stored while a list was read is forgotten")
	}
	since, _ = k.mark()
	k.use(map[string]*index.Index{}, time.Time{}, since, time.Now())
	if _, _, ok := k.find(holds["149"][0]); ok {
		t.Error("an index that counts no more is still searched")
	}
}
