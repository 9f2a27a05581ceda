package backup

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// What an unchanged file is made of lies where an older backup stored it. When that is gone the file is read whole, stored again, and
// the backup comes back: it does not end.
func TestAFileWhoseListIsGoneIsReadWhole(t *testing.T) {
	kept := t.TempDir()
	open := func(make func(context.Context, vault.Config) (*vault.Vault, error)) *vault.Vault {
		t.Helper()
		v, err := make(t.Context(), vault.Config{URL: "file://" + kept, Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Close(context.Background()) }) // what counts was read back
		return v
	}
	dir := t.TempDir()
	const name = "base/5/16384"
	f := file{path: name, size: 3 * vault.ChunkSize, mode: 0o600, relation: true, fact: fact{Size: 3 * vault.ChunkSize, Inode: 7, Modified: 1, Changed: 1}}
	content := make([]byte, f.size)
	for at := range 3 {
		copy(content[at*vault.ChunkSize:], strings.Repeat(string(rune('a'+at)), 100))
	}
	if err := os.MkdirAll(filepath.Join(dir, "base/5"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	first := open(vault.Create)
	storeAndRead(t, first, dir, f)
	old, err := filepath.Glob(filepath.Join(kept, "repository/q*"))
	if err != nil || len(old) == 0 {
		t.Fatalf("%v, %v", old, err)
	}
	storeAndRead(t, first, dir, f)
	v := open(vault.Open)
	made, err := v.Backups(t.Context(), "orders")
	if err != nil || len(made) != 2 {
		t.Fatalf("%d backups, %v", len(made), err)
	}
	r, err := v.OpenBackup(t.Context(), made[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, pack := range old {
		if err := os.RemoveAll(pack); err != nil {
			t.Fatal(err)
		}
	}
	from := &earlier{backup: made[1], reader: r, facts: facts{Scanned: time.Now(), Files: map[string]fact{name: f.fact}}, entries: map[string]vault.Entry{}}
	for _, e := range r.Entries() {
		from.entries[strings.TrimPrefix(e.Path, vault.DataDir+"/")] = e
	}
	if _, err := from.chunks(t.Context(), f); err == nil {
		t.Fatal("the list is still there: nothing is tried here")
	}
	var said bytes.Buffer
	for _, take := range []bool{false, true} {
		if got := storeFrom(t, v, dir, f, &copier{from: from, take: take, compare: !take, log: slog.New(slog.NewTextHandler(&said, nil))}); !bytes.Equal(got, content) {
			t.Errorf("take %t: %d bytes came back", take, len(got))
		}
	}
	if !strings.Contains(said.String(), name) {
		t.Errorf("told is %q", &said)
	}
}
