package databasetest

import (
	"context"
	"fmt"
	"strconv"

	"holdfast/internal/database"
)

// SettingAtFirst is the max_connections of a plan that was never changed.
const SettingAtFirst = 100

// settings are what the plan wants of a server's file, and what the file holds.
type settings struct {
	name    string // of the plan's wish; see [database.Policy]
	wanted  int    // max_connections of the plan
	refused bool   // PostgreSQL does not take it
	held    int    // max_connections in the file
	applied bool   // what is wanted was written, or was refused
}

// Want changes the plan's max_connections, as a new plan does on a host, which calls that wish by a name. PostgreSQL takes
// it or refuses it.
func (s *Server) Want(name string, n int, refused bool) {
	s.plan.name, s.plan.wanted, s.plan.refused, s.plan.applied = name, n, refused, false
}

// Unapplied reports whether the server's file has not been asked to hold what the plan wants.
func (s *Server) Unapplied() bool { return !s.plan.applied }

// Lacks reports whether a server runs that has another setting than the plan, where that can be had. One of which only
// processes linger has none any more.
func (s *Server) Lacks() bool { return s.p != nil && s.p.setting != s.plan.good() }

// good is what the file will hold once the plan is applied.
func (p settings) good() int {
	if p.refused {
		return p.held
	}
	return p.wanted
}

// write brings what is wanted into the file.
func (p *settings) write() { p.held, p.applied = p.good(), true }

// settingAtStart: a standby that answers queries starts with no less than its primary has, for PostgreSQL would
// refuse to start it.
func (s *Server) settingAtStart(hot bool) int {
	s.plan.write()
	if hot {
		return max(s.plan.held, s.d.control)
	}
	return s.plan.held
}

// observeSettings tells what waits for a restart.
func (s *Server) observeSettings(l *database.Local) {
	p := s.p
	l.Settings = s.plan.name
	l.Life, l.Unapplied = fmt.Sprintf("%s-%d", s.host, s.lives), !s.plan.applied
	l.Stands = p.role == database.Standby && p.setting < s.d.control
	if s.plan.applied && s.plan.refused {
		l.Refused = fmt.Sprintf("%d is outside the valid range", s.plan.wanted)
	}
	if s.plan.applied && p.setting != s.plan.held {
		l.Pending = []database.Pending{{
			Name: "max_connections", From: strconv.Itoa(p.setting), To: strconv.Itoa(s.plan.held), Lower: s.plan.held < s.d.control,
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
	s.plan.write()
	return nil
}
