package lab_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// An operator makes a recovery point of a file set and a database, and brings both back.
func TestFilesAndDatabaseComeBackFromARecoveryPoint(t *testing.T) {
	lab.Long(t)
	dir, err := os.MkdirTemp("/var/tmp", "holdfast-lab-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil { // the restored server runs as another user
		t.Fatal(err)
	}
	set, log := filepath.Join(dir, "set"), filepath.Join(dir, "log")
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(set, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("letters/one", "before")
	w := lab.NewAs(t, "127.60.61", lab.Shape{Plan: func(text string) string {
		text += "  attachments: { every: 31d, keep: tiers }\n"
		return text + `files:
  attachments:
    path: ` + set + `
    hosts: [h1]
    moment: { database: records, before: [/bin/sh, -c, "echo before >> ` + log + `"], after: [/bin/sh, -c, "echo after >> ` + log + `"],
      after_restore: [[/bin/sh, -c, "ls $HOLDFAST_PATH/letters && echo $PGUSER of $HOLDFAST_POINT"]], check: [/bin/sh, -c, "test -S $PGHOST/.s.PGSQL.$PGPORT && test ! -e ` + log + `.stop && echo they agree"] }
`
	}})
	w.Start()
	w.Await("a base backup is proven and the files are backed up", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven && len(st.Files) == 1 && st.Files[0].Last != nil
	})
	run := func(args ...string) string {
		t.Helper()
		out, err := w.Run(args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	write("letters/two", "of the point")
	text := run("recovery-point", "create", "attachments", "--output", "json")
	var told struct {
		Backup struct {
			ID    string
			Point struct{ ID string }
		}
	}
	if err := json.Unmarshal([]byte(text[max(strings.Index(text, "{"), 0):]), &told); err != nil || told.Backup.Point.ID == "" { // behind its progress
		t.Fatalf("%v\n%s", err, text)
	}
	if said, err := os.ReadFile(log); err != nil || string(said) != "before\nafter\n" {
		t.Errorf("the commands said %q, %v", said, err)
	}
	write("letters/three", "after it")
	if list := run("recovery-point", "list"); !strings.Contains(list, told.Backup.Point.ID) {
		t.Errorf("it is not listed:\n%s", list)
	}
	run("files", "backup", "attachments")
	back := filepath.Join(dir, "back")
	run("restore", "files", "attachments", "--backup", told.Backup.ID, "--to", back)
	for name, want := range map[string]bool{"one": true, "two": true, "three": false} {
		if _, err := os.Stat(filepath.Join(back, "letters", name)); (err == nil) != want {
			t.Errorf("letters/%s: %v", name, err)
		}
	}
	both := filepath.Join(dir, "both")
	if err := os.WriteFile(log+".stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	restore := []string{"recovery-point", "restore", "latest", "--to", both, "--yes"}
	for end := time.Now().Add(recoverMax); ; time.Sleep(time.Second) { // until the log up to it is in the vault
		out, err := w.Run(restore...)
		if err == nil {
			t.Fatalf("the check failed, and the point passed:\n%s", out)
		}
		if strings.Contains(out, "did not pass: check /bin/sh: exit status 1") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := os.Remove(log + ".stop"); err != nil {
		t.Fatal(err)
	}
	if out := run(restore...); !strings.Contains(out, "they agree") || !strings.Contains(out, "| two\n") || strings.Contains(out, "| three\n") || !strings.Contains(out, "signed, in vault") {
		t.Errorf("it says:\n%s", out)
	}
	for _, name := range []string{"files/letters/two", "database/PG_VERSION"} {
		if _, err := os.Stat(filepath.Join(both, name)); err != nil {
			t.Error(err)
		}
	}
	if out := run("receipt", "list", "attachments"); !strings.Contains(out, "failed") || !strings.Contains(out, "passed") || !strings.Contains(out, "backup") {
		t.Errorf("the receipts are:\n%s", out)
	}
	run("receipt", "verify")
	if out := run("files", "prune", "attachments", "--yes"); !strings.Contains(out, "recovery point: the last one that is complete") || !strings.Contains(out, "attachments: 4 backups kept, 0 marked, 0 gone") {
		t.Errorf("what stays:\n%s", out)
	}
	// An agent that dies while they stand still lets them go on when it is back.
	note := filepath.Join(w.Root, "hosts", "h1", "still-attachments.json")
	if _, err := os.Stat(filepath.Dir(note)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(note, []byte(`{"after":["/bin/sh","-c","echo thawed >> `+log+`"],"since":"2026-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Kill(w.PID("h1", "agent.pid"))
	w.Await("they are let go on", recoverMax, func(api.Status) bool { _, err := os.Stat(note); return os.IsNotExist(err) })
	if said, err := os.ReadFile(log); err != nil || string(said) != "before\nafter\nthawed\n" {
		t.Errorf("the commands said %q, %v", said, err)
	}
}
