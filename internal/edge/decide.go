package edge

import (
	"errors"
	"time"
)

// ErrNoBackend is returned by [Choose] when no member may be used.
var ErrNoBackend = errors.New("no backend is available")

// Choose picks a member for one request, by its index: of two that are well, drawn with dice, the one with
// fewer requests for its weight. Draining and already tried members never get it, nor ones that are Starting
// or Down. In a panic one that is doubtful gets it when the well one is ten times as busy.
func Choose(p Policy, members []Member, dice uint64) (int, error) {
	best, ok := draw(p, members, well, dice)
	if !Panicking(p, members) {
		if !ok {
			return 0, ErrNoBackend
		}
		return best, nil
	}
	other, found := draw(p, members, doubtful, dice+2)
	switch {
	case !ok && !found:
		return 0, ErrNoBackend
	case !ok, found && members[other].load(p)/weightMin < members[best].load(p):
		return other, nil
	}
	return best, nil
}

// draw is the better of two different members of a class.
func draw(p Policy, members []Member, c class, dice uint64) (int, bool) {
	n := 0
	for i := range members {
		if members[i].class() == c {
			n++
		}
	}
	switch n {
	case 0:
		return 0, false
	case 1:
		return nth(members, c, 0), true
	}
	first := int(mix(dice) % uint64(n))
	second := int(mix(dice+1) % uint64(n-1))
	if second >= first {
		second++ // each pair is as likely as any other
	}
	a, b := nth(members, c, first), nth(members, c, second)
	if members[b].load(p) < members[a].load(p) {
		return b, true
	}
	return a, true
}

// Panicking reports whether so few members are well that what looks like faults of many may be their
// overload: concentrating all requests on the rest would finish those too.
func Panicking(p Policy, members []Member) bool {
	well, all := 0, 0
	for _, m := range members {
		if m.Draining {
			continue
		}
		all++
		if m.State == Up && !m.Ejected {
			well++
		}
	}
	return all > 0 && float64(well) < p.Panic*float64(all)
}

// class says for what a member may be used.
type class int

const (
	unusable class = iota
	doubtful       // fails requests, or does not answer checks: overload looks like that too
	well
)

// class of a member for this request. One that both fails requests and does not answer is unusable, and so
// is one that refuses.
func (m *Member) class() class {
	switch {
	case m.Draining || m.Tried:
		return unusable
	case m.State == Up && !m.Ejected:
		return well
	case m.State == Up, m.State == Silent && !m.Ejected:
		return doubtful
	}
	return unusable
}

// nth is the index of member number n of a class.
func nth(members []Member, c class, n int) int {
	for i := range members {
		if members[i].class() != c {
			continue
		}
		if n == 0 {
			return i
		}
		n--
	}
	panic("edge: fewer members of a class than were counted")
}

// load is what the member would carry with one request more, for its weight.
func (m *Member) load(p Policy) float64 {
	return float64(m.InFlight+1) / weight(p, m)
}

// weightMin is where slow start begins: a tenth, so that a cold backend gets some work to warm up with.
const weightMin = 0.1

func weight(p Policy, m *Member) float64 {
	if !m.Returned || p.SlowStart <= 0 || m.StateAge >= p.SlowStart {
		return 1
	}
	return max(weightMin, float64(max(m.StateAge, 0))/float64(p.SlowStart))
}

// mix makes a seed into dice (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Pause is how long to wait until a backend's next check: every between checks of one that is well, fast
// once anything is amiss, so that both the fall and the recovery are seen soon. dice adds up to a tenth, so
// that many edges do not check in step.
func Pause(s State, lastOK bool, every, fast time.Duration, dice uint64) time.Duration {
	d := every
	if s != Up || !lastOK {
		d = min(every, fast)
	}
	return d + time.Duration(mix(dice)%1000)*d/10_000
}
