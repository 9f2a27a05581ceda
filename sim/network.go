package sim

import "time"

// network is the links between hosts, each direction by itself.
type network struct {
	cut  [][]bool
	slow [][]time.Duration // extra, at most
	loss [][]int           // one beat in so many is lost; 0 = none
}

func newNetwork(n int) network {
	var t network
	for range n {
		t.cut = append(t.cut, make([]bool, n))
		t.slow = append(t.slow, make([]time.Duration, n))
		t.loss = append(t.loss, make([]int, n))
	}
	return t
}

// link says how long a message takes now, and whether it arrives.
func (w *World) link(from, to *host) (time.Duration, bool) {
	if from == to {
		return 20 * time.Microsecond, to.up
	}
	d := w.between(100*time.Microsecond, 1500*time.Microsecond)
	if extra := w.net.slow[from.index][to.index]; extra > 0 {
		d += time.Duration(w.rng.Int64N(int64(extra)))
	}
	return d, to.up && from.up && !w.net.cut[from.index][to.index]
}

// open reports whether both directions work, without any chance in it.
func (w *World) open(a, b *host) bool {
	return a == b || a.up && b.up && !a.frozen && !b.frozen && !w.net.cut[a.index][b.index] && !w.net.cut[b.index][a.index]
}

// reachesStore reports whether a majority of the hosts' store members answers a host.
func (w *World) reachesStore(h *host) bool {
	if !h.up || h.storeCut {
		return false
	}
	n := 0
	for _, x := range h.site.members {
		if x.site == h.site && w.open(h, x) {
			n++
		}
	}
	return n > len(h.site.members)/2
}

// learnsFrom reports whether what a host reads of the store, by itself or through a watch, comes to it.
func (w *World) learnsFrom(h *host) bool { return w.reachesStore(h) && w.now >= h.eatUntil }

// beat sends something that may be lost or come twice.
func (w *World) beat(from, to *host, f func()) {
	d, up := w.link(from, to)
	if !up {
		return
	}
	if n := w.net.loss[from.index][to.index]; n > 0 && w.rng.IntN(n) == 0 {
		return
	}
	w.push(d, to, f)
	if w.chance(50) {
		w.push(d+w.between(0, 300*time.Millisecond), to, f)
	}
}
