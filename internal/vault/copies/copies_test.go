package copies_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/clock"
	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/store/storetest"
)

// faulty is a place that can be switched off, or be full.
type faulty struct {
	store.Store
	away, full *atomic.Bool
	reserve    atomic.Bool  // takes no bulk
	offered    atomic.Int32 // bulk that it refused
	broken     *error       // of the next Put, once it has stored
	refuses    error        // to delete; nil = it deletes
	mu         sync.Mutex
}

var errAway, errFull = errors.New("no route to the copy"), errors.New("no space left")

func (f *faulty) is(writing bool) error {
	switch {
	case f.away.Load():
		return errAway
	case writing && f.full.Load():
		return errFull
	}
	return nil
}

func (f *faulty) Put(ctx context.Context, name string, data store.Data) error {
	if err := f.is(true); err != nil {
		return err
	}
	if f.reserve.Load() && isBulk(name) && !store.MayUseReserve(ctx) {
		f.offered.Add(1)
		return store.ErrReserve
	}
	err := f.Store.Put(ctx, name, data)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		err, f.broken = *f.broken, nil
	}
	return err
}

func (f *faulty) Replace(ctx context.Context, name string, data store.Data) error {
	if err := f.is(true); err != nil {
		return err
	}
	return f.Store.Replace(ctx, name, data)
}

func (f *faulty) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if err := f.is(false); err != nil {
		return err
	}
	return f.Store.Get(ctx, name, offset, length, to)
}

func (f *faulty) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := f.is(false); err != nil {
		return store.Info{}, err
	}
	return f.Store.Stat(ctx, name)
}

func (f *faulty) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	if err := f.is(false); err != nil {
		return err
	}
	return f.Store.List(ctx, prefix, each)
}

func (f *faulty) Names(ctx context.Context, dir string) ([]string, error) {
	if err := f.is(false); err != nil {
		return nil, err
	}
	return f.Store.Names(ctx, dir)
}

func (f *faulty) Delete(ctx context.Context, name string) error {
	if err := f.is(false); err != nil {
		return err
	}
	if f.refuses != nil {
		return f.refuses
	}
	return f.Store.Delete(ctx, name)
}

func isBulk(n string) bool { return strings.HasPrefix(n, "bulk/") }

// policy of the tests: own/ stays where it is, mark changes and the greater one counts, light/ may come back, content
// that says it is bad is bad.
func policy() copies.Policy {
	return copies.Policy{
		Passing:  func(n string) bool { return strings.HasPrefix(n, "own/") },
		Changing: func(n string) bool { return n == "mark" },
		Bulk:     isBulk,
		Light:    func(n string) bool { return strings.HasPrefix(n, "light/") },
		Needed:   func(names []string) []string { return names },
		Order: func(n string) int {
			if strings.HasPrefix(n, "index/") {
				return 1
			}
			return 0
		},
		Check: func(_ string, content []byte) error {
			if strings.HasPrefix(string(content), "bad") {
				return errors.New("it is bad")
			}
			return nil
		},
		Newer: func(_ string, a, b []byte) bool { return string(b) > string(a) },
	}
}

// fast is a clock on which a minute passes in a second: nobody waits for a copy's rest.
type fast struct{ began time.Time }

const speed = 60

func (f fast) Now() time.Time { return f.began.Add(speed * time.Since(f.began)) }

func (f fast) NewTimer(d time.Duration) clock.Timer { return clock.Real().NewTimer(d / speed) }

type world struct {
	all    *copies.Store
	places []*faulty
}

func makeWorld(t *testing.T, n int) *world {
	t.Helper()
	return makeWorldAt(t, n, fast{time.Now()})
}

func makeWorldAt(t *testing.T, n int, c clock.Clock) *world {
	t.Helper()
	w := &world{}
	var places []copies.Place
	for i := range n {
		s, err := filestore.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		f := &faulty{Store: s, away: &atomic.Bool{}, full: &atomic.Bool{}}
		w.places = append(w.places, f)
		places = append(places, copies.Place{Name: fmt.Sprintf("copy-%d", i), Open: func(context.Context) (store.Store, error) {
			if f.away.Load() {
				return nil, errAway
			}
			return f, nil
		}})
	}
	var err error
	if w.all, err = copies.Open(t.Context(), policy(), c, places); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) holds(t *testing.T, i int) map[string]string {
	t.Helper()
	out := map[string]string{}
	s := w.places[i].Store
	err := s.List(t.Context(), "", func(b store.Info) error {
		raw, err := store.Read(t.Context(), s, b.Name)
		out[b.Name] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) put(t *testing.T, name, content string) {
	t.Helper()
	if err := w.all.Put(t.Context(), name, store.Bytes(content)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) sync(t *testing.T) []copies.Carried {
	t.Helper()
	out, err := w.all.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSeveralCopiesAreAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return makeWorld(t, 2).all })
}

func TestACopyThatIsDownNeitherStopsNorForgets(t *testing.T) {
	w := makeWorld(t, 2)
	w.put(t, "p/1", "one")
	w.places[0].away.Store(true)
	w.put(t, "p/2", "two") // into the second
	if got, err := store.Read(t.Context(), w.all, "p/2"); err != nil || string(got) != "two" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := w.all.Whole(); !errors.Is(err, copies.ErrCopyAway) || !strings.Contains(err.Error(), "copy-0") {
		t.Errorf("got %v", err)
	}
	// p/1 is in the copy that is away alone: that is not the same as not being there.
	if _, err := store.Read(t.Context(), w.all, "p/1"); err == nil || !strings.Contains(err.Error(), "copy-0") {
		t.Errorf("got %v", err)
	}
	w.places[0].away.Store(false)
	st := w.all.Status()
	if st[0].Away == nil || st[0].Since.IsZero() || st[1].Away != nil {
		t.Errorf("status %+v", st)
	}
}

func TestAFullCopyIsPassedOverForWritingAlone(t *testing.T) {
	w := makeWorld(t, 2)
	w.put(t, "p/1", "one")
	w.places[0].full.Store(true)
	w.put(t, "p/2", "two")
	for n, want := range map[string]string{"p/1": "one", "p/2": "two"} {
		if got, err := store.Read(t.Context(), w.all, n); err != nil || string(got) != want {
			t.Errorf("%s: read %q, %v", n, got, err)
		}
	}
	if st := w.all.Status(); !errors.Is(st[0].Away, errFull) {
		t.Errorf("status %+v", st[0])
	}
}

// A copy that keeps the rest of its room for the log gets the log, at once and by carrying, whatever bulk waits for it; that comes
// when there is room again.
func TestACopyAtItsReserveGetsTheLog(t *testing.T) {
	for _, at := range []int{0, 1} { // the one that is asked first, and the one to which is carried
		w := makeWorld(t, 2)
		w.places[at].reserve.Store(true)
		want := map[string]string{}
		put := func(name string) {
			w.put(t, name, name)
			want[name] = name
		}
		for i := range 20 {
			put(fmt.Sprintf("bulk/%d", i))
			put(fmt.Sprintf("wal/%d", i))
		}
		put("index/1")
		if err := w.all.Whole(); err != nil {
			t.Errorf("copy %d at its reserve is passed over: %v", at, err)
		}
		if done := w.sync(t)[at]; done.Left != 21 || // the index waits for what it names
			done.Away != nil {
			t.Errorf("copy %d: %+v", at, done)
		}
		there := w.holds(t, at)
		for i := range 20 {
			if n := fmt.Sprintf("wal/%d", i); there[n] != n {
				t.Errorf("copy %d lacks %s", at, n)
			}
		}
		if st := w.all.Status()[at]; st.Away != nil || !errors.Is(st.Reserve, store.ErrReserve) {
			t.Errorf("copy %d: status %+v", at, st)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { w.all.Follow(ctx) })
		put("wal/later")
		for end := time.Now().Add(5 * time.Minute); w.holds(t, at)["wal/later"] == ""; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("copy %d never gets the log", at)
			}
		}
		w.places[at].reserve.Store(false)
		for end := time.Now().Add(5 * time.Minute); !cmp.Equal(want, w.holds(t, at)) || w.all.Status()[at].Reserve != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%+v\n%s", w.all.Status()[at], cmp.Diff(want, w.holds(t, at)))
			}
		}
		cancel()
		following.Wait()
	}
}

// still is a clock on which no copy's rest ends.
type still struct{ fast }

func (s still) Now() time.Time { return s.began }

// Bulk that a copy would refuse is not read from another one again and again to be offered to it.
func TestACopyAtItsReserveIsOfferedLittle(t *testing.T) {
	w := makeWorldAt(t, 2, still{fast{time.Now()}})
	w.places[1].reserve.Store(true)
	for i := range 20 {
		w.put(t, fmt.Sprintf("bulk/%d", i), "x")
	}
	for range 3 {
		w.sync(t)
	}
	if n := w.places[1].offered.Load(); n < 1 || n > 4 {
		t.Errorf("offered %d times", n)
	}
}

func TestAWriteWhoseAnswerIsLostIsStoredElsewhere(t *testing.T) {
	w := makeWorld(t, 2)
	w.places[0].broken = &errAway
	w.put(t, "p/1", "one")
	w.sync(t)
	for i := range 2 {
		if got := w.holds(t, i)["p/1"]; got != "one" {
			t.Errorf("copy %d holds %q", i, got)
		}
	}
}

func TestNothingIsStoredWhenNoCopyTakesIt(t *testing.T) {
	w := makeWorld(t, 2)
	for _, p := range w.places {
		p.away.Store(true)
	}
	err := w.all.Put(t.Context(), "p/1", store.Bytes("one"))
	if err == nil || !strings.Contains(err.Error(), "copy-0") || !strings.Contains(err.Error(), "copy-1") {
		t.Errorf("got %v", err)
	}
	for _, p := range w.places {
		p.away.Store(false)
	}
	w.put(t, "p/1", "one") // they are asked again, rest or no rest
}

func TestSyncMakesCopiesEqualInBothDirections(t *testing.T) {
	w := makeWorld(t, 3)
	for i, content := range []map[string]string{
		{"p/a": "a", "own/x": "0", "mark": "2", "both": "same"},
		{"p/b": "b", "mark": "9", "both": "same"},
		{"index/c": "c", "own/y": "2"},
	} {
		for n, c := range content {
			if err := w.places[i].Put(t.Context(), n, store.Bytes(c)); err != nil {
				t.Fatal(err)
			}
		}
	}
	compared, err := w.all.Compare(t.Context())
	if err != nil || len(compared[0].Missing) != 2 || len(compared[2].Missing) != 4 || compared[2].Bytes() != 1+1+1+4 || compared[2].Oldest().IsZero() {
		t.Errorf("compared: %+v, %v", compared, err)
	}
	w.sync(t)
	common := map[string]string{"p/a": "a", "p/b": "b", "index/c": "c", "mark": "9", "both": "same"}
	for i, own := range []map[string]string{{"own/x": "0"}, {}, {"own/y": "2"}} {
		want := maps.Clone(common)
		maps.Copy(want, own)
		if d := cmp.Diff(want, w.holds(t, i)); d != "" {
			t.Errorf("copy %d: %s", i, d)
		}
	}
	for _, c := range w.sync(t) {
		if c.Blobs != 0 || c.Left != 0 {
			t.Errorf("a second sync still carried: %+v", c)
		}
	}
}

func TestABadBlobIsNeverCarriedAndNeverReplacesAGoodOne(t *testing.T) {
	w := makeWorld(t, 3)
	for i, c := range []string{"bad one", "good one", ""} {
		if c != "" {
			if err := w.places[i].Put(t.Context(), "p/1", store.Bytes(c)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.places[0].Put(t.Context(), "p/2", store.Bytes("bad alone")); err != nil {
		t.Fatal(err)
	}
	if err := w.places[0].Put(t.Context(), "index/1", store.Bytes("names p/2")); err != nil {
		t.Fatal(err)
	}
	out := w.sync(t)
	if got := w.holds(t, 2); got["p/1"] != "good one" || got["p/2"] != "" {
		t.Errorf("copy-2 holds %v", got)
	}
	if got := w.holds(t, 1); got["p/1"] != "good one" {
		t.Errorf("copy-1 holds %v", got)
	}
	// What names the missing blob waits for it.
	if got := w.holds(t, 2); got["index/1"] != "" || out[2].Left != 2 || len(out[2].Trouble) == 0 {
		t.Errorf("copy-2 holds %v after %+v", got, out[2])
	}
	if len(out[0].Suspect) != 1 || out[0].Suspect[0] != "p/1" {
		t.Errorf("suspected %v", out[0].Suspect)
	}
}

func TestNothingLastingIsDeletedWhileACopyIsAway(t *testing.T) {
	w := makeWorld(t, 2)
	w.put(t, "p/1", "one")
	w.put(t, "light/1", "x")
	w.sync(t)
	w.places[1].away.Store(true)
	_ = w.all.Names // noticed by the next call that asks it
	if _, err := w.all.Names(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := w.all.Delete(t.Context(), "p/1"); !errors.Is(err, copies.ErrCopyAway) {
		t.Errorf("got %v", err)
	}
	if err := w.all.Delete(t.Context(), "light/1"); err != nil {
		t.Errorf("got %v", err)
	}
	w.places[1].away.Store(false)
	if got := w.holds(t, 0); got["p/1"] != "one" || got["light/1"] != "" {
		t.Errorf("holds %v", got)
	}
}

func TestALockOfOneCopyDoesNotHideWhatIsWrongWithAnother(t *testing.T) {
	w := makeWorld(t, 2)
	w.put(t, "p/1", "one")
	w.sync(t)
	w.places[0].refuses, w.places[1].refuses = store.ErrLocked, store.ErrDenied
	if err := w.all.Delete(t.Context(), "p/1"); errors.Is(err, store.ErrLocked) || !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("got %v", err)
	}
	w.places[1].refuses = store.ErrLocked
	if err := w.all.Delete(t.Context(), "p/1"); !errors.Is(err, store.ErrLocked) {
		t.Errorf("got %v", err)
	}
}

func TestOpenNeedsOneCopyAlone(t *testing.T) {
	up, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	down := copies.Place{Name: "down", Open: func(context.Context) (store.Store, error) { return nil, errAway }}
	s, err := copies.Open(t.Context(), policy(), nil, []copies.Place{down, {Name: "up", Open: func(context.Context) (store.Store, error) { return up, nil }}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "p", store.Bytes("x")); err != nil {
		t.Error(err)
	}
	if _, err := copies.Open(t.Context(), policy(), nil, []copies.Place{down, down}); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
}

// Whatever is written while copies come and go, in the end all copies are equal and hold all of it.
func TestCopiesThatComeAndGoEndEqual(t *testing.T) {
	w := makeWorld(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { w.all.Follow(ctx) })
	r := rand.New(rand.NewPCG(7, 7))
	want := map[string]string{}
	for i := range 200 {
		if r.IntN(10) == 0 {
			w.places[r.IntN(2)].away.Store(r.IntN(2) == 0) // the third stays
		}
		name, content := fmt.Sprintf("p/%d", i), strings.Repeat("x", r.IntN(1000))
		w.put(t, name, content)
		want[name] = content
	}
	for _, p := range w.places {
		p.away.Store(false)
	}
	equal := func() string {
		var d string
		for i := range w.places {
			d += cmp.Diff(want, w.holds(t, i))
		}
		return d
	}
	for end := time.Now().Add(5 * time.Minute); equal() != ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(equal())
		}
	}
	cancel()
	following.Wait()
}
