package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

const bundleSize = 1 << 20

// segmentOf is what the n-th segment holds.
func segmentOf(n int) []byte { return bytes.Repeat([]byte{byte(n), 2, 3, 4}, bundleSize/4) }

// putLog stores whole segments from the first on.
func putLog(t *testing.T, l *vault.Log, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		if err := l.PutSegment(t.Context(), 1, wal.LSN(n*bundleSize), segmentOf(n), time.Unix(int64(n), 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// atOnce bundles what is old by an hour from now, four segments each.
func atOnce() vault.BundleOptions {
	return vault.BundleOptions{Old: -time.Hour, Late: -time.Hour, Count: 4}
}

func bundleAtOnce(t *testing.T, l *vault.Log) vault.Bundled {
	t.Helper()
	done, err := l.Bundle(t.Context(), atOnce())
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// wantLog reads every segment, as a list names it and as a server asks for it.
func wantLog(t *testing.T, l *vault.Log, from, to int) []wal.Held {
	t.Helper()
	held, err := l.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := from
	for _, h := range held {
		if h.Partial {
			continue
		}
		if want := wal.LSN(n * bundleSize); h.Start != want || h.End != want+bundleSize {
			t.Fatalf("%s to %s is listed where segment %d comes", h.Start, h.End, n)
		}
		got, err := l.Fetch(t.Context(), h)
		if err != nil || !bytes.Equal(got, segmentOf(n)) {
			t.Fatalf("segment %d from %s: %d bytes, %v", n, h.Object, len(got), err)
		}
		if got, err = l.File(t.Context(), wal.SegmentName(1, h.Start, bundleSize)); err != nil || !bytes.Equal(got, segmentOf(n)) {
			t.Fatalf("segment %d by name: %d bytes, %v", n, len(got), err)
		}
		if at, err := l.Covers(t.Context(), h); err != nil || !at.Equal(time.Unix(int64(n), 0)) {
			t.Errorf("segment %d covers %s, %v", n, at, err)
		}
		n++
	}
	if n != to+1 {
		t.Fatalf("the log is listed up to segment %d, want %d", n-1, to)
	}
	return held
}

// objects counts a log's objects of each kind.
func objects(t *testing.T, l *vault.Log) (alone, bundles int) {
	t.Helper()
	held, err := l.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]bool{}
	for _, h := range held {
		if strings.Contains(h.Object, ".bundle-") {
			in[h.Object] = true
		} else if !h.Partial {
			alone++
		}
	}
	return alone, len(in)
}

func TestOldLogLiesInBundlesAndIsReadAsBefore(t *testing.T) {
	onEachKind(t, func(t *testing.T, at func() place) {
		v := createIn(t, at())
		l := v.Log(7, bundleSize)
		putLog(t, l, 1, 6)
		if err := l.PutPartial(t.Context(), 1, 7*bundleSize, segmentOf(7)[:500], time.Unix(7, 0)); err != nil {
			t.Fatal(err)
		}
		before := wantLog(t, l, 1, 6)
		if done, err := l.Bundle(t.Context(), vault.BundleOptions{}); err != nil || done.Bundles != 0 {
			t.Fatalf("young log was bundled: %+v, %v", done, err)
		}
		if done := bundleAtOnce(t, l); done.Bundles != 2 || done.Segments != 6 || done.Freed.Objects != 6 {
			t.Fatalf("bundled %+v", done)
		}
		wantLog(t, l, 1, 6)
		for n, h := range before[:6] { // as a restore has it that began before
			if got, err := l.Fetch(t.Context(), h); err != nil || !bytes.Equal(got, segmentOf(n+1)) {
				t.Errorf("listed before it was bundled: %d bytes, %v", len(got), err)
			}
			if at, err := l.Covers(t.Context(), h); err != nil || !at.Equal(time.Unix(int64(n+1), 0)) {
				t.Errorf("listed before it was bundled: covers %s, %v", at, err)
			}
		}
		if alone, bundles := objects(t, l); alone != 0 || bundles != 2 {
			t.Errorf("%d segments lie alone, %d bundles", alone, bundles)
		}
		if c, err := v.Contents(t.Context()); err != nil || c.Bundles != 2 || c.Segments != 7 {
			t.Errorf("contents %+v, %v", c, err)
		}
		putLog(t, l, 3, 3)
		if alone, _ := objects(t, l); alone != 0 {
			t.Error("a segment that lies in a bundle was stored once more")
		}
		err := l.PutSegment(t.Context(), 1, 3*bundleSize, segmentOf(9), time.Unix(3, 0))
		if d, ok := errors.AsType[*vault.DuplicateError](err); !ok || len(d.Stored) != 1 {
			t.Errorf("other content for a segment in a bundle: %v", err)
		}
		if done := bundleAtOnce(t, l); done.Bundles != 0 || done.Freed.Objects != 0 {
			t.Errorf("there was nothing left to do: %+v", done)
		}
		store(t, v, sample()) // its end writes the catalog
		if s := scrub(t, v); len(s.Findings) > 0 {
			t.Errorf("found %+v", s.Findings)
		}
		held := wantLog(t, l, 1, 6)
		freed, err := l.Drop(t.Context(), held[:4], time.Now().Add(time.Hour), nil)
		if err != nil || freed.Objects != 1 {
			t.Errorf("let go of %+v, %v", freed, err)
		}
		wantLog(t, l, 5, 6)
	})
}

// Wherever a run is broken off, or loses its duty, the log is whole and the next run goes on.
func TestBundlingThatIsBrokenOffLosesNothing(t *testing.T) {
	refused := errors.New("another host has the duty")
	v, _ := create(t)
	for stop := 0; ; stop++ {
		system := uint64(7 + stop)
		l := v.Log(system, bundleSize)
		putLog(t, l, 1, 5)
		o, asked := atOnce(), atomic.Int64{} // several deletions ask at the same time
		o.May = func(context.Context) error {
			if asked.Add(1) > int64(stop) {
				return refused
			}
			return nil
		}
		_, err := l.Bundle(t.Context(), o)
		if err != nil && !errors.Is(err, refused) {
			t.Fatal(err)
		}
		held := wantLog(t, v.Log(system, bundleSize), 1, 5)
		if n := len(held); n != 5 {
			t.Fatalf("stopped after %d: %d pieces are listed", stop, n)
		}
		if s := scrub(t, v); len(s.Damage()) > 0 {
			t.Fatalf("stopped after %d: found %+v", stop, s.Findings)
		}
		bundleAtOnce(t, l)
		wantLog(t, l, 1, 5)
		if alone, bundles := objects(t, l); alone != 1 || bundles != 1 {
			t.Fatalf("stopped after %d: %d segments lie alone, %d bundles", stop, alone, bundles)
		}
		if err == nil {
			if stop < 5 {
				t.Fatalf("leave was asked %d times alone", stop)
			}
			return
		}
	}
}

// What takes the place of segments is in every copy before they go; a copy that was away longer does not bring them back,
// and one that has a bundle damaged is passed over and mended.
func TestBundlesInSeveralCopies(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	l := v.Log(7, bundleSize)
	putLog(t, l, 1, 4)
	store(t, v, sample())
	syncAll(t, v)
	stale := t.TempDir()
	if err := os.CopyFS(stale, os.DirFS(away)); err != nil {
		t.Fatal(err)
	}
	bundleAtOnce(t, l)
	for _, dir := range []string{home, away} {
		one := openAll(t, alone(dir)).Log(7, bundleSize)
		wantLog(t, one, 1, 4)
		if n, bundles := objects(t, one); n != 0 || bundles != 1 {
			t.Errorf("%s has %d segments alone, %d bundles", dir, n, bundles)
		}
	}

	t.Run("a copy that was away", func(t *testing.T) {
		if err := os.RemoveAll(away); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(away, os.DirFS(stale)); err != nil {
			t.Fatal(err)
		}
		both := openAll(t, conf)
		syncAll(t, both)
		if n, bundles := objects(t, openAll(t, alone(home)).Log(7, bundleSize)); n != 0 || bundles != 1 {
			t.Errorf("the other copy has %d segments alone now, %d bundles", n, bundles)
		}
		s := scrub(t, both)
		if len(s.Damage()) > 0 || len(s.Findings) != 4 {
			t.Errorf("found %+v, want the four that were let go of", s.Findings)
		}
		done, err := both.Repair(t.Context(), s.Findings, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range done {
			if !m.Done {
				t.Errorf("%+v", m)
			}
		}
		if n, _ := objects(t, both.Log(7, bundleSize)); n != 0 {
			t.Errorf("%d segments lie alone", n)
		}
	})

	t.Run("a bundle that is damaged in one copy", func(t *testing.T) {
		if n := damage(t, home, func(rel string) bool { return strings.Contains(rel, ".bundle-") }); n != 1 {
			t.Fatalf("%d damaged", n)
		}
		both := openAll(t, conf)
		wantLog(t, both.Log(7, bundleSize), 1, 4)
		s := scrub(t, both)
		if d := s.Damage(); len(d) != 1 || d[0].Copy != "home" || cmp.Diff([]string{"away"}, d[0].GoodIn) != "" {
			t.Fatalf("found %+v", d)
		}
		if _, err := both.Repair(t.Context(), s.Findings, false); err != nil {
			t.Fatal(err)
		}
		wantLog(t, openAll(t, alone(home)).Log(7, bundleSize), 1, 4)
	})

	t.Run("nothing is bundled while a copy is away", func(t *testing.T) {
		both := openAll(t, conf) // the directory was exchanged since the first one was opened
		putLog(t, both.Log(7, bundleSize), 5, 6)
		syncAll(t, both)
		if err := os.Rename(away, away+".gone"); err != nil {
			t.Fatal(err)
		}
		gone := conf
		gone.Others = append([]vault.Place(nil), conf.Others...)
		gone.Others[0].Filled = true
		half := openAll(t, gone)
		_, err := half.BundleLogs(t.Context(), atOnce())
		wantProblem(t, err, "vault.needs-every-copy")
		if _, err := half.Log(7, bundleSize).Bundle(t.Context(), atOnce()); err == nil {
			t.Error("log was bundled that one copy could not be asked for")
		}
		if n, _ := objects(t, half.Log(7, bundleSize)); n != 2 {
			t.Errorf("%d segments lie alone", n)
		}
	})
}

// One copy has let go of all that is in a bundle, and another one still has some of it alone beside the bundle: what may go is
// asked for piece by piece, and the bundle goes with the last of them.
func TestABundleStaysWhileAnythingInItIsNeeded(t *testing.T) {
	conf, home, away := pair(t)
	v := createIn(t, place{home, conf})
	l := v.Log(7, bundleSize)
	putLog(t, l, 1, 4)
	syncAll(t, v)
	late := map[string][]byte{}
	for _, h := range wantLog(t, l, 1, 4)[2:] {
		raw, err := os.ReadFile(filepath.Join(away, h.Object))
		if err != nil {
			t.Fatal(err)
		}
		late[filepath.Join(away, h.Object)] = raw
	}
	bundleAtOnce(t, l)
	for name, raw := range late { // its deletion failed there
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	both := openAll(t, conf).Log(7, bundleSize)
	held := wantLog(t, both, 1, 4)
	if n, bundles := objects(t, both); n != 2 || bundles != 1 {
		t.Fatalf("%d segments are listed alone, %d bundles", n, bundles)
	}
	freed, err := both.Drop(t.Context(), held[:2], time.Now().Add(time.Hour), nil)
	if err != nil || freed.Objects != 0 {
		t.Errorf("let go of %+v, %v", freed, err)
	}
	for _, dir := range []string{home, away} {
		wantLog(t, openAll(t, alone(dir)).Log(7, bundleSize), 1, 4)
	}
	freed, err = both.Drop(t.Context(), held, time.Now().Add(time.Hour), nil)
	if err != nil || freed.Objects != 3 {
		t.Errorf("let go of all: %+v, %v", freed, err)
	}
	if left, err := both.Held(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestWhatIsUnderLockStaysBesideItsBundle(t *testing.T) {
	here, _ := inBucket(t, true)
	here.conf.S3.Lock = 240 * time.Hour
	l := createIn(t, here).Log(7, bundleSize)
	putLog(t, l, 1, 4)
	for range 2 {
		done := bundleAtOnce(t, l)
		if done.Freed.Locked != 4 || done.Freed.Objects != 0 {
			t.Errorf("bundled %+v", done)
		}
		wantLog(t, l, 1, 4)
	}
}

// A damaged segment is left where a scrub finds it, and what lies around it is bundled.
func TestADamagedSegmentIsNotBundled(t *testing.T) {
	v, dir := create(t)
	l := v.Log(7, bundleSize)
	putLog(t, l, 1, 4)
	held := wantLog(t, l, 1, 4)
	raw, err := os.ReadFile(filepath.Join(dir, held[2].Object))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(filepath.Join(dir, held[2].Object), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if done := bundleAtOnce(t, l); done.Segments != 2 {
		t.Errorf("bundled %+v", done)
	}
	if d := scrub(t, v).Damage(); len(d) != 1 || d[0].Name != held[2].Object {
		t.Errorf("found %+v", d)
	}
}

func FuzzBundleName(f *testing.F) {
	f.Add("wal/7/00000001/000000010000000000000004.bundle-004-0123456789abcdef0123456789abcdef.zst.aes")
	f.Add("wal/7/00000001/000000010000000000000004.partial-00000004-0123456789abcdef0123456789abcdef.zst.aes")
	f.Add("0000000100000000000000fg.bundle-")
	f.Fuzz(func(t *testing.T, name string) {
		from, first, count, ok := vault.BundleName(name)
		if !ok {
			return
		}
		again := fmt.Sprintf("%s%s.bundle-%03x-", from, first, count)
		if !strings.EqualFold(name[:len(again)], again) || count < 2 || count > 256 {
			t.Errorf("%q was read as %q, %d", name, first, count)
		}
	})
}
