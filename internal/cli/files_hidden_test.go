package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// indexesOf names the index files of a copy.
func indexesOf(t *testing.T, copied string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(copied, "repository", "x"), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(copied, p) // it lies below it
			all[rel] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// letters adds file sets to the plan in a data root, and makes a backup of letters that belongs to a recovery point.
func letters(t *testing.T, root string, ids ...string) {
	t.Helper()
	file := filepath.Join(root, "holdfast.yaml")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	if !strings.Contains(text, "letters") {
		text = strings.Replace(text, "backup: {", "files: { letters: { path: /srv/letters, hosts: [h1] }, scans: { path: /srv/scans, hosts: [h1] } }\nbackup: { letters: {}, scans: {},", 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, mistakes := plan.Parse("holdfast.yaml", []byte(text))
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	a := application{Context: local.Context{Root: root}, plan: p.WithRoot(root)}
	v, err := a.openToWrite(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		w, err := v.BeginTree(t.Context(), "test")
		if err == nil {
			err = w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755})
		}
		if err == nil {
			at := time.Now().UTC()
			_, err = w.Commit(vault.FileBackup{ID: id, Set: "letters", Host: "h1", Started: at, Ended: at, Point: &vault.Point{ID: "point-" + id, Database: "records", LSN: 7, At: at}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The pack with the entry of the newest backup is lost in every copy: what can be read is listed, what cannot is told, and nobody
// takes an older one for the newest.
func TestWhatCanBeReadIsListedPastEntriesThatAreGone(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	letters(t, root, "old")
	packs := func(copied string) []string {
		all, err := filepath.Glob(filepath.Join(root, copied, "repository", "q", "*", "*"))
		if err != nil || len(all) == 0 {
			t.Fatal(all, err)
		}
		return all
	}
	before := map[string][]string{"home": packs("home"), "away": packs("away")}
	letters(t, root, "new")
	for copied, had := range before {
		for _, f := range packs(copied) {
			if !slices.Contains(had, f) {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, from := range [][]string{{at}, {"--vault", filepath.Join(root, "home"), "--key", filepath.Join(root, "vault.key")}} {
		do := func(want int, args ...string) string { return words(t, want, append(args, from...)...) }
		says(t, do(0, "files", "list"), "vault.damaged", "which is in no copy", " old ")
		says(t, do(0, "recovery-point", "list"), "vault.damaged", "point-old")
		says(t, do(1, "files", "ls", "letters"), "is old of ", "--backup old")
		says(t, do(0, "files", "ls", "letters", "--backup", "old"), "in backup old")
		says(t, do(0, "backup", "list", "records"), "vault.damaged")
	}
}

// The index of the newest backup of a file set is lost in every copy: lists say that they may lack some, and nobody takes an
// older one for the newest.
func TestAFileSetsNewestIsNotGuessedWhileBackupsAreHidden(t *testing.T) {
	root := twoCopies(t)
	at := "--root=" + root
	words(t, 0, "vault", "init", "main", at)
	letters(t, root, "old")
	before := map[string]map[string]bool{}
	for _, copied := range []string{"home", "away"} {
		before[copied] = indexesOf(t, filepath.Join(root, copied))
	}
	letters(t, root, "new")
	say := words(t, 0, "files", "ls", "letters", at)
	says(t, say, "in backup new")
	if strings.Contains(say, "vault.damaged") {
		t.Errorf("of a whole vault: %s", say)
	}
	for copied, had := range before {
		lost := 0
		for name := range indexesOf(t, filepath.Join(root, copied)) {
			if had[name] {
				continue
			}
			if err := os.Remove(filepath.Join(root, copied, name)); err != nil {
				t.Fatal(err)
			}
			lost++
		}
		if lost == 0 {
			t.Fatalf("copy %s got no index with the second backup", copied)
		}
	}

	alone := []string{"--vault", filepath.Join(root, "home"), "--key", filepath.Join(root, "vault.key")}
	look, to := filepath.Join(root, "look"), filepath.Join(root, "to")
	if err := os.Mkdir(look, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, from := range [][]string{{at}, alone} {
		do := func(want int, args ...string) string { return words(t, want, append(args, from...)...) }
		says(t, do(0, "files", "list"), "vault.damaged", "not listed", " old ")
		says(t, do(0, "recovery-point", "list"), "vault.damaged", "not listed", "point-old")
		for _, refused := range [][]string{
			{"files", "ls", "letters"}, {"files", "find", "letters", "*"}, {"files", "ls", "letters", "--at", "1s ago"},
			{"restore", "files", "letters", "--to", to},
		} {
			says(t, do(1, refused...), "vault.damaged", "among those that are not listed")
		}
		says(t, do(1, "files", "ls", "letters"), "is old of ", "--backup old")
		says(t, do(1, "files", "ls", "letters", "--backup", "new"), "vault.damaged", "None that is listed fits")
		says(t, do(0, "files", "ls", "letters", "--backup", "old"), "vault.damaged", "in backup old")
		says(t, do(1, "recovery-point", "restore", "latest", "--to", to, "--dry-run"), "vault.damaged", "holdfast recovery-point restore point-old")
		says(t, do(1, "recovery-point", "restore", "point-new", "--to", to, "--dry-run"), "vault.damaged", "None that is listed fits")
	}
	out := wordsOut(t, "files", "list", at, "--output", "json")
	var all []fileSetHeld
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 2 || all[0].Unseen == nil || all[0].Unseen.Code != "vault.damaged" {
		t.Errorf("%v: %s", err, out)
	}
	if told := words(t, 0, "files", "list", at); strings.Count(told, "vault.damaged") != 1 {
		t.Errorf("one vault is told of more than once:\n%s", told)
	}
	if _, err := os.Stat(to); !os.IsNotExist(err) {
		t.Errorf("something was restored: %v", err)
	}
}
