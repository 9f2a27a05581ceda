package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// fullPrograms reports whether PostgreSQL's client programs are there. The npm package of 18 has none: there it sees that
// the lack is refused by name, which is all that such a server lets a test see. Elsewhere CI must have them.
func (w *world) fullPrograms(o restore.IntoOptions) bool {
	w.t.Helper()
	_, err := os.Stat(filepath.Join(w.server.BinDir, "pg_dump"))
	if err == nil {
		return true
	}
	if os.Getenv("HOLDFAST_TEST_POSTGRES") != "18" {
		if os.Getenv("CI") != "" {
			w.t.Fatalf("no pg_dump beside this server: %v", err)
		}
		w.t.Skipf("no pg_dump beside this server: %v", err)
	}
	if _, err := restore.OpenInto(w.t.Context(), o); !isProblem(err, "restore.no-program") {
		w.t.Errorf("without pg_dump: %v", err)
	}
	return false
}

// A table comes back with all that it needs under another name, though it was dropped, and nothing else is touched.
func TestATableAndADatabaseComeBackUnderAnotherName(t *testing.T) {
	w := newWorld(t,
		"create role clerk", "create database shop",
		"create table practices (id int primary key)", "insert into practices values (1), (2)",
		"create type mood as enum ('good', 'bad')", "create domain fee as numeric(8,2) check (value >= 0)", "create type pair as (a int, b mood)",
		"create function next_mark(n int) returns int immutable language sql as 'select n * 2'",
		"create sequence marks start 100",
		`create table "Ap pointments" (id int generated always as identity primary key, practice int references practices, m mood, f fee, p pair[], mark int default nextval('marks'), total int generated always as (next_mark(1)) stored, next int references "Ap pointments") partition by range (id)`,
		`create table part_low partition of "Ap pointments" for values from (0) to (500)`, `create table part_high partition of "Ap pointments" default`,
		`create index on "Ap pointments" (next_mark(practice))`, `create statistics twins on practice, mark from "Ap pointments"`,
		`insert into "Ap pointments" (practice, m, f, p) select 1, 'good', g, array[row(g, 'bad')::pair] from generate_series(1, 900) g`,
		"create function act() returns trigger language plpgsql as 'begin delete from practices; return new; end'",
		`create trigger acts after insert on "Ap pointments" for each statement execute function act()`,
		`alter table "Ap pointments" owner to clerk`)
	w.server.Exec("shop", "create table goods (id int primary key, what text)", "insert into goods select g, 'x' from generate_series(1, 300) g", "alter table goods owner to clerk")
	w.base()
	n := count(t, w.server.Conn("postgres"), `select count(*) from "Ap pointments"`)
	w.archived()
	lsn := ""
	if err := w.server.Conn("postgres").QueryRow(t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&lsn); err != nil {
		t.Fatal(err)
	}
	at, err := restore.ParseTarget(lsn, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.server.Exec("postgres", `drop table "Ap pointments"`, "create table later (id int)")
	w.server.Exec("shop", "delete from goods")
	w.archived()

	o := restore.IntoOptions{Vault: w.vault, Database: "orders", At: at, Live: w.server.ConnString, Inside: "postgres", Table: `"Ap pointments"`, Into: `The "old" one`,
		Dir: pgtest.Dir(t), Owner: w.owner, BinDir: w.server.BinDir}
	if !w.fullPrograms(o) {
		return
	}
	live := w.server.Conn("postgres")

	t.Run("a table that was dropped", func(t *testing.T) {
		in, err := restore.OpenInto(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := in.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		left := strings.Join(in.LeftOut, "\n")
		if len(in.LeftOut) != 2 || !strings.Contains(left, "foreign key") || !strings.Contains(left, "trigger acts") {
			t.Errorf("left out: %s", left)
		}
		if err := in.Write(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := count(t, live, `select count(*) from "The ""old"" one"."Ap pointments"`); got != n || n == 0 {
			t.Errorf("%d rows, there were %d", got, n)
		}
		for query, want := range map[string]int{
			`select count(*) from practices`: 2,
			`select count(*) from pg_class c join pg_namespace s on s.oid = relnamespace where nspname like 'The%' and relkind = 'i'`:                                                 4,
			`select count(*) from pg_class c join pg_namespace s on s.oid = relnamespace where nspname like 'The%' and relkind in ('r', 'p') and pg_get_userbyid(relowner) = 'clerk'`: 1,
			`select count(*) from pg_statistic_ext e join pg_namespace s on s.oid = stxnamespace where nspname like 'The%'`:                                                           1,
			`select count(*) from pg_proc p join pg_namespace s on s.oid = pronamespace where nspname like 'The%'`:                                                                    1,
			`select count(*) from pg_type p join pg_namespace s on s.oid = typnamespace where nspname like 'The%' and typname in ('mood', 'fee', 'pair')`:                             3,
			`select count(*) from pg_type p join pg_namespace s on s.oid = typnamespace where nspname = 'public' and typname in ('mood', 'fee', 'pair')`:                              3,
		} {
			if got := count(t, live, query); got != want {
				t.Errorf("%s: %d, want %d", query, got, want)
			}
		}
		w.server.Exec("postgres", `insert into "The ""old"" one"."Ap pointments" (practice, m, f) values (1, 'bad', 3)`)
		if _, err := restore.OpenInto(t.Context(), o); !isProblem(err, "restore.name-taken") {
			t.Errorf("a second time: %v", err)
		}
	})
	t.Run("what does not fit leaves nothing behind", func(t *testing.T) {
		o := o
		o.Into = "half"
		in, err := restore.OpenInto(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := in.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		w.server.Exec("postgres", "create schema half") // meanwhile, by somebody else
		err = in.Write(t.Context())
		if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "restore.not-written" || !strings.Contains(p.Title, "already exists") {
			t.Errorf("got %v", err)
		}
		if got := count(t, live, "select count(*) from pg_class c join pg_namespace s on s.oid = relnamespace where nspname = 'half'"); got != 0 {
			t.Errorf("%d things in somebody else's schema", got)
		}
	})
	t.Run("a table that was not there then", func(t *testing.T) {
		o := o
		o.Table, o.Into = "public.later", "x"
		if _, err := restore.OpenInto(t.Context(), o); !isProblem(err, "restore.not-there-then") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a whole SQL database", func(t *testing.T) {
		o := o
		o.Inside, o.Table, o.Into = "shop", "", "shop-before"
		in, err := restore.OpenInto(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(in.Write(t.Context()), in.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		if got := count(t, w.server.Conn("shop-before"), "select count(*) from goods where pg_get_userbyid((select relowner from pg_class where relname = 'goods')) = 'clerk'"); got != 300 {
			t.Errorf("%d rows", got)
		}
		if got := count(t, w.server.Conn("shop"), "select count(*) from goods"); got != 0 {
			t.Errorf("the live one has %d rows", got)
		}
		if got := count(t, live, "select count(*) from pg_database where datname like 'holdfast%'"); got != 0 {
			t.Errorf("%d unfinished databases", got)
		}
	})
	if left, err := os.ReadDir(o.Dir); err != nil || slices.ContainsFunc(left, func(os.DirEntry) bool { return true }) {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
