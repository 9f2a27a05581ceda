package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/local"
)

// words runs one command line, and gives what it said.
func words(t *testing.T, want int, args ...string) string {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }() // only read
	var out, bad bytes.Buffer
	if got := Main(args, in, &out, &bad); got != want {
		t.Fatalf("holdfast %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got, want, out.String(), bad.String())
	}
	return out.String() + bad.String()
}

// wordsOut runs one command line that succeeds, and gives its standard output alone.
func wordsOut(t *testing.T, args ...string) string {
	t.Helper()
	var out, bad bytes.Buffer
	if got := Main(args, strings.NewReader(""), &out, &bad); got != 0 {
		t.Fatalf("holdfast %s: exit status %d\n%s%s", strings.Join(args, " "), got, out.String(), bad.String())
	}
	return out.String()
}

// twoCopies is a data root whose plan has a vault with two copies. No agent runs.
func twoCopies(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	text := `application: clinic
sites: { here: { hosts: { h1: { address: 127.0.0.1 } } } }
vaults:
  main:
    key: file:${root}/vault.key
    copies: { home: "file://${root}/home", away: "file://${root}/away" }
databases: { records: { postgres: 15, standbys: 0, acknowledged_by: 0 } }
backup: { records: { vault: main, full: "daily 01:00" } }
`
	plan := filepath.Join(root, "holdfast.yaml")
	c, err := json.Marshal(local.Context{Application: "clinic", Plan: plan, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"holdfast.yaml": text, "vault.key": "a key of the test", "context.json": string(c)} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func says(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("does not say %q:\n%s", w, text)
		}
	}
}

// An operator makes a vault with two copies, loses one, has damage found and mended.
func TestAVaultOfTwoCopiesByTheCommandLine(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	says(t, words(t, 0, "vault", "init", "main", at, "--dry-run"), "/home and file://", "nothing was made")
	for _, place := range []string{"home", "away"} {
		if _, err := os.Stat(filepath.Join(root, place)); err == nil {
			t.Errorf("a dry run made %s", place)
		}
	}
	words(t, 0, "vault", "init", "main", at)
	for _, dry := range []string{"--dry-run", "--dry-run=false"} {
		says(t, words(t, 1, "vault", "init", "main", at, dry), "vault.exists")
	}
	says(t, words(t, 1, "vault", "status", at), "copy home", "copy away", "holds all that the others hold", "scrubbed   never")
	says(t, words(t, 0, "vault", "scrub", at), "everything is what was stored")

	format := filepath.Join(root, "away", "repository", "kopia.repository.f")
	if err := os.WriteFile(format, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "vault", "scrub", at, "--rate", "500MB/s"), "damaged: repository/kopia.repository in copy away", "whole in home")
	says(t, words(t, 1, "vault", "status", at), "1 damaged or lost objects that are not mended")
	says(t, words(t, 0, "vault", "repair", at, "--dry-run"), "repository/kopia.repository in copy away would be mended from copy", "nothing was changed")
	says(t, words(t, 2, "vault", "repair", at), "--yes goes on without asking")
	says(t, words(t, 0, "vault", "repair", at, "--yes"), "repository/kopia.repository in copy away was mended from copy")
	says(t, words(t, 1, "vault", "status", at), "0 of them damaged")

	if err := os.RemoveAll(filepath.Join(root, "away")); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "vault", "sync", at), "copy away is away", "vault.copy-gone")
	if _, err := os.Stat(filepath.Join(root, "away")); err == nil {
		t.Error("an empty place was filled unasked")
	}
	says(t, words(t, 0, "vault", "sync", "main", at, "--fill", "away"), "copy away: brought")
	says(t, words(t, 0, "vault", "sync", at, "--dry-run"), "copy away: would bring 0 objects")
	says(t, words(t, 0, "vault", "status", "--vault", filepath.Join(root, "away"), "--key", filepath.Join(root, "vault.key")), "of clinic")
	says(t, words(t, 2, "vault", "scrub", at, "--rate", "fast"), "is not a rate")
	says(t, words(t, 2, "vault", "sync", "main", at, "--fill", "moon"), fmt.Sprintf("has no copy %q", "moon"))
}

// An operator sees what was deleted, brings it back where it was, and has the vault as it was made elsewhere.
func TestWhatWasDeletedComesBackByTheCommandLine(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	says(t, words(t, 0, "vault", "trash", at), "main, copy home: nothing that was deleted is there")
	stored := filepath.Join(root, "home", "wal", "7", "00000001", "of-the-test")
	trash := filepath.Join(root, "home", ".trash")
	for _, dir := range []string{filepath.Dir(stored), trash} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(trash, fmt.Sprintf("wal%%2F7%%2F00000001%%2Fof-the-test~%d", time.Now().UnixNano()))
	if err := os.WriteFile(name, []byte("log"), 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 0, "vault", "trash", "main", at), "copy home: 1 objects, 3 B", "copy away: nothing")
	says(t, words(t, 0, "vault", "undelete", at, "--prefix", "wal/", "--dry-run"), "would bring back 1 objects")
	says(t, words(t, 0, "vault", "undelete", at, "--prefix", "repository/"), "would bring back 0 objects")
	says(t, words(t, 2, "vault", "undelete", at), "--yes goes on without asking")
	says(t, words(t, 0, "vault", "undelete", at, "--yes"), "brought back 1 objects, 3 B")
	if got, err := os.ReadFile(stored); err != nil || string(got) != "log" {
		t.Errorf("holds %q, %v", got, err)
	}
	says(t, words(t, 2, "vault", "undelete", at, "--at", "2026-11-20 09:00"), "--at and --to go together")
	says(t, words(t, 2, "vault", "undelete", at, "--since", "tomorrow"), "is no moment")
	old, now := filepath.Join(root, "as-it-was"), time.Now().Add(time.Second).Format(time.RFC3339Nano)
	says(t, words(t, 0, "vault", "undelete", "main", at, "--at", now, "--to", old, "--dry-run"), "would make main as it was")
	if _, err := os.Stat(old); err == nil {
		t.Error("a dry run made the directory")
	}
	says(t, words(t, 0, "vault", "undelete", "main", at, "--at", now, "--to", old), "made main as it was")
	says(t, words(t, 0, "vault", "status", "--vault", old, "--key", filepath.Join(root, "vault.key")), "of clinic")
	says(t, words(t, 1, "vault", "undelete", "main", at, "--at", now, "--to", old), "vault.exists")
}

// An operator prints the key, proves the sheet, changes the key and retires the old one; the sheet alone opens the vault.
func TestAKeyOfAVaultByTheCommandLine(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	says(t, words(t, 1, "vault", "status", at), "DEGRADED: no copy of its key")
	sheet := filepath.Join(root, "sheet.txt")
	says(t, words(t, 0, "vault", "key", "export", at, "--out", sheet), "check words")
	words(t, 1, "vault", "key", "export", at, "--out", sheet) // never over another
	says(t, words(t, 1, "vault", "key", "prove", at, "--sheet", filepath.Join(root, "vault.key")), "no printed key")
	says(t, words(t, 0, "vault", "key", "prove", at, "--sheet", sheet), "opens vault main")
	says(t, words(t, 0, "vault", "key", "prove", at, "--sheet", sheet, "--output", "json"), `"opens": true`, `"check_words"`)
	says(t, words(t, 0, "vault", "status", at), "key        proven")
	says(t, words(t, 0, "vault", "status", "--vault", filepath.Join(root, "home"), "--key", sheet), "of clinic")

	fresh := filepath.Join(root, "fresh.key")
	if err := os.WriteFile(fresh, []byte("a fresh key of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 0, "vault", "key", "rotate", at, "--new", "file:"+fresh, "--yes"), "opens with the new key")
	says(t, words(t, 1, "vault", "key", "retire", at, "--yes"), "vault.old-key")
	if err := os.Rename(fresh, filepath.Join(root, "vault.key")); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 1, "vault", "key", "prove", at, "--sheet", sheet), "vault.old-key")
	says(t, words(t, 1, "vault", "status", at), "DEGRADED", "2 open it")
	says(t, words(t, 0, "vault", "key", "retire", at, "--dry-run", "--output", "json"), `"opening": 2`, `"retired": 0`)
	says(t, words(t, 0, "vault", "key", "retire", at, "--yes"), "1 old keys open it no more")
	says(t, words(t, 1, "vault", "key", "prove", at, "--sheet", sheet), "vault.wrong-key")
}
