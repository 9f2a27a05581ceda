package host

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func TestRecoveryPointsAreMadeAtTheirHour(t *testing.T) {
	day := func(d, hour int) time.Time { return time.Date(2026, 6, d, hour, 30, 0, 0, time.UTC) }
	m := plan.Moment{Database: "records", Every: plan.Schedule{Text: "daily 03:00", Cron: "0 3 * * *"}}
	f := filersOf(t, aFilerHost(t, m), 1)[0]
	wanted := func(now time.Time) bool {
		t.Helper()
		id, err := f.pointWanted(nil, now)
		if err != nil || id != "" && len(id) < 6 {
			t.Fatalf("%q, %v", id, err)
		}
		return id != ""
	}
	if wanted(day(1, 12)) || wanted(day(2, 2)) {
		t.Error("the first one did not wait for its hour")
	}
	if !wanted(day(2, 3)) {
		t.Error("its hour came and none was wanted")
	}
	f.pointTried(vault.FileBackup{ID: "b1", Host: "h1", Started: day(2, 3), Ended: day(2, 3), Point: &vault.Point{ID: "p1"}}, nil)
	if wanted(day(2, 4)) || wanted(day(3, 2)) {
		t.Error("one was made, and another was wanted")
	}
	if !wanted(day(5, 12)) {
		t.Error("the host was down at the hour, and it was not caught up")
	}
	f.stand(errors.New("it does not want to"))
	if wanted(day(5, 12)) {
		t.Error("one was wanted while the application stands still")
	}
	f.stand(nil)
	f.pointTried(vault.FileBackup{}, errors.New("the vault is away"))
	if p := f.problems(); len(p) != 1 || p[0].Code != "files.no-point" {
		t.Errorf("problems %+v", p)
	}
	f.points.failed = day(5, 12)
	if wanted(day(5, 12).Add(59*time.Minute)) || !wanted(day(5, 13)) {
		t.Error("it is not tried again after an hour")
	}
	if id, err := f.pointWanted(&agent.Asked{ID: "asked-for", Kind: "point"}, day(2, 4)); err != nil || id != "asked-for" {
		t.Errorf("asked for: %q, %v", id, err)
	}
	if id, err := f.pointWanted(&agent.Asked{ID: "x", Kind: "backup"}, day(8, 4)); err != nil || id != "" {
		t.Errorf("a backup was asked for, and a point is made: %q, %v", id, err)
	}
	now := *f.host.applied.now
	now.Files = []plan.FileSet{{Name: "letters", Moment: plan.Moment{Database: "records"}}}
	f.host.applied.now = &now
	if wanted(day(9, 4)) || len(f.problems()) > 0 {
		t.Error("the plan wants none any more")
	}
}

// A recovery point that was asked for and given up is no failed backup: nothing is tried again for it, backups go on at their
// pace, and the next thing of the set that succeeds ends the problem.
func TestARecoveryPointThatWasAskedForAndNotMade(t *testing.T) {
	f := filersOf(t, aFilerHost(t, plan.Moment{Database: "records"}), 1)[0]
	asked := &agent.Asked{ID: "q1", Room: "files", Kind: "point", Subject: "letters"}
	made := vault.FileBackup{ID: "b1", Host: "h1", Started: time.Now(), Ended: time.Now()}
	for name, ends := range map[string]func(){
		"the next point":   func() { f.pointEnded(t.Context(), asked, made, nil) },
		"the next backup":  func() { f.ended(t.Context(), nil, made, nil) },
		"one that was due": func() { f.pointEnded(t.Context(), nil, made, nil) },
	} {
		f.pointEnded(t.Context(), asked, vault.FileBackup{}, errors.New("files and database stood still for 5s, which is the limit"))
		p := f.problems()
		if len(p) != 1 || p[0].Code != "files.no-point" || p[0].Severity != problem.Degraded || strings.Contains(p[0].Text(), "again every") || strings.Contains(p[0].Text(), "no backup") {
			t.Errorf("problems %+v", p)
		}
		if !f.failed.IsZero() || f.told.Trouble != "" {
			t.Errorf("the backups of the set count as failed: %s, %q", f.failed, f.told.Trouble)
		}
		if id, err := f.pointWanted(nil, time.Now()); id != "" || err != nil || len(f.problems()) != 1 {
			t.Errorf("a look at the schedule: %q, %v, %+v", id, err, f.problems())
		}
		if ends(); len(f.problems()) > 0 {
			t.Errorf("%s did not end it: %+v", name, f.problems())
		}
	}
}
