package lab_test

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// A plan looks after its vault by itself: at its hours it is read through and thinned out, and an operator sees why each
// backup stays, keeps one from going, and has it done now.
func TestARunningPlanLooksAfterItsVault(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.58", lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, `copies: { here: "file://${root}/vault" }`, `copies: { here: "file://${root}/vault", there: "file://${root}/vault2" }
    upkeep: { retention: "every 1m", scrub: "every 1m", sync: "every 1m", zone: Europe/Berlin }`, 1)
	}})
	w.Start()
	w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	w.Await("retention, scrub and the comparison of copies have run, and are planned again", 3*recoverMax, func(st api.Status) bool {
		ran := map[string]bool{}
		for _, c := range st.Upkeep {
			ran[c.Kind] = c.OK && !c.Began.IsZero() && !c.Next.IsZero()
		}
		return ran["retention"] && ran["scrub"] && ran["sync"] && ran["base"]
	})
	run := func(into any, args ...string) {
		t.Helper()
		out, err := w.Run(args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		if into == nil {
			return
		}
		if err := json.Unmarshal([]byte(out[strings.IndexAny(out, "[{"):]), into); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	var judged struct {
		Judged struct {
			Backups []struct {
				ID, Because string
				Keep        bool
			}
		}
		Done []struct{ Database string }
	}
	run(&judged, "backup", "prune", "records", "--dry-run", "--output", "json")
	if len(judged.Judged.Backups) == 0 || !judged.Judged.Backups[0].Keep || judged.Judged.Backups[0].Because == "" || judged.Done != nil {
		t.Fatalf("judged %+v", judged)
	}
	id := judged.Judged.Backups[0].ID
	run(nil, "backup", "pin", id, "--reason", "before the move")
	run(nil, "backup", "hold", id, "--reason", "case 14")
	if out, err := w.Run("backup", "release", id, "--yes"); err == nil {
		t.Errorf("a hold was lifted without a reason: %s", out)
	}
	if out, err := w.Run("backup", "pin", "records-none"); err == nil || !strings.Contains(out, "backup.unknown") {
		t.Errorf("a backup that is not there was pinned: %v, %s", err, out)
	}
	run(&judged, "backup", "prune", "records", "--yes", "--output", "json")
	if len(judged.Done) != 1 || judged.Done[0].Database != "records" || !strings.Contains(judged.Judged.Backups[0].Because, "hold") {
		t.Errorf("carried out %+v", judged)
	}
	var notes []struct{ Kind, By, Reason string }
	run(&notes, "backup", "release", id, "--reason", "closed", "--yes", "--output", "json")
	if len(notes) != 2 || notes[0].Kind != "lifted" || notes[0].Reason != "closed" || notes[1].Kind != "pin" {
		t.Errorf("noted %+v", notes)
	}
	var status []struct {
		Last struct {
			ID     string
			Proven bool
		}
		Log       struct{ Archived string }
		Retention struct{ OK bool }
		Copies    []struct{ Copy, Away string }
		Windows   []any
	}
	run(&status, "backup", "status", "records", "--output", "json")
	if s := status[0]; s.Last.ID == "" || !s.Last.Proven || s.Log.Archived == "" || !s.Retention.OK || len(s.Copies) != 2 || len(s.Windows) == 0 {
		t.Errorf("status %+v", status)
	}
	out, err := w.Run("backup", "status")
	t.Logf("%v\n%s", err, out)
}
