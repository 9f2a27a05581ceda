package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// A backup is pinned, held and released where it lies though another vault of the plan is away; where none lists it, the one that
// could not be asked is named. A hold that does not stand is not lifted.
func TestABackupIsPinnedWhileAnotherVaultIsAway(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	file := filepath.Join(root, "holdfast.yaml")
	raw, err := os.ReadFile(file)
	if err == nil { // first, so that it is asked first
		text := strings.Replace(string(raw), "vaults:\n", "vaults:\n  aside: { key: \"file:"+root+"/vault.key\", copies: { there: \"file://"+root+"/aside\" } }\n", 1)
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	words(t, 0, "vault", "init", "main", at)
	v, err := vault.Open(t.Context(), vault.Config{Key: redact.Secret("a key of the test"), URL: "file://" + filepath.Join(root, "home"), Copy: "home", Filled: true,
		Others: []vault.Place{{Copy: "away", URL: "file://" + filepath.Join(root, "away"), Filled: true}}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := v.BeginTree(t.Context(), "test")
	if err == nil {
		err = w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755})
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.Commit(vault.FileBackup{Set: "letters", Host: "h1", Path: "/srv", Started: time.Now().UTC(), Ended: time.Now().UTC()})
	if err == nil {
		err = v.Close(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	says(t, words(t, 0, "backup", "pin", b.ID, at), "is pinned")
	says(t, words(t, 0, "backup", "hold", b.ID, "--reason", "case 14", at), "is under a legal hold")
	says(t, words(t, 0, "backup", "release", b.ID, "--reason", "closed", "--yes", at), "is not under a legal hold any more")
	says(t, words(t, 1, "backup", "release", b.ID, "--reason", "another reason", "--yes", at), "backup.no-hold", "no legal hold stands")
	says(t, words(t, 1, "backup", "pin", "letters-nosuch", at), "backup.unknown", "aside (vault.absent")
}
