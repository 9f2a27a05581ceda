package restore_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// Files are named by the catalog of the live server where it was written before the histories parted.
func TestTablesOfLostCommitsHaveTheNamesOfBefore(t *testing.T) {
	s := pgtest.New(t)
	s.Exec("postgres", `CREATE SCHEMA "Shop"`, `CREATE TABLE "Shop"."Bill" (id int, what text)`, "CREATE TABLE stays (id int)", "CREATE TABLE changes (id int)")
	conn := s.Conn("postgres")
	ctx := t.Context()
	var number, parted uint32
	if err := conn.QueryRow(ctx, "select oid from pg_database where datname = 'postgres'").Scan(&number); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(ctx, "select pg_current_xact_id()::text::bigint + 1").Scan(&parted); err != nil {
		t.Fatal(err)
	}
	file := func(expression string) database.LostTable {
		t.Helper()
		x := database.LostTable{Space: 1663, Database: number, Name: "file"}
		if err := conn.QueryRow(ctx, "select pg_relation_filenode("+expression+")").Scan(&x.Node); err != nil {
			t.Fatal(err)
		}
		return x
	}
	bill, stays, rewritten := file(`'"Shop"."Bill"'::regclass`), file("'stays'::regclass"), file("'changes'::regclass")
	large := file(`(select reltoastrelid from pg_class where oid = '"Shop"."Bill"'::regclass)`)
	s.Exec("postgres", "INSERT INTO stays VALUES (1)", "ANALYZE stays", "TRUNCATE changes", "CREATE TABLE later (id int)")
	later := file("'later'::regclass")
	catalog := database.LostTable{Space: 1663, Database: number, Node: 1249, Catalog: true, Name: "file"}
	report := database.Salvage{NextXID: parted, Commits: []database.LostCommit{
		{Database: "7", Tables: []database.LostTable{bill, catalog}},
		{Tables: []database.LostTable{large, stays, rewritten, later, bill}},
	}}
	names, err := restore.FindNames(ctx, report, s.ConnString)
	if err != nil {
		t.Fatal(err)
	}
	names.Put(&report)
	var got []string
	for _, c := range report.Commits {
		for _, x := range c.Tables {
			got = append(got, x.Name)
		}
	}
	want := []string{`"Shop"."Bill"`, "file", `"Shop"."Bill" (large values)`, "public.stays", "file", "file", `"Shop"."Bill"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if report.Commits[0].Database != "7" || names.Databases[number] != "postgres" {
		t.Errorf("databases: %q, %v", report.Commits[0].Database, names.Databases)
	}
	report.NextXID = 0 // nobody knows when they parted
	if names, err = restore.FindNames(ctx, report, s.ConnString); err != nil || len(names.Tables) != 0 {
		t.Errorf("named without knowing what is older: %v, %v", names.Tables, err)
	}
}
