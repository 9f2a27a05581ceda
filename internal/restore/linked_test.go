package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// A server whose log lies on another disk (as initdb --waldir leaves it), whose data directory is itself reached through a link,
// and which has a tablespace inside its data directory: each file is stored once, and all of it comes back.
func TestALinkedLogAndATablespaceInsideTheDataDirectoryComeBack(t *testing.T) {
	w := newWorld(t)
	const dug = "select count(*) || ' ' || md5(string_agg(id || body, ',' order by id)) from "
	live := dialTo(t, w.server.ConnString("postgres"))
	defer func() { _ = live.Close(context.Background()) }()
	inner, log := w.server.Space("inner"), filepath.Join(pgtest.Dir(t), "log")
	within := filepath.Join(w.server.Dir, "inner")
	for _, step := range []error{
		os.Rename(inner, within), // with the owner that a server wants there
		os.Chmod(filepath.Dir(log), 0o755),
		os.Symlink(log, log), // and in one step, for the running server goes on by the same name:
		unix.Renameat2(unix.AT_FDCWD, filepath.Join(w.server.Dir, "pg_wal"), unix.AT_FDCWD, log, unix.RENAME_EXCHANGE),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	w.server.Exec("postgres", fmt.Sprintf("create tablespace inner_one location '%s'", within),
		"create table rows (id int primary key using index tablespace inner_one, body text) tablespace inner_one",
		"insert into rows select g, md5(g::text) from generate_series(1, 20000) g",
		"create unlogged table quick tablespace inner_one as select generate_series(1, 5000) as id", "checkpoint", "select pg_switch_wal()")
	linked := filepath.Join(pgtest.Dir(t), "linked")
	if err := os.Symlink(w.server.Dir, linked); err != nil {
		t.Fatal(err)
	}
	conf, err := pgx.ParseConfig(w.server.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	res, err := backup.Base(ctx, backup.BaseOptions{Conn: conf, DataDir: linked, Vault: w.vault, Database: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := w.vault.OpenBackup(t.Context(), res.Backup.ID)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range reader.Entries() {
		name := strings.TrimPrefix(e.Path, vault.DataDir+"/")
		if seen[name] || strings.HasPrefix(name, "inner") {
			t.Errorf("%s is stored, or twice", e.Path)
		}
		seen[name] = true
	}
	if s := res.Backup.Tablespaces; len(s) != 1 || s[0].Name != "inner_one" || s[0].Bytes < 20000*32 {
		t.Errorf("the backup says %+v", s)
	}
	w.server.Exec("postgres", "insert into rows select g, 'later' from generate_series(20001, 20100) g")
	var want string
	if err := live.QueryRow(t.Context(), dug+"rows").Scan(&want); err != nil {
		t.Fatal(err)
	}
	w.archived()

	dir, ch := filepath.Join(pgtest.Dir(t), "data"), w.choose(restore.Target{Kind: restore.Latest})
	if _, err := restore.Run(t.Context(), restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Throwaway: true}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"inner", "pg_wal"} {
		if fi, err := os.Lstat(filepath.Join(dir, name)); name == "inner" && err == nil || name == "pg_wal" && (err != nil || !fi.IsDir()) {
			t.Errorf("%s of the restored one is %v, %v", name, fi, err)
		}
	}
	rec, err := restore.Recover(t.Context(), ch, restore.Promote, restore.ScratchOptions{Dir: dir, BinDir: w.server.BinDir, Owner: w.owner})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rec.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	conn := dialTo(t, rec.ConnString("postgres"))
	defer func() { _ = conn.Close(context.Background()) }()
	var got string
	if err := conn.QueryRow(t.Context(), dug+"rows").Scan(&got); err != nil || got != want {
		t.Errorf("restored is %s, want %s: %v", got, want, err)
	}
	if n := count(t, conn, "select count(*) from quick"); n != 0 {
		t.Errorf("the unlogged table has %d rows", n)
	}
}
