package restore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// A choice from a part of the copies says what is not known; one that fails says where the way may lie.
func TestAChoiceSaysWhatCouldNotBeSeen(t *testing.T) {
	stopped := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	c := Catalogue{Database: "orders", Backups: []vault.Backup{{ID: "b", Stopped: stopped, SystemID: 1, Timeline: 1}}}
	if p := unseen(c, nil); p != nil {
		t.Errorf("with every copy: %v", p)
	}
	away := []error{errors.New("copy offsite: no route")}
	c.Unseen = unseen(c, away)
	for _, want := range []string{"copy offsite: no route", "1 base backups", "2026-11-20 10:00:00Z", "is not known"} {
		if !strings.Contains(c.Unseen.Text(), want) {
			t.Errorf("%q is not said: %s", want, c.Unseen.Text())
		}
	}
	_, err := Choose(c, Target{Kind: AtTime, Time: stopped.Add(-time.Hour)})
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "restore.outside-window" || !strings.Contains(p.Meaning, "copy offsite") {
		t.Errorf("outside the window: %v", err)
	}
	none := Catalogue{Database: "orders"}
	none.Unseen = unseen(none, away)
	_, err = Choose(none, Target{})
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "restore.no-backup" || !strings.Contains(p.Meaning, "that one may") {
		t.Errorf("without any backup: %v", err)
	}
}
