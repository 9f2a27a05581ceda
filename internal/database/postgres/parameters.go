package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/pgcontrol"
)

// floor are the settings of the primary that wrote our log which no standby that answers queries may have lower: it
// would not start, or its replay would stand still (PostgreSQL manual, "Hot Standby Administrator's Overview").
type floor []pgcontrol.Setting

// planned are the settings of the plan over our defaults, none below least.
func (s *Server) planned(least floor) []Parameter {
	slotMax, _ := s.limits()
	all := slices.DeleteFunc(defaults(), func(d Parameter) bool {
		return slices.ContainsFunc(s.parameters(), func(p Parameter) bool { return p.Name == d.Name })
	})
	if i := slices.IndexFunc(all, func(p Parameter) bool { return p.Name == "max_slot_wal_keep_size" }); i >= 0 && slotMax > 0 {
		all[i].Value = strconv.FormatInt(max(1, slotMax>>20), 10) + "MB"
	}
	all = append(all, s.parameters()...)
	for _, x := range least {
		i := slices.IndexFunc(all, func(p Parameter) bool { return p.Name == x.Name })
		switch {
		case i < 0 && int(x.Value) > builtIn(x.Name):
			all = append(all, Parameter{x.Name, strconv.Itoa(int(x.Value))})
		case i >= 0 && number(all[i].Value) < int(x.Value):
			all[i].Value = strconv.Itoa(int(x.Value))
		}
	}
	return all
}

// builtIn is PostgreSQL's own default of a setting that our defaults do not have (versions 14 to 18).
func builtIn(name string) int {
	return map[string]int{"max_worker_processes": 8, "max_prepared_transactions": 0, "max_locks_per_transaction": 64}[name]
}

// number reads a setting that is a plain number; whatever is none counts as large, for PostgreSQL shall judge it.
func number(value string) int {
	n, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil {
		return int(^uint(0) >> 1)
	}
	return n
}

// parameters are the plan's settings now.
func (s *Server) parameters() []Parameter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.planSettings
}

// SetParameters changes the plan's settings. They come into a running server with the next Reload, for which the
// judgement asks once it sees Local.Unapplied.
func (s *Server) SetParameters(p []Parameter) error {
	for _, x := range p {
		if err := x.check(); err != nil {
			return fmt.Errorf("change the settings: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planSettings = slices.Clone(p)
	return nil
}

// leastOf is the floor that a server has to keep: a standby that answers queries, never a primary.
func leastOf(c pgcontrol.Control, standby bool) floor {
	if !standby {
		return nil
	}
	return floor(c.Limits)
}

func staticConf(data string) string { return filepath.Join(data, "postgresql.conf") }

// Reload writes the plan's settings and lets the server read them. What the server would not take is put back.
func (s *Server) Reload(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.reload(ctx); err != nil {
		return fmt.Errorf("bring the plan's settings into the server: %w", err)
	}
	return nil
}

func (s *Server) reload(ctx context.Context) error {
	if err := s.present("read the settings"); err != nil {
		return err
	}
	primary, err := s.isPrimary(ctx)
	if err != nil {
		return err
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(staticConf(s.at.data))
	if err != nil {
		return err
	}
	text := s.static(leastOf(c, !primary))
	if text == string(before) { // written by one who may have died before the server, or we, were told what it is
		why := s.run(ctx, nil, "postgres", "-C", "data_directory", "-D", s.at.data)
		switch {
		case why == nil:
			return s.signal(syscall.SIGHUP)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.refused(text, why.Error())
		return nil
	}
	if taken, err := s.takes(ctx, text); err != nil || !taken {
		return err // what is refused is told as Local.Refused; asking again would change nothing
	}
	if err := s.give(staticConf(s.at.data), []byte(text)); err != nil {
		return err
	}
	return s.signal(syscall.SIGHUP)
}

// furnishStart writes our files before a start. A standby that answers queries gets no setting below its primary's.
func (s *Server) furnishStart(ctx context.Context, hot bool) error {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(staticConf(s.at.data))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read the settings of before: %w", err)
	}
	text := s.static(leastOf(c, hot))
	if len(before) > 0 && text != string(before) {
		taken, err := s.takes(ctx, text)
		if err != nil {
			return err
		}
		if !taken {
			text = string(before)
		}
	}
	return s.furnish(s.at.data, text)
}

// refused remembers which text of the settings the server does not take, and why; empty = it takes them.
func (s *Server) refused(text, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.refusedText, s.now.refused = text, why
}

// takes has PostgreSQL's own program read settings before anything hangs on them, and before they are where a start would
// find them: an agent that dies here leaves those that the server has. What the program does not take is told as
// Local.Refused.
func (s *Server) takes(ctx context.Context, text string) (bool, error) {
	next := staticConf(s.at.data) + ".next"
	if err := s.give(next, []byte(text)); err != nil {
		return false, err
	}
	why := s.run(ctx, nil, "postgres", "-C", "data_directory", "-D", s.at.data, "-c", "config_file="+next)
	if err := errors.Join(ctx.Err(), os.Remove(next)); err != nil {
		return false, fmt.Errorf("try the settings: %w", err)
	}
	if why != nil {
		s.log.Warn("settings refused by PostgreSQL, those of before are kept", "err", why)
		s.refused(text, why.Error())
		return false, nil
	}
	s.refused("", "")
	return true, nil
}
