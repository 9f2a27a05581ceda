package split

import (
	"math/bits"
	"math/rand"
)

// window is how many of the last bytes decide whether there is a cut behind them. It is a multiple of 32, the bits of the hash: a byte
// that leaves has been turned to where it began, and is taken off without being turned.
const window = 64

// rolling cuts where the hash of the last bytes (cyclic polynomial, "buzhash") ends in zeroes, so that contents become about avg long; never
// before half of that, and at the latest after twice of it.
type rolling struct {
	mask     uint32
	min, max int // bytes
	taken    int // since the last cut, 0 <= taken < max

	last  [window]byte // the last bytes, in a ring; before any there were zeroes
	at    int          // where the oldest of them is
	hash  uint32       // of last; holds only when taken >= min-1, for nobody asks before
	table *[256]uint32 // what each byte adds; nil until the first hash
}

// newRolling makes one for contents of avg bytes, which is a power of two.
func newRolling(avg int) *rolling {
	return &rolling{mask: uint32(avg - 1), min: avg / 2, max: avg * 2}
}

func (r *rolling) Max() int { return r.max }

func (r *rolling) Reset() {
	r.taken, r.at, r.hash, r.last = 0, 0, 0, [window]byte{}
}

func (r *rolling) Next(p []byte) int {
	skipped := 0
	if skip := r.min - 1 - r.taken; skip > 0 {
		skipped = min(skip, len(p))
		r.note(p[:skipped])
		r.taken += skipped
		if skipped == len(p) {
			if skipped == skip {
				r.begin()
			}
			return -1
		}
		r.begin()
		p = p[skipped:]
	}
	p = p[:min(len(p), r.max-r.taken)]
	n, cut := r.scan(p)
	r.taken += n
	if cut || r.taken == r.max {
		r.taken = 0
		return skipped + n
	}
	return -1
}

// note puts bytes among the last ones, and leaves the hash behind.
func (r *rolling) note(p []byte) {
	for _, b := range p[max(0, len(p)-window):] {
		r.last[r.at] = b
		r.at = (r.at + 1) % window
	}
}

// begin makes the hash hold.
func (r *rolling) begin() {
	if r.table == nil {
		r.table = newTable()
	}
	r.hash = 0
	for i := range window {
		r.hash = bits.RotateLeft32(r.hash, 1) ^ r.table[r.last[(r.at+i)%window]]
	}
}

// scan looks for a cut, and says how many bytes it took up.
func (r *rolling) scan(p []byte) (n int, cut bool) {
	for n < len(p) && n < window { // what leaves is in the ring
		b := p[n]
		r.hash = bits.RotateLeft32(r.hash, 1) ^ r.table[r.last[r.at]] ^ r.table[b]
		r.last[r.at] = b
		r.at = (r.at + 1) % window
		n++
		if r.hash&r.mask == 0 {
			return n, true
		}
	}
	if n == len(p) {
		return n, false
	}
	hash, mask, table := r.hash, r.mask, r.table
	in := p[window:]
	out := p[:len(in)] // what leaves is in p itself
	for i, b := range in {
		hash = bits.RotateLeft32(hash, 1) ^ table[out[i]] ^ table[b]
		if hash&mask == 0 {
			n, cut = window+i+1, true
			break
		}
	}
	if !cut {
		n = len(p)
	}
	r.hash = hash
	r.note(p[:n])
	return n, cut
}

// newTable draws what each byte adds to the hash: the numbers, each but once, that the generator of math/rand gives for the seed 1, as
// github.com/chmduquesne/rollinghash/buzhash32 does. That generator stays as it is for all of Go 1.
func newTable() *[256]uint32 {
	var t [256]uint32
	draw := rand.New(rand.NewSource(1))
	used := make(map[uint32]bool, len(t))
	for i := range t {
		n := uint32(draw.Int63())
		for used[n] {
			n = uint32(draw.Int63())
		}
		used[n], t[i] = true, n
	}
	return &t
}
