package vault_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/repo/format"
)

// g: a format that asks for more than this program can ends this vault's use, told as an error, and not the process: the agent
// that keeps databases up is what would end.
func TestGuardGAFormatOfTheFutureEndsTheWritingAndNotTheProcess(t *testing.T) {
	v, dir := create(t)
	b := store(t, v, sample())
	used := openAll(t, config(dir).WithFormatKept(time.Nanosecond))
	if _, err := used.Backups(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	demandFeature(t, dir)
	note := vault.Note{Backup: b.ID, Kind: vault.Pin, By: "ada", At: time.Unix(3e9, 0)}
	err := used.PutNote(t.Context(), note)
	for deadline := time.Now().Add(5 * time.Minute); err == nil && time.Now().Before(deadline); {
		err = used.PutNote(t.Context(), note)
	}
	if err == nil || !strings.Contains(err.Error(), "of the future") {
		t.Errorf("written to a repository that asks for more than this program can: %v", err)
	}
	if _, err := used.Begin(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "vault home cannot go on") {
		t.Errorf("a backup was begun after it: %v", err)
	}
	if _, err := used.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err == nil {
		t.Error("something was freed after it")
	}
}

// demandFeature does what a newer program may: it writes into the format that whoever reads on must know something more.
func demandFeature(t *testing.T, dir string) {
	t.Helper()
	at := filepath.Join(dir, "repository", "kopia.repository.f")
	raw, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	key := config(dir).Key.Reveal()
	f, err := format.Read(raw, key)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = f.Demanding("of the future", key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
