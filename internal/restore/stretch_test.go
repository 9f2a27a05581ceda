package restore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// No server is needed to see that what lies there is what was stored: as new files, and over what an interrupted restore
// left.
func TestALargeFileIsWrittenByManyWorkersAndIsWhole(t *testing.T) {
	content := make([]byte, 70*vault.ChunkSize+4242)
	for at := range 71 {
		copy(content[at*vault.ChunkSize:], fmt.Sprintf("chunk %d", at))
	}
	v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + t.TempDir(), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	b := storeFiles(t, v, map[string][]byte{"base/5/1": content, "base/5/2": []byte("small"), "global/pg_control": []byte("control")})
	dir := filepath.Join(t.TempDir(), "data")
	o := restore.Options{Vault: v, Dir: dir, Choice: restore.Choice{Backup: b, Target: restore.Target{Kind: restore.Consistent}, Timeline: 1}}
	look := func() {
		t.Helper()
		for name, want := range map[string][]byte{"base/5/1": content, "base/5/2": []byte("small"), "global/pg_control": []byte("control")} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes came back of %d, or others: %v", name, len(got), len(want), err)
			}
		}
	}
	if _, err := restore.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	look()

	// As an interrupted one leaves it: half of the large file, a hole in it, and no pg_control.
	large := filepath.Join(dir, "base/5/1")
	half := bytes.Clone(content[:len(content)/2])
	clear(half[5*vault.ChunkSize : 7*vault.ChunkSize])
	err = errors.Join(os.WriteFile(large, half, 0o600), os.Remove(filepath.Join(dir, "global/pg_control")),
		os.WriteFile(filepath.Join(dir, "holdfast.restoring"), []byte(`{"backup":"`+b.ID+`"}`), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	res, err := restore.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Kept == 0 {
		t.Error("nothing was kept of what was right already")
	}
	look()
}

// storeFiles makes a backup of a few files below the data directory.
func storeFiles(t *testing.T, v *vault.Vault, files map[string][]byte) vault.Backup {
	t.Helper()
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		f := w.File(vault.Entry{Path: vault.DataDir + "/" + name, Mode: 0o600, ModTime: time.Now()})
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := f.Keep(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, ServerVersion: 150000, SegmentSize: 16 << 20, Timeline: 1, Started: time.Now(), Stopped: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
