package restore_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// SQL databases go back to a moment under their own names while clients use them; what was live is kept and comes back.
func TestADatabaseGoesBackInPlaceAndForthAgain(t *testing.T) {
	w := newWorld(t, "create role clerk login", "create database shop owner clerk", "comment on database shop is 'the shop''s'", "alter database shop set work_mem = '5MB'", "create database tied",
		"create database shop_kept_20260101000000 owner clerk", `comment on database shop_kept_20260101000000 is '{"holdfast_kept":"20260101000000","name":"shop","restored_to":"then"}'`)
	w.server.Exec("shop", "create table goods (id int primary key, what text)", "insert into goods select g, 'then' from generate_series(1, 300) g", "create publication news for table goods")
	w.server.Exec("postgres", "create tablespace fast location '"+w.server.Space("fast")+"'")
	w.server.Exec("postgres", "create tablespace gone location '"+w.server.Space("gone")+"'")
	w.server.Exec("tied", "create table far (id int) tablespace gone", "create table near (id int primary key) tablespace fast")
	w.server.Exec("shop", "create table hot (id int) tablespace fast", "create subscription feed connection 'host=127.0.0.1 port=1' publication x with (connect = false, slot_name = none)")
	w.base()
	w.archived()
	var lsn string
	live := w.server.Conn("postgres")
	if err := live.QueryRow(t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&lsn); err != nil {
		t.Fatal(err)
	}
	at, err := restore.ParseTarget(lsn, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.server.Exec("shop", "update goods set what = 'now'", "delete from goods where id > 100")
	w.server.Exec("shop", "drop subscription feed")
	w.server.Exec("tied", "drop table far")
	w.server.Exec("postgres", "drop tablespace gone")
	dead, held := "holdfast_restore_"+strings.Repeat("a", 26), "holdfast_restore_"+strings.Repeat("b", 26)
	loader := w.server.Conn("postgres")
	if _, err := loader.Exec(t.Context(), "select pg_advisory_lock(x'486f6c64'::int, hashtext($1))", held); err != nil {
		t.Fatal(err)
	}
	w.server.Exec("postgres", "create database "+dead, "create database "+held, "create database holdfast_restore_of_a_person")
	w.server.Exec("postgres", "create database later", "create database holdfast_inplace_left_by_a_dead_run")
	w.archived()
	o := restore.IntoOptions{Vault: w.vault, Database: "orders", At: at, Live: w.server.ConnString, Dir: pgtest.Dir(t), Owner: w.owner, BinDir: w.server.BinDir}
	if !w.fullPrograms(o) {
		return
	}
	then := "select count(*) from goods where what = 'then'"

	w.server.Exec("shop", "begin; insert into goods values (1000, 'prepared'); prepare transaction 'x'")
	if _, err := restore.OpenInPlace(t.Context(), o, nil); !isProblem(err, "restore.not-in-place") || !strings.Contains(err.Error(), "prepared transaction x") {
		t.Errorf("with a prepared transaction: %v", err)
	}
	w.server.Exec("shop", "rollback prepared 'x'")
	if _, err := restore.OpenInPlace(t.Context(), o, []string{"later"}); !isProblem(err, "restore.not-there-then") {
		t.Errorf("a database that was not there: %v", err)
	}

	p, err := restore.OpenInPlace(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = p.Close(t.Context()) // the test has failed already
		}
	}()
	if len(p.Databases) != 2 || p.Databases[0].Name != "shop" || p.Since < 3 || len(p.Alone) != 3 {
		t.Errorf("it says %+v, left alone %v, %d transactions since", p.Databases, p.Alone, p.Since)
	}
	want := []string{"subscription feed is not made"}
	if d := cmp.Diff(want, p.Databases[0].LeftOut); d != "" {
		t.Errorf("left out: %s", d)
	}
	if l := p.Databases[0].Tablespaces; len(l) != 1 || l[0].Tablespace != "fast" {
		t.Errorf("it keeps %+v", l)
	}
	want = []string{"tablespace fast: 1 tables and indexes in it come to the default one", "tablespace gone: 1 tables and indexes in it come to the default one",
		"its tablespaces are not used: the live cluster has no gone"}
	if d := cmp.Diff(want, p.Databases[1].LeftOut); d != "" || p.Databases[1].Tablespaces != nil {
		t.Errorf("left out of the one with a tablespace that is gone: %s, and it keeps %+v", d, p.Databases[1].Tablespaces)
	}
	if _, err := restore.OpenInPlace(t.Context(), o, nil); !isProblem(err, "restore.busy") {
		t.Errorf("a second one beside it: %v", err)
	}
	client := w.server.Conn("shop") // somebody works in it
	if err := p.Load(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, client, then); n != 0 {
		t.Errorf("%d rows of then are live already", n)
	}
	if n := count(t, live, "select count(*) from pg_database where datname in ('"+dead+"', '"+held+"', 'holdfast_restore_of_a_person')"); n != 2 {
		t.Errorf("%d of three databases are left: the dead loader's alone was to go", n)
	}
	w.server.Exec("postgres", "drop database "+held, "drop database holdfast_restore_of_a_person")
	w.server.Exec("shop", "begin; insert into goods values (1001, 'prepared'); prepare transaction 'y'")
	if err := p.Exchange(t.Context()); !isProblem(err, "restore.not-in-place") {
		t.Errorf("with what was prepared while it loaded: %v", err)
	}
	w.server.Exec("shop", "rollback prepared 'y'")
	if err := p.Exchange(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed = true
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, w.server.Conn("shop"), then); n != 300 {
		t.Errorf("%d rows of then", n)
	}
	if n := count(t, w.server.Conn(p.Databases[0].Kept), "select count(*) from goods where what = 'now'"); n != 100 {
		t.Errorf("%d rows are kept", n)
	}
	for query, want := range map[string]int{
		"select count(*) from pg_database where datname = 'shop' and pg_get_userbyid(datdba) = 'clerk' and shobj_description(oid, 'pg_database') = 'the shop''s'": 1,
		"select count(*) from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = 'shop')":                                        1,
		"select count(*) from pg_database where datname like 'holdfast%'":                                                                                         0,
		"select count(*) from pg_database where datname = 'later'":                                                                                                1,
	} {
		if n := count(t, live, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
	const laid = "select count(*) from pg_class c join pg_tablespace t on t.oid = reltablespace where spcname = 'fast' and relname in ('hot', 'near')"
	if in, not := count(t, w.server.Conn("shop"), laid), count(t, w.server.Conn("tied"), laid); in != 1 || not != 0 {
		t.Errorf("%d tables lie in the tablespace again, and %d of the database that lacks one", in, not)
	}
	if n := count(t, w.server.Conn("shop"), "select count(*) from pg_publication"); n != 1 {
		t.Errorf("%d publications", n)
	}

	w.server.Exec("postgres", "create role mallory", "create database shop_kept_20261231235959 owner mallory", `comment on database shop_kept_20261231235959 is '{"holdfast_kept":"20261231235959","name":"shop"}'`)
	u, err := restore.FindUndo(t.Context(), w.server.ConnString, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Doubtful) != 1 || !strings.HasPrefix(u.Doubtful[0], "shop_kept_20261231235959: ") {
		t.Errorf("doubtful are %v", u.Doubtful)
	}
	back, err := u.Apply(t.Context(), w.server.ConnString, "orders")
	if err != nil || len(back) != 2 {
		t.Fatalf("%+v, %v", back, err)
	}
	shop := w.server.Conn("shop")
	if a, b := count(t, shop, then), count(t, shop, "select count(*) from goods where what = 'now'"); a != 0 || b != 100 {
		t.Errorf("taken back: %d rows of then, %d of now", a, b)
	}
	if n := count(t, live, "select count(*) from pg_database where datname = 'shop' and shobj_description(oid, 'pg_database') = 'the shop''s'"); n != 1 {
		t.Error("its comment did not come back")
	}
	again, err := restore.FindUndo(t.Context(), w.server.ConnString, "orders") // what was taken back is kept in its turn
	if err != nil || len(again.Databases) != 2 || again.Run < u.Run {
		t.Errorf("%+v, %v", again, err)
	}
}
