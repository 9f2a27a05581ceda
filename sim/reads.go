package sim

import (
	"slices"
	"sort"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

const (
	readLagMax   = 5 * time.Second // what the plan of a world with readers allows
	readLagGrace = time.Second     // a standby beyond it may be read for so long
)

// readGate is the read-only side of a listener.
type readGate struct {
	life  int // of the process
	order database.ReadOrder
	until map[string]time.Duration // virtual, by member
	cuts  map[string]int           // by host: raised whenever its sessions were cut
}

// takeRead follows an order unless its epoch is below the highest known.
func (g *gate) takeRead(h *host, o database.ReadOrder) {
	r := &g.reads
	if o.Epoch < g.epoch || o.Epoch < r.order.Epoch {
		return
	}
	if r.cuts == nil {
		r.cuts = map[string]int{}
	}
	until := map[string]time.Duration{}
	for _, m := range o.Members {
		until[m.Host] = h.w.now + h.virtual(m.For)
		if h.w.opt.Planted.KeepMembers {
			until[m.Host] = 1 << 62
		}
	}
	for _, was := range r.order.Members {
		if _, stays := until[was.Host]; !stays || h.w.now >= r.until[was.Host] {
			r.cuts[was.Host]++
		}
	}
	r.order, r.until = o, until
}

// leads reports whether the listener leads to a host at all; new = a session that is only now asked for.
func (r *readGate) leads(host string, now time.Duration, asked bool) bool {
	return slices.ContainsFunc(r.order.Members, func(m database.ReadMember) bool {
		return m.Host == host && now < r.until[host] && !(asked && m.Keep)
	})
}

// readSession is one through a read-only listener.
type readSession struct {
	gate       *host
	boot, life int
	cuts       int
	target     *host
	session    databasetest.Session
}

// openRead makes a session through one host's listener.
func (w *World) openRead(at *host) *readSession {
	if !at.up || at.frozen || at.gate.down {
		return nil
	}
	var able []*host
	for _, h := range w.hosts {
		if at.gate.reads.leads(h.name, w.now, true) && w.open(at, h) && h.up && !h.frozen {
			able = append(able, h)
		}
	}
	if len(able) == 0 {
		return nil
	}
	target := able[w.rng.IntN(len(able))]
	session, ok := target.srv.Read()
	if !ok {
		if target.srv.Serves() {
			w.check.ledToPrimary(at, target)
		}
		return nil
	}
	return &readSession{at, at.boot, at.gate.reads.life, at.gate.reads.cuts[target.name], target, session}
}

// answers reports whether the session carries an answer now; gone = it never will again.
func (s *readSession) answers(w *World) (now, gone bool) {
	g := &s.gate.gate
	switch {
	case !s.gate.up || s.gate.boot != s.boot || g.down || g.reads.life != s.life || g.reads.cuts[s.target.name] != s.cuts,
		!g.reads.leads(s.target.name, w.now, false), !s.target.srv.Reads(s.session):
		return false, true
	case s.gate.frozen, !s.target.up, s.target.frozen, !w.open(s.gate, s.target):
		return false, false
	}
	return true, false
}

// resumedLately: its clock has stood, and has not yet made up for what it was told before.
func (h *host) resumedLately() bool { return h.w.now-h.resumed < readLagMax+readLagGrace }

// ledToPrimary: a host without news may lead a new reader to a standby that has become the primary, for as long as it may
// lead to it at all.
func (c *checker) ledToPrimary(at, target *host) {
	if w := c.w; !c.restored && !at.resumedLately() && w.now-c.promotedAt[target.name] > readLagMax+readLagGrace {
		w.fail("readers reach no primary", "the read-only listener of %s leads new readers to %s, %s after that became the primary",
			at.name, target.name, w.now-c.promotedAt[target.name])
	}
}

// misledMax is how long the listener for writes may lead to a former primary, which answers as a standby, after somebody
// could tell it better: the agent's silence, two questions, and the pace of this check.
const misledMax = 6 * time.Second

// misled looks whether the listener for writes of a host leads to a standby.
func (c *checker) misled(h *host) {
	w, o := c.w, h.gate.order
	if c.restored || !h.up || h.frozen || h.gate.down || o.State != database.GateOpen {
		h.misled = 0
		return
	}
	target := w.host(o.Target.Host)
	_, standby := target.srv.Read()
	told := slices.ContainsFunc(h.others(), func(x *host) bool { return x.answersGates() && w.open(h, x) && x.gate.order.Epoch > o.Epoch })
	switch {
	case !standby || !told || !w.open(h, target) || !target.up || target.frozen:
		h.misled = 0
	case h.misled == 0:
		h.misled = w.now
	case w.now-h.misled > misledMax:
		w.fail("writers are led to no standby", "the listener of %s leads to %s, which is a standby, for %s; it could know of a later epoch than %d",
			h.name, target.name, w.now-h.misled, o.Epoch)
	}
}

// startMisled looks at every listener for writes, all the time.
func (w *World) startMisled() {
	w.at(250*time.Millisecond, func() {
		for _, h := range w.hosts {
			w.check.misled(h)
		}
		w.startMisled()
	})
}

// startStandbyReader reads through read-only listeners, again and again, on one session for a while.
func (w *World) startStandbyReader(s *readSession) {
	w.at(w.between(50*time.Millisecond, 400*time.Millisecond), func() {
		if s != nil {
			answers, gone := s.answers(w)
			if answers {
				w.check.readStandby(s)
			}
			if gone || w.chance(60) {
				s = nil
			}
		} else {
			s = w.openRead(w.hosts[w.rng.IntN(len(w.hosts))])
		}
		w.startStandbyReader(s)
	})
}

// readStandby judges an answer of a read-only listener.
func (c *checker) readStandby(s *readSession) {
	w := c.w
	if c.restored {
		return
	}
	c.answered++
	if s.gate.resumedLately() || s.target.resumedLately() {
		return // deadlines bound what readers see only while clocks and processes run
	}
	if epoch, primary := s.target.srv.RunsAsPrimary(); primary {
		w.fail("readers reach no primary", "the read-only listener of %s led to %s, the primary of epoch %d", s.gate.name, s.target.name, epoch)
	}
	if epoch := s.target.srv.Promised(); epoch < c.openIn && w.now-c.openSince > readLagMax+readLagGrace {
		w.fail("readers leave an older epoch", "the read-only listener of %s led to %s of epoch %d, %s after epoch %d was opened",
			s.gate.name, s.target.name, epoch, w.now-c.openSince, c.openIn)
	}
	// Rows are acknowledged in the order in which this list was written.
	n := sort.Search(len(c.acks), func(i int) bool { return c.acks[i].at > w.now-readLagMax-readLagGrace })
	if n > 0 && !s.target.srv.Shows(c.acks[n-1].id) {
		a := c.acks[n-1]
		w.fail("reads are no older than the plan allows", "the read-only listener of %s led to %s, which does not show row %d, acknowledged %s ago in epoch %d",
			s.gate.name, s.target.name, a.id, w.now-a.at, a.epoch)
	}
}
