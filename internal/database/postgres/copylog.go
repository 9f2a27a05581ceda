package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/problem"
)

// The log that is written while a copy is made is streamed to this host as it is written, so that no server has to keep
// it: a copy may last longer than what slots may keep.

// copyLogName is the stream's name at the source. It is none of a standby, so no commit waits for it.
const copyLogName = "holdfast-copy-log"

const (
	logFlushEvery = 500 * time.Millisecond // between two synced positions
	logSilentMax  = 30 * time.Second       // without a word of the source, which speaks every 2.5 s
	logTries      = 5                      // in a row that bring nothing
	logTryPause   = 300 * time.Millisecond
)

// logStream writes the source's log into a data directory that nothing runs on.
type logStream struct {
	server  *Server
	from    database.Endpoint
	primary database.Endpoint
	slot    string // on the primary, of the standby to come: moved on with us
	about   about
	copier  *replica.Copier // bounds what comes over

	lead     *pgx.Conn    // to the primary; nil = none is open
	moved    database.LSN // where its slot was put last
	timeline uint32
	next     database.LSN // what comes next
	file     *os.File     // nil = none is open
	dirty    bool

	mu      sync.Mutex // guards what follows
	flushed database.LSN
	held    map[string]bool // segments that we wrote, by their names
	heard   chan struct{}   // closed when the stream first runs, or run has returned
	running bool
	failed  error
}

func (s *Server) newLogStream(from, primary database.Endpoint, slot string, a about, c *replica.Copier, begins database.LSN) *logStream {
	return &logStream{
		server: s, from: from, primary: primary, slot: slot, about: a, copier: c,
		next: begins - begins%database.LSN(a.segment), held: map[string]bool{}, heard: make(chan struct{}),
	}
}

// run streams until ctx ends. A stream that broke is begun again where it was; what the source no longer has ends it.
func (l *logStream) run(ctx context.Context) {
	tries := 0
	var err error
	for ctx.Err() == nil && tries < logTries {
		before := l.next
		if err = l.stream(ctx); ctx.Err() != nil {
			break
		}
		if l.next > before {
			tries = 0
		}
		tries++
		var refused *problem.Problem
		if errors.As(err, &refused) || gone(err) {
			break
		}
		l.server.log.Info("log stream of the copy broke", "from", l.from.Host, "at", l.next.String(), "err", err)
		if pause(ctx, logTryPause) != nil {
			break
		}
	}
	if closing := l.flush(); err == nil || ctx.Err() != nil {
		err = closing
	}
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
	if !l.running {
		close(l.heard)
	}
	l.running = true
}

// gone reports that the source no longer has what is asked for.
func gone(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "58P01" // undefined_file: the segment has been removed
}

// begun waits until the stream runs, and tells why it cannot.
func (l *logStream) begun(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.heard:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// reach waits until the log lies here up to ends.
func (l *logStream) reach(ctx context.Context, ends database.LSN) error {
	for {
		l.mu.Lock()
		at, failed := l.flushed, l.failed
		l.mu.Unlock()
		switch {
		case at >= ends:
			return nil
		case failed != nil:
			return fmt.Errorf("stream the log of %s up to %s: at %s: %w", l.from.Host, ends, at, failed)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("stream the log of %s up to %s: at %s: %w", l.from.Host, ends, at, err)
		}
	}
}

// stream is one connection.
func (l *logStream) stream(ctx context.Context) error {
	conn, err := l.dial(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(end) // what mattered has been reported
	}()
	if err := l.identify(ctx, conn); err != nil {
		return err
	}
	slot := fmt.Sprintf("holdfast_copylog_%s_%d", l.server.cfg.Host, os.Getpid())
	if _, err := conn.Exec(ctx, fmt.Sprintf("CREATE_REPLICATION_SLOT %q TEMPORARY PHYSICAL RESERVE_WAL", slotWord(slot))).ReadAll(); err != nil {
		return fmt.Errorf("secure the log that is not here yet: %w", err)
	}
	if err := l.start(ctx, conn, slotWord(slot)); err != nil {
		return err
	}
	l.mu.Lock()
	if !l.running {
		l.running = true
		close(l.heard)
	}
	l.mu.Unlock()
	defer func() { l.leaveLead() }()
	told, heard := time.Time{}, l.server.clock.Now()
	for {
		if l.server.clock.Now().Sub(told) >= logFlushEvery {
			if err := l.tell(ctx, conn); err != nil {
				return err
			}
			told = l.server.clock.Now()
		}
		err := l.receive(ctx, conn)
		switch silent := l.server.clock.Now().Sub(heard); {
		case err == nil:
			heard = l.server.clock.Now()
		case !pgconn.Timeout(err) || ctx.Err() != nil || silent > logSilentMax:
			return err
		}
	}
}

func (l *logStream) leaveLead() {
	if l.lead != nil {
		closeSession(l.lead)
		l.lead = nil
	}
}

// slotWord makes of a name one that PostgreSQL takes for a slot.
func slotWord(name string) string {
	out := []byte(name)
	for i, c := range out {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			out[i] = '_'
		}
	}
	return string(out[:min(len(out), 63)])
}

func (l *logStream) dial(ctx context.Context) (*pgconn.PgConn, error) {
	c, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("open a log stream: %w", err)
	}
	if c.TLSConfig, err = l.server.peerTLS(l.from); err != nil {
		return nil, err
	}
	c.Host, c.Port, c.Fallbacks, c.User, c.ConnectTimeout = l.from.Address, uint16(l.from.Port), nil, Superuser, 3*time.Second
	c.RuntimeParams = map[string]string{"replication": "true", "application_name": copyLogName}
	conn, err := pgconn.ConnectConfig(ctx, &c.Config)
	if err != nil {
		return nil, fmt.Errorf("open a log stream from the server on %s: %w", l.from.Host, err)
	}
	return conn, nil
}

// identify refuses another system, and a timeline that changed in the midst.
func (l *logStream) identify(ctx context.Context, conn *pgconn.PgConn) error {
	res, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil || len(res) != 1 || len(res[0].Rows) != 1 || len(res[0].Rows[0]) < 2 {
		return fmt.Errorf("ask the log stream who it is: %w", errors.Join(err, errors.New("no single answer")))
	}
	system, errSystem := strconv.ParseUint(string(res[0].Rows[0][0]), 10, 64)
	timeline, errTimeline := strconv.ParseUint(string(res[0].Rows[0][1]), 10, 32)
	if err := errors.Join(errSystem, errTimeline); err != nil {
		return fmt.Errorf("ask the log stream who it is: %w", err)
	}
	if system != l.about.system || l.timeline != 0 && l.timeline != uint32(timeline) {
		return &problem.Problem{
			Code: "database.copy-failed", Subject: l.server.cfg.Database, Severity: problem.Degraded,
			Title:   fmt.Sprintf("the server on %s changed while it was copied: system %d, timeline %d", l.from.Host, system, timeline),
			Meaning: "The copy is begun again.", Remedy: "nothing, unless it stays: holdfast status",
		}
	}
	l.timeline = uint32(timeline)
	return nil
}

// start begins to stream at the position that comes next.
func (l *logStream) start(ctx context.Context, conn *pgconn.PgConn, slot string) error {
	at := l.next
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION SLOT %q PHYSICAL %s TIMELINE %d", slot, at, l.timeline)})
	if err := conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("start the log stream: %w", err)
	}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("start the log stream at %s: %w", at, err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("start the log stream at %s: %w", at, pgconn.ErrorResponseToPgError(m))
		case *pgproto3.ReadyForQuery:
			return fmt.Errorf("start the log stream at %s: timeline %d has ended", at, l.timeline)
		}
	}
}

// receive takes one message. None within the time between two flushes is a [pgconn.Timeout].
func (l *logStream) receive(ctx context.Context, conn *pgconn.PgConn) error {
	wait, cancel := context.WithTimeout(ctx, logFlushEvery)
	defer cancel()
	msg, err := conn.ReceiveMessage(wait)
	if err != nil {
		return fmt.Errorf("receive log: %w", err)
	}
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		be := binary.BigEndian
		switch {
		case len(m.Data) >= 25 && m.Data[0] == 'w': // XLogData: start, end, time, then the log itself
			return l.write(ctx, database.LSN(be.Uint64(m.Data[1:])), m.Data[25:])
		case len(m.Data) >= 18 && m.Data[0] == 'k': // keepalive: end, time, and whether an answer is wanted
			if m.Data[17] != 0 {
				return l.reply(conn)
			}
			return nil
		}
		return fmt.Errorf("receive log: %d bytes that are neither log nor keepalive", len(m.Data))
	case *pgproto3.ErrorResponse:
		return fmt.Errorf("receive log: %w", pgconn.ErrorResponseToPgError(m))
	case *pgproto3.CopyDone:
		return errors.New("receive log: the source ended the stream")
	}
	return nil
}

// write puts log into its segments. A segment that is begun replaces whatever lay under its name.
func (l *logStream) write(ctx context.Context, at database.LSN, data []byte) error {
	if at != l.next {
		return fmt.Errorf("receive log: %s came, %s was to come", at, l.next)
	}
	if err := l.copier.PayFirst(ctx, int64(len(data))); err != nil {
		return err
	}
	size := database.LSN(l.about.segment)
	for len(data) > 0 {
		if l.file == nil {
			if err := l.open(); err != nil {
				return err
			}
		}
		in := l.next % size
		part := data[:min(len(data), int(size-in))]
		if _, err := l.file.WriteAt(part, int64(in)); err != nil {
			return fmt.Errorf("write the log at %s: %w", l.next, err)
		}
		l.next, l.dirty, data = l.next+database.LSN(len(part)), true, data[len(part):]
		if l.next%size == 0 {
			if err := errors.Join(l.flush(), l.file.Close()); err != nil {
				return fmt.Errorf("end a segment at %s: %w", l.next, err)
			}
			l.file = nil
		}
	}
	return nil
}

// open makes the segment that l.next lies in, empty and whole; one that is here from this copy is gone on with.
func (l *logStream) open() error {
	s, size := l.server, int64(l.about.segment)
	name := walscan.Segment{Timeline: l.timeline, Number: uint64(l.next) / l.about.segment}.Name(l.about.segment)
	path := filepath.Join(s.at.wal(), name)
	l.mu.Lock()
	ours := l.held[name]
	l.mu.Unlock()
	if ours {
		f, err := os.OpenFile(path, os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("go on with the segment %s: %w", name, err)
		}
		l.file = f
		return nil
	}
	if free, err := freeBytes(s.at.dir); err != nil {
		return err
	} else if free < size+copyMargin {
		return &problem.Problem{
			Code: "database.no-space-for-copy", Subject: s.cfg.Database, Severity: problem.Degraded,
			Title:   fmt.Sprintf("%s are free on %s, and the log that is written while the copy is made needs more", bytesText(free), s.cfg.Host),
			Meaning: "The database has one copy less than the plan asks for. Holdfast begins again by itself.",
			Remedy:  "free or add space where " + s.at.dir + " lies",
		}
	}
	fresh := path + ".holdfast"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the segment %s: %w", name, err)
	}
	err = errors.Join(f.Truncate(size), s.owner.own(fresh), os.Rename(fresh, path))
	if err != nil {
		return errors.Join(fmt.Errorf("make the segment %s: %w", name, err), f.Close())
	}
	l.file = f
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[name] = true
	return nil
}

// flush brings to the disk what was written.
func (l *logStream) flush() error {
	if l.dirty {
		if err := errors.Join(l.file.Sync(), durable.SyncDir(l.server.at.wal())); err != nil {
			return fmt.Errorf("bring the log up to %s to the disk: %w", l.next, err)
		}
		l.dirty = false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed = l.next
	return nil
}

// tell syncs, tells the source how far we are, and lets the primary's slot go on.
func (l *logStream) tell(ctx context.Context, conn *pgconn.PgConn) error {
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.reply(conn); err != nil {
		return err
	}
	if l.moved == l.next {
		return nil
	}
	if err := l.moveSlot(ctx); err != nil { // it keeps more than it need; the copy goes on
		l.leaveLead()
		l.server.log.Debug("slot of the copy not moved", "slot", l.slot, "primary", l.primary.Host, "err", err)
		return ctx.Err()
	}
	l.moved = l.next
	return nil
}

// moveSlot lets the primary's slot of the standby to come stand where our log ends: it streams from there.
func (l *logStream) moveSlot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if l.lead == nil {
		lead, err := l.server.connectPeer(ctx, l.primary)
		if err != nil {
			return err
		}
		l.lead = lead
	}
	return advance(ctx, l.lead, l.slot, l.next)
}

// advance moves a slot that nobody streams through on, as far as its primary has flushed.
func advance(ctx context.Context, lead *pgx.Conn, slot string, to database.LSN) error {
	_, err := lead.Exec(ctx, `SELECT pg_replication_slot_advance(slot_name, least($2::pg_lsn, pg_current_wal_flush_lsn())) FROM pg_replication_slots
 WHERE slot_name = $1 AND NOT active AND wal_status <> 'lost' AND restart_lsn < $2::pg_lsn AND NOT pg_is_in_recovery()`, slot, to.String())
	if err != nil {
		return fmt.Errorf("move the slot %s to %s: %w", slot, to, err)
	}
	return nil
}

// reply is a standby status update: what lies on our disk need not be kept.
func (l *logStream) reply(conn *pgconn.PgConn) error {
	b := make([]byte, 34)
	b[0] = 'r'
	l.mu.Lock()
	at := max(l.flushed, 1)
	l.mu.Unlock()
	for _, field := range []int{1, 9, 17} { // written, flushed, replayed
		binary.BigEndian.PutUint64(b[field:], uint64(at))
	}
	binary.BigEndian.PutUint64(b[25:], uint64(l.server.clock.Now().UnixMicro()-pgEpoch))
	conn.Frontend().Send(&pgproto3.CopyData{Data: b})
	if err := conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("tell the source how far the log came: %w", err)
	}
	return nil
}

// pgEpoch is 2000-01-01, where PostgreSQL's clock begins, in microseconds since 1970.
const pgEpoch = 946684800 * 1_000_000

// names are the segments that the stream wrote, as a copy names its files.
func (l *logStream) names() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]bool{}
	for name := range l.held {
		out["pg_wal/"+name] = true
	}
	return out
}
