package epoch

import (
	"cmp"
	"slices"
	"time"
)

// unsettled is how many epochs, of those that were opened, may still be written to.
const unsettled = 2

// checkpoint is a set of index blobs that stands for the epochs first to last, both included.
type checkpoint struct {
	first, last int
	blobs       []Blob
}

// state is what is known of the place. It is never changed after it was read.
type state struct {
	until      time.Time // believed before
	writeEpoch int       // the epoch that is open
	openings   []Blob
	watermarks []Blob
	watermark  time.Time
	singles    map[int][]Blob // the complete set of each compacted epoch
	chain      []checkpoint   // from epoch 0 on, without a gap
	loose      map[int][]Blob // index blobs of writers: of every epoch from next() on that has no set
}

// marks judges what does not depend on the index blobs of writers.
func marks(opened, compacted, joined, water []Blob) *state {
	s := &state{openings: opened, watermarks: water, singles: map[int][]Blob{}}
	for n := range byEpoch(opened, openings) {
		s.writeEpoch = max(s.writeEpoch, n)
	}
	for n, blobs := range byEpoch(compacted, singles) {
		if set := completeSet(blobs); set != nil {
			s.singles[n] = set
			s.writeEpoch = max(s.writeEpoch, n+unsettled) // its mark lags behind, or was lost
		}
	}
	if s.chain = longestChain(joined); len(s.chain) > 0 {
		s.writeEpoch = max(s.writeEpoch, s.next()-1+unsettled)
	}
	for _, b := range water {
		if t, ok := watermarkOf(b.Name); ok && t.After(s.watermark) {
			s.watermark = t
		}
	}
	return s
}

// longestChain is the chain of complete checkpoints, each beginning where the one before ends, that reaches farthest from epoch 0 on;
// of several the one with the fewest parts.
func longestChain(blobs []Blob) []checkpoint {
	bySpan := map[[2]int][]Blob{}
	for _, b := range blobs {
		if first, last, ok := rangeOf(b.Name); ok {
			bySpan[[2]int{first, last}] = append(bySpan[[2]int{first, last}], b)
		}
	}
	var all []checkpoint
	for span, blobs := range bySpan {
		if set := completeSet(blobs); set != nil {
			all = append(all, checkpoint{span[0], span[1], set})
		}
	}
	slices.SortFunc(all, func(a, b checkpoint) int { return cmp.Or(a.first-b.first, a.last-b.last) })
	best := map[int][]checkpoint{-1: nil} // chains with the fewest parts by where they end
	longest := -1
	for _, c := range all { // whatever can come before c has a lower first epoch
		before, ok := best[c.first-1]
		if !ok {
			continue
		}
		if old, ok := best[c.last]; !ok || len(before)+1 < len(old) {
			best[c.last] = append(slices.Clone(before), c)
		}
		longest = max(longest, c.last)
	}
	return best[longest]
}

// next is the first epoch that no checkpoint stands for.
func (s *state) next() int {
	if len(s.chain) == 0 {
		return 0
	}
	return s.chain[len(s.chain)-1].last + 1
}

// settled is the last epoch to which nothing can be added any more; negative = none is.
func (s *state) settled() int { return s.writeEpoch - unsettled }

// needed reports whether the index blobs of writers count in an epoch.
func (s *state) needed(epoch int) bool { return epoch >= s.next() && s.singles[epoch] == nil }

// blobs is what counts of the epochs from first to last that no checkpoint stands for, a set before the index blobs of writers.
func (s *state) blobs(first, last int) (out []Blob) {
	epochs := map[int][]Blob{}
	for n, blobs := range s.loose {
		epochs[n] = blobs
	}
	for n, set := range s.singles {
		epochs[n] = set
	}
	var numbers []int
	for n := range epochs {
		if n >= first && n <= last {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		out = append(out, epochs[n]...)
	}
	return out
}

// toCompact is the oldest settled epoch that has index blobs of writers and no set. The search goes up from the checkpoints, epoch
// by epoch: one that has a set is never compacted again, wherever other epochs lack theirs, for its index blobs may have been deleted
// in part, and a second set would say less than the first (kopia issue #5371).
func (s *state) toCompact() (epoch int, ok bool) {
	for n, blobs := range s.loose {
		if len(blobs) > 0 && s.needed(n) && n <= s.settled() && (!ok || n < epoch) {
			epoch, ok = n, true
		}
	}
	return epoch, ok
}

// toJoin is which epochs a new checkpoint stands for.
func (s *state) toJoin(frequency int) (first, last int, ok bool) {
	first, last = s.next(), s.settled()
	return first, last, last >= 0 && last-first >= frequency
}

// ended reports whether the epoch that is open has lasted long enough, and has enough index blobs.
func (s *state) ended(p Parameters) bool {
	blobs := s.loose[s.writeEpoch]
	if len(blobs) == 0 {
		return false
	}
	var bytes int64
	for _, b := range blobs {
		bytes += b.Size
	}
	oldest, newest := extent(blobs)
	return newest.Sub(oldest) >= p.MinEpochDuration &&
		(len(blobs) >= p.EpochAdvanceOnCountThreshold || bytes >= p.EpochAdvanceOnTotalSizeBytesThreshold)
}

// clock is the newest time that the place gave an index blob of a writer: its own clock, read without asking. Zero = there is none.
func (s *state) clock() (newest time.Time) {
	for _, blobs := range s.loose {
		if _, t := extent(blobs); t.After(newest) {
			newest = t
		}
	}
	return newest
}

func extent(blobs []Blob) (oldest, newest time.Time) {
	for i, b := range blobs {
		if i == 0 || b.Time.Before(oldest) {
			oldest = b.Time
		}
		if i == 0 || b.Time.After(newest) {
			newest = b.Time
		}
	}
	return oldest, newest
}

// oldMarks are the openings and watermarks that nobody needs any more: openings that two newer ones follow, and watermarks
// below the one that counts which were stored before a moment of the place's clock.
func (s *state) oldMarks(before time.Time) (out []Blob) {
	opened := byEpoch(s.openings, openings)
	newest := 0 // of those that are there: writeEpoch may have been told by a set alone
	for n := range opened {
		newest = max(newest, n)
	}
	for n, blobs := range opened {
		if n < newest-1 {
			out = append(out, blobs...)
		}
	}
	for _, b := range s.watermarks {
		if t, ok := watermarkOf(b.Name); ok && t.Before(s.watermark) && b.Time.Before(before) {
			out = append(out, b)
		}
	}
	return out
}

// superseded are, of all index blobs of writers and all of sets, those for which others stand that were whole before a moment of the
// place's clock: a checkpoint that counts, or for writers' the set of their epoch. An epoch that was settled just before a checkpoint
// has no set of its own, and gets none.
func (s *state) superseded(written, compacted []Blob, before time.Time) (out []Blob) {
	old := func(set []Blob) bool {
		_, t := extent(set)
		return len(set) > 0 && t.Before(before)
	}
	joined := func(n int) bool {
		i := slices.IndexFunc(s.chain, func(c checkpoint) bool { return c.first <= n && n <= c.last })
		return i >= 0 && old(s.chain[i].blobs)
	}
	for n, blobs := range byEpoch(written, uncompacted) {
		if old(s.singles[n]) || joined(n) {
			out = append(out, blobs...)
		}
	}
	for n, blobs := range byEpoch(compacted, singles) {
		if joined(n) {
			out = append(out, blobs...)
		}
	}
	return out
}
