package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// A standby whose data directory is gone makes itself again, from the other standby, while status tells how far.
func TestAStandbyWhoseDataAreGoneMakesItselfAgain(t *testing.T) {
	lab.Long(t)
	w := lab.New(t, "127.60.41")
	text, err := os.ReadFile(w.Plan)
	if err != nil {
		t.Fatal(err)
	}
	limited := strings.Replace(string(text), "acknowledged_by:", "copy_limit: 8MB/s\n    acknowledged_by:", 1)
	if limited == string(text) {
		t.Fatalf("the plan of the lab has no place for copy_limit:\n%s", text)
	}
	if err := os.WriteFile(w.Plan, []byte(limited), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Start()
	load := w.Load("copy")
	was := w.Await("well", recoverMax, lab.Well).Databases[0]
	others := w.Others(was.Primary)
	lost, source := others[0], others[1]
	load.Client.Mark("data gone")
	data := filepath.Join(w.Root, "hosts", lost, "db", "records", "pgdata")
	w.Kill(w.PID(lost, "db/records/pgdata/postmaster.pid"))
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	w.Await("status tells that "+lost+" copies from "+source, recoverMax, func(st api.Status) bool {
		for _, s := range st.Databases[0].Servers {
			if s.Host == lost && strings.Contains(s.State, "copying from "+source) && strings.Contains(s.State, "moved") {
				return true
			}
		}
		return false
	})
	now := w.Await("well again", recoverMax, lab.Well).Databases[0]
	if now.Epoch != was.Epoch || now.Primary != was.Primary {
		t.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d)", was.Primary, was.Epoch, now.Primary, now.Epoch)
	}
	load.Recovered()
	out, err := w.Run("status")
	if err != nil {
		t.Errorf("status: %v\n%s", err, out)
	}
}
