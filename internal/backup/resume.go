package backup

import (
	"fmt"
	"slices"

	"holdfast/internal/vault/wal"
)

// GapError says that log is lost between what the vault holds and what the server still has. Points in time
// inside the gap cannot be restored; a new base backup is needed for those behind it.
type GapError struct {
	Database   string
	Timeline   uint32
	From       wal.LSN // first position that the vault lacks
	ToTimeline uint32  // of To, a descendant of Timeline; 0 = Timeline itself
	To         wal.LSN // first position behind it that the vault has or is to have; 0 = unknown
}

func (e *GapError) Error() string {
	if e.To == 0 {
		return fmt.Sprintf("archive the log of %s: the server no longer has what follows %s on timeline %d", e.Database, e.From, e.Timeline)
	}
	if e.ToTimeline != 0 && e.ToTimeline != e.Timeline {
		return fmt.Sprintf("archive the log of %s: %s on timeline %d to %s on timeline %d is lost", e.Database, e.From, e.Timeline, e.To, e.ToTimeline)
	}
	return fmt.Sprintf("archive the log of %s: %s to %s on timeline %d is lost", e.Database, e.From, e.To, e.Timeline)
}

// place is a position on one timeline.
type place struct {
	timeline uint32
	lsn      wal.LSN
}

// reaches reports whether log of p's timeline from p on belongs to history.
func reaches(history wal.History, p place) bool {
	for _, s := range history {
		if s.Timeline == p.timeline {
			return s.End == 0 || p.lsn < s.End
		}
	}
	return false
}

// heldBehind is the beginning of an unfinished segment that the vault holds further on the timeline than asked: what an
// archive that went on behind lost log stored first. Whole ones never are: asked would be behind them.
func heldBehind(asked place, history wal.History, held []wal.Held) (place, bool) {
	at := asked
	for _, h := range held {
		if p := (place{h.Timeline, h.Start}); h.Partial && h.Timeline == asked.timeline && p.lsn > at.lsn && reaches(history, p) {
			at = p
		}
	}
	return at, at != asked
}

// behind says where streaming goes on behind a gap: at its end, or where what was stored from there on ends.
func behind(g *GapError, history wal.History, held []wal.Held, size uint64) place {
	var later []wal.Held
	for _, h := range held {
		if h.Timeline >= g.ToTimeline && h.Start >= g.To {
			later = append(later, h)
		}
	}
	if timeline, from, fresh := resume(history, later, g.To, size); !fresh {
		return place{timeline, from}
	}
	return place{g.ToTimeline, g.To}
}

// resume says where streaming must go on so that the vault's log has no hole: the timeline to ask for and
// the first position, always a segment's first. history leads to the server's timeline, current is the
// server's position. fresh means that the vault holds nothing of this history yet.
//
// It follows the history from the youngest timeline of which the vault holds anything. What a dead primary
// wrote beyond the point where its successor parted counts for nothing.
func resume(history wal.History, held []wal.Held, current wal.LSN, size uint64) (timeline uint32, from wal.LSN, fresh bool) {
	for i, s := range slices.Backward(history) {
		end, ok := wholeUpTo(s, held)
		if !ok {
			continue
		}
		if s.End != 0 && end >= s.End { // this timeline is complete: its child repeats the segment where it begins
			child := history[i+1]
			return child.Timeline, child.Begin.SegmentStart(size), false
		}
		return s.Timeline, end, false
	}
	last := history[len(history)-1]
	return last.Timeline, current.SegmentStart(size), true
}

// wholeUpTo is the end of the last whole segment on one timeline, or the point where the timeline ends when
// a partial segment reaches it. It is the first held position when only a partial segment is there, and
// false when nothing is.
func wholeUpTo(s wal.Stretch, held []wal.Held) (end wal.LSN, ok bool) {
	var last wal.Held // the furthest partial segment
	for _, h := range wal.Sorted(held) {
		switch {
		case h.Timeline != s.Timeline:
		case h.Partial:
			last = h
		default:
			end, ok = max(end, h.End), true
		}
	}
	if last.Object == "" && last.End == 0 {
		return end, ok
	}
	if !ok {
		end = last.Start
	}
	if s.End != 0 && last.Start == end && last.End >= s.End {
		end = s.End
	}
	return end, true
}

// storedUpTo is how far the vault itself holds a history of which more lies in the second place.
func storedUpTo(history wal.History, held, there []wal.Held, current wal.LSN, size uint64) wal.LSN {
	_, at, fresh := resume(history, held, current, size)
	if !fresh {
		return at
	}
	for _, h := range there {
		if reaches(history, place{h.Timeline, h.Start}) {
			at = min(at, h.Start)
		}
	}
	return at
}
