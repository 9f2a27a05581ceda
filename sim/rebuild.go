package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/database"
)

// RebuildCluster is an operator who founds a cluster of one on a host that has lost all others, and takes those in again
// that come back later. No seed chooses it, for it may lose what the others alone held.
const RebuildCluster FaultKind = "rebuild cluster"

// site is an agreed state and the hosts that agree on it.
type site struct {
	store    *memory.Shared
	checks   *memory.Store // as checkers read it
	members  []*host
	recovery int64 // how often it was rebuilt

	read struct { // see agreed
		revision int64 // of the whole store
		at       int64 // of the record
		record   *database.Record
	}
}

func newSite(members []*host, recovery int64) *site {
	s := &site{store: memory.New(), members: members, recovery: recovery}
	s.checks = s.store.Open("checker")
	return s
}

// agreed is the record as the store holds it now, and its revision. Every host reads the same one again and again, so it
// is decoded once, and nobody may change what it holds.
func (s *site) agreed() (*database.Record, int64) {
	if now := s.store.Revision(); now != s.read.revision || s.read.record == nil {
		e, err := s.checks.Get(context.Background(), agent.RecordKey(databaseName))
		if err != nil {
			panic("sim: the store cannot be read: " + err.Error())
		}
		var r database.Record
		if e.Revision != 0 {
			if err := json.Unmarshal(e.Value, &r); err != nil {
				panic("sim: the record in the store is not readable: " + err.Error())
			}
		}
		s.read.revision, s.read.at, s.read.record = now, e.Revision, &r
	}
	return s.read.record, s.read.at
}

// enter lets a host take part in an agreed state; its agent must not run.
func (h *host) enter(s *site) {
	h.site, h.store, h.overruled = s, s.store.Open(h.name), 0
}

// rebuild begins anew with one host: with what its own disk holds of the agreed state, which may lack the last of it. It is
// refused while the host reaches another one, or the agreed state.
func (f *faults) rebuild(h *host) {
	w := f.w
	if !h.up || h.frozen || h.site != w.site || w.reachesStore(h) || h.kept.Epoch == 0 ||
		slices.ContainsFunc(h.others(), func(x *host) bool { return w.open(h, x) }) {
		w.note(h.name, "a rebuilding is refused")
		return
	}
	h.stopAgent()
	var promises []database.Promise
	if p := h.srv.OnDisk(); p.Incarnation != "" {
		promises = append(promises, p)
	}
	next := newSite([]*host{h}, w.site.recovery+1)
	value, err := json.Marshal(database.Recovered(h.kept, promises, h.name, "an operator asked for it"))
	if err != nil {
		panic("sim: a record cannot be written: " + err.Error())
	}
	if _, err := next.store.Open("rebuild").Set(context.Background(), agent.RecordKey(databaseName), value); err != nil {
		panic("sim: the store cannot be rebuilt: " + err.Error())
	}
	for _, q := range w.requests {
		q.settled = true
	}
	w.note(h.name, "founds a cluster of one, with the record of epoch %d, generation %d", h.kept.Epoch, h.kept.Generation)
	w.site = next
	h.enter(next)
	w.check.rebuiltOn(h)
	h.startAgent()
	w.at(time.Second, w.watchStrays)
	w.at(w.between(time.Second, 10*time.Second), w.takeIn)
}

// takeIn is the operator who takes a written-off host in again, some time after it has been heard of.
func (w *World) takeIn() {
	for _, h := range w.hosts {
		late := h.together > 0 && w.now-h.together > 2*strayMax
		if first := w.site.members[0]; !late || h.overruled < w.site.recovery || !w.reachesStore(first) || !w.open(h, first) {
			continue
		}
		w.note(h.name, "is taken in again")
		w.check.takenIn++
		h.stopAgent()
		h.enter(w.site)
		w.site.members = append(w.site.members, h)
		h.startAgent()
		if !w.opt.AllAtOnce {
			break
		}
	}
	w.at(w.between(time.Second, 10*time.Second), w.takeIn)
}

// strayMax is how long a host may go on in the old cluster after it could hear of the new one.
const strayMax = 3 * time.Second

// watchStrays notes since when each host of an old cluster could hear one of the new.
func (w *World) watchStrays() {
	for _, h := range w.hosts {
		hears := h.site != w.site && h.up && h.agent != nil && !h.agent.paused && !h.frozen &&
			slices.ContainsFunc(w.site.members, func(x *host) bool { return x.agent != nil && !x.agent.paused && w.open(h, x) })
		switch {
		case !hears:
			h.together = 0
		case h.together == 0:
			h.together = w.now
		}
	}
	w.at(250*time.Millisecond, w.watchStrays)
}

// strays judges a commit that was acknowledged in a cluster that is given up: nobody can keep it.
func (c *checker) strays(h *host, id int) {
	if w := c.w; h.together > 0 && w.now-h.together > strayMax {
		w.fail("who was written off runs nothing", "%s acknowledged row %d, %s after it could hear of the cluster that was rebuilt without it",
			h.name, id, w.now-h.together)
	}
}

// rebuiltOn: what the survivor does not hold is given up with the others.
func (c *checker) rebuiltOn(h *host) {
	held := h.srv.Commits()
	before := len(c.acks)
	c.acks = slices.DeleteFunc(c.acks, func(a ack) bool { return !held[a.id] })
	c.given += before - len(c.acks)
	c.seen = slices.DeleteFunc(c.seen, func(id int) bool { return !held[id] })
	c.rebuilt++
	c.w.note(h.name, "%s", fmt.Sprintf("%d acknowledged commits are given up with the others", before-len(c.acks)))
}
