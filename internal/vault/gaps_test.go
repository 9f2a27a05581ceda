package vault_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Log that no copy has whole takes moments with it. A scrub's findings say which, whatever way it was lost.
func TestAScrubTellsWhichMomentsAreLostWithTheLog(t *testing.T) {
	const size = bundleSize
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	minute := func(n int) time.Time { return day.Add(time.Duration(n) * time.Minute) }
	v, dir := create(t)
	log := v.Log(7, size)
	for n := range 8 {
		if err := log.PutSegment(t.Context(), 1, wal.LSN(n)*size, segmentOf(n), minute(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := log.Held(t.Context())
	if err != nil || len(held) != 8 {
		t.Fatal(held, err)
	}
	backup := func(seg int) vault.Backup {
		t.Helper()
		w, err := v.Begin(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, SegmentSize: size,
			Start: wal.LSN(seg)*size + 40, Stop: wal.LSN(seg)*size + 80, Stopped: minute(seg).Add(30 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := backup(1)
	for _, c := range []struct {
		name string
		lost map[int]string
		prep func()
		want []vault.Gap
	}{
		{"log from before each backup takes nothing", map[int]string{0: "lost"}, nil, nil},
		{"two in a row are one gap, and no backup stands behind it", map[int]string{2: "lost", 3: "a flipped bit"}, nil,
			[]vault.Gap{{Database: "orders", Timeline: 1, From: 2 * size, To: 4 * size, After: minute(2)}}},
		{"a backup behind it ends the gap", map[int]string{2: "emptied", 3: "cut short"}, func() { backup(5) },
			[]vault.Gap{{Database: "orders", Timeline: 1, From: 2 * size, To: 4 * size, After: minute(2), Until: minute(5).Add(30 * time.Second)}}},
		{"a backup that needs it itself is named, and each gap is its own", map[int]string{1: "lost", 6: "lost"}, nil, []vault.Gap{
			{Database: "orders", Timeline: 1, From: 1 * size, To: 2 * size, Until: minute(5).Add(30 * time.Second), Backups: []string{one.ID}},
			{Database: "orders", Timeline: 1, From: 6 * size, To: 7 * size, After: minute(6)},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prep != nil {
				c.prep()
			}
			for n, how := range c.lost {
				file := filepath.Join(dir, held[n].Object)
				whole := spoil(t, file, how)
				defer func() {
					if err := os.WriteFile(file, whole, 0o600); err != nil {
						t.Error(err)
					}
				}()
			}
			s, err := v.Scrub(t.Context(), vault.ScrubOptions{Clock: ahead{}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := v.Gaps(t.Context(), s.Lost())
			if d := cmp.Diff(c.want, got); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			for _, g := range got {
				if text := g.String(); !strings.Contains(text, g.From.String()) || !strings.Contains(text, "can be restored") {
					t.Error(text)
				}
			}
		})
	}
}

// A primary that was passed over wrote on, and a backup of it ended behind where the next timeline began: it needs none of the log
// of that.
func TestABackupOfAnotherBranchNeedsNoneOfTheLostLog(t *testing.T) {
	const size = bundleSize
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	minute := func(n int) time.Time { return day.Add(time.Duration(n) * time.Minute) }
	v, dir := create(t)
	log := v.Log(7, size)
	if err := log.PutHistory(t.Context(), 2, []byte("1\t"+wal.LSN(2*size).String()+"\tno recovery target specified\n")); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		if err := log.PutSegment(t.Context(), uint32(1+n/2), wal.LSN(n)*size, segmentOf(n), minute(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := log.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, seg := range []int{0, 4} {
		w, err := v.Begin(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, SegmentSize: size,
			Start: wal.LSN(seg)*size + 40, Stop: wal.LSN(seg)*size + 80, Stopped: minute(seg).Add(30 * time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	var lost []string
	for _, h := range held {
		if h.Timeline == 2 && h.Start == 3*size {
			spoil(t, filepath.Join(dir, h.Object), "lost")
			lost = append(lost, h.Object)
		}
	}
	got, err := v.Gaps(t.Context(), lost)
	want := []vault.Gap{{Database: "orders", Timeline: 2, From: 3 * size, To: 4 * size, After: minute(3)}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
}
