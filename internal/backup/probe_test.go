package backup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

func TestWhatAProbesAnswerMustBe(t *testing.T) {
	stopped := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		probe  plan.Probe
		answer answered
		wrong  string // "" = good
	}{
		{"a number at its bound is good", plan.Probe{AtLeast: "10", AtMost: "10"}, answered{value: "10"}, ""},
		{"numbers are compared as numbers", plan.Probe{AtLeast: "9"}, answered{value: "10.50"}, ""},
		{"a number too small is told with its bound", plan.Probe{AtLeast: "10"}, answered{value: "9"}, "it answers 9, and must be at least 10"},
		{"a number too large is told with its bound", plan.Probe{AtMost: "10"}, answered{value: "10.001"}, "it answers 10.001, and must be at most 10"},
		{"text is no number", plan.Probe{AtMost: "10"}, answered{value: "ten"}, "which is no number"},
		{"nothing is never good", plan.Probe{AtMost: "10"}, answered{null: true}, "nothing (NULL)"},
		{"equal text is equal", plan.Probe{Equals: "open"}, answered{value: "open"}, ""},
		{"equal numbers are equal however they are written", plan.Probe{Equals: "1.50"}, answered{value: "1.5"}, ""},
		{"other text is not equal", plan.Probe{Equals: "open"}, answered{value: "closed"}, "it answers closed, and must be open"},
		{"a time within its age is good", plan.Probe{MaxAge: time.Hour}, answered{value: "2026-11-21 11:30:00.25+00"}, ""},
		{"a time behind the backup's end is good", plan.Probe{MaxAge: time.Hour}, answered{value: "2026-11-21 12:00:01+00"}, ""},
		{"a time in another zone is read as it is", plan.Probe{MaxAge: time.Hour}, answered{value: "2026-11-21 17:00:00+05:30"}, ""},
		{"a time too old is told with its age", plan.Probe{MaxAge: time.Hour}, answered{value: "2026-11-21 10:30:00+00"}, "1h30m0s before the backup"},
		{"a day is a time", plan.Probe{MaxAge: 24 * time.Hour}, answered{value: "2026-11-21"}, ""},
		{"a number is no time", plan.Probe{MaxAge: time.Hour}, answered{value: "12"}, "which is no time"},
	} {
		got := judgeProbe(c.probe, c.answer, stopped)
		if (got == "") != (c.wrong == "") || !strings.Contains(got, c.wrong) {
			t.Errorf("%s: %q, want %q", c.name, got, c.wrong)
		}
	}
}

func TestRelationFilesAreToldByTheirRelations(t *testing.T) {
	r := newRelfiles()
	r.names["base/5/16384"], r.names["global/1260"] = "shop: table public.orders", "every database: table pg_catalog.pg_authid"
	for file, want := range map[string]string{
		"base/5/16384 block 3":            "shop: table public.orders block 3 (base/5/16384)",
		"base/5/16384.2 block 300000":     "shop: table public.orders block 300000 (base/5/16384.2)",
		"base/5/16384_vm block 0":         "shop: table public.orders visibility map block 0 (base/5/16384_vm)",
		"base/5/16384_fsm.1 block 0":      "shop: table public.orders free space map block 0 (base/5/16384_fsm.1)",
		"global/1260 ends within block 0": "every database: table pg_catalog.pg_authid ends within block 0 (global/1260)",
		"base/5/1638 block 3":             "base/5/1638 block 3",
		"pg_xact/0000 block 0":            "pg_xact/0000 block 0",
	} {
		if got := r.words(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func TestRoomForATrialLeavesSomeToOthers(t *testing.T) {
	if got, want := roomFor(10<<30, 16<<20, 100<<30), int64(10<<30+32<<20+256<<20+5<<30); got != want {
		t.Errorf("on 100 GiB: %d, want %d", got, want)
	}
	if got, want := roomFor(0, 0, 10<<40), int64(256<<20+20<<30); got != want {
		t.Errorf("on 10 TiB: %d, want %d", got, want)
	}
}

// A drill that has no room says what to do about a drill, and finds that out before anything is written.
func TestADrillWithoutRoomNamesItsOwnWayOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "scratch")
	err := DrillRoom(t.Context(), DrillOptions{Dir: dir, Choice: restore.Choice{Backup: vault.Backup{ID: "b", Database: "orders", Bytes: 1 << 60}}})
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Code != "restore.no-space" || !strings.Contains(p.Remedy, "--scratch") || strings.Contains(p.Text(), "validate") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left are %v: %v", left, err)
	}
}
