package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/vault"
)

// What is kept for points in a vault that is gone for good is let go of by its name, and by nothing else.
func TestPointsInAVaultThatIsGoneAreForgottenByName(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	a := applicationAt(t, root)
	present := ""
	noted := func(put ...vault.NotedPoints) int {
		t.Helper()
		v, err := a.openToWrite(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		if len(put) > 0 {
			if err := v.NotePoints(t.Context(), put); err != nil {
				t.Fatal(err)
			}
		}
		present = v.Identity().ID
		all, err := v.NotedPoints(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	noted(vault.NotedPoints{ID: "v1", Name: "old", Points: []vault.Point{{ID: "letters-1", Database: "records", LSN: 7}}},
		vault.NotedPoints{ID: "v2", Name: "older"})
	words(t, 2, "recovery-point", "forget", "main", at, "--yes")    // in the plan
	words(t, 2, "recovery-point", "forget", "unknown", at, "--yes") // nothing is noted of it
	says(t, words(t, 0, "recovery-point", "forget", "old", at, "--dry-run"), "letters-1 of records at 0/7", "nothing was changed")
	words(t, 2, "recovery-point", "forget", "old", at) // not confirmed
	if n := noted(); n != 2 {
		t.Fatalf("%d vaults are noted", n)
	}
	says(t, words(t, 0, "recovery-point", "forget", "old", at, "--yes"), "forgotten")
	words(t, 2, "recovery-point", "forget", "old", at, "--yes")
	if n := noted(); n != 1 {
		t.Errorf("%d vaults are noted", n)
	}

	// A vault that was made anew under its name: what was heard of the one before is forgotten, and nothing of this one.
	noted(vault.NotedPoints{ID: present, Name: "main", Points: []vault.Point{{ID: "letters-2", Database: "records", LSN: 8}}},
		vault.NotedPoints{ID: "v1", Name: "main", Points: []vault.Point{{ID: "letters-1", Database: "records", LSN: 7}}})
	if said := words(t, 0, "recovery-point", "forget", "main", at, "--dry-run"); strings.Contains(said, "letters-2") || !strings.Contains(said, "letters-1 of records") {
		t.Errorf("said %s", said)
	}
	words(t, 0, "recovery-point", "forget", "main", at, "--yes")
	words(t, 2, "recovery-point", "forget", "main", at, "--yes")
	if n := noted(); n != 1 {
		t.Errorf("%d vaults are noted", n)
	}
	if err := os.Rename(filepath.Join(root, "home"), filepath.Join(root, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "away"), filepath.Join(root, "gone-too")); err != nil {
		t.Fatal(err)
	}
	words(t, 1, "recovery-point", "forget", "main", at, "--yes") // nobody knows which one it is
}
