package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// bytes is all that a sample reads.
func (p picked) bytes(segment int64) int64 {
	sum := int64(len(p.pieces)) * segment
	for _, e := range p.small {
		sum += e.Size
	}
	for _, x := range p.stretches {
		sum += x.size
	}
	return sum
}

func filesOf(n int, size int64) (all []vault.Entry) {
	for i := range n {
		all = append(all, vault.Entry{Path: fmt.Sprintf("data/%d-%d", size, i), Size: size})
	}
	return all
}

func TestWhatASampleReads(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		files                    []vault.Entry
		segment, most            int64
		pieces, workers          int
		stretches, small, picked int
	}{
		"a piece of log for each worker":                     {append(filesOf(10, 100*mib), filesOf(800, 8<<10)...), 16 * mib, 256 * mib, 20, 4, 5, 100, 4},
		"pieces that are larger than all of it are left out": {filesOf(10, 100*mib), 1024 * mib, 256 * mib, 400, 16, 16, 0, 0},
		"small files that are as large as can be":            {filesOf(4000, mib), 16 * mib, 64 * mib, 0, 4, 0, 52, 0},
		"a small file that is larger than its share":         {append(filesOf(1, 2331488), filesOf(1, 814241)...), mib, 10 * mib, 8, 1, 1, 1, 7},
		"less than it may":                                   {append(filesOf(2, 3*mib), filesOf(5, 10)...), 16 * mib, 64 * mib, 1, 4, 2, 5, 1},
		"nothing":                                            {nil, 16 * mib, 64 * mib, 0, 4, 0, 0, 0},
	} {
		b := Choice{Backup: vault.Backup{SegmentSize: uint64(c.segment)}, Pieces: make([]wal.Held, c.pieces)}
		p := pickSample(b, c.files, c.workers, c.most)
		if len(p.stretches) != c.stretches || len(p.small) != c.small || len(p.pieces) != c.picked || p.bytes(c.segment) > c.most {
			t.Errorf("%s: %d stretches, %d small, %d pieces, %d MiB", name, len(p.stretches), len(p.small), len(p.pieces), p.bytes(c.segment)>>20)
		}
	}
}

// However a backup looks: the sample keeps to its bytes, and of files of each kind something is read.
func TestASampleKeepsToItsBytes(t *testing.T) {
	const mib = 1 << 20
	rapid.Check(t, func(t *rapid.T) {
		large := filesOf(rapid.IntRange(0, 20).Draw(t, "large"), rapid.Int64Range(mib+1, 1<<30).Draw(t, "large size"))
		small := filesOf(rapid.IntRange(0, 2000).Draw(t, "small"), rapid.Int64Range(0, mib).Draw(t, "small size"))
		segment := rapid.SampledFrom([]int64{mib, 16 * mib, 64 * mib, 1024 * mib}).Draw(t, "segment")
		c := Choice{Backup: vault.Backup{SegmentSize: uint64(segment)}, Pieces: make([]wal.Held, rapid.IntRange(0, 500).Draw(t, "pieces"))}
		most := rapid.Int64Range(10*mib, 256*mib).Draw(t, "most")
		p := pickSample(c, append(small, large...), rapid.IntRange(1, 64).Draw(t, "workers"), most)
		if got := p.bytes(segment); got > most {
			t.Fatalf("%d bytes of %d", got, most)
		}
		if len(large) > 0 && len(p.stretches) == 0 || len(small) > 0 && len(p.small) == 0 {
			t.Fatalf("%d stretches and %d small files", len(p.stretches), len(p.small))
		}
	})
}

// A disk that would be left with too little is not written to: a server may live there.
func TestASampleLeavesTheSpare(t *testing.T) {
	dir := t.TempDir()
	_, err := Sample(t.Context(), Options{Dir: filepath.Join(dir, "to", "data")}, SampleLimit{Bytes: 1 << 60, Time: time.Minute})
	tight, ok := errors.AsType[*TightError](err)
	if !ok || tight.Dir != dir || tight.Need != 1<<60 || tight.Spare < 256<<20 {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left are %v: %v", left, err)
	}
	if err := spared(dir, -1<<62); err != nil {
		t.Errorf("what has room is refused: %v", err)
	}
}

func trySampling(t *testing.T, limit time.Duration) *sampling {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	s := &sampling{run: &run{o: Options{Dir: dir, Workers: 2}, root: root, began: time.Now()}, limit: SampleLimit{Time: limit}}
	for i := range 4 {
		rel := fmt.Sprint(i)
		if err := os.WriteFile(filepath.Join(dir, rel), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.unsynced = append(s.unsynced, rel)
	}
	return s
}

// Neither what does not come nor what a slow disk has still to write makes a sample last longer than its time.
func TestASampleEndsInItsTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := trySampling(t, 300*time.Millisecond)
	stalled := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	if took, err := s.timed(ctx, 1, []func(context.Context) error{stalled, stalled, stalled}); err != nil || took <= 0 {
		t.Errorf("a vault that hangs: %s, %v", took, err)
	}
	for name, c := range map[string]struct {
		until time.Time
		all   bool
	}{"all": {time.Now().Add(time.Hour), true}, "as far as the time goes": {time.Now().Add(-time.Hour), false}} {
		s := trySampling(t, time.Hour)
		s.unsynced[3] = "not there"
		if took, err := s.settle(ctx, c.until); (err != nil) != c.all || !c.all && took <= 0 {
			t.Errorf("%s: %s, %v", name, took, err)
		}
	}
}
