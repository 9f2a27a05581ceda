package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/repotest"
	"holdfast/internal/vault/store"
)

var errFault = errors.New("the place is at fault")

// shaky is a place of which one operation fails, or all from one on.
type shaky struct {
	store.Store

	mu     sync.Mutex // guards what follows
	at     int        // which of the operations that count, from 0; negative = none
	dies   bool       // and all after it
	done   bool       // it is carried out all the same
	calls  int
	failed []string
}

// fate says whether an operation is carried out and what it gives.
func (s *shaky) fate(what string) (do bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.calls
	s.calls++
	if s.at < 0 || n < s.at || n > s.at && !s.dies {
		return true, nil
	}
	s.failed = append(s.failed, what)
	return s.done && n == s.at, fmt.Errorf("%s: %w", what, errFault)
}

// calm makes it well from now on.
func (s *shaky) calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = -1
}

func (s *shaky) Put(ctx context.Context, name string, data store.Data) error {
	do, fault := s.fate("put " + name)
	if do {
		if err := s.Store.Put(ctx, name, data); err != nil {
			return err
		}
	}
	return fault
}

func (s *shaky) Replace(ctx context.Context, name string, data store.Data) error {
	do, fault := s.fate("replace " + name)
	if do {
		if err := s.Store.Replace(ctx, name, data); err != nil {
			return err
		}
	}
	return fault
}

func (s *shaky) Delete(ctx context.Context, name string) error {
	do, fault := s.fate("delete " + name)
	if do {
		if err := s.Store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return fault
}

func (s *shaky) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if _, fault := s.fate("get " + name); fault != nil {
		return fault
	}
	return s.Store.Get(ctx, name, offset, length, to)
}

func (s *shaky) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	if _, fault := s.fate("list " + prefix); fault != nil {
		return fault
	}
	return s.Store.List(ctx, prefix, each)
}

// fixed is a repository's format, opened once: that takes a quarter of a second.
type fixed struct {
	raw []byte
	f   *format.Format
}

const testPassword = "correct horse"

func newFormat(t testing.TB) fixed {
	t.Helper()
	raw, err := format.Make(testPassword, format.New{Splitter: newSplitter, MaxPackSize: 10 << 20}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f, err := format.Read(raw, testPassword)
	if err != nil {
		t.Fatal(err)
	}
	return fixed{raw, f}
}

// place gives an empty repository of that format.
func (x fixed) place(t testing.TB) *repotest.Store {
	t.Helper()
	s := repotest.New()
	if err := s.Replace(t.Context(), blobDir+formatBlob, store.Bytes(x.raw)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (x fixed) open(t testing.TB, s store.Store) *Repository {
	t.Helper()
	r, err := openWith(t.Context(), s, x.f, x.raw, testPassword, Options{Host: "h", User: "u", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// noise is what does not become shorter.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	p := make([]byte, n)
	_, _ = mathrand.NewChaCha8(key).Read(p) // never fails
	return p
}

// kept is what a session was told to be stored.
type kept struct {
	contents map[ContentID][]byte
	deleted  map[ContentID]bool // false = nobody was told, and it may be
}

func (k kept) mayBeDeleted(id ContentID) bool {
	sure, tried := k.deleted[id]
	return tried && !sure
}

// large is how many bytes a content of the session has: some fill a pack.
const large = 10_000

// session is a writer's life: contents that fill packs, small ones, one that is deleted, one that comes again. Each step is tried
// tries times. It gives what a flush said is stored, and whether all went well in the end.
func session(ctx context.Context, r *Repository, tries int) (kept, bool) {
	k := kept{map[ContentID][]byte{}, map[ContentID]bool{}}
	w, err := r.NewWriter(ctx, WriteOptions{Purpose: "test"})
	if err != nil {
		return k, false
	}
	defer func() { _ = w.Close(ctx) }() // what it was told counts
	w.packSize = 10 * large
	try := func(f func() error) bool {
		for range tries {
			if err = f(); err == nil {
				return true
			}
		}
		return false
	}
	waiting := map[ContentID][]byte{}
	put := func(p []byte, prefix string) bool {
		return try(func() error {
			id, err := w.Store(ctx, p, prefix, true)
			if err == nil {
				waiting[id] = p
			}
			return err
		})
	}
	flush := func() bool {
		if !try(func() error { return w.Flush(ctx) }) {
			return false
		}
		maps.Copy(k.contents, waiting)
		return true
	}
	for n := range 23 {
		if !put(noise(uint64(n), large), "") || n%5 == 0 && !put(fmt.Appendf(nil, `{"directory":%d}`, n), "k") {
			return k, false
		}
	}
	first := r.Name(noise(0, large))
	if !flush() {
		return k, false
	}
	k.deleted[first] = false
	if !try(func() error { return w.Delete(ctx, first) }) || !put(noise(99, 5000), "") || !flush() {
		return k, false
	}
	k.deleted[first] = true
	if !try(func() error { return w.Rewrite(ctx, r.Name(noise(1, large))) }) || !put(noise(7, large), "") || !flush() {
		return k, false
	}
	return k, true
}

// check reads with a newly opened repository what was said to be stored, and everything that is listed; and what the repository of
// the writer believes to be stored.
func check(t *testing.T, x fixed, s store.Store, writer *Repository, k kept) {
	t.Helper()
	ctx := t.Context()
	r := x.open(t, s)
	for id, want := range k.contents {
		if got, err := r.Content(ctx, id); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s was said to be stored: %d bytes, %v", id, len(got), err)
		}
		if i, err := r.ContentInfo(ctx, id); err != nil || i.Deleted != k.deleted[id] && !k.mayBeDeleted(id) {
			t.Fatalf("%s: deleted %v, want %v: %v", id, i.Deleted, k.deleted[id], err)
		}
	}
	for _, r := range []*Repository{r, writer} {
		known := 0
		err := r.EachContent(ctx, true, func(i Info) error {
			known++
			p, err := r.readContent(ctx, i, nil)
			if name := r.Name(p); err == nil && !bytes.Equal(name.Hash(), i.ID.Hash()) {
				err = fmt.Errorf("%s holds %s", i.ID, name)
			}
			return err
		})
		if err != nil {
			t.Fatalf("something is believed to be stored and is not: %v", err)
		}
		if known < len(k.contents) {
			t.Fatalf("%d contents are listed, %d are stored", known, len(k.contents))
		}
	}
	takeUp(t, x, s, r)
}

// takeUp finds what is stored and no index knows: the marker of its session lies there, and all of it can be made known.
func takeUp(t *testing.T, x fixed, s store.Store, r *Repository) {
	t.Helper()
	ctx := t.Context()
	known, marked := map[string]bool{}, map[string]bool{}
	_ = r.EachContent(ctx, true, func(i Info) error { known[i.Pack] = true; return nil })
	if err := r.EachSession(ctx, func(i SessionInfo) error { marked[i.ID] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	unknown := map[string]bool{}
	for _, kind := range []string{packData, packSpecial} {
		_ = r.EachBlob(ctx, kind, func(b Blob) error {
			if !known[b.Name] {
				unknown[b.Name] = true
			}
			return nil
		})
	}
	found := 0
	err := r.Write(ctx, WriteOptions{}, func(ctx context.Context, w *Writer) error {
		for name := range unknown {
			if !marked[SessionOf(name)] {
				return fmt.Errorf("pack %s has no marker", name)
			}
			held, err := w.Recover(ctx, name, 0, true)
			if err != nil || len(held) == 0 {
				return fmt.Errorf("pack %s does not say what it holds: %d, %w", name, len(held), err)
			}
			found += len(held)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r = x.open(t, s)
	err = r.EachContent(ctx, true, func(i Info) error {
		delete(unknown, i.Pack)
		_, err := r.readContent(ctx, i, nil)
		return err
	})
	if err != nil || len(unknown) > 0 && found == 0 {
		t.Fatalf("taken up %d contents, packs still unknown %v: %v", found, slices.Collect(maps.Keys(unknown)), err)
	}
}

// Whichever operation of the place fails, or the last one before the process dies, carried out or not: what a flush said is stored
// is, nothing else is believed to be, and what lies there unknown is found.
func TestWhateverFailsNothingIsLost(t *testing.T) {
	x := newFormat(t)
	quiet := &shaky{Store: x.place(t), at: -1}
	r := x.open(t, quiet)
	begin := quiet.calls
	k, ok := session(t.Context(), r, 1)
	if !ok || len(k.contents) < 25 {
		t.Fatalf("nothing fails and %d contents are stored, %v", len(k.contents), ok)
	}
	check(t, x, quiet.Store, r, k)
	for at := begin; at < quiet.calls; at++ {
		for _, done := range []bool{false, true} {
			for _, dies := range []bool{false, true} {
				t.Run(fmt.Sprintf("operation %d, carried out %v, the process dies %v", at-begin, done, dies), func(t *testing.T) {
					s := &shaky{Store: x.place(t), at: at, done: done, dies: dies}
					r := x.open(t, s)
					tries := 3
					if dies {
						tries = 1
					}
					k, ok := session(t.Context(), r, tries)
					if !dies && !ok {
						t.Errorf("it failed once (%v) and all was in vain", s.failed)
					}
					s.calm()
					if left := blobsOf(t, r, markerPrefix); !dies && len(left) > 0 && !strings.HasPrefix(s.failed[0], "delete") {
						t.Errorf("%v failed once, and markers are left: %v", s.failed, left)
					}
					check(t, x, s.Store, r, k)
				})
			}
		}
	}
}

// rough is a place where operations fail at random, carried out or not.
type rough struct {
	store.Store

	mu    sync.Mutex // guards what follows
	dice  *mathrand.Rand
	rough bool
}

func (s *rough) Put(ctx context.Context, name string, data store.Data) error {
	s.mu.Lock()
	fails, first := s.rough && s.dice.IntN(4) == 0, s.dice.IntN(2) == 0
	s.mu.Unlock()
	if fails && first {
		return errFault
	}
	if err := s.Store.Put(ctx, name, data); err != nil || !fails {
		return err
	}
	return errFault
}

// Many goroutines store, delete and flush at a place that often fails. What a flush said is stored is, and when the place is well again
// one flush stores the rest.
func TestManyGoroutinesAtAPlaceThatOftenFails(t *testing.T) {
	ctx := t.Context()
	x := newFormat(t)
	for seed := range uint64(20) {
		s := &rough{Store: x.place(t), dice: mathrand.New(mathrand.NewPCG(seed, 1)), rough: true}
		r := x.open(t, s)
		w, err := r.NewWriter(ctx, WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.packSize = 5 * large
		want := map[ContentID][]byte{}
		told := map[ContentID][]byte{} // by a flush
		var mu sync.Mutex              // guards want and told
		var lanes sync.WaitGroup
		for lane := range 4 {
			lanes.Go(func() {
				for n := range 40 {
					p := noise(uint64(n%30+10*lane), large)
					id, err := w.Store(ctx, p, "", true)
					if err == nil {
						mu.Lock()
						want[id] = p
						mu.Unlock()
					}
					if got, err := w.Content(ctx, id); id != (ContentID{}) && (err != nil || !bytes.Equal(got, p)) {
						t.Errorf("the session reads %d bytes, %v", len(got), err)
					}
					if n%8 == lane {
						mu.Lock()
						before := maps.Clone(want)
						mu.Unlock()
						if w.Flush(ctx) == nil {
							mu.Lock()
							maps.Copy(told, before)
							mu.Unlock()
						}
					}
				}
			})
		}
		lanes.Wait()
		check(t, x, s.Store, r, kept{contents: told})
		s.mu.Lock()
		s.rough = false
		s.mu.Unlock()
		if err := errors.Join(w.Flush(ctx), w.Close(ctx)); err != nil {
			t.Fatal(err)
		}
		check(t, x, s.Store, r, kept{contents: want})
		if left := blobsOf(t, r, markerPrefix); len(left) > 0 {
			t.Fatalf("markers are left: %v", left)
		}
	}
}
