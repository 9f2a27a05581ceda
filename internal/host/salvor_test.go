package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/durable"
	"holdfast/internal/plan"
)

// aSalvor has a release whose programs are given.
func aSalvor(t *testing.T, programs map[string]string) *salvor {
	t.Helper()
	dir := t.TempDir()
	for name, text := range programs {
		if err := durable.WriteProgram(filepath.Join(dir, name), strings.NewReader("#!/bin/sh\n"+text)); err != nil {
			t.Fatal(err)
		}
	}
	return &salvor{host: &Host{cfg: Config{Self: "h1", Dir: dir}, services: &services{release: release{dir: dir}}}}
}

func TestACommandTakesLostCommits(t *testing.T) {
	s := aSalvor(t, map[string]string{
		"takes": `echo "$HOLDFAST_DATABASE $HOLDFAST_SALVAGE_ID $HOLDFAST_COMMITS $HOLDFAST_ACKNOWLEDGED $HOLDFAST_HOST $HOME"; cat "$HOLDFAST_SALVAGE/rows.sql" >&2`,
		"fails": "echo one; echo no room on the other side >&2; exit 7",
		"hangs": "sleep 600 & wait",
		"talks": "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done",
	})
	rows := t.TempDir()
	if err := os.WriteFile(filepath.Join(rows, rowsFile), []byte("insert into orders"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOLDFAST_SECRET", "never passed on")
	k := database.Kept{ID: "epoch-3-i", Commits: 7, Acknowledged: 5}
	run := func(program string, timeout time.Duration) ([]string, error) {
		d := plan.Database{Name: "records", Salvage: plan.Salvage{Then: plan.SalvageCommand, Run: []string{program}, Timeout: timeout, Tries: 1}}
		return s.command(context.Background(), d, k, rows)
	}
	for _, c := range []struct {
		name, program string
		timeout       time.Duration
		told, failure string // parts
	}{
		{"it is told what there is and where", "takes", time.Minute, "records epoch-3-i 7 5 h1 /nonexistent\ninsert into orders", ""},
		{"one that fails says why", "fails", time.Minute, "one\nno room on the other side", "run fails: exit status 7: no room on the other side"},
		{"one that hangs is ended with its children", "hangs", 300 * time.Millisecond, "", "hangs did not end within 300ms"},
		{"of one that says much the end is kept", "talks", time.Minute, "line 2999", ""},
		{"one that is not there", "absent", time.Minute, "", "run absent: fork/exec"},
	} {
		t.Run(c.name, func(t *testing.T) {
			told, err := run(c.program, c.timeout)
			if text := strings.Join(told, "\n"); !strings.Contains(text, c.told) || len(told) > outputLines {
				t.Errorf("told %q", text)
			}
			if c.failure == "" && err != nil || c.failure != "" && (err == nil || !strings.Contains(err.Error(), c.failure)) {
				t.Errorf("got %v, want %q", err, c.failure)
			}
		})
	}
}
