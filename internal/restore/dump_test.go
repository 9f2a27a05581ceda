package restore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// load is what psql says to a file of SQL.
func (w *world) load(database, file string) (string, error) {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.server.BinDir, "psql"), "--no-psqlrc", "--quiet", "--dbname="+w.server.ConnString(database), "--file="+file)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// dump is what of the latest moment is written to a file, without asking the live server.
func (w *world) dump(o restore.DumpOptions) (restore.Dumped, error) {
	w.t.Helper()
	return w.dumpUntil(w.t.Context(), o)
}

func (w *world) dumpUntil(ctx context.Context, o restore.DumpOptions) (restore.Dumped, error) {
	w.t.Helper()
	o.Vault, o.Choice, o.Owner, o.BinDir = w.vault, w.choose(restore.Target{Kind: restore.Latest}), w.owner, w.server.BinDir
	return restore.Dump(ctx, o)
}

// A table and a whole SQL database come out of a vault as files that any server loads, whole or not at all.
func TestATableAndADatabaseComeOutOfTheVaultAsFiles(t *testing.T) {
	w := newWorld(t,
		"create role clerk", "create database shop", "create database fresh",
		"create type mood as enum ('good', 'bad')", "create sequence marks start 100", "create table practices (id int primary key)", "insert into practices values (1)",
		`create table "Ap pointments" (id int generated always as identity primary key, practice int references practices, m mood, mark int default nextval('marks'), note text) partition by range (id)`,
		`create table part_low partition of "Ap pointments" for values from (0) to (500)`, `create table part_high partition of "Ap pointments" default`,
		`insert into "Ap pointments" (practice, m, note) select 1, 'good', E'it''s\t\\. ' || g from generate_series(1, 900) g`,
		`alter table "Ap pointments" owner to clerk`)
	w.server.Exec("shop", "create schema stock", "create table stock.goods (id int primary key, what text)", "insert into stock.goods select g, 'x' from generate_series(1, 300) g",
		"create view goods as select * from stock.goods", "alter table stock.goods owner to clerk", "grant select on goods to clerk",
		`create publication "Goods out" for table stock.goods`, "create unlogged table stock.baskets (id int)", "insert into stock.baskets values (1)",
		"select lo_from_bytea(4711, convert_to(repeat('a letter'||chr(10)||'COMMIT;'||chr(10), 5000), 'utf8')), lo_create(4712)", "comment on large object 4711 is E'scan\nCOMMIT;\nBEGIN;\n'",
		"create procedure tidy() language plpgsql as E'BEGIN\nCOMMIT;\nEND'")
	extension := count(t, w.server.Conn("postgres"), "select count(*) from pg_available_extensions where name = 'citext'") > 0
	if extension {
		w.server.Exec("postgres", "create extension citext", `alter table "Ap pointments" add loose citext default 'AbC'`)
	}
	w.base()
	digest := `select count(*) || ' ' || max(id) || ' ' || md5(string_agg(id || m::text || mark || note, ',' order by id)) from `
	var was string
	if err := w.server.Conn("postgres").QueryRow(t.Context(), digest+`"Ap pointments"`).Scan(&was); err != nil {
		t.Fatal(err)
	}
	w.archived()
	o := restore.DumpOptions{Inside: "postgres", Table: `"Ap pointments"`, Schema: `The "old" one`, Dir: pgtest.Dir(t), File: filepath.Join(t.TempDir(), "table.sql")}
	if _, err := os.Stat(filepath.Join(w.server.BinDir, "pg_dump")); err != nil {
		if _, err := w.dump(o); !isProblem(err, "restore.no-program") {
			t.Errorf("without pg_dump: %v", err)
		}
		if os.Getenv("CI") != "" && os.Getenv("HOLDFAST_TEST_POSTGRES") != "18" {
			t.Fatalf("no pg_dump beside this server: %v", err)
		}
		t.Skipf("no pg_dump beside this server: %v", err)
	}
	nothingLeft := func(t *testing.T) {
		t.Helper()
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("left in the scratch directory: %v, %v", left, err)
		}
	}

	t.Run("a table", func(t *testing.T) {
		d, err := w.dump(o)
		if err != nil {
			t.Fatal(err)
		}
		nothingLeft(t)
		left := strings.Join(d.LeftOut, "\n")
		if d.Rows != 900 || d.Inside != "postgres" || len(d.LeftOut) != 2 || !strings.Contains(left, "foreign key") || !strings.Contains(left, "it was clerk") {
			t.Errorf("%+v", d)
		}
		if fi, err := os.Stat(o.File); err != nil || fi.Size() != d.Bytes || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v, want %d bytes that only its owner reads", fi, err, d.Bytes)
		}
		text, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		short := filepath.Join(t.TempDir(), "short.sql")
		if err := os.WriteFile(short, text[:len(text)*9/10], 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := w.load("fresh", short) // psql may find nothing wrong with it
		t.Logf("a file that is cut off: %v, %s", err, out)
		fresh := w.server.Conn("fresh")
		if got := count(t, fresh, "select count(*) from pg_namespace where nspname like 'The%'"); got != 0 {
			t.Error("a file that is cut off was loaded in part")
		}
		if out, err := w.load("fresh", o.File); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var now string
		if err := fresh.QueryRow(t.Context(), digest+`"The ""old"" one"."Ap pointments"`).Scan(&now); err != nil || now != was {
			t.Errorf("%v: %s, it was %s", err, now, was)
		}
		w.server.Exec("fresh", `insert into "The ""old"" one"."Ap pointments" (m) values ('bad')`)
		if out, err := w.load("fresh", o.File); err == nil || !strings.Contains(out, "already exists") {
			t.Errorf("a second time: %v: %s", err, out)
		}
	})
	t.Run("a file that lacks rows is not loaded", func(t *testing.T) {
		text, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		row := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "17\t") })
		if row < 0 {
			t.Fatal("the file has no row 17")
		}
		less := filepath.Join(t.TempDir(), "less.sql")
		if err := os.WriteFile(less, []byte(strings.Join(slices.Delete(lines, row, row+1), "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := w.load("shop", less); err == nil || !strings.Contains(out, "does not have its") {
			t.Errorf("%v: %s", err, out)
		}
		if got := count(t, w.server.Conn("shop"), "select count(*) from pg_namespace where nspname like 'The%'"); got != 0 {
			t.Error("it was loaded all the same")
		}
	})
	t.Run("an SQL database", func(t *testing.T) {
		o := o
		o.Inside, o.Table, o.Schema, o.File = "shop", "", "", filepath.Join(t.TempDir(), "shop.sql")
		d, err := w.dump(o)
		if err != nil {
			t.Fatal(err)
		}
		nothingLeft(t)
		if left := strings.Join(d.LeftOut, "\n"); len(d.LeftOut) != 3 || !strings.Contains(left, "clerk") || !strings.Contains(left, `publication "Goods out" is not made`) ||
			!strings.Contains(left, "rows of stock.baskets: it is unlogged") {
			t.Errorf("left out: %s", left)
		}
		w.server.Exec("postgres", "create database shop_again")
		if out, err := w.load("shop_again", o.File); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := count(t, w.server.Conn("shop_again"), "select count(*) from goods"); got != 300 {
			t.Errorf("%d rows", got)
		}
		objects := `select md5(lo_get(4711)) || length(lo_get(4712)) || obj_description(4711, 'pg_largeobject') || (select md5(prosrc) from pg_proc where proname = 'tidy')`
		var then, now string
		if err := errors.Join(w.server.Conn("shop").QueryRow(t.Context(), objects).Scan(&then), w.server.Conn("shop_again").QueryRow(t.Context(), objects).Scan(&now)); err != nil || now != then {
			t.Errorf("large objects: %q, they were %q: %v", now, then, err)
		}
		w.server.Exec("postgres", "create database shop_in_part")
		text, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		broken := filepath.Join(t.TempDir(), "broken.sql")
		if err := os.WriteFile(broken, append(bytes.TrimSuffix(text, []byte("commit;\n")), "select 1 / 0;\ncommit;\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := w.load("shop_in_part", broken); err == nil || !strings.Contains(out, "division by zero") {
			t.Errorf("a file that fails in its end: %v: %s", err, out)
		}
		if got := count(t, w.server.Conn("shop_in_part"), "select count(*) from pg_class where relname = 'goods'"); got != 0 {
			t.Error("a file that fails in its end was loaded in part")
		}
	})
	t.Run("an interrupted one leaves nothing", func(t *testing.T) {
		for _, phase := range []string{"files", "writing"} {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o, seen := o, atomic.Bool{}
			o.File = filepath.Join(t.TempDir(), "none.sql")
			o.Progress = func(p restore.Progress) {
				if strings.HasPrefix(p.Phase, phase) {
					seen.Store(true)
					cancel()
				}
			}
			if _, err := w.dumpUntil(ctx, o); err == nil || !seen.Load() {
				t.Errorf("%s: %v; it was told of: %t", phase, err, seen.Load())
			}
			nothingLeft(t)
			if left, err := os.ReadDir(filepath.Dir(o.File)); err != nil || len(left) > 0 {
				t.Errorf("left beside the file: %v, %v", left, err)
			}
		}
	})
	for name, c := range map[string]struct {
		change func(o *restore.DumpOptions)
		code   string
		says   string
	}{
		"a table that was not there":        {func(o *restore.DumpOptions) { o.Table = "nobody" }, "restore.not-there-then", "nobody"},
		"an SQL database that was not":      {func(o *restore.DumpOptions) { o.Inside = "nobody" }, "restore.not-there-then", "fresh, postgres, shop"},
		"several, and none is named":        {func(o *restore.DumpOptions) { o.Inside = "" }, "restore.not-there-then", "fresh, postgres, shop"},
		"a file that is there is not taken": {func(o *restore.DumpOptions) { o.File = filepath.Join(filepath.Dir(o.File), "mine") }, "restore.name-taken", "was not touched"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.File = filepath.Join(t.TempDir(), "none.sql")
			if err := os.WriteFile(filepath.Join(filepath.Dir(o.File), "mine"), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.change(&o)
			_, err := w.dump(o)
			if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != c.code || !strings.Contains(p.Subject+p.Title+p.Meaning+p.Remedy, c.says) {
				t.Errorf("got %v, want %s: %s", err, c.code, c.says)
			}
			nothingLeft(t)
			if left, err := os.ReadDir(filepath.Dir(o.File)); err != nil || len(left) != 1 {
				t.Errorf("left beside the file: %v, %v", left, err)
			}
		})
	}
}
