package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/stored"
)

// SetNames replaces synchronous_standby_names and returns when a session opened after the reload shows them:
// by then the postmaster has told every process.
func (s *Server) SetNames(ctx context.Context, n database.Names) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.setNames(ctx, n); err != nil {
		return fmt.Errorf("set synchronous_standby_names to %q: %w", n, err)
	}
	return nil
}

func (s *Server) setNames(ctx context.Context, n database.Names) error {
	if err := s.present("change the names"); err != nil {
		return err
	}
	live := ""
	err := s.within(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT current_setting('synchronous_standby_names')").Scan(&live)
	})
	if err != nil {
		return err
	}
	primary, err := s.isPrimary(ctx)
	if err != nil {
		return err
	}
	if !primary && !n.IsClosed() {
		return errors.New("a standby stays closed")
	}
	unproven := live == ""
	if live == database.Closed().String() && primary {
		// Only while W leaves 0 does a closed server let clients in, and an agent that died there may not have seen
		// the commit wait.
		hba, err := os.ReadFile(filepath.Join(s.at.data, "pg_hba.conf"))
		if err != nil {
			return fmt.Errorf("read who is let in: %w", err)
		}
		unproven = admitsClients(hba)
	}
	if unproven && primary && (n.W > 0 || live != "" && s.asksAtOpening()) {
		// Sessions test a shared flag that only the checkpointer sets (DATABASE.md, A1). One commit that is
		// seen waiting for the name that nobody has proves that the flag is there.
		if err := s.putNames(ctx, database.Closed()); err != nil {
			return err
		}
		if err := s.seeCommitWait(ctx); err != nil {
			return err
		}
	}
	return s.putNames(ctx, n)
}

// putNames writes names, with the vault beside them where it is asked.
func (s *Server) putNames(ctx context.Context, n database.Names) error {
	d, err := readDynamic(s.at.data)
	if err != nil {
		d = dynamic{} // a hand wrote what cannot be read; a primary has no stream to keep
	}
	from, known := stored.Parse(d.names)
	known = known && err == nil
	return s.putSetting(ctx, d, from, known, s.withVault(from, known, n))
}

// putNamesText writes one value, and returns when a session opened after the reload shows it.
func (s *Server) putNamesText(ctx context.Context, d dynamic) error {
	settled := s.writing(d.names)
	if err := s.writeDynamic(s.at.data, d); err != nil {
		return err
	}
	if err := s.signal(syscall.SIGHUP); err != nil {
		return err
	}
	err := s.until(ctx, "see the new names in a new session", func(conn *pgx.Conn) (bool, error) {
		var live string
		err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_standby_names')").Scan(&live)
		return live == d.names, err
	})
	if err == nil {
		settled()
	}
	return err
}

// seeCommitWait commits until one commit is seen waiting for a standby.
func (s *Server) seeCommitWait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		waited, err := s.commitWaits(ctx)
		if err != nil {
			return fmt.Errorf("see a commit wait on the closed server: %w", err)
		}
		if waited {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("see a commit wait on the closed server: %w", err)
		}
	}
}

// commitWaits commits one message and reports whether that waited. The waiting commit is then cancelled.
func (s *Server) commitWaits(ctx context.Context) (bool, error) {
	probe, err := s.connect(ctx, "postgres")
	if err != nil {
		return false, err
	}
	defer closeSession(probe)
	pid := probe.PgConn().PID()
	watch, err := s.connect(ctx, "postgres")
	if err != nil {
		return false, err
	}
	defer closeSession(watch)
	probeCtx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	done := make(chan error, 1)
	go func() {
		_, err := probe.Exec(probeCtx, "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'holdfast', 'closed')")
		done <- err
	}()
	for {
		select {
		case err := <-done:
			return false, err
		case <-time.After(5 * time.Millisecond):
		}
		var waiting bool
		err := watch.QueryRow(ctx, "SELECT coalesce((SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1), false)", pid).Scan(&waiting)
		if err == nil && !waiting {
			continue
		}
		if err == nil {
			_, err = watch.Exec(ctx, "SELECT pg_terminate_backend($1)", pid)
		}
		if err != nil {
			giveUp()
		}
		<-done
		return waiting, err
	}
}

// Barrier begins I2: when it returns, every walsender that may act on older names is gone, and the mark is
// noted. A copy on its way is spared: it reads by sessions that are no walsenders, and releases
// nobody.
func (s *Server) Barrier(ctx context.Context, epoch int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.barrier(ctx, epoch); err != nil {
		return fmt.Errorf("begin a barrier in epoch %d: %w", epoch, err)
	}
	return nil
}

func (s *Server) barrier(ctx context.Context, epoch int64) error {
	d, err := readDynamic(s.at.data)
	if err != nil {
		return err
	}
	set, ok := stored.Parse(d.names)
	if !ok {
		return fmt.Errorf("the names %q are not Holdfast's", d.names)
	}
	conn, err := s.connect(ctx, "postgres") // opened after the names were set
	if err != nil {
		return err
	}
	defer closeSession(conn)
	var live string
	var recovering bool
	var since time.Time
	if err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_standby_names'), pg_is_in_recovery(), clock_timestamp()").Scan(&live, &recovering, &since); err != nil {
		return err
	}
	if recovering {
		return errors.New("it is no primary")
	}
	if live != d.names {
		return fmt.Errorf("a new session shows the names %q: %w", live, database.ErrStale)
	}
	if err := s.endWalsenders(ctx, conn, since); err != nil {
		return err
	}
	s.nobodyActs(set)
	// An idle cluster needs a record past the mark's predecessors, and only a transactional one is flushed.
	if _, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'holdfast', 'barrier')"); err != nil {
		return fmt.Errorf("write the barrier's record: %w", err)
	}
	var text string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return fmt.Errorf("note the mark: %w", err)
	}
	mark, err := database.ParseLSN(text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.force, s.now.forceAt = database.Force{Names: set.Names, Epoch: epoch, Mark: mark}, since
	return nil
}

// loginWait is how long a process that is still logging in may take before the barrier ends it.
const loginWait = 300 * time.Millisecond

// endWalsenders ends every walsender that was begun before conn's question at since, and returns when each is
// gone.
func (s *Server) endWalsenders(ctx context.Context, conn *pgx.Conn, since time.Time) error {
	return s.endSessions(ctx, conn, since, "walsenders", "backend_type = 'walsender' AND application_name NOT IN ('"+copyName+"', '"+copyLogName+"')")
}

// endSessions ends every session of a kind that was begun before conn's question at since, and returns when each
// is gone. pg_stat_activity shows a process only once it has logged in, so those that are not there yet are found
// among the postmaster's children: each may become one of the kind that was forked before the reload.
func (s *Server) endSessions(ctx context.Context, conn *pgx.Conn, since time.Time, what, kind string) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	pm, err := s.postmaster()
	if err != nil {
		return err
	}
	before, err := s.children(pm.pid)
	if err != nil {
		return err
	}
	shown, err := sessions(ctx, conn)
	if err != nil {
		return err
	}
	before = slices.DeleteFunc(before, func(c child) bool {
		return shown[c.pid] || s.is(c, "stats collector") // of PostgreSQL 14: no session, and shown nowhere
	})
	pids := []int32{int32(pm.pid)} // never a walsender; keeps the list from being empty
	for _, c := range before {
		pids = append(pids, int32(c.pid))
	}
	for begun := time.Now(); ; { // by the real clock, like the processes it waits for
		// In this order: whoever is shown now is among those that the next question sees.
		if shown, err = sessions(ctx, conn); err != nil {
			return err
		}
		var left int
		if err := conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE `+kind+` AND (backend_start <= $1 OR pid = ANY ($2::int[]))`, since, pids).Scan(&left); err != nil {
			return fmt.Errorf("end the %s of before: %w", what, err)
		}
		loggingIn := 0
		for _, c := range before {
			if shown[c.pid] || !c.lives() {
				continue
			}
			loggingIn++
			if time.Since(begun) > loginWait {
				if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("end the login of process %d: %w", c.pid, err)
				}
			}
		}
		if left == 0 && loggingIn == 0 {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("await the end of %d %s and %d logins of before: %w", left, what, loggingIn, err)
		}
	}
}

// sessions are the processes that pg_stat_activity shows.
func sessions(ctx context.Context, conn *pgx.Conn) (map[int]bool, error) {
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL")
	if err != nil {
		return nil, fmt.Errorf("list the sessions: %w", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, fmt.Errorf("list the sessions: %w", err)
	}
	shown := make(map[int]bool, len(pids))
	for _, pid := range pids {
		shown[int(pid)] = true
	}
	return shown, nil
}

// KeepRules writes the access rules anew where they name other peers than the server was opened with, and has a running
// server load them. Whether clients are let in stays as it is.
func (s *Server) KeepRules() error {
	s.op.Lock()
	defer s.op.Unlock()
	path, ident := filepath.Join(s.at.data, "pg_hba.conf"), filepath.Join(s.at.data, "pg_ident.conf")
	hba, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no server was made here yet
	}
	if err != nil {
		return fmt.Errorf("keep the access rules: %w", err)
	}
	names, err := os.ReadFile(ident)
	if err != nil {
		return fmt.Errorf("keep the access rules: %w", err)
	}
	wantNames, err := s.identities()
	want := s.access(admitsClients(hba))
	if err != nil || string(hba) == want && string(names) == wantNames {
		return err
	}
	if err := s.give(ident, []byte(wantNames)); err != nil {
		return err
	}
	if err := s.give(path, []byte(want)); err != nil {
		return err
	}
	if err := s.signal(syscall.SIGHUP); err != nil && !errors.Is(err, errNotRunning) {
		return fmt.Errorf("keep the access rules: %w", err)
	}
	return nil
}

// Admit opens or shuts the access rules for clients other than Holdfast's own role.
func (s *Server) Admit(ctx context.Context, clients bool) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.admit(ctx, clients); err != nil {
		return fmt.Errorf("change the access rules (clients: %t): %w", clients, err)
	}
	return nil
}

func (s *Server) admit(ctx context.Context, clients bool) error {
	if err := s.present("change the access rules"); err != nil {
		return err
	}
	before := time.Time{}
	answers := s.within(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&before)
	})
	if err := s.give(filepath.Join(s.at.data, "pg_hba.conf"), []byte(s.access(clients))); err != nil {
		return err
	}
	if err := s.signal(syscall.SIGHUP); err != nil {
		if errors.Is(err, errNotRunning) && !clients {
			return nil // a start shuts them too
		}
		return err
	}
	if answers != nil && !clients {
		return nil // it lets nobody in yet, and has the file when it will
	}
	if answers != nil {
		return answers
	}
	// The postmaster loads the settings, then the rules, then accepts again, so a session that knows of the
	// reload was judged by the new rules.
	return s.until(ctx, "see the reload in a new session", func(conn *pgx.Conn) (bool, error) {
		var loaded time.Time
		err := conn.QueryRow(ctx, "SELECT pg_conf_load_time()").Scan(&loaded)
		return loaded.After(before), err
	})
}
