package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/vault/wal"
)

// The first byte of what goes over a streaming connection (PostgreSQL manual, "Streaming Replication Protocol").
const (
	logData       = 'w' // from the server: a piece of the log
	keepalive     = 'k' // from the server: it is there, and may want an answer
	standbyStatus = 'r' // to the server: how far we are
)

// session is one replication connection (PostgreSQL manual, "Streaming Replication Protocol").
type session struct{ conn *pgconn.PgConn }

// archiveName is how the session shows in pg_stat_replication. It must never stand in
// synchronous_standby_names: its positions follow the vault.
const archiveName = "holdfast-archive"

func dial(ctx context.Context, cfg *pgconn.Config) (*session, error) {
	return dialAs(ctx, cfg, archiveName)
}

func dialAs(ctx context.Context, cfg *pgconn.Config, name string) (*session, error) {
	cfg = cfg.Copy()
	if cfg.RuntimeParams == nil {
		cfg.RuntimeParams = map[string]string{}
	}
	cfg.RuntimeParams["replication"] = "true"
	cfg.RuntimeParams["application_name"] = name
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open replication connection: %w", err)
	}
	return &session{conn: conn}, nil
}

// server is what the other side says of itself.
type server struct {
	systemID    uint64
	timeline    uint32
	flushed     wal.LSN
	segmentSize uint64
	history     []byte // the timeline's history file; nil on timeline 1
}

func (s *session) identify(ctx context.Context) (server, error) {
	res, err := s.conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return server{}, fmt.Errorf("identify the server: %w", err)
	}
	out, err := parseIdentity(res)
	if err != nil {
		return server{}, fmt.Errorf("identify the server: %w", err)
	}
	res, err = s.conn.Exec(ctx, "SHOW wal_segment_size").ReadAll()
	if err != nil || len(res) != 1 || len(res[0].Rows) != 1 {
		return out, fmt.Errorf("ask for the segment size: %w", errors.Join(err, errors.New("no single answer")))
	}
	if out.segmentSize, err = parseSize(string(res[0].Rows[0][0])); err != nil {
		return out, err
	}
	if out.timeline > 1 {
		res, err := s.conn.Exec(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", out.timeline)).ReadAll()
		if err == nil {
			out.history, err = parseHistory(res)
		}
		if err != nil {
			return out, fmt.Errorf("ask for the history of timeline %d: %w", out.timeline, err)
		}
	}
	return out, nil
}

// parseIdentity reads the answer to IDENTIFY_SYSTEM: system, timeline, how far the log is flushed, and what is of no use here.
func parseIdentity(answer []*pgconn.Result) (server, error) {
	row, err := onlyRow(answer, 3)
	if err != nil {
		return server{}, err
	}
	system, err := strconv.ParseUint(string(row[0]), 10, 64)
	if err != nil {
		return server{}, fmt.Errorf("read the system's number: %w", err)
	}
	timeline, err := strconv.ParseUint(string(row[1]), 10, 32)
	if err != nil {
		return server{}, fmt.Errorf("read the timeline: %w", err)
	}
	flushed, err := wal.ParseLSN(string(row[2]))
	if err != nil {
		return server{}, err
	}
	return server{systemID: system, timeline: uint32(timeline), flushed: flushed}, nil
}

// parseHistory reads the answer to TIMELINE_HISTORY: the file's name, and what is in it, byte for byte.
func parseHistory(answer []*pgconn.Result) ([]byte, error) {
	row, err := onlyRow(answer, 2)
	if err != nil {
		return nil, err
	}
	if len(row[1]) == 0 {
		return nil, errors.New("the history is empty")
	}
	return row[1], nil
}

// onlyRow is the answer of a command that gives one row; columns is how many it must have at least.
func onlyRow(answer []*pgconn.Result, columns int) ([][]byte, error) {
	if len(answer) != 1 || len(answer[0].Rows) != 1 {
		return nil, errors.New("no single answer")
	}
	row := answer[0].Rows[0]
	if len(row) < columns {
		return nil, fmt.Errorf("an answer of %d columns, not of %d", len(row), columns)
	}
	return row, nil
}

// parseSize reads a size as SHOW prints it: 16MB, 1GB.
func parseSize(s string) (uint64, error) {
	for _, u := range []struct {
		unit  string
		bytes uint64
	}{{"kB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"B", 1}} {
		if digits, ok := strings.CutSuffix(s, u.unit); ok {
			n, err := strconv.ParseUint(digits, 10, 64)
			if err != nil || n == 0 {
				return 0, fmt.Errorf("read size %q: not a positive number", s)
			}
			return n * u.bytes, nil
		}
	}
	return 0, fmt.Errorf("read size %q: no unit", s)
}

// ensureSlot makes the server keep its log for us from now on.
func (s *session) ensureSlot(ctx context.Context, slot string) error {
	_, err := s.conn.Exec(ctx, fmt.Sprintf("CREATE_REPLICATION_SLOT %q PHYSICAL RESERVE_WAL", slot)).ReadAll()
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42710" { // duplicate_object
		return nil
	}
	if err != nil {
		return fmt.Errorf("create replication slot %s: %w", slot, err)
	}
	return nil
}

// renewSlot replaces a slot that the server has given up (max_slot_wal_keep_size): nothing else revives it.
func (s *session) renewSlot(ctx context.Context, slot string) error {
	if _, err := s.conn.Exec(ctx, fmt.Sprintf("DROP_REPLICATION_SLOT %q", slot)).ReadAll(); err != nil {
		return fmt.Errorf("drop the lost replication slot %s: %w", slot, err)
	}
	return s.ensureSlot(ctx, slot)
}

// slotAt is where a slot keeps the log from; known = the server can say so (PostgreSQL 15 and later), and there is a slot.
func (s *session) slotAt(ctx context.Context, slot string) (at wal.LSN, known bool, err error) {
	results, err := s.conn.Exec(ctx, fmt.Sprintf("READ_REPLICATION_SLOT %q", slot)).ReadAll()
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42601" { // syntax_error
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read replication slot %s: %w", slot, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 2 || results[0].Rows[0][1] == nil {
		return 0, false, nil
	}
	at, err = wal.ParseLSN(string(results[0].Rows[0][1]))
	return at, err == nil, err
}

// slotLost reports whether the server refuses because the slot no longer keeps its log.
func slotLost(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "55000" // object_not_in_prerequisite_state
}

// errTimelineEnded is returned by start when the server has nothing more of the timeline asked for.
var errTimelineEnded = errors.New("timeline has ended")

// start begins streaming.
func (s *session) start(ctx context.Context, slot string, timeline uint32, from wal.LSN) error {
	s.conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION SLOT %q PHYSICAL %s TIMELINE %d", slot, from, timeline)})
	if err := s.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("start streaming: %w", err)
	}
	var failed error
	for {
		msg, err := s.conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("start streaming: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			if failed != nil {
				return fmt.Errorf("start streaming at %s on timeline %d: %w", from, timeline, failed)
			}
			return errTimelineEnded
		}
	}
}

// message is one thing the server said while streaming.
type message struct {
	data      []byte // log, valid until the next receive; nil = none
	at        wal.LSN
	serverEnd wal.LSN
	sent      time.Time // the server's clock
	wantReply bool
	ended     bool // the timeline is finished
}

// receive waits for the next message until ctx ends; see [pgconn.Timeout].
func (s *session) receive(ctx context.Context) (message, error) {
	for {
		msg, err := s.conn.ReceiveMessage(ctx)
		if err != nil {
			return message{}, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			return parseCopy(m.Data)
		case *pgproto3.CopyDone:
			return message{ended: true}, s.finish(ctx)
		case *pgproto3.ErrorResponse:
			return message{}, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return message{}, fmt.Errorf("receive log: unexpected %T", msg)
		}
	}
}

func parseCopy(b []byte) (message, error) {
	be := binary.BigEndian
	switch {
	case len(b) >= 25 && b[0] == logData:
		return message{at: wal.LSN(be.Uint64(b[1:])), serverEnd: wal.LSN(be.Uint64(b[9:])), sent: pgTime(be.Uint64(b[17:])), data: b[25:]}, nil
	case len(b) >= 18 && b[0] == keepalive:
		return message{serverEnd: wal.LSN(be.Uint64(b[1:])), sent: pgTime(be.Uint64(b[9:])), wantReply: b[17] != 0}, nil
	}
	return message{}, fmt.Errorf("receive log: %d bytes that are neither log nor keepalive", len(b))
}

// finish answers the end of a timeline and reads up to where commands are taken again.
func (s *session) finish(ctx context.Context) error {
	s.conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := s.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("leave the ended timeline: %w", err)
	}
	var failed error
	for {
		msg, err := s.conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("leave the ended timeline: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}

// reply tells the server how far we are, and asks it for an answer. flushed decides what its slot lets go of.
func (s *session) reply(written, flushed wal.LSN, ask bool, now time.Time) error {
	s.conn.Frontend().Send(&pgproto3.CopyData{Data: statusUpdate(written, flushed, ask, now)})
	if err := s.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("report the archived position: %w", err)
	}
	return nil
}

// statusUpdate is a standby's word on where it is (protocol-replication, "Standby status update"); ask = an answer is wanted.
func statusUpdate(written, flushed wal.LSN, ask bool, now time.Time) []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, 34), standbyStatus)
	b = be.AppendUint64(b, uint64(written))
	b = be.AppendUint64(b, uint64(flushed))
	b = be.AppendUint64(b, uint64(flushed)) // as applied, which means nothing here
	b = be.AppendUint64(b, uint64(now.UnixMicro()-pgEpochMicros))
	if ask {
		return append(b, 1)
	}
	return append(b, 0)
}

// close ends the connection; the server notices at once.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // what mattered has been reported
}

// pgEpochMicros is 2000-01-01, where PostgreSQL's clock begins, in microseconds since 1970.
const pgEpochMicros = 946684800 * 1_000_000

func pgTime(us uint64) time.Time { return time.UnixMicro(int64(us) + pgEpochMicros).UTC() }
