package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/clock"
)

// there is a source in memory. fail, when not nil, is asked before each answer.
type there struct {
	mu    *sync.Mutex
	files map[string][]byte
	fail  func() error
}

func (s there) Hashes(_ context.Context, p string, first, n int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail(); err != nil {
		return nil, err
	}
	b, ok := s.files[p]
	if !ok {
		return nil, nil
	}
	var out []byte
	for i := first; i < first+n; i++ {
		lo, hi := min(i*BlockSize, int64(len(b))), min((i+1)*BlockSize, int64(len(b)))
		sum := sha256.Sum256(b[lo:hi])
		out = append(out, sum[:]...)
	}
	return out, nil
}

func (s there) Read(_ context.Context, p string, offset int64, n int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail(); err != nil {
		return nil, err
	}
	b, ok := s.files[p]
	if !ok {
		return nil, nil
	}
	lo, hi := min(offset, int64(len(b))), min(offset+int64(n), int64(len(b)))
	return append([]byte{}, b[lo:hi]...), nil
}

func (s there) list() []File {
	out := []File{{Path: "base", Dir: true}, {Path: "base/5", Dir: true}, {Path: "empty", Dir: true}}
	for p, b := range s.files {
		out = append(out, File{Path: p, Size: int64(len(b))})
	}
	return out
}

func nothing(string) bool { return false }

func random(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return b
}

func source(r *rand.ChaCha8) there {
	return there{mu: &sync.Mutex{}, fail: func() error { return nil }, files: map[string][]byte{
		"PG_VERSION": []byte("15\n"), "nothing": {}, "base/5/1": random(r, 3<<20), "base/5/2": random(r, 17<<20+777),
		"base/5/3": random(r, BlockSize), "base/5/4": random(r, BlockSize+1),
	}}
}

// run copies s into dir, and gives what travelled.
func run(t *testing.T, dir string, s there, files []File) (int64, error) {
	t.Helper()
	c, err := New(Options{Dir: dir, UID: -1, GID: -1, Sources: []Source{s, s, s}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.Tidy(".", files, nothing); err != nil {
		return 0, err
	}
	if err := c.Fetch(t.Context(), files); err != nil {
		return c.Moved(), err
	}
	return c.Moved(), c.Sync(t.Context())
}

// equal compares the directory with what the source holds, both ways.
func equal(t *testing.T, dir string, s there) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		rel, _ := filepath.Rel(dir, p)
		have, err := os.ReadFile(p)
		if want, ok := s.files[rel]; !ok || !bytes.Equal(have, want) {
			t.Errorf("%s: %d bytes differ from the source's %d (there: %t)", rel, len(have), len(want), ok)
		}
		return err
	})
	if err != nil || n != len(s.files) {
		t.Errorf("%d files of %d, %v", n, len(s.files), err)
	}
}

func TestACopyMovesOnlyWhatDiffers(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	s, dir := source(r), t.TempDir()
	whole, err := run(t, dir, s, s.list())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, dir, s)
	var size int64
	for _, b := range s.files {
		size += int64(len(b))
	}
	if whole != size {
		t.Errorf("into an empty directory %d bytes travelled of %d", whole, size)
	}
	if again, err := run(t, dir, s, s.list()); err != nil || again != 0 {
		t.Errorf("a second time %d bytes travelled, %v", again, err)
	}
	// A changed page, a longer and a shorter file, a file in a directory's place, and what nobody wants.
	s.files["base/5/2"][9<<20]++
	s.files["base/5/1"] = append(s.files["base/5/1"], random(r, 100)...)
	s.files["base/5/4"] = s.files["base/5/4"][:10]
	must(t, os.WriteFile(filepath.Join(dir, "stray"), []byte("x"), 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "gone", "deep"), 0o700))
	must(t, os.Remove(filepath.Join(dir, "PG_VERSION")))
	must(t, os.MkdirAll(filepath.Join(dir, "PG_VERSION", "x"), 0o700))
	must(t, os.Remove(filepath.Join(dir, "base/5/3")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "base/5/3")))
	moved, err := run(t, dir, s, s.list())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, dir, s)
	if limit := int64(5 * BlockSize); moved > limit {
		t.Errorf("%d bytes travelled for a handful of changes", moved)
	}
}

func TestFilesThatShrinkOrVanishMeanwhileEndAsAtTheSource(t *testing.T) {
	r := rand.NewChaCha8([32]byte{2})
	s, dir := source(r), t.TempDir()
	files := s.list()
	s.files["base/5/2"] = s.files["base/5/2"][:16<<20+5]
	delete(s.files, "base/5/1")
	if _, err := run(t, dir, s, files); err != nil {
		t.Fatal(err)
	}
	equal(t, dir, s)
	s.files["base/5/3"] = append(s.files["base/5/3"], 1, 2, 3) // grows: the listed length counts
	files = []File{{Path: "base/5/3", Size: BlockSize}}
	c, err := New(Options{Dir: dir, UID: -1, GID: -1, Sources: []Source{s}})
	must(t, err)
	must(t, c.Fetch(t.Context(), files))
	must(t, c.Sync(t.Context()))
	must(t, c.Close())
	if info, err := os.Stat(filepath.Join(dir, "base/5/3")); err != nil || info.Size() != BlockSize {
		t.Errorf("a file that grew is %v long, %v", info.Size(), err)
	}
}

// However often a copy is interrupted, the next goes on where it was and the last is whole.
func TestAnInterruptedCopyGoesOn(t *testing.T) {
	r := rand.NewChaCha8([32]byte{3})
	dice := rand.New(r)
	s, dir := source(r), t.TempDir()
	broken := errors.New("the link broke")
	var total int64
	for try := 0; ; try++ {
		left := 2 + dice.IntN(12)
		s.fail = func() error {
			left--
			if left < 0 && try < 20 {
				return broken
			}
			return nil
		}
		moved, err := run(t, dir, s, s.list())
		total += moved
		if err == nil {
			break
		}
		if !errors.Is(err, broken) {
			t.Fatal(err)
		}
	}
	equal(t, dir, s)
	if total > 2*(21<<20) {
		t.Errorf("%d bytes travelled for 20 MiB: what had come over came again", total)
	}
}

func TestNothingLeadsOutOfTheDirectory(t *testing.T) {
	s := source(rand.NewChaCha8([32]byte{4}))
	s.files["../outside"] = []byte("x")
	dir := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(dir, 0o700))
	if _, err := run(t, dir, s, s.list()); err == nil {
		t.Error("a name that leads out of the directory was taken")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "outside")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was written beside the directory")
	}
}

func TestGrowthCountsWhatIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1000), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "b"), make([]byte, 500), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "ours"), make([]byte, 70), 0o600))
	got, err := Growth(dir, []File{{Path: "a", Size: 4000}, {Path: "c", Size: 10}, {Path: "d", Dir: true}}, func(p string) bool { return p == "ours" })
	if err != nil || got != 2510 {
		t.Errorf("grows by %d, %v", got, err)
	}
}

// still is a clock that a test moves; its timers fire when they are made, and move it.
type still struct{ now time.Time }

func (s *still) Now() time.Time { return s.now }
func (s *still) NewTimer(d time.Duration) clock.Timer {
	s.now = s.now.Add(d)
	c := make(chan time.Time, 1)
	c <- s.now
	return fired{c}
}

type fired struct{ c chan time.Time }

func (f fired) C() <-chan time.Time    { return f.c }
func (fired) Stop() bool               { return true }
func (fired) Reset(time.Duration) bool { return true }

func TestTheRateIsLimited(t *testing.T) {
	c := &still{now: time.Unix(1000, 0)}
	began := c.now
	p := NewPace(10<<20, c)
	for range 50 {
		must(t, p.Take(t.Context(), 1<<20))
	}
	took := c.now.Sub(began)
	if took < 4500*time.Millisecond || took > 5*time.Second {
		t.Errorf("50 MiB at 10 MiB/s took %s", took)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewPace(0, c).Take(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a copy that has ended went on: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestACopyThatWasCutShortBeforeItReachedTheDiskIsNotWhole(t *testing.T) {
	s := source(rand.NewChaCha8([32]byte{5}))
	c, err := New(Options{Dir: t.TempDir(), UID: -1, GID: -1, Sources: []Source{s}})
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Tidy(".", s.list(), nothing))
	must(t, c.Fetch(t.Context(), s.list()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("files that were never brought to the disk count as a copy: %v", err)
	}
}
