package wal_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/vault/wal"
)

var today = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// lies is a segment as it was stored some hours ago, with 10 bytes.
func lies(tl uint32, n, hours int) wal.Stored {
	return wal.Stored{Held: seg(tl, n), Bytes: 10, At: today.Add(-time.Duration(hours) * time.Hour)}
}

func limits() wal.BundleLimits {
	return wal.BundleLimits{Before: today.Add(-24 * time.Hour), Late: today.Add(-7 * 24 * time.Hour), Bytes: 40, Count: 100}
}

func TestWhichSegmentsAreStoredAsOne(t *testing.T) {
	const old, late, young = 30, 200, 1
	bundled := func(tl uint32, n int) wal.Stored {
		s := lies(tl, n, late)
		s.Bundled = true
		return s
	}
	begin := func(tl uint32, n int) wal.Stored { return wal.Stored{Held: part(tl, n, 500), Bytes: 10, At: today} }
	const perID = wal.IDSize / size
	for name, c := range map[string]struct {
		all  []wal.Stored
		want [][]int // the segments' numbers
	}{
		"four fill a bundle, and what follows waits":       {[]wal.Stored{lies(1, 1, old), lies(1, 2, old), lies(1, 3, old), lies(1, 4, old), lies(1, 5, old)}, [][]int{{1, 2, 3, 4}}},
		"what is young stays alone":                        {[]wal.Stored{lies(1, 1, old), lies(1, 2, old), lies(1, 3, young), lies(1, 4, young)}, nil},
		"what has waited for a week waits no longer":       {[]wal.Stored{lies(1, 1, late), lies(1, 2, old), lies(1, 3, young)}, [][]int{{1, 2}}},
		"one alone is no bundle":                           {[]wal.Stored{lies(1, 1, late), lies(1, 3, late)}, nil},
		"behind a hole a new one begins":                   {[]wal.Stored{lies(1, 1, old), lies(1, 2, old), lies(1, 4, old), lies(1, 5, old)}, [][]int{{1, 2}}},
		"what lies before a bundle is closed":              {[]wal.Stored{lies(1, 1, old), lies(1, 2, old), bundled(1, 3)}, [][]int{{1, 2}}},
		"what is bundled is left alone":                    {[]wal.Stored{bundled(1, 1), bundled(1, 2)}, nil},
		"a timeline by itself":                             {[]wal.Stored{lies(1, 1, late), lies(1, 2, late), lies(2, 3, late), lies(2, 4, late)}, [][]int{{1, 2}, {3, 4}}},
		"the beginning of a segment ends it":               {[]wal.Stored{lies(1, 1, late), lies(1, 2, late), begin(1, 3)}, [][]int{{1, 2}}},
		"no further than the digits of one list":           {[]wal.Stored{lies(1, perID-2, old), lies(1, perID-1, old), lies(1, perID, old), lies(1, perID+1, old)}, [][]int{{perID - 2, perID - 1}}},
		"a segment with two contents is left for a person": {[]wal.Stored{lies(1, 1, late), lies(1, 2, late), lies(1, 3, late), lies(1, 3, late), lies(1, 4, late)}, [][]int{{1, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got [][]int
			for _, b := range wal.Bundles(c.all, size, limits()) {
				var n []int
				for _, s := range b {
					n = append(n, int(s.Start/size))
				}
				got = append(got, n)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Whatever lies there: each bundle is a run without a hole, within its limits, of old whole segments that lay alone.
func TestABundleIsARunOfOldSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []wal.Stored
		n := 0
		for range rapid.IntRange(0, 60).Draw(t, "pieces") {
			n += rapid.SampledFrom([]int{1, 1, 1, 1, 2, 250}).Draw(t, "step")
			s := lies(uint32(rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "timeline")), n, rapid.IntRange(0, 300).Draw(t, "age"))
			s.Bytes = int64(rapid.IntRange(1, 30).Draw(t, "bytes"))
			s.Bundled = rapid.IntRange(0, 9).Draw(t, "bundled") == 0
			all = append(all, s)
		}
		o := limits()
		seen := map[wal.Held]bool{}
		for _, b := range wal.Bundles(all, size, o) {
			var bytes int64
			for i, s := range b {
				bytes += s.Bytes
				if s.Bundled || s.Partial || !s.At.Before(o.Before) || seen[s.Held] {
					t.Fatalf("took %+v", s)
				}
				seen[s.Held] = true
				if i > 0 && (s.Start != b[i-1].End || s.Timeline != b[0].Timeline || s.Start/wal.IDSize != b[0].Start/wal.IDSize) {
					t.Fatalf("%+v follows %+v", s, b[i-1])
				}
			}
			if len(b) < 2 || len(b) > o.Count || bytes > max(o.Bytes, b[0].Bytes) {
				t.Fatalf("%d segments of %d bytes", len(b), bytes)
			}
		}
	})
}
