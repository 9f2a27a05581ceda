package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// Replaying the making of a tablespace would put the live server's files under a second server.
func TestARestoreNeverWritesIntoTheLiveServersTablespace(t *testing.T) {
	w := newWorld(t, "create table rows as select generate_series(1, 1000) as id", "checkpoint")
	w.base()
	place := filepath.Join(filepath.Dir(w.server.Dir), "space")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	if w.owner.Set {
		if err := os.Chown(place, int(w.owner.UID), int(w.owner.GID)); err != nil {
			t.Fatal(err)
		}
	}
	w.server.Exec("postgres", fmt.Sprintf("create tablespace fast location '%s'", place), "create table there tablespace fast as select 1 as id", "checkpoint")
	w.archived()
	ch := w.choose(restore.Target{Kind: restore.Latest})
	dir := filepath.Join(pgtest.Dir(t), "data")
	_, err := restore.Run(t.Context(), restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Throwaway: true})
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != "restore.tablespace" || !strings.Contains(p.Title, place) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory could be started: %v", err)
	}
	_, at, ok := strings.Cut(p.Remedy, "--at before:")
	if !ok {
		t.Fatalf("the remedy names no moment: %s", p.Remedy)
	}
	at, _, _ = strings.Cut(at, ";")
	target, err := restore.ParseTarget("before:"+at, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	before := w.choose(target)
	if _, err := restore.Run(t.Context(), restore.Options{Vault: w.vault, Choice: before, Dir: dir, Owner: w.owner, Throwaway: true}); err != nil {
		t.Fatal(err)
	}
	if n := w.restoredRows(dir, before); n != 1000 {
		t.Errorf("%d rows", n)
	}
	if n := count(t, w.server.Conn("postgres"), "select count(*) from there"); n != 1 {
		t.Errorf("the live table in the tablespace has %d rows", n)
	}
}
