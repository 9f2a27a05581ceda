package database_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/database"
)

// smallWorld is one primary, b1, in one epoch, with standbys that flush when they are told to. It carries out what
// the judgement asks for and checks after each step that no set that can elect misses what was acknowledged.
type smallWorld struct {
	policy   database.Policy
	record   database.Record
	revision int64
	memory   database.Memory
	now      time.Duration
	head     database.LSN
	acked    database.LSN
	names    database.Names   // as a new session shows them
	senders  []database.Names // each walsender's own copy may still be one of these
	force    database.Force
	kept     int64 // the primary's own generation
	standbys map[string]*smallStandby
	fresh    map[string]bool // connected after the barrier
	did      []string
	because  []string // of the last judgement
}

type smallStandby struct {
	incarnation string
	flushed     database.LSN
	up, lags    bool
	kept        int64
}

func newSmallWorld(r database.Record, standbys ...string) *smallWorld {
	w := &smallWorld{policy: policy(), record: r, revision: 500, now: time.Hour, head: lsn, names: names(r), kept: r.Generation, standbys: map[string]*smallStandby{}, fresh: map[string]bool{}}
	if len(r.Voters) == 0 {
		w.names = database.Names{}
	}
	w.senders = []database.Names{w.names}
	for _, h := range standbys {
		w.standbys[h] = &smallStandby{incarnation: incarnation(h), flushed: lsn, up: true, kept: r.Generation}
	}
	w.memory = since(r, time.Minute)
	return w
}

func (w *smallWorld) name(s *smallStandby) string {
	return database.StandbyName(s.incarnation, w.record.Epoch)
}

func (w *smallWorld) hosts() []string {
	var out []string
	for h := range w.standbys {
		out = append(out, h)
	}
	slices.Sort(out)
	return out
}

// view is what the primary's host knows.
func (w *smallWorld) view() database.View {
	l := primary(w.record, "b1")
	l.Senders, l.Names, l.Force, l.Flushed, l.Promise.Generation = nil, w.names, w.force, w.head, w.kept
	var peers []database.Peer
	for _, h := range w.hosts() {
		s := w.standbys[h]
		if !s.up {
			peers = append(peers, silent(h, time.Minute))
			continue
		}
		x := standby(w.record, h)
		x.Incarnation, x.Promise.Incarnation, x.Promise.Generation, x.Flushed = s.incarnation, s.incarnation, s.kept, s.flushed
		peers = append(peers, hears(h, w.record, x))
		if w.record.Holds(h) {
			sender := database.Sender{Name: w.name(s), State: "streaming", Sync: "async", Flushed: s.flushed, Fresh: w.fresh[s.incarnation]}
			if slices.Contains(w.names.List, sender.Name) {
				sender.Sync = "quorum"
			}
			l.Senders = append(l.Senders, sender)
		}
	}
	v := view("b1", w.record, l, peers...)
	v.Now, v.Revision = w.now, w.revision
	return v
}

// step judges once, a second later, and carries out what is asked for.
func (w *smallWorld) step() (database.Decision, error) {
	w.now += time.Second
	v := w.view()
	d, m := database.Decide(w.policy, v, w.memory)
	w.memory = m
	for _, p := range d.Problems {
		if p.Code == "database.invariant" || p.Code == "database.names-changed" {
			return d, fmt.Errorf("%s: %s", p.Code, p.Title)
		}
	}
	for _, a := range d.Actions {
		w.act(a)
		if err := w.meets(); err != nil {
			return d, fmt.Errorf("after %s: %w", a, err)
		}
	}
	for _, h := range w.hosts() { // agents of standbys
		if s := w.standbys[h]; s.up {
			s.kept = w.record.Generation
		}
	}
	return d, nil
}

func (w *smallWorld) act(a database.Action) {
	switch a.Kind {
	case database.KindSwap:
		w.record = a.Record.Clone()
		w.revision++
		var voters []string
		for _, v := range w.record.Voters {
			voters = append(voters, v.Host)
		}
		w.did = append(w.did, fmt.Sprintf("record W=%d E=%d V=%s members=%s", w.record.W, w.record.E, strings.Join(voters, ","), strings.Join(w.record.Members, ",")))
	case database.KindNames:
		w.names = a.Names
		w.senders = append(w.senders, a.Names)
		w.did = append(w.did, strings.ReplaceAll(a.String(), "holdfast-", ""))
	case database.KindBarrier:
		w.senders = []database.Names{w.names}
		w.write()
		w.force = database.Force{Names: w.names, Epoch: a.Epoch, Mark: w.head}
		clear(w.fresh)
		for _, s := range w.standbys {
			if s.up {
				w.fresh[s.incarnation] = true
			}
		}
		w.did = append(w.did, "barrier")
	case database.KindRemember:
		w.kept = w.record.Generation
	}
}

// write is a commit: standbys that do not lag flush it, and it is acknowledged as soon as the most careless
// walsender lets it.
func (w *smallWorld) write() {
	w.head += 16
	for _, h := range w.hosts() {
		if s := w.standbys[h]; s.up && !s.lags && w.record.Holds(h) {
			s.flushed = w.head
		}
	}
	for _, n := range append([]database.Names{w.names}, w.senders...) {
		w.acked = max(w.acked, w.acknowledges(n))
	}
}

// acknowledges is how far names let commits be acknowledged.
func (w *smallWorld) acknowledges(n database.Names) database.LSN {
	if n.W == 0 {
		return w.head
	}
	var at []database.LSN
	for _, s := range w.standbys {
		if s.up && slices.Contains(n.List, w.name(s)) {
			at = append(at, s.flushed)
		}
	}
	if len(at) < n.W {
		return 0
	}
	slices.Sort(at)
	return at[len(at)-n.W]
}

// meets is the purpose of I1 to I3: any E voters hold everything that was acknowledged, and all that could be now.
func (w *smallWorld) meets() error {
	r := w.record
	if r.E > len(r.Voters) {
		return nil // nobody can be elected
	}
	for _, n := range append([]database.Names{w.names}, w.senders...) {
		if n.IsClosed() {
			continue
		}
		union := map[string]bool{}
		for _, v := range r.Voters {
			union[database.StandbyName(v.Incarnation, r.Epoch)] = true
		}
		for _, name := range n.List {
			union[name] = true
		}
		if n.W+r.E <= len(union) {
			return fmt.Errorf("I1: W %d + E %d is not above %d (names %s, voters %v)", n.W, r.E, len(union), n, r.Voters)
		}
	}
	var at []database.LSN
	for _, v := range r.Voters {
		s := w.standbys[v.Host]
		if s == nil || s.incarnation != v.Incarnation {
			continue // it answers no more
		}
		at = append(at, s.flushed)
	}
	if len(at) < r.E {
		return nil
	}
	slices.Sort(at)
	if best := at[r.E-1]; best < w.acked {
		return fmt.Errorf("the %d voters that hold the least end at %s, acknowledged is %s: %+v", r.E, best, w.acked, r.Voters)
	}
	return nil
}

// run steps until nothing is asked for, crash steps after which the agent forgets all (-1 = never).
func (w *smallWorld) run(crash int) error {
	quiet := 0
	for range 60 {
		w.write()
		before := len(w.did)
		d, err := w.step()
		if err != nil {
			return err
		}
		w.because = d.Because
		if len(w.did) == crash && before != crash {
			w.memory, w.force = database.Memory{}, database.Force{}
		}
		if quiet++; len(w.did) != before {
			quiet = 0
		}
		if quiet > 6 {
			return nil
		}
	}
	return fmt.Errorf("never comes to rest: %s", strings.Join(w.did, "; "))
}
