package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func TestJoinWindows(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 11, 20, hour, 0, 0, 0, time.UTC) }
	w := func(id string, from, to int) listedWindow {
		return listedWindow{Backup: id, From: at(from), To: at(to), End: id}
	}
	for name, c := range map[string]struct{ in, want []listedWindow }{
		"none": {nil, nil},
		"backups whose log goes on to the same end are one window": {
			[]listedWindow{w("c", 5, 9), w("b", 3, 9), w("a", 1, 9)}, []listedWindow{w("a", 1, 9)}},
		"a hole in the log parts two windows": {
			[]listedWindow{w("b", 5, 9), w("a", 1, 3)}, []listedWindow{w("a", 1, 3), w("b", 5, 9)}},
		"the later end counts": {
			[]listedWindow{w("b", 2, 9), w("a", 1, 3)}, []listedWindow{{Backup: "a", From: at(1), To: at(9), End: "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, joinWindows(c.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWriteBackups(t *testing.T) {
	bad := vault.Backup{ID: "records-2", Validation: &vault.Validation{Checks: []vault.Check{
		{Name: "restore", Outcome: "passed"}, {Name: "indexes", Outcome: "failed", Detail: "heap tuple lacks an index tuple", Objects: []string{"clinic: public.appointments_pkey"}},
	}}}
	good := vault.Backup{ID: "records-1", Bytes: 3 << 20, Stored: 1 << 10, Timeline: 2, Validation: &vault.Validation{Passed: true}}
	var out bytes.Buffer
	err := writeBackups(&out, []held{{Database: "records", Vault: "main", Backups: []listedBackup{{Backup: bad}, {Backup: good}}}, {Database: "orders", Vault: "main"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"NO, indexes (heap tuple lacks an index tuple): clinic: public.appointments_pkey", "3.0 MiB", "1.0 KiB", "yes, by restoring it",
		"no moment can be restored", "holdfast backup run orders",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &out)
		}
	}
}

func TestABackupThatIsNotProvenIsAProblem(t *testing.T) {
	bad := &vault.Backup{ID: "records-2", Validation: &vault.Validation{Checks: []vault.Check{{Name: "heap", Outcome: "failed", Objects: []string{"public.a"}}}}}
	for name, c := range map[string]struct {
		answer backupAnswer
		want   string
	}{
		"found bad":    {backupAnswer{Backup: bad}, "backup.not-proven"},
		"was not made": {backupAnswer{Text: "base backup did not succeed: no space"}, "backup.failed"},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := backupProblem("records", c.answer).(*problem.Problem)
			if !ok || p.Code != c.want || p.Remedy == "" {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestProgressLineSpeaksOncePerPhaseWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	l := newProgressLine(&out)
	for _, detail := range []string{"1 %", "50 %", "99 %"} {
		l.show("copying files", detail)
	}
	l.show("waiting", "")
	l.end()
	if diff := cmp.Diff("copying files\nwaiting\n", out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTextsForAPerson(t *testing.T) {
	for _, c := range [][2]string{
		{sizeText(0), "0 B"}, {sizeText(1023), "1023 B"}, {sizeText(1536), "1.5 KiB"}, {sizeText(5 << 40), "5.0 TiB"},
		{ageText(-time.Second), "0s"}, {ageText(90 * time.Second), "1m"}, {ageText(25*time.Hour + time.Minute), "25h 1m"}, {ageText(72 * time.Hour), "3d 0h"},
		{progressText(50, 100, 0), "50 % of 100 B"}, {progressText(512<<20, 1<<30, 2*time.Second), "50 % of 1.0 GiB, 256.0 MiB/s, 2s left"},
		{backupPhase("prove:"), "restoring it on trial"}, {momentText(time.Time{}), "unknown"},
	} {
		if c[0] != c[1] {
			t.Errorf("got %q, want %q", c[0], c[1])
		}
	}
}
