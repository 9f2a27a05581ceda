package host

import (
	"errors"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
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
