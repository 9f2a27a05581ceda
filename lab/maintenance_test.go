package lab_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/lab"
)

// A day of maintenance as an operator has it: a pause under which the primary dies and nobody moves, a switchover at
// a moment, and a restart of every server, with clients that write all the while.
func TestMaintenanceAsAnOperator(t *testing.T) {
	w := lab.New(t, "127.60.12")
	w.Start()
	load := w.Load("maintenance")
	run := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := w.Run(args...)
		if err != nil {
			t.Fatalf("holdfast %v: %v\n%s", args, err, out)
		}
		return out
	}
	lives := func(st api.Status) (out []string) {
		for _, s := range st.Databases[0].Servers {
			out = append(out, strconv.Itoa(w.PID(s.Host, "db/records/pgdata/postmaster.pid")))
		}
		return out
	}

	t.Run("while it is paused a dead primary stays dead, and the end of the pause brings one", func(t *testing.T) {
		was := w.Await("well", recoverMax, lab.Well).Databases[0]
		run(t, "database", "pause", "records", "--for", "10m", "--reason", "a look at the disk")
		w.Kill(w.PID(was.Primary, "db/records/pgdata/postmaster.pid"))
		st := w.Await("it is said what does not happen", recoverMax, func(st api.Status) bool {
			return slices.ContainsFunc(st.Problems, func(p problem.Problem) bool {
				return p.Code == "database.paused" && strings.Contains(p.Title, "no standby takes over")
			})
		})
		if d := st.Databases[0]; d.Epoch != was.Epoch || d.Paused == nil || d.Paused.Reason != "a look at the disk" {
			t.Errorf("epoch %d after %d, paused %+v", d.Epoch, was.Epoch, d.Paused)
		}
		if out := run(t, "database", "requests"); !strings.Contains(out, "a look at the disk") {
			t.Errorf("requests: %s", out)
		}
		run(t, "database", "resume", "records")
		load.Recovered()
		w.Await("well again", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Epoch > was.Epoch })
	})

	t.Run("a switchover waits for its moment, and another is cancelled", func(t *testing.T) {
		was := w.Await("well", recoverMax, lab.Well).Databases[0]
		var asked agent.Asked
		if err := json.Unmarshal([]byte(run(t, "database", "switchover", "records", "--at", "in 1h", "--yes", "-o", "json")), &asked); err != nil {
			t.Fatal(err)
		}
		if out := run(t, "database", "cancel", asked.ID); !strings.Contains(out, "Cancelled") {
			t.Error(out)
		}
		if out, err := w.Run("database", "cancel", asked.ID); err == nil || !strings.Contains(out, "api.not-cancelled") {
			t.Errorf("cancelled twice: %v %s", err, out)
		}
		run(t, "database", "switchover", "records", "--at", "in 2s", "--yes")
		w.Await("the primary moved", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Primary != was.Primary })
		if out := run(t, "database", "requests"); strings.Contains(out, "switchover") {
			t.Errorf("still open: %s", out)
		}
	})

	t.Run("every server restarts, one at a time", func(t *testing.T) {
		st := w.Await("well", recoverMax, lab.Well)
		was, before := st.Databases[0], lives(st)
		if out := run(t, "database", "restart", "records", "--dry-run"); !strings.Contains(out, "Nothing was changed") {
			t.Error(out)
		}
		if out := run(t, "database", "restart", "records", "--pending"); !strings.Contains(out, "nothing was changed") {
			t.Error(out)
		}
		t.Log(run(t, "database", "restart", "records", "--yes"))
		st = w.Await("well again", recoverMax, lab.Well)
		after := lives(st)
		for i := range before {
			if before[i] == after[i] {
				t.Errorf("%s still runs as process %s", st.Databases[0].Servers[i].Host, after[i])
			}
		}
		if d := st.Databases[0]; d.Epoch != was.Epoch+1 || d.Primary == was.Primary {
			t.Errorf("epoch %d after %d, primary %s after %s", d.Epoch, was.Epoch, d.Primary, was.Primary)
		}
		load.Recovered()
	})
	for _, p := range load.End() {
		gap, failed, slow := p.Worst()
		t.Logf("%-24s longest gap %6.2f s, failed %d, slow %d", p.Name, gap.Seconds(), failed, slow)
	}
}
