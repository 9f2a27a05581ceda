package databasetest

import (
	"slices"
	"time"

	"holdfast/internal/database"
)

// streamTimeout is wal_sender_timeout and wal_receiver_timeout of the model.
const streamTimeout = 5 * time.Second

// stream is one replication connection. Each side learns by itself that it is over.
type stream struct {
	number   int // of the connection on the primary's process
	primary  *Server
	sending  *process // the primary's process
	standby  *Server
	reading  *process // the standby's process
	name     string
	names    database.Names // the walsender's own copy of synchronous_standby_names
	sent     int            // entries of the primary's log
	state    string         // catchup, streaming
	flushed  database.LSN   // as the standby last told
	open     bool           // for the primary
	heard    time.Duration  // when the standby last got anything
	answered time.Duration  // when the primary last got anything
	down, up pipe
}

// pipe is one direction of a connection: in order, and held back while the link is cut.
type pipe struct {
	queue []func()
	busy  bool
}

func (p *pipe) put(w World, from, to string, f func()) {
	p.queue = append(p.queue, f)
	if !p.busy {
		p.carry(w, from, to)
	}
}

func (p *pipe) carry(w World, from, to string) {
	p.busy = true
	d, up := w.Link(from, to)
	if !up {
		d = 200 * time.Millisecond // TCP sends again
	}
	w.After(to, d, func() {
		p.busy = false
		if _, up := w.Link(from, to); up {
			all := p.queue
			p.queue = nil
			for _, f := range all {
				f()
			}
		}
		if len(p.queue) > 0 && len(p.queue) < 4096 && !p.busy {
			p.carry(w, from, to)
		}
	})
}

// row is the stream in pg_stat_replication.
func (x *stream) row(forceAfter int) database.Sender {
	r := database.Sender{Name: x.name, State: x.state, Sync: "async", Flushed: x.flushed, Fresh: x.number > forceAfter}
	if x.counts() {
		r.Sync = "quorum"
	}
	return r
}

// counts reports whether the walsender takes its standby for a synchronous one.
func (x *stream) counts() bool { return x.names.W > 0 && slices.Contains(x.names.List, x.name) }

// dial is the receiver's loop: PostgreSQL starts a new one soon after the last ended.
func (s *Server) dial(p *process) {
	s.w.After(s.host, s.between(100*time.Millisecond, 200*time.Millisecond), func() {
		if s.p != p || p.role != database.Standby {
			return
		}
		if r := p.receiver; r != nil && s.w.Now()-r.heard > streamTimeout {
			p.receiver = nil
		}
		if p.receiver == nil && s.d.following != 0 {
			s.connect(p)
		}
		s.dial(p)
	})
}

func (s *Server) connect(p *process) {
	source, epoch := s.d.source, s.d.following
	name := database.StandbyName(s.d.incarnation, epoch)
	d, up := s.w.Link(s.host, source)
	if !up {
		return
	}
	s.w.After(source, d, func() {
		peer := s.w.Server(source)
		x := peer.accept(s, p, name)
		if x == nil {
			return
		}
		d, up := s.w.Link(source, s.host)
		if !up {
			return // the primary keeps a walsender that nobody reads, until it times out
		}
		s.w.After(s.host, d, func() {
			if s.p != p || p.receiver != nil || s.d.following != epoch || s.d.source != source || !x.open || x.sent != len(s.d.wal) {
				s.hangUp(x)
				return
			}
			x.heard = s.w.Now()
			p.receiver = x
			p.receivedFrom = s.end() &^ 0xfff // streaming starts at the beginning of a page, far below what is held
			x.reply(s.flushedLSN())
			peer.w.After(source, 0, x.pump)
		})
	})
}

// accept is the walsender's start: it streams only from a point that lies on its own history. A standby that answers
// queries serves others just as a primary does.
func (s *Server) accept(standby *Server, reading *process, name string) *stream {
	p := s.p
	if p == nil || p.role == database.NoRole || !p.ready || p.stopping || s == standby || s.d.systemID != standby.d.systemID || standby.p != reading {
		return nil
	}
	at, ok := s.place(standby.timeline(), standby.end())
	if !ok {
		s.o.Note(standby.host, "the primary on %s refuses to stream from %s on timeline %d", s.host, standby.end(), standby.timeline())
		return nil
	}
	sameName := func(x *stream) bool { return x.name == name }
	if standby.end() < s.d.oldest {
		s.o.Note(standby.host, "the primary on %s no longer has the log from %s on", s.host, standby.end())
		return nil
	}
	if !s.bugs.TwoOfAName && slices.ContainsFunc(p.senders, sameName) {
		return nil // its slot is in use
	}
	p.connections++
	x := &stream{
		number: p.connections, primary: s, sending: p, standby: standby, reading: reading, name: name, names: p.names,
		sent: at, state: "catchup", open: true, answered: s.w.Now(),
	}
	p.senders = append(p.senders, x)
	s.versions++
	return x
}

// place finds a position of our own history in our log: the number of entries at or before it.
func (s *Server) place(timeline uint32, at database.LSN) (int, bool) {
	known := timeline == 1
	for _, f := range s.d.history {
		if f.Timeline == timeline {
			known = true
		}
		if f.Parent == timeline && at > f.LSN {
			return 0, false // beyond the fork
		}
	}
	if !known || at > s.flushedLSN() {
		return 0, false
	}
	if at == walStart {
		return 0, true
	}
	i, found := slices.BinarySearchFunc(s.d.wal, at, func(e Entry, at database.LSN) int {
		switch {
		case e.End < at:
			return -1
		case e.End > at:
			return 1
		}
		return 0
	})
	return i + 1, found
}

// pump sends what is flushed and not yet sent.
func (x *stream) pump() {
	s := x.primary
	if !x.open || s.p != x.sending {
		return
	}
	n := s.d.flushed
	if x.sent >= n {
		return
	}
	from, batch := x.sent, s.d.wal[x.sent:n]
	history := s.d.history
	x.sent = n
	x.down.put(s.w, s.host, x.standby.host, func() { x.receive(from, batch, history) })
}

// receive is the standby's side: written at once, flushed when the disk has it, then told.
func (x *stream) receive(from int, batch []Entry, history []database.Fork) {
	s, p := x.standby, x.reading
	if s.p != p || p.receiver != x {
		return
	}
	x.heard = s.w.Now()
	if from != len(s.d.wal) {
		p.receiver = nil // out of step: PostgreSQL would start a new receiver
		s.hangUp(x)
		return
	}
	s.d.wal = append(s.d.wal, batch...)
	s.d.history, s.d.control = slices.Clip(history), x.primary.d.control
	s.trimHistory()
	p.receivedFrom = s.end()
	s.recycle()
	s.flush()
}

// reply tells the primary how far the standby has flushed; there the walsender releases whom it may.
func (x *stream) reply(at database.LSN) {
	s := x.standby
	x.up.put(s.w, s.host, x.primary.host, func() { x.hear(at) })
}

func (x *stream) hear(at database.LSN) {
	s := x.primary
	if !x.open || s.p != x.sending {
		return
	}
	x.answered = s.w.Now()
	x.flushed = max(x.flushed, at)
	if i := x.standby.d.incarnation; s.d.slots[i] != 0 {
		s.d.slots[i] = max(s.d.slots[i], at)
	}
	if x.state == "catchup" && x.sent == s.d.flushed {
		x.state = "streaming"
	}
	x.releaseWaiters()
	x.pump()
}

// releaseWaiters is SyncRepReleaseWaiters: a walsender that counts itself as synchronous releases up to the
// W-th furthest flush among those that count themselves, by its own copy of the names.
func (x *stream) releaseWaiters() {
	p := x.sending
	if !x.counts() || x.state != "streaming" {
		return
	}
	var at []database.LSN
	for _, y := range p.senders {
		if y.counts() && y.state == "streaming" {
			at = append(at, y.flushed)
		}
	}
	if len(at) < x.names.W {
		return
	}
	slices.Sort(at)
	p.release(x.primary, at[len(at)-x.names.W])
}

// hangUp lets the primary know, if it can, that the standby reads no more.
func (s *Server) hangUp(x *stream) {
	d, up := s.w.Link(s.host, x.primary.host)
	if !up {
		return
	}
	s.w.After(x.primary.host, d, func() { x.primary.closeSender(x) })
}

// closeSender ends one walsender.
func (s *Server) closeSender(x *stream) {
	if !x.open {
		return
	}
	x.open = false
	x.sending.senders = slices.DeleteFunc(x.sending.senders, func(y *stream) bool { return x == y })
	s.versions++
	d, up := s.w.Link(s.host, x.standby.host)
	if !up {
		return // the standby notices by silence
	}
	s.w.After(x.standby.host, d, func() {
		if x.standby.p == x.reading && x.reading.receiver == x {
			x.reading.receiver = nil
		}
	})
}

// tick is the keeper's sign of life on a primary.
func (s *Server) tick(p *process) {
	s.w.After(s.host, 500*time.Millisecond, func() {
		if s.p != p {
			return
		}
		if !p.stopping && p.ready {
			s.write(Tick, 0)
			s.recycle()
			s.flush()
		}
		s.tick(p)
	})
}

// reap ends walsenders whose standby says nothing any more.
func (s *Server) reap(p *process) {
	s.w.After(s.host, 500*time.Millisecond, func() {
		if s.p != p {
			return
		}
		for _, x := range slices.Clone(p.senders) {
			if s.w.Now()-x.answered > streamTimeout {
				s.closeSender(x)
			}
		}
		s.reap(p)
	})
}
