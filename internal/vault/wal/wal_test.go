package wal_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/vault/wal"
)

const size = wal.DefaultSegmentSize

func TestSegmentNamesComeBackAsTheyWent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sz := uint64(1) << rapid.IntRange(20, 30).Draw(t, "size")
		l := wal.LSN(rapid.Uint64Range(0, 1<<50).Draw(t, "lsn"))
		tl := rapid.Uint32Range(1, 1<<30).Draw(t, "timeline")
		gotT, gotL, err := wal.ParseSegmentName(wal.SegmentName(tl, l, sz), sz)
		if err != nil || gotT != tl || gotL != l.SegmentStart(sz) {
			t.Fatalf("%d %s with %d: got %d %s %v", tl, l, sz, gotT, gotL, err)
		}
		back, err := wal.ParseLSN(l.String())
		if err != nil || back != l {
			t.Fatalf("%s came back as %s: %v", l, back, err)
		}
	})
}

func TestSegmentNameIsPostgreSQLs(t *testing.T) {
	l, err := wal.ParseLSN("16/B374D848")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := wal.SegmentName(3, l, size), "0000000300000016000000B3"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	for _, bad := range []string{"", "00000003000000160000010", "000000030000001600000100", "00000003.history", "0000000300000016000000b3"} {
		if _, _, err := wal.ParseSegmentName(bad, size); err == nil {
			t.Errorf("%q was taken for a segment", bad)
		}
	}
}

func seg(tl uint32, n int) wal.Held {
	return wal.Held{Timeline: tl, Start: wal.LSN(n * size), End: wal.LSN((n + 1) * size)}
}

func part(tl uint32, n, bytes int) wal.Held {
	return wal.Held{Timeline: tl, Start: wal.LSN(n * size), End: wal.LSN(n*size + bytes), Partial: true}
}

func TestReachAndHoles(t *testing.T) {
	one := wal.History{{Timeline: 1}}
	// Timeline 2 leaves 1 in the middle of segment 3.
	fork := wal.LSN(3*size + 1000)
	two := wal.History{{Timeline: 1, End: fork}, {Timeline: 2, Begin: fork}}
	cases := []struct {
		name  string
		h     wal.History
		held  []wal.Held
		from  int
		end   wal.LSN
		holes []wal.Hole // up to segment 6
	}{
		{"a run of segments is reached to its end", one, []wal.Held{seg(1, 1), seg(1, 2), seg(1, 3), seg(1, 4), seg(1, 5)}, 1, 6 * size, nil},
		{"a missing segment stops it and is named", one, []wal.Held{seg(1, 1), seg(1, 3), seg(1, 4), seg(1, 5)}, 1, 2 * size,
			[]wal.Hole{{Timeline: 1, From: 2 * size, To: 3 * size}}},
		{"a partial segment counts as far as it goes", one, []wal.Held{seg(1, 1), part(1, 2, 500)}, 1, 2*size + 500,
			[]wal.Hole{{Timeline: 1, From: 2*size + 500, To: 6 * size}}},
		{"the longest of two partials counts", one, []wal.Held{seg(1, 1), part(1, 2, 500), part(1, 2, 900)}, 1, 2*size + 900,
			[]wal.Hole{{Timeline: 1, From: 2*size + 900, To: 6 * size}}},
		{"the new timeline's copy of the switch segment stands in for the parent's", two,
			[]wal.Held{seg(1, 2), part(1, 3, 700), seg(2, 3), seg(2, 4), seg(2, 5)}, 2, 6 * size, nil},
		{"what the dead primary wrote behind the fork does not count", two,
			[]wal.Held{seg(1, 2), seg(1, 3), seg(1, 4)}, 2, fork, []wal.Hole{{Timeline: 2, From: fork, To: 6 * size}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, end := wal.Reach(c.h, c.held, wal.LSN(c.from*size), size)
			if end != c.end {
				t.Errorf("reached %s, want %s", end, c.end)
			}
			holes := wal.Holes(c.h, c.held, wal.LSN(c.from*size), 6*size, size)
			if d := cmp.Diff(c.holes, holes); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestHistoryFileIsReadAsPostgreSQLWritesIt(t *testing.T) {
	h, err := wal.ParseHistory(3, []byte("1\t0/5000060\tno recovery target specified\n\n2\t0/7000000\tbefore 2026-11-20\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := wal.History{{Timeline: 1, End: 0x5000060}, {Timeline: 2, Begin: 0x5000060, End: 0x7000000}, {Timeline: 3, Begin: 0x7000000}}
	if d := cmp.Diff(want, h); d != "" {
		t.Fatal(d)
	}
	if !h.Holds(1, 0x5000060) || h.Holds(1, 0x5000061) || h.Holds(4, 1) || !h.Holds(3, 1<<40) {
		t.Error("Holds is wrong about where the timelines part")
	}
	if _, err := wal.ParseHistory(2, []byte("2\t0/5000060\tx\n")); err == nil {
		t.Error("a timeline that is its own ancestor was accepted")
	}
}

func TestWhatIsHeldOrAHoleCoversTheWholeRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := wal.History{{Timeline: 1}}
		var held []wal.Held
		for n := range 12 {
			if rapid.Bool().Draw(t, "held") {
				held = append(held, seg(1, n))
			}
		}
		var missing int
		for _, x := range wal.Holes(h, held, 0, 12*size, size) {
			missing += int(x.To-x.From) / size
		}
		if missing+len(held) != 12 {
			t.Fatalf("%d held, %d missing of 12", len(held), missing)
		}
	})
}
