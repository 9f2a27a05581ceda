package wal

import (
	"cmp"
	"slices"
	"time"
)

// Held is one piece of log that a vault keeps: a whole segment, or the beginning of one.
type Held struct {
	Timeline uint32
	Start    LSN // first byte of the segment
	End      LSN // first byte not held
	Partial  bool
	Covers   time.Time // all log written up to this moment (sender's clock) and before End is held; zero = unknown
	Object   string    // name in the store
}

// Hole is log that is needed and not held: [From, To) on Timeline.
type Hole struct {
	Timeline uint32
	From, To LSN
}

// Reach follows h from position from through what is held, and says how far it gets without a hole: the
// pieces in the order in which a server replays them, and the first position that is missing. A piece of a
// later timeline stands in for the same segment of its parent, as it does in PostgreSQL itself, because the
// segment where a timeline begins repeats its parent's bytes.
func Reach(h History, held []Held, from LSN, size uint64) (pieces []Held, end LSN) {
	best := map[uint32]map[LSN]Held{}
	for _, x := range held {
		if best[x.Timeline] == nil {
			best[x.Timeline] = map[LSN]Held{}
		}
		if old, ok := best[x.Timeline][x.Start]; !ok || x.End > old.End {
			best[x.Timeline][x.Start] = x
		}
	}
	end = from
	for seg := from.SegmentStart(size); ; seg += LSN(size) {
		p, ok := pick(h, best, seg, size)
		if !ok || p.End <= end && seg != from.SegmentStart(size) {
			return pieces, end
		}
		pieces = append(pieces, p)
		end = max(end, p.End)
		if p.End < seg+LSN(size) {
			return pieces, end
		}
	}
}

// pick is the piece for the segment at seg: of the youngest timeline on h that has begun by the end of the
// segment. An older timeline's piece counts only up to where its child begins.
func pick(h History, best map[uint32]map[LSN]Held, seg LSN, size uint64) (Held, bool) {
	for i := len(h) - 1; i >= 0; i-- {
		s := h[i]
		if s.Begin >= seg+LSN(size) || s.End != 0 && s.End <= seg {
			continue
		}
		if p, ok := best[s.Timeline][seg]; ok {
			if s.End != 0 && p.End > s.End {
				p.End = s.End
			}
			return p, true
		}
	}
	return Held{}, false
}

// Holes lists what is missing of h between from and to.
func Holes(h History, held []Held, from, to LSN, size uint64) []Hole {
	var holes []Hole
	for from < to {
		_, end := Reach(h, held, from, size)
		if end >= to {
			break
		}
		next := to
		for _, x := range held { // the next piece on the history behind the hole
			if x.Start > end && x.Start < next && h.Holds(x.Timeline, x.Start) {
				next = x.Start
			}
		}
		tl, ok := h.At(end)
		if !ok {
			break
		}
		holes = append(holes, Hole{Timeline: tl, From: end, To: next})
		from = next
	}
	return holes
}

// Sorted orders pieces by timeline, then position, then length.
func Sorted(held []Held) []Held {
	out := slices.Clone(held)
	slices.SortFunc(out, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	return out
}
