package sim

import (
	"math/rand/v2"
	"time"

	"holdfast/internal/database"
)

// Faults of a machine that are none of its processes ending.
const (
	FillDisk    FaultKind = "fill disk"    // nearly, so that new transactions may not write, or wholly
	StopKeeper  FaultKind = "stop keeper"  // SIGSTOP: it fences nothing, and its host's listener does
	SuspendHost FaultKind = "suspend host" // as a virtual machine that is paused: its monotonic clock stands too
	JumpClock   FaultKind = "jump clock"   // its wall clock, by up to an hour to either side
	RevokeLease FaultKind = "revoke lease" // a primary's deadline ends though its agent lives and has extended it
)

// diskPolicy is what a seed's plan wants of a primary whose disk is nearly full. The dice are its own.
func diskPolicy(seed uint64) database.DiskPolicy {
	if rand.New(rand.NewPCG(seed, 0xd15c)).IntN(2) == 0 {
		return database.DiskFailover
	}
	return database.DiskReadOnly
}

const (
	roomy = int64(50 << 30)
	tight = int64(256 << 20) // below the floor at which a primary stops taking writes
)

func (f *faults) machine(kind FaultKind, h *host) func() {
	w := f.w
	switch kind {
	case FillDisk:
		free := tight
		if w.chance(3) {
			free = 0
		}
		w.note(h.name, "%d MiB are free on its disk", free>>20)
		h.srv.FillDisk(free)
		return func() { h.srv.FillDisk(roomy) }
	case StopKeeper:
		h.srv.StopKeeper(true)
		return func() { h.srv.StopKeeper(false) }
	case SuspendHost:
		if h.frozen || !h.up {
			return nil
		}
		freeze, since, last := h.freeze(), w.now, w.serial
		return func() { h.resume(freeze, w.now-since, last) }
	default:
		h.wall = w.between(-time.Hour, time.Hour)
		return func() { h.wall = 0 }
	}
}

// resume undoes a freeze for whose host no time has passed: its clock is behind by that much from now on, and whatever
// was to happen there, up to the last event of before, happens so much later.
func (h *host) resume(freeze int, lost time.Duration, last uint64) {
	if !h.frozen || h.freezes != freeze {
		return
	}
	w := h.w
	h.origin -= time.Duration(float64(lost) / h.stretch)
	h.frozen, h.thawed, h.resumed = false, w.now, w.now
	w.queue.delay(h, h.boot, lost, last)
	held := h.held
	h.held = nil
	for _, e := range held {
		if e.serial > last {
			e.at -= lost
		}
		w.pushIn(max(0, e.at+lost-w.now), h, e.life, e.f)
	}
	for m := range h.gate.reads.until {
		h.gate.reads.until[m] += lost
	}
}
