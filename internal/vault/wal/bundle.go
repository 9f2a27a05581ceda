package wal

import (
	"cmp"
	"slices"
	"time"
)

// Stored is a piece as it lies in a vault.
type Stored struct {
	Held
	Bytes   int64     // as stored
	At      time.Time // when it was, by the store's clock
	Bundled bool      // it lies in a bundle with others
}

// BundleLimits say which segments are put together.
type BundleLimits struct {
	Before time.Time // only what was stored earlier
	Late   time.Time // what was stored earlier does not wait for its bundle to be full
	Bytes  int64     // of one bundle, as stored
	Count  int       // segments of one bundle
}

// IDSize is how many bytes of log share the first 16 digits of their segments' names. No bundle reaches beyond: a list by
// those digits then shows whatever holds a segment.
const IDSize = 1 << 32

// Bundles says which segments are to be stored as one: runs of whole ones that follow each other on a timeline, are old, and
// lie alone. A run waits until nothing more can join it, or it has waited for long. One segment alone is no bundle.
func Bundles(all []Stored, size uint64, o BundleLimits) [][]Stored {
	var alone []Stored
	last := map[uint32]LSN{} // of each timeline: the start of the last piece of any kind
	for _, s := range all {
		last[s.Timeline] = max(last[s.Timeline], s.Start)
		if !s.Bundled && !s.Partial {
			alone = append(alone, s)
		}
	}
	slices.SortFunc(alone, func(a, b Stored) int {
		return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.Start, b.Start), cmp.Compare(a.Object, b.Object))
	})
	var out [][]Stored
	var run []Stored
	var bytes int64
	end := func(closed bool) {
		if len(run) > 1 && (closed || run[0].At.Before(o.Late)) {
			out = append(out, run)
		}
		run, bytes = nil, 0
	}
	behind := func(s Stored) bool { return last[s.Timeline] > s.Start } // a bundle lies there, or log behind a hole
	for i, s := range alone {
		twice := i > 0 && alone[i-1].Timeline == s.Timeline && alone[i-1].Start == s.Start ||
			i+1 < len(alone) && alone[i+1].Timeline == s.Timeline && alone[i+1].Start == s.Start
		if twice { // other content for one place in the log: a person looks at that
			end(true)
			continue
		}
		if n := len(run); n > 0 {
			before := run[n-1]
			switch {
			case s.Timeline != before.Timeline:
				end(behind(before))
			case s.Start != before.End, s.Start%IDSize == 0, bytes+s.Bytes > o.Bytes, n >= o.Count:
				end(true)
			}
		}
		if !s.At.Before(o.Before) {
			end(false) // more is to join it when that is old
			continue
		}
		run, bytes = append(run, s), bytes+s.Bytes
	}
	if n := len(run); n > 0 {
		end(behind(run[n-1]))
	}
	return out
}
