package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// Scenario 43: of a database of which one part in twenty has changed a delta restore reads at most a tenth from the vault, and
// what comes of it is what was there.
func TestADeltaOntoAlmostTheSameDataReadsATenthAtMost(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	w := newWorld(t, "create table rows (id int, body text) with (fillfactor = 45)", "insert into rows select g, repeat(md5(g::text), 10) from generate_series(1, 120000) g", "vacuum rows", "checkpoint")
	w.base()
	ch := w.choose(restore.Target{Kind: restore.Consistent})
	dir := filepath.Join(pgtest.Dir(t), "data")
	o := restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Throwaway: true}
	if _, err := restore.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.server.Exec("postgres", "update rows set body = 'changed ' || body where id between 30001 and 35000", "checkpoint") // on the pages that they are on
	w.base()
	w.archived()
	o.Delta, o.Choice = true, w.choose(restore.Target{Kind: restore.Latest})
	res, err := restore.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	read := res.Bytes - res.Kept
	if o.Choice.Backup.ID == ch.Backup.ID || read == 0 || read > res.Bytes/10 {
		t.Errorf("from %s to %s: %d of %d bytes were read", ch.Backup.ID, o.Choice.Backup.ID, read, res.Bytes)
	}
	t.Logf("%d of %d bytes were read", read, res.Bytes)
	const sum = "select count(*) || ' ' || sum(hashtext(t::text)::bigint) from rows t"
	holds := func(conn *pgx.Conn) (got string) {
		t.Helper()
		defer func() { _ = conn.Close(context.Background()) }() // only asked
		if err := conn.QueryRow(t.Context(), sum).Scan(&got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	rec, err := restore.Recover(t.Context(), o.Choice, restore.Promote, restore.ScratchOptions{Dir: dir, BinDir: w.server.BinDir, Owner: w.owner})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rec.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if got, want := holds(dialTo(t, rec.ConnString("postgres"))), holds(dialTo(t, w.server.ConnString("postgres"))); got != want {
		t.Errorf("restored is %s, want %s", got, want)
	}
}
