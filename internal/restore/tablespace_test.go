package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// What lies in tablespaces is backed up and comes back, and never into the live server's.
func TestTablespacesAreRestoredToPlacesOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	place, other := w.server.Space("space"), w.server.Space("other")
	w.server.Exec("postgres", fmt.Sprintf("create tablespace fast location '%s'", place), fmt.Sprintf("create tablespace \"Odd one\" location '%s'", other),
		"create table rows (id int primary key using index tablespace fast) tablespace fast", "insert into rows select generate_series(1, 5000)",
		"create unlogged table quick (id int) tablespace fast", "insert into quick select generate_series(1, 5000)",
		"create table odd tablespace \"Odd one\" as select generate_series(1, 20) as id", "checkpoint")
	temporary := w.server.Conn("postgres") // its table lives while the backup is made
	if _, err := temporary.Exec(t.Context(), "set temp_tablespaces = fast; create temporary table mine as select generate_series(1, 5000) as id"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(place, "PG_9_000000000"), 0o700); err != nil { // another server's
		t.Fatal(err)
	}
	b := w.base()
	if len(b.Tablespaces) != 2 || b.Tablespaces[0].Name != "fast" || b.Tablespaces[0].Location != place || b.Tablespaces[0].Bytes < 5000*30 {
		t.Fatalf("the backup says %+v", b.Tablespaces)
	}
	w.server.Exec("postgres", "insert into rows select generate_series(5001, 6000)")
	w.archived()
	check := func(t *testing.T, b vault.Backup, spaces map[string]string, fast string) {
		t.Helper()
		dir := filepath.Join(pgtest.Dir(t), "data")
		ch := w.choose(restore.Target{Kind: restore.Latest})
		if ch.Backup.ID != b.ID {
			t.Fatalf("chose %s, not %s", ch.Backup.ID, b.ID)
		}
		if fast == "" {
			fast = fmt.Sprintf("%s.tablespaces/%d", dir, b.Tablespaces[0].OID)
		}
		o := restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Throwaway: true, Tablespaces: spaces}
		ctx, cut := context.WithCancel(t.Context()) // interrupted at first
		o.Progress = func(p restore.Progress) {
			if p.Phase == "log" {
				cut()
			}
		}
		if _, err := restore.Run(ctx, o); err == nil {
			t.Fatal("the restore ended well though it was cut off")
		}
		o.Progress = nil
		survey, err := restore.Survey(dir, ch, false, spaces)
		if err != nil || !survey.Fits() || len(survey.Tablespaces) != 2 || survey.Tablespaces[0].Dir != fast || survey.Tablespaces[0].State != "interrupted" {
			t.Errorf("surveyed %+v, %v", survey, err)
		}
		res, err := restore.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if res.Kept < res.Bytes*8/10 {
			t.Errorf("gone on with: %d of %d bytes were right already", res.Kept, res.Bytes)
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
		var at string
		if err := conn.QueryRow(t.Context(), "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'").Scan(&at); err != nil || at != fast {
			t.Errorf("it lies in %s, not in %s: %v", at, fast, err)
		}
		for query, want := range map[string]int{"select count(*) from rows": 6000, "select count(*) from quick": 0, "select count(*) from odd": 20} {
			if n := count(t, conn, query); n != want {
				t.Errorf("%s: %d, want %d", query, n, want)
			}
		}
		left, err := filepath.Glob(filepath.Join(fast, "PG_*", "*", "t*_*"))
		if _, other := os.Stat(filepath.Join(fast, "PG_9_000000000")); err != nil || len(left) > 0 || other == nil {
			t.Errorf("restored too: %v, %v, another server's: %v", left, err, other)
		}
	}
	t.Run("beside the data directory", func(t *testing.T) { check(t, b, nil, "") })
	t.Run("a place with something in it, and a name that there is not, are refused", func(t *testing.T) {
		dir, ch := filepath.Join(pgtest.Dir(t), "data"), w.choose(restore.Target{Kind: restore.Latest})
		for to, code := range map[string]string{"fast=" + place: "restore.not-empty", "slow=/nowhere": "restore.no-tablespace"} {
			name, to, _ := strings.Cut(to, "=")
			_, err := restore.Run(t.Context(), restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Tablespaces: map[string]string{name: to}})
			if !isProblem(err, code) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s was made", dir)
			}
		}
	})
	t.Run("from a standby, to where they are wanted", func(t *testing.T) {
		standby := w.server.Standby()
		conf, err := pgx.ParseConfig(standby.ConnString("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		res, err := backup.Base(ctx, backup.BaseOptions{Conn: conf, Primary: w.live, DataDir: standby.Dir, Vault: w.vault, Database: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		if s := res.Backup.Tablespaces; len(s) != 2 || s[0].Location == place || !res.Backup.FromStandby {
			t.Errorf("the backup says %+v", s)
		}
		far := filepath.Join(pgtest.Dir(t), "far")
		check(t, res.Backup, map[string]string{"fast": far}, far)
	})
	if n := count(t, w.server.Conn("postgres"), "select count(*) from rows"); n != 6000 {
		t.Errorf("the live table has %d rows", n)
	}
}

// Replaying the making of a tablespace would put the live server's files under a second server.
func TestARestoreNeverWritesIntoTheLiveServersTablespace(t *testing.T) {
	w := newWorld(t, "create table rows as select generate_series(1, 1000) as id", "checkpoint")
	w.base()
	place := w.server.Space("space")
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
