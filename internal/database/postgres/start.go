package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/keeper"
	"holdfast/internal/pgcontrol"
	"holdfast/internal/problem"
)

// Start starts the server as a standby, closed, cut from any stream, with clients shut out.
func (s *Server) Start(ctx context.Context, hot bool) error {
	s.op.Lock()
	defer s.op.Unlock()
	return s.start(ctx, hot, closedDynamic())
}

// start is Start with other settings than closed and cut, for Follow.
func (s *Server) start(ctx context.Context, hot bool, d dynamic) error {
	if err := s.present("start"); err != nil {
		return err
	}
	if l := s.look(ctx); !l.gone {
		primary, err := s.isPrimary(ctx)
		if err != nil {
			return fmt.Errorf("start the server: %w", err)
		}
		if primary {
			return errors.New("start the server: it runs as a primary")
		}
		p, err := s.postmaster()
		if err != nil {
			return fmt.Errorf("start the server: %w", err)
		}
		is, known := p.hot()
		if l.client != nil && d == closedDynamic() && (is == hot || !known) {
			return s.awaitRecovery(ctx)
		}
		if err := s.stop(ctx); err != nil {
			return fmt.Errorf("start the server anew: %w", err)
		}
	}
	if err := keeper.KillTree(ctx, s.at.keep); err != nil { // accounts for a life whose keeper died
		return fmt.Errorf("start the server: %w", err)
	}
	if err := s.checkSpaces(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if err := s.releaseReserve(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if err := s.makePlace(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if err := s.copyCertificates(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if err := s.furnishStart(ctx, hot); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if err := s.tidyHistories(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if d != closedDynamic() {
		if err := s.writeDynamic(s.at.data, d); err != nil {
			return fmt.Errorf("start the server: %w", err)
		}
	}
	if err := s.portFree(); err != nil {
		return err
	}
	if err := s.forgetVotes(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	s.mu.Lock()
	s.now.written.only(d.names)
	s.now.keeper, s.now.stopping = nil, false
	s.now.force, s.now.forceAt = database.Force{}, time.Time{}
	s.now.asked = askedVault{}
	s.mu.Unlock()
	spec := keeper.Spec{
		Name: "postgres-" + s.cfg.Database, Dir: s.at.keep, Argv: s.commandLine(hot), Env: s.environment(), WorkDir: "/",
		StopSignal: syscall.SIGINT, LogFile: s.at.output,
		Fence: &keeper.Fence{Cut: s.cfg.GateControl}, // armed by the first Extend
	}
	if s.owner.change {
		spec.UID, spec.GID = s.owner.uid, s.owner.gid
	}
	c, err := keeper.Launch(ctx, s.cfg.Executable, spec)
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	s.mu.Lock()
	s.now.keeper = c
	s.mu.Unlock()
	return s.awaitRecovery(ctx)
}

// awaitRecovery returns when the server is a standby that answers, or one that waits for WAL that only a stream
// can bring, or when it has ended.
func (s *Server) awaitRecovery(ctx context.Context) error {
	for {
		l := s.look(ctx)
		if l.gone {
			return fmt.Errorf("start the server: it ended: %s; its log ends with: %s", l.exit, s.logTail())
		}
		p, err := s.postmaster()
		if err != nil {
			return fmt.Errorf("start the server: %w", err)
		}
		if p.status == "ready" || p.status == "standby" {
			return nil
		}
		if p.pid != 0 {
			children, err := s.children(p.pid)
			if err != nil {
				return fmt.Errorf("start the server: %w", err)
			}
			for _, c := range children {
				if s.is(c, "startup waiting for ") {
					return nil
				}
			}
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("await the server's start: %w", err)
		}
	}
}

// logTail is the end of the server's own log, for an error text.
func (s *Server) logTail() string {
	b, err := os.ReadFile(s.at.output)
	if err != nil {
		return err.Error()
	}
	t := &tail{}
	_, _ = t.Write(b) // never fails
	return t.last()
}

// present refuses to work on anything but whole data of ours.
func (s *Server) present(what string) error {
	state, why, err := s.dataState()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch state {
	case database.DataPresent:
		return nil
	case database.DataForeign:
		return s.foreign(why)
	default:
		return fmt.Errorf("%s: the data are %s %s", what, state, why)
	}
}

func (s *Server) foreign(why string) error {
	return &problem.Problem{
		Code: "database.foreign-data", Subject: s.cfg.Database, Severity: problem.Critical,
		Title:   "the data directory holds something that is not Holdfast's",
		Meaning: why + ". Holdfast never touches it, so this host cannot hold a copy of the database.",
		Remedy:  "move it away, or give Holdfast another state directory: mv " + s.at.data + " " + s.at.data + ".before-holdfast",
	}
}

// portFree says who is in the way before PostgreSQL says only that somebody is.
func (s *Server) portFree() error {
	address := net.JoinHostPort(s.cfg.Address, strconv.Itoa(s.cfg.Port))
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l.Close()
	}
	title, remedy := "the address "+address+" cannot be listened on: "+err.Error(), "check the host's address in the plan: ip address"
	if errors.Is(err, syscall.EADDRINUSE) {
		title = fmt.Sprintf("the port %s is in use%s", address, s.portHolder())
		remedy = fmt.Sprintf("end that process, or choose another port; who it is: ss -ltnp 'sport = :%d'", s.cfg.Port)
	}
	return &problem.Problem{
		Code: "database.port-in-use", Subject: s.cfg.Database, Severity: problem.Critical, Title: title,
		Meaning: "PostgreSQL cannot be started on this host.", Remedy: remedy,
	}
}

// portHolder names the process that listens on our port, as far as /proc shows it.
func (s *Server) portHolder() string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6, say
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", s.cfg.Port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && inodes[to] {
			pid := strings.Split(fd, "/")[2]
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				return " by process " + pid
			}
			return fmt.Sprintf(" by process %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}

// tidyHistories leaves only history files that a recovery may believe. PostgreSQL looks upward from its own
// timeline for the newest number and then insists on descending from it: a comment-only file that an ended
// promotion left above would keep it from starting at all.
func (s *Server) tidyHistories() error {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	newest, err := walscan.Newest(s.at.wal(), c.Timeline, c.SegSize)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.at.wal(), "????????.history"))
	if err != nil {
		return fmt.Errorf("list the histories: %w", err)
	}
	removed := false
	for _, f := range files {
		n, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(f), ".history"), 16, 32)
		if err != nil || uint32(n) <= newest {
			continue
		}
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove a history that is not ours: %w", err)
		}
		removed = true
	}
	if removed {
		if err := durable.SyncDir(s.at.wal()); err != nil {
			return err
		}
	}
	return s.fillHistories(newest, c.Timeline+1, newest)
}

// fillHistories makes the numbers from..below gapless: the real history where a number is an ancestor of
// timeline, else a file that only holds the number so that PostgreSQL never takes it.
func (s *Server) fillHistories(timeline, from, below uint32) error {
	steps, err := walscan.History(s.at.wal(), timeline)
	if err != nil {
		return err
	}
	for n := max(from, 2); n < below; n++ {
		if n == timeline {
			continue // it was just read
		}
		text := "# Holdfast: this number is taken by an election that ended otherwise.\n"
		for i, x := range steps {
			if x.Timeline == n {
				text = historyText(steps[:i+1])
			}
		}
		path := filepath.Join(s.at.wal(), walscan.HistoryName(n))
		there, err := os.ReadFile(path)
		if err == nil && string(there) == text {
			continue
		}
		if err == nil {
			if same, perr := walscan.ParseHistory(string(there), n); perr == nil {
				if mine, _ := walscan.ParseHistory(text, n); sameSteps(same, mine) {
					continue // PostgreSQL's own wording of the same
				}
			}
		} else if !os.IsNotExist(err) {
			return fmt.Errorf("look at the history of timeline %d: %w", n, err)
		}
		if err := s.give(path, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func historyText(steps []walscan.Switch) string {
	var b strings.Builder
	for _, x := range steps {
		fmt.Fprintf(&b, "%d\t%s\tkept by Holdfast\n", x.Parent, x.LSN)
	}
	return b.String()
}

func sameSteps(a, b []walscan.Switch) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// isPrimary tells what a running server is, by its own word where it answers, else by its files.
func (s *Server) isPrimary(ctx context.Context) (bool, error) {
	ask, cancel := context.WithTimeout(ctx, observeWait)
	defer cancel()
	recovering := false
	err := s.within(ask, func(conn *pgx.Conn) error {
		return conn.QueryRow(ask, "SELECT pg_is_in_recovery()").Scan(&recovering)
	})
	if err == nil {
		return !recovering, nil
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return false, err
	}
	standby, err := exists(filepath.Join(s.at.data, "standby.signal"))
	if err != nil {
		return false, err
	}
	return (c.State == pgcontrol.Production || c.State == pgcontrol.ShuttingDown) && !standby, nil
}

// laggard is how far behind a standby may be before its walsender is ended ahead of a fast stop, which would
// wait for it until wal_sender_timeout.
const laggard = 1 << 20 // bytes

// StopFast stops the server in good order and returns when the whole process tree is gone.
func (s *Server) StopFast(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	return s.stop(ctx)
}

func (s *Server) stop(ctx context.Context) error {
	l := s.look(ctx)
	if l.gone {
		return nil
	}
	s.setStopping(true)
	defer s.setStopping(false)
	if err := s.cutLaggards(ctx); err != nil { // the stop is only slower for it
		s.log.Info("lagging walsenders not ended before the stop", "err", err)
	}
	if l.client == nil { // not started by a keeper of ours, or one that does not answer
		if err := s.signal(syscall.SIGINT); err != nil && !errors.Is(err, errNotRunning) {
			return fmt.Errorf("stop the server: %w", err)
		}
	} else {
		grace := 10 * time.Minute // the caller's ctx is what bounds a stop, and Kill what ends it
		if _, err := l.client.Stop(ctx, grace); err != nil && !errors.Is(err, keeper.ErrLost) {
			return fmt.Errorf("stop the server: %w", err)
		}
	}
	for {
		left, err := s.processes()
		if err != nil {
			return fmt.Errorf("stop the server: %w", err)
		}
		if len(left) == 0 {
			s.afterStop()
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("stop the server: %d processes still live: %w", len(left), err)
		}
	}
}

func (s *Server) setStopping(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.stopping = yes
}

// cutLaggards ends the walsenders that a fast stop would wait for in vain: those of standbys that are far behind, and
// those of others than standbys. An archive confirms what its vault has stored, seconds later, and goes on with the
// next primary.
func (s *Server) cutLaggards(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.within(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_replication
 WHERE NOT pg_is_in_recovery() AND (strpos(application_name, '@') = 0 OR state <> 'streaming' OR flush_lsn IS NULL
  OR pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END, flush_lsn) > `+strconv.Itoa(laggard)+`)`)
		return err
	})
}

// Checkpoint writes a checkpoint (a restartpoint on a standby).
func (s *Server) Checkpoint(ctx context.Context) error {
	s.op.Lock()
	defer s.op.Unlock()
	return s.checkpoint(ctx)
}

func (s *Server) checkpoint(ctx context.Context) error {
	err := s.within(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CHECKPOINT")
		return err
	})
	if err != nil {
		return fmt.Errorf("write a checkpoint: %w", err)
	}
	return nil
}
