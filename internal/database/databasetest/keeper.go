package databasetest

import "time"

// gateGrace is how much later than the keeper's deadline the listener on a primary's own host fences by itself.
const gateGrace = 500 * time.Millisecond

// keeper is what watches over the server's process tree.
type keeper struct {
	stopped bool // SIGSTOP: it hears a new deadline only when it goes on, and lets the one it has pass
	since   time.Duration
	heardOf *process      // whose deadlines wait for it; nil = none do
	first   time.Duration // virtual; the first of them: once that has passed it takes no later one
	last    time.Duration // virtual; the last, which the listener goes by
	missed  *process      // that it should have fenced meanwhile
	cut     *process      // that the listener fenced in its place: no client reaches it any more
}

// StopKeeper lets the keeper stand still, and go on. It then does at once what it missed.
func (s *Server) StopKeeper(stop bool) {
	if stop == s.keeper.stopped {
		return
	}
	was := s.keeper
	s.keeper = keeper{stopped: stop, since: s.w.Now(), cut: was.cut}
	switch {
	case stop || s.p == nil:
	case was.missed == s.p, was.heardOf == s.p && was.first <= s.w.Now():
		s.fence(s.p)
	case was.heardOf == s.p:
		s.extend(was.last - s.w.Now())
	}
}

// hearLater is what comes of a new deadline while the keeper stands still: it waits in its socket. The listener on this
// host, which was told as well, fences in the keeper's place.
func (s *Server) hearLater(at time.Duration) {
	k, p := &s.keeper, s.p
	switch {
	case p == nil:
		return
	case k.heardOf != p:
		k.heardOf, k.first = p, at
	case at <= k.last:
		return
	}
	k.last = at
	s.w.After(s.host, at-s.w.Now()+gateGrace, func() {
		if s.p == p && k.stopped && k.heardOf == p && k.last <= at {
			s.gateFences(p)
		}
	})
}

// gateFences cuts every client of a primary at its own host's listener.
func (s *Server) gateFences(p *process) {
	s.o.Note(s.host, "the listener fences epoch %d: its deadline has passed, and the keeper has not", s.d.promise.Epoch)
	s.keeper.cut = p
	p.drop()
}

// Revoke ends the deadline of a primary before its time, though its agent lives and has extended it.
func (s *Server) Revoke() {
	if _, ok := s.RunsAsPrimary(); ok && s.p != nil {
		s.pass(s.p)
	}
}

// keeperSilent is for how long a running server's keeper has not answered.
func (s *Server) keeperSilent() time.Duration {
	if !s.keeper.stopped || s.p == nil {
		return 0
	}
	return s.w.Now() - s.keeper.since
}

// pass is the end of the deadline.
func (s *Server) pass(p *process) {
	if !s.keeper.stopped {
		s.fence(p)
		return
	}
	s.keeper.missed = p
	s.w.After(s.host, gateGrace, func() {
		told := s.keeper.heardOf == p && s.keeper.last > s.w.Now() // of a later one, unlike the keeper
		if s.p == p && s.keeper.missed == p && !told {
			s.gateFences(p)
		}
	})
}

func (s *Server) fence(p *process) {
	s.o.Note(s.host, "the keeper fences epoch %d: its deadline has passed", s.d.promise.Epoch)
	s.d.admits = false
	p.drop()
	s.w.After(s.host, s.between(5*time.Millisecond, 100*time.Millisecond), func() {
		if s.p == p {
			s.Crash("fenced by its deadline")
		}
	})
}
