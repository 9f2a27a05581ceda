package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
)

// pg_rewind goes by pg_control, and finds nothing to do on a server that was promoted and ended before its first checkpoint.
// That server would be judged as before, and be rewound for ever.
func TestARewindThatFindsNothingToDoIsNoRewind(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.45.1", "127.46.45.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	must(t, a.Kill(ctx, "a fault of the test"))
	_, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
	must(t, b.SetNames(ctx, database.Names{}))
	_, err = a.Recruit(ctx, 2, 0)
	must(t, err)

	real, err := filepath.Glob(filepath.Join(a.BinDir(), "*"))
	must(t, err)
	idle := pgtest.Dir(t) // where the server's own user may look
	for _, p := range real {
		if filepath.Base(p) != "pg_rewind" {
			must(t, os.Symlink(p, filepath.Join(idle, filepath.Base(p))))
		}
	}
	must(t, durable.WriteProgram(filepath.Join(idle, "pg_rewind"), strings.NewReader("#!/bin/sh\necho 'no rewind required'\n")))
	must(t, os.Chmod(filepath.Join(idle, "pg_rewind"), 0o755))
	a.Config.BinDir = idle
	a.Reopen(t)
	if err := a.Rewind(ctx, b.Endpoint, 2); !errors.Is(err, database.ErrNeedsClone) || !strings.Contains(err.Error(), "nothing to do") {
		t.Fatalf("it was taken for rewound: %v", err)
	}
	pgtest.Join(t, a, b, 2)
}

// pg_rewind copies pg_control last. When the source made a checkpoint after its log was copied, that lies behind the end of the log:
// the server was asked for its position for ever, found none, and never came back.
func TestARewoundServerComesBackThoughItsCheckpointIsAheadOfItsLog(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.47.1", "127.46.47.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	exec(t, a, "CREATE TABLE x (a int)")
	flushed := a.Answers(t).Flushed
	b.Await(t, "it replayed all", func(l database.Local) bool { return l.Replayed >= flushed })
	_, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	exec(t, a, "SET synchronous_commit = local; INSERT INTO x VALUES (1)") // it is lost
	must(t, a.Kill(ctx, "a fault of the test"))
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
	must(t, b.SetNames(ctx, database.Names{}))
	exec(t, b, "INSERT INTO x SELECT generate_series(1, 1000)")
	copied := walscan.LSN(b.Answers(t).Flushed)
	exec(t, b, "INSERT INTO x SELECT generate_series(1, 1000)")
	must(t, b.Checkpoint(ctx))

	_, err = a.Recruit(ctx, 2, 0)
	must(t, err)
	err = a.Rewind(ctx, b.Endpoint, 2)
	if _, missing := os.Stat(filepath.Join(a.BinDir(), "pg_rewind")); missing != nil { // as in the npm package of 18
		if !errors.Is(err, database.ErrNeedsClone) {
			t.Fatalf("without pg_rewind: %v", err)
		}
		t.Skip("there is no pg_rewind here: such a server gets a new copy")
	}
	must(t, err)
	c, err := pgcontrol.Read(a.DataDir())
	must(t, err)
	segment := walscan.Segment{Timeline: 3, Number: uint64(copied) / c.SegSize}
	if walscan.LSN(c.Redo) <= copied || uint64(c.Redo)/c.SegSize != segment.Number {
		t.Fatalf("the checkpoint is at %s, the log was copied up to %s", walscan.LSN(c.Redo), copied)
	}
	f, err := os.OpenFile(filepath.Join(a.DataDir(), "pg_wal", segment.Name(c.SegSize)), os.O_RDWR, 0)
	must(t, err)
	within := uint64(copied) % c.SegSize
	_, err = f.WriteAt(make([]byte, c.SegSize-within), int64(within)) // as it was when it was copied
	must(t, errors.Join(err, f.Close()))

	pos, err := a.Recruit(ctx, 2, 0)
	must(t, err)
	if pos.Timeline != 3 || pos.LSN > database.LSN(copied) || pos.LSN <= flushed {
		t.Errorf("its position is %+v, its log ends at %s", pos, copied)
	}
	must(t, a.Follow(ctx, b.Endpoint, 2))
	flushed = b.Answers(t).Flushed
	a.Await(t, "it replayed all", func(l database.Local) bool { return l.Ready && l.Replayed >= flushed })
	if got := count(t, a, "SELECT count(*) FROM x"); got != 2000 {
		t.Errorf("%d rows", got)
	}
}
