package sim

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
)

const (
	readEvery    = 500 * time.Millisecond
	observeEvery = 500 * time.Millisecond
	observeBusy  = 100 * time.Millisecond
	retryPause   = 200 * time.Millisecond
	lateAfter    = 300 * time.Millisecond // a timer this late says that we were not awake
	lateLasts    = time.Second
)

// agentLife is one life of a host's agent: the part of agent.Run around [agent.Loop.Round], in virtual time.
// Instants are on the host's own clock.
type agentLife struct {
	h      *host
	w      *World
	loop   *agent.Loop
	began  time.Duration
	paused bool
	queued []func() // while paused

	plan     applied // number 0: as it was when this life began
	known    bool
	record   database.Record
	revision int64
	at       int64 // store revision that is known
	contact  time.Duration
	requests []*request

	local   database.Local
	localAt time.Duration
	looks   int // begun
	looked  int // the one that local comes from
	// advanced is when the received WAL was last seen to have advanced; 0 = never.
	advanced time.Duration
	peers    []peer // by index of host

	gateOrder database.GateOrder // the last that the listener took, and when
	gateAt    time.Duration
	readOrder database.ReadOrder // the same of the read-only listener
	readAt    time.Duration
	slotsAt   time.Duration // when slots were last moved

	running   []running
	roundAt   time.Duration // virtual; of the round that is due
	roundTurn int
	seq       int
	sent      []time.Duration // by seq
	lateUntil time.Duration
	signature signature
	report    *agent.Report // never changed once it is told
	scratch   agent.Facts   // of the round before: its slices serve again
	because   string
	closed    time.Duration // as the last round said
	judged    time.Duration // on the host's clock: when it was
}

// peer is what is known of another host.
type peer struct {
	life    *agentLife // whose beats these are
	seq     int
	at      time.Duration // -1 = never
	gateAt  time.Duration
	contact time.Duration
	report  *agent.Report
}

type running struct {
	kind database.Kind
	task *task
}

type request struct {
	database.Request
	at      time.Duration // virtual
	in      *site
	settled bool
	wants   int // restart: changes of the plan's setting before it
}

func newAgentLife(h *host) *agentLife {
	a := &agentLife{h: h, w: h.w, loop: agent.NewLoop(h.name, "sim", "", []database.Policy{h.w.policy}, nil), began: h.clock(), report: &agent.Report{}}
	for range h.w.hosts {
		a.peers = append(a.peers, peer{at: -1, gateAt: -1, contact: -1})
	}
	return a
}

func (a *agentLife) begin() {
	a.w.note(a.h.name, "agent starts")
	a.readLoop()
	a.observeLoop()
	a.beatLoop()
	a.wakeIn(10 * time.Millisecond)
}

// after runs f later in this life.
func (a *agentLife) after(d time.Duration, f func()) {
	a.w.pushIn(a.h.virtual(d), a.h, a, f)
}

// hold runs f, or keeps it until the agent is no longer paused.
func (a *agentLife) hold(f func()) {
	switch {
	case a.h.agent != a:
	case a.paused:
		a.queued = append(a.queued, f)
	default:
		f()
	}
}

func (a *agentLife) unpause() {
	a.paused = false
	queued := a.queued
	a.queued = nil
	for _, f := range queued {
		a.after(0, f)
	}
}

func (a *agentLife) readLoop() {
	a.readStore()
	a.after(readEvery, a.readLoop)
}

// readStore is a linearizable read; its contact counts from when it was sent.
func (a *agentLife) readStore() {
	sent := a.h.clock()
	a.after(a.w.storeWay(), func() {
		if !a.w.learnsFrom(a.h) {
			return
		}
		read := a.readNow()
		a.after(a.w.storeWay(), func() {
			if a.w.learnsFrom(a.h) {
				a.contact = max(a.contact, sent)
				a.learn(read)
			}
		})
	})
}

// reading is the agreed state at one revision.
type reading struct {
	at       int64
	record   *database.Record
	revision int64
	requests []*request
	plan     applied
}

func (a *agentLife) readNow() reading {
	r := reading{at: a.h.site.store.Revision(), requests: a.w.openRequests(a.h.site), plan: applied{a.w.planned, a.w.policy, a.w.setting}}
	r.record, r.revision = a.h.site.agreed()
	return r
}

func (a *agentLife) learn(r reading) {
	a.requests = r.requests
	if r.plan.number > a.plan.number {
		a.plan = r.plan
		a.h.want(r.plan.setting)
		a.wakeIn(0)
	}
	if a.known && r.at <= a.at {
		return
	}
	a.known, a.at, a.record, a.revision = true, r.at, *r.record, r.revision
	a.h.kept = *r.record
	a.wakeIn(0)
}

// watched is a change that a watch brings; it is no contact.
func (a *agentLife) watched() {
	a.after(a.w.storeWay(), func() {
		if a.known && a.w.learnsFrom(a.h) && !a.h.watchHeld {
			a.learn(a.readNow())
		}
	})
}

func (a *agentLife) observeLoop() {
	a.look()
	every := observeEvery
	if a.record.Phase != database.Steady || !a.record.Opened {
		every = observeBusy
	}
	a.after(every, a.observeLoop)
}

// sight is one look at the local server.
type sight struct {
	local database.Local
	began time.Duration
	turn  int
}

func (a *agentLife) see(ctx context.Context) sight {
	a.looks++
	return sight{a.h.srv.Observe(ctx), a.h.clock(), a.looks}
}

// look observes the local server. What it brings is somewhat old when it arrives, sometimes more than the next.
func (a *agentLife) look() {
	s := a.see(context.Background())
	a.after(a.lookTakes(), func() { a.observed(s) })
}

func (a *agentLife) lookTakes() time.Duration {
	if a.w.chance(20) {
		return a.w.between(100*time.Millisecond, 900*time.Millisecond)
	}
	return a.w.between(time.Millisecond, 30*time.Millisecond)
}

// observed takes a look, unless one that began later was taken.
func (a *agentLife) observed(s sight) {
	if s.turn < a.looked {
		return
	}
	if a.local.Known && s.local.Flushed > a.local.Flushed {
		a.advanced = a.h.clock()
	}
	a.local, a.localAt, a.looked = s.local, s.began, s.turn
	a.wakeIn(0)
}

// wakeIn asks for a round no later than d from now.
func (a *agentLife) wakeIn(d time.Duration) {
	d = max(d, 2*time.Millisecond)
	due := a.w.now + a.h.virtual(d)
	if a.roundAt > a.w.now && a.roundAt <= due {
		return
	}
	a.roundAt = due
	a.roundTurn++
	turn := a.roundTurn
	a.after(d, func() {
		if turn == a.roundTurn {
			a.roundAt = 0
			a.round()
		}
	})
}

func (a *agentLife) round() {
	out := a.loop.Round(a.facts(), hands{a: a})
	a.report = &out.Report
	for _, p := range out.Problems {
		if a.w.check.restored || a.h.site != a.w.site {
			continue // refusing is right
		}
		switch p.Code {
		case "database.invariant":
			a.w.fail("the decision's own check", "%s: %s", a.h.name, p.Title)
		case "database.agreed-state-old", "database.foreign-data", "database.unknown-data":
			a.w.fail("no false alarm", "%s: %s: %s", a.h.name, p.Code, p.Title)
		}
	}
	d := out.Decisions[databaseName]
	a.closed = d.Closed
	if a.w.trace.out != nil {
		because := fmt.Sprint(d.Because)
		for _, p := range d.Problems {
			because += " PROBLEM " + p.Title + ": " + p.Meaning
		}
		if because != a.because {
			a.because = because
			a.w.note(a.h.name, "    because %s", because)
		}
	}
	if s := a.sign(); s != a.signature {
		a.signature = s
		a.beat()
	}
	a.wakeIn(out.Wake)
}

// facts are what a round judges by. They are good until the next call.
func (a *agentLife) facts() agent.Facts {
	now := a.h.clock()
	if now < a.judged {
		a.w.fail("the model's own check", "the clock of %s went back by %s", a.h.name, a.judged-now)
	}
	a.judged = now
	f := &a.scratch
	f.Now, f.Late, f.Known, f.ContactAge = now-a.began, now < a.lateUntil, a.known, database.Never
	if a.contact > 0 {
		f.ContactAge = now - a.contact
	}
	f.Recovery, f.Overruled = a.h.site.recovery, a.h.overruled
	if a.w.opt.Planted.HearsNoRebuilding {
		f.Overruled = 0
	}
	if f.Databases == nil {
		f.Databases = []agent.DatabaseFacts{{Name: databaseName}}
	}
	d := &f.Databases[0]
	d.Record, d.Revision, d.Local, d.Advanced = a.record, a.revision, a.local, database.Never
	d.Local.Age = now - a.localAt
	if a.advanced > 0 {
		d.Advanced = now - a.advanced
	}
	d.Busy, d.Requests = nil, nil
	for _, r := range a.running {
		d.Busy = append(d.Busy, r.kind)
	}
	for _, q := range a.requests {
		d.Requests = append(d.Requests, q.seen(a.h))
	}
	if a.plan.number > 0 {
		f.Adopted = &agent.Adopted{Databases: []database.Policy{a.plan.policy}}
	}
	a.peerFacts(f, now)
	if a.w.opt.Planted.ObeysBackup {
		obeyBackup(f)
	}
	return *f
}

func (a *agentLife) peerFacts(f *agent.Facts, now time.Duration) {
	if f.Peers == nil {
		for _, o := range a.h.others() {
			f.Peers = append(f.Peers, agent.PeerFacts{Host: o.name, GateAge: map[string]time.Duration{}})
		}
	}
	i := 0
	for index, p := range a.peers {
		if index == a.h.index {
			continue
		}
		x := &f.Peers[i]
		i++
		x.AgentAge, x.Contact, x.Report = age(now, p.at), age(now, p.contact), p.report
		x.GateAge[databaseName] = age(now, p.gateAt)
	}
}

func age(now, at time.Duration) time.Duration {
	if at < 0 {
		return database.Never
	}
	return now - at
}
