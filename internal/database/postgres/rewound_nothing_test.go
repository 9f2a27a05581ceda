package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/durable"
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
