package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// restorable adds a base backup of PostgreSQL 15, and the log that makes it whole, to the vault of a data root.
// differs are the places in it that changed behind the log.
func restorable(t *testing.T, root string, differs ...string) {
	t.Helper()
	const segment = 1 << 20
	ctx, at := t.Context(), time.Now().Add(-time.Hour).UTC()
	v, err := vault.Create(ctx, vault.Config{URL: "file://" + filepath.Join(root, "home"), Key: redact.Secret("a key of the test"), Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := v.Begin(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	f := w.File(vault.Entry{Path: "pgdata/PG_VERSION", Mode: 0o600, ModTime: at})
	if _, err = f.Write([]byte("15\n")); err == nil {
		err = f.Keep()
	}
	if err == nil {
		_, err = w.Commit(vault.Backup{Database: "records", Kind: "full", SystemID: 7, Timeline: 1, ServerVersion: 150004, SegmentSize: segment, Bytes: 3,
			Start: segment + 40, Stop: segment + 4000, Started: at, Stopped: at, Differs: differs})
	}
	if err == nil {
		err = v.Log(7, segment).PutSegment(ctx, 1, wal.LSN(segment), make([]byte, segment), at.Add(time.Minute))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// pretend is a directory with a program that tells a version of PostgreSQL.
func pretend(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) "+version+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What cannot be restored is refused first: nothing is written, and no forecast is told of it.
func TestARestoreIsRefusedBeforeAnythingIsToldOfIt(t *testing.T) {
	root := t.TempDir()
	restorable(t, root)
	key := filepath.Join(root, "vault.key")
	if err := os.WriteFile(key, []byte("a key of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	full, to := t.TempDir(), filepath.Join(root, "to")
	if err := os.WriteFile(filepath.Join(full, "mine"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	running := t.TempDir()
	script := filepath.Join(t.TempDir(), "postgres") // of this name, and at work in the directory: that is how a server is known
	if err := os.WriteFile(script, []byte("#!/bin/sh\nread -r line\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(script)
	server.Dir = running
	if _, err := server.StdinPipe(); err != nil { // nothing comes through it, so that it waits
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Process.Kill(), server.Wait() })
	if err := os.WriteFile(filepath.Join(running, "postmaster.pid"), []byte(strconv.Itoa(server.Process.Pid)+"\n"+running+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := pretend(t, "15.9")
	from := []string{"restore", "database", "records", "--vault", filepath.Join(root, "home"), "--key", key}
	for name, c := range map[string]struct {
		words []string
		says  string
	}{
		"a directory with something in it": {[]string{"--to", full, "--bin-dir", good}, "restore.not-empty"},
		"programs of another version":      {[]string{"--to", to, "--bin-dir", pretend(t, "18.3")}, "restore.no-postgres"},
		"programs that are not there":      {[]string{"--to", to, "--bin-dir", filepath.Join(root, "nowhere")}, "restore.no-postgres"},
		"the same when it is only tried":   {[]string{"--to", to, "--bin-dir", pretend(t, "18.3"), "--dry-run"}, "restore.no-postgres"},
		"a directory where a server runs":  {[]string{"--to", running, "--bin-dir", good}, "restore.running"},
	} {
		said := words(t, 1, append(from, c.words...)...)
		says(t, said, c.says)
		if !strings.HasPrefix(said, c.says) {
			t.Errorf("%s: something is told before the refusal:\n%s", name, said)
		}
		if _, err := os.Stat(to); err == nil {
			t.Errorf("%s: %s was made", name, to)
		}
	}
	says(t, words(t, 0, append(from, "--to", to, "--bin-dir", good, "--dry-run")...), "would be restored to")
	says(t, words(t, 1, append(from, "--to", full, "--bin-dir", good, "--dry-run")...), "NOT EMPTY", "It would be refused")
}

// A file of SQL whose base backup may hold pages that changed behind the log is told so beforehand, in the JSON too.
func TestAFileOfSQLSaysThatItMayHoldAChange(t *testing.T) {
	root := t.TempDir()
	restorable(t, root, "clinic: table public.letters blocks 0 to 127")
	key, good := filepath.Join(root, "vault.key"), pretend(t, "15.4")
	if err := os.WriteFile(key, []byte("a key of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(good, "pg_dump"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	from := []string{"restore", "records", "--vault", filepath.Join(root, "home"), "--key", key, "--scratch", filepath.Join(root, "scratch"),
		"--dump", filepath.Join(root, "all.sql"), "--bin-dir", good, "--dry-run"}
	says(t, words(t, 0, from...), "restore.holds-change", "No backup from before is left.")
	says(t, words(t, 0, append(from, "--output", "json")...), `"holds_change": {`)
}

// A drill, and a recovery point, whose base backup may hold pages that changed behind the log say so beforehand, in the JSON too.
func TestADrillAndARecoveryPointSayThatTheyMayHoldAChange(t *testing.T) {
	root := t.TempDir()
	restorable(t, root, "clinic: table public.letters blocks 0 to 127")
	key := filepath.Join(root, "vault.key")
	if err := os.WriteFile(key, []byte("a key of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.Context(), vault.Config{URL: "file://" + filepath.Join(root, "home"), Key: redact.Secret("a key of the test")})
	if err != nil {
		t.Fatal(err)
	}
	w, err := v.BeginTree(t.Context(), "test")
	if err == nil {
		err = w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755})
	}
	if err == nil {
		at := time.Now().UTC()
		_, err = w.Commit(vault.FileBackup{ID: "f", Set: "letters", Host: "h1", Started: at, Ended: at,
			Point: &vault.Point{ID: "letters-1", Database: "records", SystemID: 7, Timeline: 1, LSN: 1<<20 + 5000, At: at}})
	}
	if err = errors.Join(err, v.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	from := []string{"--vault", filepath.Join(root, "home"), "--key", key, "--bin-dir", pretend(t, "15.4")}
	do := func(want int, args ...string) string { return words(t, want, append(args, from...)...) }
	point := []string{"recovery-point", "restore", "letters-1", "--to", filepath.Join(root, "to"), "--dry-run"}
	says(t, do(0, point...), "restore.holds-change", "No backup from before is left.")
	says(t, do(0, append(point, "--output", "json")...), `"holds_change": {`)
	drill := do(1, "restore", "drill", "records", "--runs", "2", "--scratch", filepath.Join(root, "scratch"), "--output", "json") // its server only tells a version
	says(t, drill, `"holds_change": {`)
	if n := strings.Count(drill, "restore.holds-change   records: "); n != 1 {
		t.Errorf("warned %d times of one backup:\n%s", n, drill)
	}
}

// A table or an SQL database that would be written to a file is told, or refused, before anything is written.
func TestAFileOfSQLIsSurveyedFirst(t *testing.T) {
	root := t.TempDir()
	restorable(t, root)
	key, good := filepath.Join(root, "vault.key"), pretend(t, "15.4")
	if err := os.WriteFile(key, []byte("a key of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	mine, file, scratch := filepath.Join(root, "mine"), filepath.Join(root, "t.sql"), filepath.Join(root, "scratch")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(good, "pg_dump"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	from := []string{"restore", "records", "--vault", filepath.Join(root, "home"), "--key", key, "--table", "goods", "--scratch", scratch}
	says(t, words(t, 0, append(from, "--dump", file, "--bin-dir", good, "--dry-run")...), "table goods of its only SQL database of records at latest would be written to "+file, "there is room for it")
	says(t, words(t, 1, append(from, "--dump", file, "--bin-dir", pretend(t, "18.3"))...), "restore.no-postgres")
	says(t, words(t, 1, append(from, "--dump", file, "--bin-dir", pretend(t, "15.4"))...), "restore.no-program", "pg_dump")
	says(t, words(t, 1, append(from, "--dump", mine, "--bin-dir", good)...), "restore.name-taken")
	for _, name := range []string{file, file + ".partial", mine + ".partial"} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch directory: %v, %v", left, err)
	}
}

// Who has a vault and its key alone, and gives them to the command that needs a plan, is told which one takes them.
func TestRestoreSaysWhereAVaultAloneIsTaken(t *testing.T) {
	for _, w := range [][]string{{"--vault", "file:///mnt/vault", "--key", "vault.key"}, {"--key", "vault.key", "--table", "x", "--at", "latest", "--diff"}} {
		says(t, words(t, 2, append([]string{"restore", "records"}, w...)...), "--dump FILE", "holdfast restore database NAME --vault URL --key FILE --to DIR")
	}
	if said := words(t, 2, "restore", "database", "records", "--nonsense"); strings.Contains(said, "--vault URL") {
		t.Errorf("said of another flag: %s", said)
	}
}
