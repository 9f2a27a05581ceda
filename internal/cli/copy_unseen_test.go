package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// While a copy is away lists say so, in text and in JSON, and what is not known for that.
func TestAListSaysWhichCopyHadNoPartInIt(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	oldBackup(t, root)
	if err := os.Rename(filepath.Join(root, "away"), filepath.Join(root, "gone")); err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 0, "backup", "list", at), "restore.copy-unseen", "copy away", "hold 3 base backups")
	out := wordsOut(t, "backup", "list", at, "--output", "json")
	var all []held
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].Unseen == nil || all[0].Unseen.Code != "restore.copy-unseen" {
		t.Errorf("%v: %s", err, out)
	}
	says(t, words(t, 1, "restore", "database", "records", at, "--at", "2020-01-01 00:00:00", "--to", filepath.Join(root, "x"), "--dry-run"), "restore.outside-window", "copy away")
	if err := os.Rename(filepath.Join(root, "gone"), filepath.Join(root, "away")); err != nil {
		t.Fatal(err)
	}
	out = wordsOut(t, "backup", "list", at, "--output", "json")
	all = nil
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].Unseen != nil {
		t.Errorf("with every copy: %v: %s", err, out)
	}
}

// Indexes are lost in every copy: lists say that backups may be missing from them, before anybody has scrubbed.
func TestAListSaysThatIndexesAreLost(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	oldBackup(t, root)
	for _, copied := range []string{"home", "away"} {
		if err := os.RemoveAll(filepath.Join(root, copied, "repository", "x")); err != nil {
			t.Fatal(err)
		}
	}
	says(t, words(t, 0, "backup", "list", at), "vault.damaged", "indexes are lost in every copy", "holdfast vault repair main --scrub", "none can be listed")
	says(t, words(t, 1, "backup", "list", "--vault", filepath.Join(root, "home"), "--key", filepath.Join(root, "vault.key")), "vault.damaged", "not listed")
	says(t, words(t, 1, "restore", "database", "records", at, "--to", filepath.Join(root, "x"), "--dry-run"), "indexes are lost")
}
