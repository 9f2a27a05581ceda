package restore_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// What a person is shown before anything is put back: rows of both moments, and no trace afterwards.
func TestBesideShowsRowsAndLeavesNothing(t *testing.T) {
	w := newWorld(t, `create table notes (k text primary key, "Odd Name" int)`, `insert into notes values ('a', 1), ('it''s {b}', 2), ('c', 3)`)
	w.base()
	w.archived()
	at := w.choose(restore.Target{Kind: restore.Latest}).End
	w.server.Exec("postgres", `delete from notes where k like 'it%'`, `update notes set "Odd Name" = 9 where k = 'c'`, `insert into notes values ('d', 4)`)
	w.archived()
	dir := pgtest.Dir(t)
	options := restore.RecordsOptions{
		Vault: w.vault, Database: "orders", At: restore.Target{Kind: restore.AtLSN, LSN: at, Exclusive: true}, Live: w.live, Table: "notes", Dir: dir, Owner: w.owner,
	}
	gone := options
	gone.Table = "nosuch"
	if _, err := restore.OpenBeside(t.Context(), gone); !isProblem(err, "restore.no-table") || !strings.Contains(err.Error(), "--into") {
		t.Errorf("a table that is not there: %v", err)
	}
	other := options
	other.BinDir = t.TempDir()
	if _, err := restore.OpenBeside(t.Context(), other); !isProblem(err, "restore.no-postgres") {
		t.Errorf("programs that are not there: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("what was refused left %v, %v", left, err)
	}
	b, err := restore.OpenBeside(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Diff(t.Context(), "notes", "")
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, keys := range [][]string{d.MissingKeys, d.ChangedKeys, d.NewKeys} {
		rows, err := b.Rows(t.Context(), d, keys)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			shown = append(shown, string(r.Then)+" > "+string(r.Now))
		}
	}
	want := []string{`{"k":"it's {b}","Odd Name":2} > `, `{"k":"c","Odd Name":3} > {"k":"c","Odd Name":9}`, ` > {"k":"d","Odd Name":4}`}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Error(diff)
	}
	if err := b.Close(t.Context(), false); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
