package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// restoredRows starts a server on a restored directory and counts.
func (w *world) restoredRows(dir string, ch restore.Choice) int {
	w.t.Helper()
	rec, err := restore.Recover(w.t.Context(), ch, restore.Promote, restore.ScratchOptions{Dir: dir, BinDir: w.server.BinDir, Owner: w.owner})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := rec.Stop(context.Background()); err != nil {
			w.t.Error(err)
		}
	}()
	conn := dialTo(w.t, rec.ConnString("postgres"))
	defer func() { _ = conn.Close(context.Background()) }()
	return count(w.t, conn, "select count(*) from rows")
}

func TestARestoreReadsOnlyWhatIsNotRightYet(t *testing.T) {
	w := newWorld(t, "create table rows (id int primary key, body text)", "insert into rows select g, repeat(md5(g::text), 10) from generate_series(1, 30000) g", "vacuum rows", "checkpoint")
	w.base()
	first := w.choose(restore.Target{Kind: restore.Consistent})
	disk := pgtest.Dir(t)
	dir := filepath.Join(disk, "data") // leads to another disk
	if err := errors.Join(os.Mkdir(filepath.Join(disk, "far"), 0o700), os.Symlink(filepath.Join(disk, "far"), dir)); err != nil {
		t.Fatal(err)
	}
	o := restore.Options{Vault: w.vault, Choice: first, Dir: dir, Owner: w.owner, Throwaway: true, Workers: 1}

	ctx, cut := context.WithCancel(t.Context())
	o.Progress = func(p restore.Progress) {
		if p.Phase == "log" { // the files are there, all but pg_control
			cut()
		}
	}
	if _, err := restore.Run(ctx, o); err == nil {
		t.Fatal("the restore ended well though it was cut off")
	}
	if err := os.WriteFile(filepath.Join(dir, "base", "letter"), []byte("not of the backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Progress = nil
	res, err := restore.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Kept < res.Bytes*9/10 {
		t.Errorf("gone on with: %d of %d bytes were right already", res.Kept, res.Bytes)
	}
	if _, err := os.Stat(filepath.Join(dir, "base", "letter")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the backup does not have stayed: %v", err)
	}
	if n := w.restoredRows(dir, first); n != 30000 {
		t.Errorf("%d rows", n)
	}

	w.server.Exec("postgres", "insert into rows select g, 'new' from generate_series(30001, 30100) g", "update rows set body = 'changed' where id < 50")
	w.base()
	w.archived()
	second := w.choose(restore.Target{Kind: restore.Latest})
	o.Choice = second
	if _, err := restore.Run(t.Context(), o); !isProblem(err, "restore.not-empty") {
		t.Errorf("without being told to, it wrote over a database: %v", err)
	}
	o.Delta = true
	if res, err = restore.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if res.Kept < res.Bytes/2 {
		t.Errorf("onto an older copy: %d of %d bytes were right already", res.Kept, res.Bytes)
	}
	if n := w.restoredRows(dir, second); n != 30100 {
		t.Errorf("%d rows", n)
	}

	t.Run("a directory of another database is refused", func(t *testing.T) {
		other := pgtest.New(t)
		other.Kill()
		o := o
		o.Dir = other.Dir
		if _, err := restore.Run(t.Context(), o); !isProblem(err, "restore.other-data") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(filepath.Join(other.Dir, "global", "pg_control")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a running server is refused", func(t *testing.T) {
		o := o
		o.Dir = w.server.Dir
		if _, err := restore.Run(t.Context(), o); !isProblem(err, "restore.running") {
			t.Errorf("got %v", err)
		}
		if n := count(t, w.server.Conn("postgres"), "select count(*) from rows"); n != 30100 {
			t.Errorf("the live server has %d rows", n)
		}
	})
}

func isProblem(err error, code string) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	return ok && p.Code == code
}

func dialTo(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
