package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

const (
	openWithin  = 60 * time.Second  // after the last fault: a primary is open and acknowledges
	wholeWithin = 120 * time.Second // and every member streams as a voter
)

// ack is a commit that a client was told of.
type ack struct {
	id    int
	epoch int64
	host  string
	at    time.Duration // virtual
	end   database.LSN
}

// checker knows all that was promised to clients, and watches every change for a broken rule.
type checker struct {
	w        *World
	revision int64 // of the store when last looked at
	record   database.Record
	history  []database.Record // all that were agreed
	restored bool              // the store was put back to an older state: what is agreed no longer binds
	versions int               // of all servers when I1 was last checked

	haltsSeen, moves, mostMoves int // see halts

	restarts     int // that were answered as done
	acks         []ack
	seen         []int // rows that a reader saw and nobody cancelled
	cancelled    map[int]bool
	acknowledged int
	answered     int              // by standbys, to readers
	ackAt        time.Duration    // of the newest; 0 = none yet
	longest      time.Duration    // between two
	newest       int64            // highest epoch that acknowledged
	writers      map[int64]string // who acknowledges in an epoch
	timelines    map[uint32]database.Fork
	promotedAt   map[string]time.Duration    // by host: when its server last became a primary
	promises     map[string]database.Promise // by incarnation, as told to peers
	losses       []database.Loss             // that operators accepted, as they were confirmed
	given        int                         // acknowledged commits that lie in them
	rebuilt      int
	takenIn      int

	openIn    int64 // newest epoch whose primary was opened, and since when
	openSince time.Duration

	healed   time.Duration // when the last fault ended; 0 = not yet
	openedAt time.Duration // first acknowledgement after that
	finished bool
}

func newChecker(w *World) *checker {
	return &checker{
		w: w, cancelled: map[int]bool{}, writers: map[int64]string{}, timelines: map[uint32]database.Fork{},
		promises: map[string]database.Promise{}, promotedAt: map[string]time.Duration{},
	}
}

// Acknowledged implements [databasetest.Observer].
func (c *checker) Acknowledged(host, incarnation string, epoch int64, e databasetest.Entry) {
	w := c.w
	if h := w.host(host); h.site != w.site {
		c.strays(h, e.ID)
		return
	}
	if epoch < c.newest && !c.lateButKept(host, e.ID) && !c.leftBehind(host, epoch) {
		w.fail("no old writer", "%s acknowledged row %d in epoch %d, after epoch %d had acknowledged", host, e.ID, epoch, c.newest)
	}
	who := host + " " + incarnation
	if old, ok := c.writers[epoch]; ok && old != who {
		w.fail("one writer in an epoch", "%s and %s both acknowledged in epoch %d", old, who, epoch)
	}
	c.writers[epoch] = who
	c.newest = max(c.newest, epoch)
	c.acks = append(c.acks, ack{e.ID, epoch, host, w.now, e.End})
	c.acknowledged++
	if c.ackAt > 0 {
		c.longest = max(c.longest, w.now-c.ackAt)
	}
	c.ackAt = w.now
	if c.healed > 0 && c.openedAt == 0 {
		c.openedAt = w.now
	}
}

// lateButKept excuses a server that was frozen: once it runs again it may tell what standbys had confirmed
// before they promised a newer epoch. Such a row must have come over into that epoch: its primary has it, or one of its
// voters where the primary has just lost its disk and nobody has agreed on another yet.
func (c *checker) lateButKept(host string, id int) bool {
	if !c.excused(host) {
		return false
	}
	copies := c.w.copies(id)
	if len(c.w.host(c.record.Primary).srv.Log()) > 0 {
		return slices.Contains(copies, c.record.Primary)
	}
	return slices.ContainsFunc(c.record.Voters, func(v database.Voter) bool { return v.Host != host && slices.Contains(copies, v.Host) })
}

// excused: a host that was frozen until a moment ago has not seen its deadline pass (DATABASE.md: deadlines
// bound stale answers only while clocks and processes run).
func (c *checker) excused(host string) bool { return c.w.now-c.w.host(host).thawed < 5*time.Second }

// Promoted implements [databasetest.Observer].
func (c *checker) Promoted(host string, f database.Fork) {
	c.promotedAt[host] = c.w.now
	c.w.bites(host)
	c.w.note(host, "is the primary of timeline %d, out of %d at %s", f.Timeline, f.Parent, f.LSN)
	if old, ok := c.timelines[f.Timeline]; ok && !c.restored { // an older state knows nothing of numbers given since
		c.w.fail("a timeline number once", "%s made timeline %d out of %d at %s; it was made before out of %d at %s",
			host, f.Timeline, f.Parent, f.LSN, old.Parent, old.LSN)
	}
	c.timelines[f.Timeline] = f
}

// Exited implements [databasetest.Observer].
func (c *checker) Exited(host, why string) {
	h := c.w.host(host)
	c.w.note(host, "server is gone: %s", why)
	if a := h.agent; a != nil {
		a.hold(a.look)
	}
}

// Note implements [databasetest.Observer].
func (c *checker) Note(host, format string, args ...any) { c.w.note(host, format, args...) }

// read is what a client was shown by the primary that its gate led to.
func (c *checker) read(h *host, epoch int64, id int) {
	w := c.w
	if h.site != w.site {
		return // who was written off may not have heard of it
	}
	if epoch < c.newest && !c.excused(h.name) && !c.leftBehind(h.name, epoch) {
		w.fail("no stale answers", "%s answered a read in epoch %d, after epoch %d had acknowledged", h.name, epoch, c.newest)
	}
	// A server that came back alone shows nothing before W standbys hold it. One that was elected may show what
	// it alone recovered: that is written down as PostgreSQL's nature.
	back := c.record.Alone && c.record.Epoch == epoch
	if back && id != 0 && !c.cancelled[id] && (len(c.seen) == 0 || c.seen[len(c.seen)-1] != id) {
		c.seen = append(c.seen, id)
	}
}

// step looks at what an event changed.
func (c *checker) step() {
	w := c.w
	changed := false
	if rev := w.site.store.Revision(); rev != c.revision {
		c.revision = rev
		c.recordChanged()
		w.restoring = false
		changed = true
	}
	sum := 0
	for _, h := range w.hosts {
		sum += h.srv.Version()
	}
	if changed || sum != c.versions {
		c.versions = sum
		c.quorumsMeet()
	}
}

func (c *checker) recordChanged() {
	w := c.w
	agreed, _ := w.site.agreed()
	r := *agreed
	before := c.record
	c.record = r
	if r.Epoch != 0 {
		c.history = append(c.history, r)
	}
	w.note("", "agreed: epoch=%d gen=%d %s primary=%s(%s) tl=%d voters=%v E=%d W=%d opened=%t alone=%t former=%v: %s", r.Epoch, r.Generation,
		r.Phase, r.Primary, r.Incarnation, r.Timeline, r.Voters, r.E, r.W, r.Opened, r.Alone, r.Former, strings.Join(r.Because, "; "))
	backup := w.restoring
	if !backup && (r.Epoch < before.Epoch || r.Generation <= before.Generation) {
		w.fail("the record only rises", "epoch %d, generation %d after %d, %d", r.Epoch, r.Generation, before.Epoch, before.Generation)
	}
	for _, h := range w.hosts {
		if h.agent != nil && h.site == w.site {
			h.agent.watched()
		}
	}
	c.halts(before, r)
	w.faults.agreed(before, r)
	if r.Phase == database.Steady && r.Opened && (before.Epoch != r.Epoch || !before.Opened) {
		c.openSince, c.openIn = w.now, r.Epoch
	}
	c.statements(r)
	if r.Phase == database.Steady && !backup && (before.Epoch != r.Epoch || before.Phase != r.Phase) {
		c.nothingLost("confirmed in epoch")
	}
}

// nothingLost compares the log of the confirmed primary with every promise to a client.
func (c *checker) nothingLost(when string) {
	w := c.w
	h := w.host(c.record.Primary)
	if h == nil {
		return
	}
	if h.srv.Incarnation() != c.record.Incarnation {
		return // its disk was lost a moment ago: the next election is asked
	}
	held := h.srv.Commits()
	for _, a := range c.acks {
		if !held[a.id] && !c.gaveUp(a.epoch, a.end) {
			w.fail("no acknowledged commit lost", "%s (%s %d) lacks row %d, acknowledged by %s in epoch %d; held by %v",
				h.name, when, c.record.Epoch, a.id, a.host, a.epoch, w.copies(a.id))
			return
		}
	}
	for _, id := range c.seen {
		if !held[id] && !c.cancelled[id] && len(c.losses) == 0 && c.rebuilt == 0 {
			w.fail("nothing shown is taken back", "%s (%s %d) lacks row %d that a reader saw; held by %v", h.name, when, c.record.Epoch, id, w.copies(id))
			return
		}
	}
}

// quorumsMeet is I1 at this instant: every set that can acknowledge meets every set that can elect.
func (c *checker) quorumsMeet() {
	w, r := c.w, c.record
	if c.restored {
		return // the agreed sets are those of another day; what counts is that nothing is lost
	}
	for _, h := range w.hosts {
		epoch, ok := h.srv.RunsAsPrimary()
		if !ok || h.site != w.site || epoch != r.Epoch && !(r.Phase == database.Recruiting && epoch == r.Epoch-1) {
			continue
		}
		for _, n := range h.srv.InForce() {
			if n.IsClosed() || n.W == 0 && r.W == 0 {
				continue
			}
			union := map[string]bool{}
			for _, name := range n.List {
				if inc, e, _ := strings.Cut(name, "@"); e != "" {
					union[inc] = true
				}
			}
			for _, v := range r.Voters {
				if v.Incarnation != h.srv.Incarnation() {
					union[v.Incarnation] = true
				}
			}
			// While a promotion is under way E is asked of the old voters, whom the new names all but repeat: the
			// former primary takes the place of the new one.
			if n.W+r.E <= len(union) {
				w.fail("I1", "%s may acknowledge under %q, the record has E=%d of %v: %d + %d is not above %d",
					h.name, n, r.E, r.Voters, n.W, r.E, len(union))
			}
		}
	}
}

// told is what a peer hears of a promise: it is never taken back by the same incarnation.
func (c *checker) told(host string, p database.Promise) {
	if p.Incarnation == "" {
		return
	}
	old, ok := c.promises[p.Incarnation]
	if ok && (p.Epoch < old.Epoch || p.Epoch == old.Epoch && p.Generation < old.Generation) {
		c.w.fail("a promise is kept", "%s (%s) had told epoch %d generation %d and now tells %d, %d", host, p.Incarnation,
			old.Epoch, old.Generation, p.Epoch, p.Generation)
	}
	c.promises[p.Incarnation] = p
}

// heal begins the time in which the world must become whole by itself.
func (c *checker) heal() {
	c.healed = max(c.w.now, 1)
	c.w.note("", "all faults are over")
	c.whole()
}

// whole asks once a second whether all is in order, and demands it in time.
func (c *checker) whole() {
	w := c.w
	since := w.now - c.healed
	missing := c.missing()
	switch {
	case missing == "" && c.openedAt > 0 && since > 5*time.Second:
		c.nothingLost("at the end, epoch")
		c.finished = true
		return
	case w.opt.NoLive && since > openWithin/2:
		c.finished = true
		return
	case !w.opt.NoLive && since > openWithin && c.openedAt == 0:
		w.fail("progress", "no write was acknowledged within %s after the last fault: %s", openWithin, missing)
	case !w.opt.NoLive && since > wholeWithin:
		w.fail("redundancy", "not whole %s after the last fault: %s", wholeWithin, missing)
	}
	w.at(time.Second, c.whole)
}

// missing says what is not in order, or "".
func (c *checker) missing() string {
	w, r := c.w, c.record
	if r.Phase != database.Steady || !r.Opened {
		return fmt.Sprintf("epoch %d is %s, opened=%t", r.Epoch, r.Phase, r.Opened)
	}
	p := w.host(r.Primary)
	if _, ok := p.srv.RunsAsPrimary(); !ok {
		return "the server of " + r.Primary + " is no primary"
	}
	for _, m := range r.Members {
		if o := w.host(m).gate.order; o.State != database.GateOpen || o.Target.Host != r.Primary {
			return "the listener of " + m + " does not lead to the primary"
		}
		if h := w.host(m); w.setting.number > 0 && (h.setting < w.setting.number || h.srv.Unapplied()) {
			return "the server of " + m + " was not given the plan's setting"
		}
		if m == r.Primary {
			continue
		}
		v := database.Voter{Host: m, Incarnation: w.host(m).srv.Incarnation()}
		counts := w.policy.AcknowledgedBy > 0 // where no standby need hold a commit, none votes and none is in the names
		if counts && !r.Has(v) {
			return m + " is no voter"
		}
		name := database.StandbyName(v.Incarnation, r.Epoch)
		for _, n := range p.srv.InForce() {
			if counts && !slices.Contains(n.List, name) {
				return m + " is not in the names"
			}
		}
		if !p.srv.StreamsTo(name) {
			return m + " does not stream"
		}
	}
	if r.W != w.policy.AcknowledgedBy {
		return fmt.Sprintf("a commit is acknowledged by %d, and the plan wants %d", r.W, w.policy.AcknowledgedBy)
	}
	if r.W > 0 && len(r.Voters) != len(r.Members)-1 {
		return "more voters than members"
	}
	return ""
}
