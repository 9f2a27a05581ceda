package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/pgcontrol"
)

// Promote makes the closed standby the primary of timeline, and kills it when anything else came out.
func (s *Server) Promote(ctx context.Context, epoch int64, timeline uint32, chain []database.Fork) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.promote(ctx, epoch, timeline, chain); err != nil {
		return fmt.Errorf("promote to timeline %d in epoch %d: %w", timeline, epoch, err)
	}
	return nil
}

func (s *Server) promote(ctx context.Context, epoch int64, timeline uint32, chain []database.Fork) error {
	if err := s.present("promote"); err != nil {
		return err
	}
	l := s.look(ctx)
	if l.gone {
		return errNotRunning
	}
	if l.client == nil {
		return errors.New("no keeper of ours holds it, so nothing would fence it")
	}
	if p, _, err := s.readPromise(); err != nil {
		return err
	} else if err := refuse(p, epoch, p.Generation); err != nil {
		return err
	}
	primary, err := s.isPrimary(ctx)
	if err != nil {
		return err
	}
	if primary { // repeated
		return s.checkPromoted(ctx, timeline, 0, 0)
	}
	p, ok, err := s.readPromise()
	if err != nil {
		return err
	}
	incarnation, err := readIncarnation(s.at.data)
	if err != nil {
		return err
	}
	if !ok || p.Incarnation != incarnation {
		return fmt.Errorf("the promise is not of the data that are here: %w", database.ErrStale)
	}
	if err := s.raise(p, epoch); err != nil {
		return err
	}
	p.Epoch = max(p.Epoch, epoch)
	if err := s.cut(ctx); err != nil {
		return err
	}
	if err := s.endReaders(ctx); err != nil {
		return err
	}
	if err := s.stillClosed(ctx); err != nil {
		return err
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	from, err := walscan.Newest(s.at.wal(), c.Timeline, c.SegSize)
	if err != nil {
		return err
	}
	if timeline <= from {
		return fmt.Errorf("it is on timeline %d already: %w", from, database.ErrStale)
	}
	if err := s.inChain(from, chain); err != nil {
		return err
	}
	taken, err := exists(filepath.Join(s.at.wal(), walscan.HistoryName(timeline)))
	if err != nil {
		return err
	}
	if taken {
		return fmt.Errorf("the number is taken by a history file: %w", database.ErrStale)
	}
	if err := s.fillHistories(from, 2, timeline); err != nil {
		return err
	}
	for n := uint32(2); n < timeline; n++ {
		there, err := exists(filepath.Join(s.at.wal(), walscan.HistoryName(n)))
		if err != nil || !there {
			return fmt.Errorf("timeline %d has no history file, so PostgreSQL would take that number (%v)", n, err)
		}
	}
	// A signal in the shape of a file: a crash may forget it, and a start removes it.
	trigger := filepath.Join(s.at.data, "promote")
	if err := os.WriteFile(trigger, nil, 0o644); err != nil {
		return fmt.Errorf("ask for the promotion: %w", err)
	}
	if err := s.owner.own(trigger); err != nil {
		return err
	}
	if err := s.signal(syscall.SIGUSR1); err != nil {
		return err
	}
	if err := s.awaitPrimary(ctx); err != nil {
		return err
	}
	s.forgetPosition()
	s.promotedClosed()
	if err := s.checkPromoted(ctx, timeline, from, p.Told); err != nil {
		if errors.Is(err, errForgot) {
			err = errors.Join(err, s.forswear(p))
		}
		kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), settle)
		defer cancel()
		return errors.Join(err, s.Kill(kill, "the promotion came out wrong: "+err.Error()))
	}
	// A later pg_rewind needs pg_control to be on the new timeline, which the first checkpoint writes.
	s.tasks.Go(func() {
		if err := s.checkpoint(s.background); err != nil && s.background.Err() == nil {
			s.log.Warn("no checkpoint after the promotion", "err", err)
		}
	})
	return nil
}

// stillClosed proves that the server would acknowledge nothing when promoted: by its file, and by its own word
// when it answers.
func (s *Server) stillClosed(ctx context.Context) error {
	d, err := readDynamic(s.at.data)
	if err != nil {
		return err
	}
	if d.names != database.Closed().String() {
		return fmt.Errorf("its names are %q, it is not closed", d.names)
	}
	ctx, cancel := context.WithTimeout(ctx, observeWait)
	defer cancel()
	var names string
	err = s.within(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT current_setting('synchronous_standby_names')").Scan(&names)
	})
	if err == nil && names != d.names {
		return fmt.Errorf("its live names are %q, it is not closed", names)
	}
	return nil // one that does not answer read the file at its start
}

// inChain refuses a server whose own timeline is not where the agreed chain says. A chain that is empty says
// nothing yet: the first primary is being made.
func (s *Server) inChain(from uint32, chain []database.Fork) error {
	steps, err := walscan.History(s.at.wal(), from)
	if err != nil {
		return err
	}
	for _, x := range steps {
		i := slices.IndexFunc(chain, func(f database.Fork) bool { return f.Timeline == x.Timeline })
		if i < 0 {
			continue // ahead of what is agreed; the judgement weighs it
		}
		if f := chain[i]; f.Parent != x.Parent || f.LSN != database.LSN(x.LSN) {
			return fmt.Errorf("its timeline %d forked from %d at %s, the agreed one from %d at %s: %w", x.Timeline, x.Parent, x.LSN, f.Parent, f.LSN, database.ErrStale)
		}
	}
	return nil
}

// awaitPrimary waits until the server has left recovery.
func (s *Server) awaitPrimary(ctx context.Context) error {
	for {
		if l := s.look(ctx); l.gone {
			return fmt.Errorf("it ended: %s; its log ends with: %s", l.exit, s.logTail())
		}
		c, err := pgcontrol.Read(s.at.data)
		if err != nil {
			return err
		}
		standby, err := exists(filepath.Join(s.at.data, "standby.signal"))
		if err != nil {
			return err
		}
		if c.State == pgcontrol.Production && !standby {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("await the end of recovery: %w", err)
		}
	}
}

// errForgot: what the data hold is less than they were chosen for.
var errForgot = errors.New("the log that was told in the election is not all there")

// checkPromoted verifies which timeline came out, and where it forked.
func (s *Server) checkPromoted(ctx context.Context, timeline, parent uint32, least database.LSN) error {
	got := ""
	err := s.until(ctx, "ask the new primary for its timeline", func(conn *pgx.Conn) (bool, error) {
		recovering := true
		err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery(),
 CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END`).Scan(&recovering, &got)
		return !recovering, err
	})
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(got, 16, 32)
	if err != nil {
		return fmt.Errorf("read the timeline %q: %w", got, err)
	}
	if uint32(n) != timeline {
		return fmt.Errorf("timeline %d came out", n)
	}
	steps, err := walscan.History(s.at.wal(), timeline)
	if err != nil {
		return err
	}
	if len(steps) == 0 {
		return fmt.Errorf("the history of timeline %d is empty", timeline)
	}
	last := steps[len(steps)-1]
	if parent != 0 && last.Parent != parent {
		return fmt.Errorf("it forked from timeline %d, not %d", last.Parent, parent)
	}
	if database.LSN(last.LSN) < least {
		return fmt.Errorf("%w: it forked at %s, behind %s", errForgot, last.LSN, least)
	}
	return nil
}
