package databasetest

import (
	"context"
	"fmt"
	"strconv"

	"holdfast/internal/database"
)

// settingAtFirst is max_connections of a plan that was never changed.
const settingAtFirst = 100

// Want changes the plan's max_connections, as a new plan does on a host.
func (s *Server) Want(n int) {
	s.wanted, s.applied = n, false
}

// Lacks reports whether a server runs that has another setting than the plan. One of which only processes linger has none
// any more.
func (s *Server) Lacks() bool { return s.p != nil && s.p.setting != s.wanted }

// settingAtStart: a standby that answers queries starts with no less than its primary has, for PostgreSQL would
// refuse to start it.
func (s *Server) settingAtStart(hot bool) int {
	s.applied = true
	if hot {
		return max(s.wanted, s.d.control)
	}
	return s.wanted
}

// observeSettings tells what waits for a restart.
func (s *Server) observeSettings(l *database.Local) {
	p := s.p
	l.Life, l.Unapplied = fmt.Sprintf("%s-%d", s.host, s.lives), !s.applied
	l.Stands = p.role == database.Standby && p.setting < s.d.control
	if s.applied && p.setting != s.wanted {
		l.Pending = []database.Pending{{
			Name: "max_connections", From: strconv.Itoa(p.setting), To: strconv.Itoa(s.wanted), Lower: s.wanted < s.d.control,
		}}
	}
}

// Reload implements [database.Server].
func (s *Server) Reload(ctx context.Context) error {
	if s.p == nil {
		return errNoRole
	}
	if err := s.fsync(ctx); err != nil {
		return err
	}
	s.applied = true
	return nil
}
