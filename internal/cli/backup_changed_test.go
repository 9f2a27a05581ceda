package cli

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
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
	s := backupStatus{Database: "records", Proven: 2, Log: &api.ArchiveStatus{}, Attempt: &api.ChoreStatus{Chore: agent.Chore{OK: true}}}
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

// An acceptance lies on each backup that differs, so that it does not end with the newest of them; a file set's is refused.
func TestAcceptingABackupOnTheCommandLine(t *testing.T) {
	root := twoCopies(t)
	words(t, 0, "vault", "init", "main", "--root="+root)
	a := applicationAt(t, root)
	v, err := a.openToWrite(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i, differs := range [][]string{nil, {"t"}, nil, {"t"}} {
		at := time.Now().Add(time.Duration(i-9) * time.Hour)
		w, err := v.Begin(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		f := w.File(vault.Entry{Path: "pgdata/PG_VERSION", Mode: 0o600, ModTime: at})
		if _, err = f.Write([]byte("15")); err == nil {
			err = f.Keep()
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.Commit(vault.Backup{Database: "records", Kind: "full", SystemID: 7, Timeline: 1, Started: at, Stopped: at, Differs: differs})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	keepFiles(t, v, filepath.Join(root, "set"))
	sets, err := v.FileBackups(t.Context(), "")
	if err != nil || len(sets) != 1 {
		t.Fatal(sets, err)
	}
	set := sets[0].ID
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "backup", "accept", set, "--root="+root, "--reason", "x", "--yes"), "backup.unknown", "no base backup of a database")
	says(t, words(t, 0, "backup", "accept", ids[3], "--root="+root, "--reason", "the disk was exchanged", "--yes"), ids[3]+" is accepted")
	if v, err = a.openVault(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	defer closeVault(context.Background(), v)
	notes, err := v.Notes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		on := slices.ContainsFunc(notes, func(n vault.Note) bool { return n.Backup == id && n.Kind == vault.Accepted })
		if on != (i == 1 || i == 3) {
			t.Errorf("backup %d is accepted: %t", i, on)
		}
	}
}
