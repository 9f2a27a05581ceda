package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// A standby whose data directory is gone is made of what the vault holds, while the primary is written; then it streams.
// When the vault cannot be read it is made of the other standby, and the history says why.
func TestALostStandbyComesFromTheVault(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.57", lab.Shape{Services: true, Plan: func(text string) string {
		return strings.Replace(text, "acknowledged_by:", "copy_from: [vault, standby, primary]\n    acknowledged_by:", 1)
	}})
	w.Start()
	load := w.Load("refill")
	was := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	}).Databases[0]
	lost, other := w.Others(was.Primary)[0], w.Others(was.Primary)[1]
	lose := func() {
		before := w.Incarnation(lost)
		w.Kill(w.PID(lost, "db/records/pgdata/postmaster.pid"))
		if err := os.RemoveAll(filepath.Join(w.Root, "hosts", lost, "db", "records", "pgdata")); err != nil {
			t.Fatal(err)
		}
		w.Await("well again with a new copy on "+lost, 2*recoverMax, func(st api.Status) bool {
			return lab.Well(st) && !w.Remaking(lost) && w.Incarnation(lost) != before && w.Incarnation(lost) != ""
		})
	}
	told := func(what string) bool {
		out, err := w.Run("history", "--output", "json")
		if err != nil {
			t.Fatalf("history: %v\n%s", err, out)
		}
		return strings.Contains(out, what)
	}
	load.Client.Mark("data gone")
	lose()
	if !told("clone from=(vault)") {
		t.Error("the history does not tell that the copy came from the vault")
	}
	if err := os.Rename(filepath.Join(w.Root, "vault"), filepath.Join(w.Root, "vault.away")); err != nil {
		t.Fatal(err)
	}
	load.Client.Mark("data gone, vault away")
	lose()
	if !told("cannot give a copy") || !told("clone from="+other) {
		out, _ := w.Run("history", "--output", "json") // for the message alone
		t.Errorf("the history does not tell that the vault was away, and that %s was copied:\n%s", other, out)
	}
	now, err := w.Status()
	if err != nil {
		t.Fatal(err)
	}
	if d := now.Databases[0]; d.Epoch != was.Epoch || d.Primary != was.Primary {
		t.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d)", was.Primary, was.Epoch, d.Primary, d.Epoch)
	}
	load.Recovered()
}
