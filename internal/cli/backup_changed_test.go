package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// A backup of pages that changed behind the log is not a good one, though it was restored on trial.
func TestAChangeBehindTheLogIsAnAlarm(t *testing.T) {
	const where = "shop: table public.orders blocks 0 to 127 (base/5/16384)"
	b := vault.Backup{ID: "r-2", Earlier: "r-1", Stopped: time.Now(), Differs: []string{where}, Validation: &vault.Validation{Passed: true}}
	p, ok := errors.AsType[*problem.Problem](backupProblem("records", backupAnswer{Backup: &b}))
	if !ok || p.Code != "backup.changed-silently" || !strings.Contains(p.Title, where) {
		t.Errorf("%+v", p)
	}
	if text := changedText(b); !strings.Contains(text, where) {
		t.Errorf("the list says %q", text)
	}
	s := backupStatus{Database: "records", Proven: 2, Attempt: &api.ChoreStatus{Chore: agent.Chore{OK: true}}}
	if s.bad() {
		t.Fatal("nothing is wrong yet")
	}
	s.Key = "no copy of its key has been shown to open it"
	var first bytes.Buffer
	if err := s.write(&first); err != nil || s.bad() || !strings.Contains(first.String(), "key        DEGRADED: no copy of its key") {
		t.Errorf("%v, bad %t:\n%s", err, s.bad(), first.String())
	}
	s.Changed = &backup.Changed{Backup: "r-2", Before: "r-1", Objects: b.Differs}
	var out bytes.Buffer
	if err := s.write(&out); err != nil || !s.bad() || !strings.Contains(out.String(), where) || !strings.Contains(out.String(), "holdfast backup accept r-2") {
		t.Errorf("%v, bad %t:\n%s", err, s.bad(), out.String())
	}
}
