package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/pgcontrol"
)

// observeWait is the longest that a server may take to answer an observation.
const observeWait = time.Second

// observer keeps the session that observations use.
type observer struct {
	mu      sync.Mutex // one observation at a time
	conn    *pgx.Conn
	rolesAt time.Time // when the roles were last compared

	waiting waiting

	probe probe // has its own lock
	touch touch // too

	recovery recovery

	silent time.Time // since when our keeper does not answer; zero = it does

	followingAt time.Time // when a standby was last asked for its timeline
	receives    uint32    // the timeline that its receiver was given in the last look; 0 = none
}

func (o *observer) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop()
	o.probe.drop() // none runs any more: Close has waited
	return nil
}

func (o *observer) drop() {
	if o.conn != nil {
		closeSession(o.conn)
		o.conn = nil
	}
}

// keeperSilent is how long the keeper has not answered, and so has fenced nothing.
func (o *observer) keeperSilent(silent bool, now time.Time) time.Duration {
	switch {
	case !silent:
		o.silent = time.Time{}
	case o.silent.IsZero():
		o.silent = now.Add(-keeperWait) // it was asked that long ago
	}
	if o.silent.IsZero() {
		return 0
	}
	return now.Sub(o.silent)
}

// Observe tells all that is known now, in a few milliseconds when the server is well and in little more than a
// second when it hangs.
func (s *Server) Observe(ctx context.Context) database.Local {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	l := database.Local{Known: true}
	var why []string
	note := func(err error) {
		if err != nil {
			why = append(why, err.Error())
		}
	}
	state, reason, err := s.dataState()
	if err != nil { // even the kind of data is not known
		l := database.Local{Why: err.Error()}
		s.observeFault(&l.Disk)
		if f := faultOf(err); f != "" {
			l.Disk.Fault, l.Disk.Said = f, err.Error()
		}
		return l
	}
	l.Data = state
	if reason != "" {
		why = append(why, reason)
	}
	p := s.look(ctx)
	l.Running, l.TreeGone, l.Exit = p.alive, p.gone, p.exit
	if p.gone {
		l.Ended = s.lastWords(p.last)
	}
	if p.why != "" {
		why = append(why, p.why)
	}
	l.KeeperSilent = s.watch.keeperSilent(p.silent, time.Now())
	s.mu.Lock()
	now := s.now
	s.mu.Unlock()
	l.Stopping = l.Running && now.stopping
	l.Progress, l.Failed, l.FailedKind, l.FailedFrom, l.FailedProblem = now.progress, now.failed, now.kind, now.from, now.trouble
	note(s.observeDisk(&l))
	if m, err := s.readPartial(); err != nil {
		note(err)
	} else if m != nil && m.Job == database.KindClone {
		l.Copying = m.Incarnation
	}
	if state == database.DataPresent {
		note(s.observeFiles(&l))
		note(s.observeKept(&l))
		note(s.observeOldest(&l))
		if l.Running {
			note(s.observeServer(ctx, &l, now))
		} else {
			s.watch.drop()
			l.ShutDown = l.ShutDown && l.TreeGone
			note(s.observeTimeline(&l))
		}
		note(s.observePromise(&l))
		note(s.observeFollowing(&l))
		if err := s.observeRecovery(&l); err != nil { // a forecast is less sure then, and nothing else
			s.log.Debug("how fast the server replayed is not known", "err", err)
		}
		if !l.Running && now.heldFor == l.Incarnation {
			l.Held = now.held
		}
		if l.Role == database.Primary {
			s.forgetPosition() // its log grows, by whatever way it became one
		} else if now.position.Epoch != 0 && now.position.Epoch == l.Promise.Epoch {
			l.Position = now.position
			if l.Timeline != l.Position.Timeline {
				l.Timeline = l.Position.Timeline
				note(s.observeHistory(&l))
			}
		}
	}
	l.Why = strings.Join(why, "; ")
	return l
}

// observeFiles learns what the files tell.
func (s *Server) observeFiles(l *database.Local) error {
	var errs []error
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		errs = append(errs, err)
	} else {
		l.SystemID, l.Checkpoint, l.Redo = c.SystemID, c.Checkpoint, c.Redo
		l.ShutDown = !l.Running && c.State == pgcontrol.ShutDown
	}
	if l.Incarnation, err = readIncarnation(s.at.data); err != nil {
		errs = append(errs, err)
	}
	d, err := readDynamic(s.at.data)
	if err != nil {
		errs = append(errs, err)
	}
	l.Following, l.Source = epochOf(d.conninfo), s.sourceOf(d.conninfo)
	l.ReadOnly = d.readOnly
	if !l.Running {
		l.Names, l.NamesOK = roomNames(d.names)
	}
	hba, err := os.ReadFile(filepath.Join(s.at.data, "pg_hba.conf"))
	if err != nil {
		errs = append(errs, fmt.Errorf("read the access rules: %w", err))
	}
	l.Admits = l.Running && admitsClients(hba)
	return errors.Join(errs...)
}

// observeTimeline learns the timeline of a server that does not tell it, from its log files.
func (s *Server) observeTimeline(l *database.Local) error {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	if l.Timeline, err = walscan.Newest(s.at.wal(), c.Timeline, c.SegSize); err != nil {
		return err
	}
	return s.observeHistory(l)
}

func (s *Server) observeHistory(l *database.Local) error {
	steps, err := walscan.History(s.at.wal(), l.Timeline)
	if err != nil {
		return err
	}
	l.History = nil
	for _, x := range steps {
		l.History = append(l.History, database.Fork{Timeline: x.Timeline, Parent: x.Parent, LSN: database.LSN(x.LSN)})
	}
	return nil
}

func (s *Server) observePromise(l *database.Local) error {
	p, ok, err := s.readPromise()
	if err != nil {
		return err
	}
	l.Promise = p
	if !ok {
		return nil
	}
	s.holds(l.Incarnation, max(l.Flushed, l.Replayed))
	l.PromiseOK, err = s.promiseHolds(p, l.Incarnation)
	return err
}

// answer is what one question to the server brings.
type answer struct {
	recovering bool
	names      string
	timeline   *string
	flushed    *string
	received   *string
	replayed   *string
	lagMillis  *float64
	receiver   *string
	from       *int32 // timeline that the receiver was given
	giving     int    // copies on their way from here
	waiting    int    // commits that have waited for a standby for a second or more
}

const question = `SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names'),
 CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
 CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END::text,
 pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text,
 CASE WHEN pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()
  THEN 1000 * extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float8,
 (SELECT status FROM pg_stat_wal_receiver), (SELECT received_tli FROM pg_stat_wal_receiver),
 (SELECT count(*) FROM pg_stat_activity WHERE application_name = '` + copyName + `'),
 (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND state_change < now() - interval '1 second')`

// observeServer asks the running server, and judges by its files when it does not answer.
func (s *Server) observeServer(ctx context.Context, l *database.Local, now memory) error {
	ctx, cancel := context.WithTimeout(ctx, observeWait)
	defer cancel()
	err := s.ask(ctx, l, now)
	if err == nil {
		// What is not learnt of the settings makes no server ill.
		if err := s.observeSettings(ctx, s.watch.conn, l, now); err != nil && ctx.Err() == nil {
			s.log.Debug("settings not observed", "err", err)
		}
		return nil
	}
	s.watch.drop()
	l.Ready = false
	err = fmt.Errorf("the server does not answer: %w", err)
	if l.Role == database.NoRole {
		c, cerr := pgcontrol.Read(s.at.data)
		standby, serr := exists(filepath.Join(s.at.data, "standby.signal"))
		switch {
		case cerr != nil || serr != nil:
			return errors.Join(err, cerr, serr)
		case c.State == pgcontrol.Production || c.State == pgcontrol.ShuttingDown:
			l.Role = database.Primary
			if standby { // pg_control is of the life before: recovery has not begun yet
				l.Role = database.Standby
			}
		case standby:
			l.Role = database.Standby
		}
	}
	if l.Role == database.Primary {
		l.Writable = hungBy(l.Disk.Fault)
	}
	if d, derr := readDynamic(s.at.data); derr == nil {
		l.Names, l.NamesOK = roomNames(d.names)
	}
	return errors.Join(err, s.observeTimeline(l))
}

func (s *Server) ask(ctx context.Context, l *database.Local, now memory) error {
	if s.watch.conn == nil || s.watch.conn.IsClosed() {
		conn, err := s.connect(ctx, "postgres")
		if err != nil {
			return err
		}
		s.watch.conn = conn
	}
	conn := s.watch.conn
	var a answer
	s.watch.receives = 0
	if err := conn.QueryRow(ctx, question).Scan(&a.recovering, &a.names, &a.timeline, &a.flushed, &a.received, &a.replayed,
		&a.lagMillis, &a.receiver, &a.from, &a.giving, &a.waiting); err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	l.Ready, l.Giving = true, a.giving
	if pm, err := s.postmaster(); err == nil && pm.pid != 0 {
		_, started := lineage(pm.pid)
		l.Life = strconv.Itoa(pm.pid) + "-" + started
	}
	l.Names, l.NamesOK = roomNames(a.names)
	if !s.wroteSince(now.written.stands, a.names) {
		l.NamesOK = false
	}
	var err error
	if l.Slots, err = observeSlots(ctx, conn); err != nil {
		return err
	}
	if a.recovering {
		l.Role = database.Standby
		if a.from != nil && *a.from > 0 {
			s.watch.receives = uint32(*a.from)
		}
		received, errR := parseLSN(a.received)
		replayed, errP := parseLSN(a.replayed)
		l.Flushed, l.Replayed = max(received, replayed), replayed
		l.Receiving = a.receiver != nil && *a.receiver == "streaming"
		if a.lagMillis != nil {
			l.ReplayLag = max(0, time.Duration(*a.lagMillis*float64(time.Millisecond)))
		}
		return errors.Join(errR, errP, s.observeTimeline(l))
	}
	l.Role = database.Primary
	if l.Flushed, err = parseLSN(a.flushed); err != nil {
		return err
	}
	l.Replayed = l.Flushed
	if a.timeline == nil {
		return errors.New("ask the server: it became a primary just now")
	}
	tli, err := strconv.ParseUint(*a.timeline, 16, 32)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	l.Timeline = uint32(tli)
	if err := s.observeHistory(l); err != nil {
		return err
	}
	if l.Senders, err = senders(ctx, conn, now.forceAt); err != nil {
		return err
	}
	l.Force = now.force
	l.Writable = s.writable(a, l)
	l.RolesReady, err = s.rolesReady(ctx, conn)
	return err
}

func parseLSN(text *string) (database.LSN, error) {
	if text == nil {
		return 0, nil
	}
	return database.ParseLSN(*text)
}

// senders lists who streams from a primary. since is the moment of the last barrier, by the database's clock.
func senders(ctx context.Context, conn *pgx.Conn, since time.Time) ([]database.Sender, error) {
	rows, err := conn.Query(ctx, `SELECT application_name, coalesce(state, ''), coalesce(sync_state, ''), flush_lsn::text, backend_start
 FROM pg_stat_replication WHERE state <> 'backup' ORDER BY application_name, pid`)
	if err != nil {
		return nil, fmt.Errorf("list the walsenders: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (database.Sender, error) {
		var x database.Sender
		var flushed *string
		var started time.Time
		if err := row.Scan(&x.Name, &x.State, &x.Sync, &flushed, &started); err != nil {
			return x, fmt.Errorf("list the walsenders: %w", err)
		}
		x.Fresh = !since.IsZero() && started.After(since)
		var err error
		x.Flushed, err = parseLSN(flushed)
		return x, err
	})
}

func (s *Server) forgetPosition() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.position = database.Position{}
}
