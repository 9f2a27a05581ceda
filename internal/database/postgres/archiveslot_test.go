package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
)

// keepsLittle are servers that let go of log as soon as nothing asks for it.
func keepsLittle(more ...postgres.Parameter) pgtest.Options {
	return pgtest.Options{Parameters: append([]postgres.Parameter{
		{Name: "wal_keep_size", Value: "0"}, {Name: "max_wal_size", Value: "32MB"}, {Name: "min_wal_size", Value: "32MB"},
	}, more...)}
}

// archiver streams through the archive's slot of a server, as whoever archives does, until it is stopped.
type archiver struct {
	node     *pgtest.Node
	timeline uint32
	at       atomic.Uint64                // the vault has all before
	first    atomic.Pointer[database.LSN] // where the first log began that came
	stop     func()
}

func archiveFrom(t *testing.T, n *pgtest.Node, timeline uint32, at database.LSN) *archiver {
	t.Helper()
	a := &archiver{node: n, timeline: timeline}
	a.at.Store(uint64(at))
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil { // a machine that stands still for long makes the server end the session
			if err := a.run(ctx); err != nil && ctx.Err() == nil {
				t.Log("the archive's session ended:", err)
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	a.stop = func() { cancel(); done.Wait() }
	t.Cleanup(a.stop)
	a.confirm(t, at)
	return a
}

func (a *archiver) run(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("sslmode=disable user=%s dbname=postgres host=%s port=%d replication=true", postgres.Superuser, a.node.SocketDir(), a.node.Endpoint.Port))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }() // the server may be gone by then
	_, err = conn.Exec(ctx, fmt.Sprintf("CREATE_REPLICATION_SLOT %q PHYSICAL", postgres.ArchiveSlot)).ReadAll()
	if e, ok := errors.AsType[*pgconn.PgError](err); err != nil && (!ok || e.Code != "42710") { // it is there
		return err
	}
	if err := a.start(ctx, conn); err != nil {
		return err
	}
	for {
		if err := a.tell(conn); err != nil {
			return err
		}
		if err := a.take(ctx, conn); err != nil && (!pgconn.Timeout(err) || ctx.Err() != nil) {
			return err
		}
	}
}

// start begins to stream at what the vault lacks.
func (a *archiver) start(ctx context.Context, conn *pgconn.PgConn) error {
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION SLOT %q PHYSICAL %s TIMELINE %d", postgres.ArchiveSlot, database.LSN(a.at.Load()), a.timeline)})
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		default:
			return fmt.Errorf("the server answered with %T", m)
		}
	}
}

// tell says how far the vault is, as a standby does.
func (a *archiver) tell(conn *pgconn.PgConn) error {
	b, at := []byte{'r'}, a.at.Load()
	for range 3 { // written, flushed, replayed
		b = binary.BigEndian.AppendUint64(b, at)
	}
	conn.Frontend().Send(&pgproto3.CopyData{Data: append(b, make([]byte, 9)...)}) // our clock, at which nobody looks; no answer is wanted
	return conn.Frontend().Flush()
}

// take takes what the server sends within a moment.
func (a *archiver) take(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	for {
		m, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		d, ok := m.(*pgproto3.CopyData)
		switch {
		case !ok:
			return fmt.Errorf("the server sent %T", m)
		case len(d.Data) < 25 || d.Data[0] != 'w' || a.first.Load() != nil: // log comes behind its start, the server's end and its clock
			continue
		}
		from := database.LSN(binary.BigEndian.Uint64(d.Data[1:]))
		a.first.Store(&from)
	}
}

// confirm says that the vault has all before at, and waits until the server's slot stands there.
func (a *archiver) confirm(t *testing.T, at database.LSN) {
	t.Helper()
	a.at.Store(uint64(at))
	eventually(t, "the slot stands at "+at.String(), func() bool { return slotAt(t, a.node) == at })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not within five minutes: %s", what)
		}
	}
}

// slotAt is where the archive's slot of a server stands; 0 = there is none, or it keeps nothing.
func slotAt(t *testing.T, n *pgtest.Node) database.LSN {
	t.Helper()
	conn := local(t, n)
	var at *string
	must(t, conn.QueryRow(t.Context(), "SELECT (SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1)", postgres.ArchiveSlot).Scan(&at))
	must(t, conn.Close(t.Context()))
	if at == nil {
		return 0
	}
	lsn, err := database.ParseLSN(*at)
	must(t, err)
	return lsn
}

func TestAStandbyKeepsTheLogThatTheVaultLacks(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, keepsLittle(), "127.46.44.1", "127.46.44.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	exec(t, a, "CREATE TABLE churn (x text)")
	pgtest.Join(t, b, a, 1)
	if at, err := b.ArchiveConfirmed(ctx, a.Endpoint); err != nil || at != 0 {
		t.Fatalf("without an archive: %s, %v", at, err)
	}
	lacks := b.Answers(t).Replayed
	archive := archiveFrom(t, a, 2, lacks)
	confirmed := func(want database.LSN) {
		t.Helper()
		eventually(t, "the primary says that the vault has all before "+want.String(), func() bool {
			at, err := b.ArchiveConfirmed(ctx, a.Endpoint)
			must(t, err)
			return at == want
		})
	}
	confirmed(lacks)
	kept, err := b.KeepForArchive(ctx, lacks)
	if err != nil || kept.From == 0 || kept.From > lacks || kept.Anew {
		t.Fatalf("kept for the vault, which has all before %s: %+v, %v", lacks, kept, err)
	}
	must(t, b.StopFast(ctx)) // a restart of the standby lets go of nothing
	must(t, b.Follow(ctx, a.Endpoint, 1))
	churn(t, a, b)
	// PostgreSQL writes where a slot stands with a checkpoint: a restart may set it back, and more is kept.
	if l, at := b.Answers(t), slotAt(t, b); l.Oldest > lacks || at == 0 || at > lacks || len(l.Slots) != 0 {
		t.Fatalf("the log begins at %s, the slot stands at %s, behind %s; others: %+v", l.Oldest, at, lacks, l.Slots)
	}
	// It goes with the archive, and no further than what the standby itself has replayed.
	at := a.Answers(t).Flushed
	archive.confirm(t, at)
	confirmed(at)
	if kept, err = b.KeepForArchive(ctx, at+1<<40); err != nil || kept.From <= lacks || kept.From > b.Answers(t).Replayed {
		t.Fatalf("kept: %+v, %v", kept, err)
	}
	if again, err := b.KeepForArchive(ctx, 0); err != nil || again != kept { // nothing is known of the archive
		t.Fatalf("kept: %+v, was %+v; %v", again, kept, err)
	}
	before := lacks
	lacks = kept.From
	churn(t, a, b)
	if l := b.Answers(t); l.Oldest <= before || l.Oldest > lacks {
		t.Fatalf("the log begins at %s; the vault has all before %s", l.Oldest, lacks)
	}

	archive.stop()
	must(t, a.Kill(ctx, "a fault of the test"))
	_, err = b.Recruit(ctx, 2, 0)
	must(t, err)
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
	must(t, b.SetNames(ctx, database.Names{}))
	churn(t, b)
	if _, err := b.KeepForArchive(ctx, b.Answers(t).Flushed); err != nil || slotAt(t, b) != lacks {
		t.Fatalf("on a primary the slot is the archive's alone: %s, %v", slotAt(t, b), err)
	}
	archive = archiveFrom(t, b, 2, lacks)
	eventually(t, "the log comes", func() bool { return archive.first.Load() != nil })
	if from := *archive.first.Load(); from != lacks {
		t.Errorf("the log came from %s on, want %s", from, lacks)
	}
	eventually(t, "a slot in use is not dropped", func() bool { return b.ForgetArchive(ctx, false) != nil })
	archive.stop()
	if err := b.ForgetArchive(ctx, true); err != nil || slotAt(t, b) == 0 { // it was a standby when that was judged
		t.Errorf("what a standby need not keep: %v; the primary's slot stands at %s", err, slotAt(t, b))
	}
	eventually(t, "a slot that nobody uses is dropped", func() bool { return b.ForgetArchive(ctx, false) == nil && slotAt(t, b) == 0 })
}

func TestWhatAStandbyKeepsForTheVaultIsBounded(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, keepsLittle(postgres.Parameter{Name: "max_slot_wal_keep_size", Value: "48MB"}), "127.46.45.1", "127.46.45.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	exec(t, a, "CREATE TABLE churn (x text)")
	pgtest.Join(t, b, a, 1)
	first, err := b.KeepForArchive(ctx, 0)
	must(t, err)
	churn(t, a, b)
	if l := b.Answers(t); l.Oldest <= first.From || slotAt(t, b) != 0 {
		t.Fatalf("the log begins at %s, and the slot stands at %s: it kept log without a bound", l.Oldest, slotAt(t, b))
	}
	anew, err := b.KeepForArchive(ctx, first.From)
	if err != nil || !anew.Anew || anew.From <= first.From {
		t.Fatalf("made anew: %+v, %v", anew, err)
	}
	// It cannot begin before the last restart point, and is not made anew for that again and again.
	if again, err := b.KeepForArchive(ctx, first.From); err != nil || again.Anew || again.From != anew.From {
		t.Fatalf("once more: %+v, was %+v; %v", again, anew, err)
	}
	// Moved too far, by another history's archive: it goes back as far as it can.
	exec(t, a, "SELECT pg_switch_wal()")
	exec(t, a, "INSERT INTO churn SELECT repeat('x', 500) FROM generate_series(1, 40000)")
	at := a.Answers(t).Flushed
	b.Await(t, "it replayed all", func(l database.Local) bool { return l.Replayed >= at })
	ahead, err := b.KeepForArchive(ctx, at)
	if err != nil || ahead.From != at {
		t.Fatalf("moved: %+v to %s, %v", ahead, at, err)
	}
	back, err := b.KeepForArchive(ctx, anew.From)
	if err != nil || !back.Anew || back.From >= at {
		t.Fatalf("moved back: %+v from %s, %v", back, at, err)
	}
	// Let go, the log goes with the next checkpoint of the primary, and not only when the server itself is due.
	kept := b.Answers(t).Oldest
	must(t, b.ForgetArchive(ctx, true))
	must(t, b.ForgetArchive(ctx, true))
	if got := slotAt(t, b); got != 0 {
		t.Errorf("forgotten, it stands at %s", got)
	}
	exec(t, a, "INSERT INTO churn VALUES ('x')")
	exec(t, a, "SELECT pg_switch_wal()")
	exec(t, a, "INSERT INTO churn VALUES ('x')")
	must(t, a.Checkpoint(ctx))
	at = a.Answers(t).Flushed
	b.Await(t, "it replayed the checkpoint", func(l database.Local) bool { return l.Replayed >= at })
	must(t, b.RestartPoint(ctx))
	if l := b.Answers(t); l.Oldest <= kept {
		t.Errorf("after the restart point the log still begins at %s (%s before)", l.Oldest, kept)
	}
}
