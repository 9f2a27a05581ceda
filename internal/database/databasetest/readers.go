package databasetest

import (
	"context"
	"slices"

	"holdfast/internal/database"
)

// Session is that of a client which reads from a standby.
type Session struct {
	p      *process
	number int
}

// Read opens a session for a client that only reads; false when none is let in here.
func (s *Server) Read() (Session, bool) {
	p := s.p
	if p == nil || p.role != database.Standby || !p.ready || p.stopping || !s.d.admits {
		return Session{}, false
	}
	return Session{p, p.readers}, true
}

// Reads reports whether a session still has a server.
func (s *Server) Reads(x Session) bool { return s.p != nil && s.p == x.p && s.p.readers == x.number }

// Promised is the epoch that the data directory promised.
func (s *Server) Promised() int64 { return s.d.promise.Epoch }

// Shows reports whether a reader sees a row.
func (s *Server) Shows(id int) bool {
	seen := s.d.wal
	if s.p != nil && s.p.stands > 0 {
		seen = seen[:min(len(seen), s.p.stands-1)]
	}
	return slices.ContainsFunc(seen, func(e Entry) bool { return e.Kind == Commit && e.ID == id })
}

// HoldReplay lets a standby's replay stand, or go on. A promotion replays everything in any case.
func (s *Server) HoldReplay(hold bool) {
	switch {
	case s.p == nil:
	case !hold:
		s.p.stands = 0
	case s.p.role == database.Standby && s.p.stands == 0:
		s.p.stands = len(s.d.wal) + 1
	}
}

// replayed is up to where a running server shows its log.
func (s *Server) replayed() database.LSN {
	if n := s.p.stands; n > 0 && n <= len(s.d.wal) {
		return endOf(s.d.wal[:n-1])
	}
	return s.end()
}

// endReaders shuts clients out of a standby and ends their sessions.
func (s *Server) endReaders(ctx context.Context, p *process) error {
	p.stands = 0
	if !s.d.admits || s.bugs.KeepReaders {
		return nil
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	if s.p != p {
		return errGone
	}
	s.d.admits = false
	p.readers++
	return nil
}
