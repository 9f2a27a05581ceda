package lab_test

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// A base backup that the plan's schedule makes is shown while it goes on and is ended by an operator: nothing of it is listed, it
// does not begin again, and the history says who it was. The same for the trial of one.
func TestABackupOfTheScheduleIsShownAndEnded(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.65", lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, `full: "daily 01:00"`, `full: "daily 01:00", limit: 1MB/s, validate: { limit: 1MB/s }`, 1)
	}})
	w.Start()
	running := func(st api.Status, phase string) bool {
		a := st.Databases[0].Archive
		return a != nil && len(a.Running) == 1 && a.Running[0].Phase == phase && a.Running[0].Done > 0 && a.Running[0].Rate > 0
	}
	w.Await("the first backup is copied", 2*recoverMax, func(st api.Status) bool { return running(st, "copy") })
	var status []struct {
		Running []struct {
			Phase, Host, Since string
			Done, Total        int64
			Rate               int64 `json:"bytes_per_second"`
			Left               int64 `json:"seconds_left"`
		}
	}
	out, _ := w.Run("backup", "status", "records", "--output", "json") // status 1: nothing is proven yet
	if err := json.Unmarshal([]byte(out[strings.IndexAny(out, "[{"):]), &status); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := status[0].Running; len(r) != 1 || r[0].Phase != "copy" || r[0].Total <= r[0].Done || r[0].Rate <= 0 || r[0].Left <= 0 || r[0].Host == "" || r[0].Since == "" {
		t.Errorf("running is %+v", r)
	}
	out, _ = w.Run("backup", "status", "records")
	if !strings.Contains(out, "copying files") || !strings.Contains(out, "MiB/s") {
		t.Errorf("status says\n%s", out)
	}
	out, err := w.Run("backup", "cancel", "records", "--yes")
	if err != nil || !strings.Contains(out, "nothing of it is listed; the next is due ") {
		t.Fatalf("%v\n%s", err, out)
	}
	if held, _ := backupsOf(t, w); len(held) > 0 {
		t.Errorf("listed are %v", held)
	}
	if out, err := w.Run("backup", "cancel", "records", "--yes"); err == nil || !strings.Contains(out, "backup.none-asked") {
		t.Errorf("ended once more: %v\n%s", err, out)
	}
	if out, err := w.Run("history"); err != nil || !strings.Contains(out, "cancelled by ") {
		t.Errorf("%v; history says\n%s", err, out)
	}

	if out, err := w.Run("backup", "run", "records", "--wait=false"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.Await("that one is on trial", 2*recoverMax, func(st api.Status) bool { return running(st, "prove") })
	held, _ := backupsOf(t, w)
	if out, err := w.Run("backup", "cancel", "records", "--yes", "--output", "json"); err != nil || !strings.Contains(out, `"kind": "base"`) {
		t.Fatalf("%v\n%s", err, out)
	}
	st := w.Await("it has ended", recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return a != nil && len(a.Running) == 0 && a.Last != nil
	})
	if after, _ := backupsOf(t, w); len(held) != 1 || len(after) != 1 || st.Databases[0].Archive.Last.Proven {
		t.Errorf("listed are %v, were %v: %+v", after, held, st.Databases[0].Archive.Last)
	}
}
