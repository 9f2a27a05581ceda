package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// A file of more than two stretches, with something to tell at each end of them, and none of zeros alone.
func TestALargeFileIsStoredByManyWorkersAndComesBackWhole(t *testing.T) {
	content := make([]byte, 2*stretchSize+3*vault.ChunkSize+77)
	for at := range len(content) / vault.ChunkSize {
		copy(content[at*vault.ChunkSize:], fmt.Sprintf("chunk %d", at))
	}
	copy(content[len(content)-4:], "last")
	v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + t.TempDir(), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []struct {
		name string
		size int // bytes that are there when it is read
		want int // bytes of it that the backup must have
	}{
		{"a file as long as it was listed", len(content), len(content)},
		{"one that was cut at the end of its first stretch", stretchSize, stretchSize},
		{"one that was cut within its second stretch", stretchSize + vault.ChunkSize + 5, stretchSize + vault.ChunkSize + 5},
		{"one that was emptied", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "large"), content[:c.size], 0o600); err != nil {
				t.Fatal(err)
			}
			got := storeAndRead(t, v, dir, file{path: "large", size: int64(len(content)), mode: 0o600})
			if len(got) != c.want || sha256.Sum256(got) != sha256.Sum256(content[:c.want]) {
				t.Errorf("%d bytes came back, %d of the file were there", len(got), c.want)
			}
		})
	}
}

// storeAndRead makes a backup of one file and reads it back.
func storeAndRead(t *testing.T, v *vault.Vault, dir string, f file) []byte {
	t.Helper()
	return storeFrom(t, v, dir, f, &copier{})
}

// storeFrom is [storeAndRead] with a copier that knows of an earlier backup.
func storeFrom(t *testing.T, v *vault.Vault, dir string, f file, c *copier) []byte {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }() // nothing was written through it
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	r := &baseRun{o: BaseOptions{Vault: v, Workers: 3, CheckpointEvery: 1 << 30}, pace: newPacer(0)}
	b := vault.Backup{Database: "orders", Kind: "full", Started: time.Now(), Stopped: time.Now()}
	c.root, c.to, c.pace, c.keep, c.bytes = root, w, r.pace.wait, func() error { return nil }, func(n int) { r.done.Add(int64(n)) }
	s, ctx := c.store(t.Context(), 3)
	if err := r.copyListed(ctx, s, []file{f}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.wait(ctx); err != nil {
		t.Fatal(err)
	}
	if r.done.Load() != f.size {
		t.Errorf("%d bytes were told to be done, %d were listed", r.done.Load(), f.size)
	}
	if b, err = w.Commit(b); err != nil {
		t.Fatal(err)
	}
	reader, err := v.OpenBackup(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range reader.Entries() {
		if e.Path == vault.DataDir+"/"+f.path {
			var got bytes.Buffer
			if err := reader.Copy(t.Context(), e, &got); err != nil {
				t.Fatal(err)
			}
			return got.Bytes()
		}
	}
	t.Fatalf("%s is not in the backup", f.path)
	return nil
}

// What cannot be opened ends the reading of everything else, which may take hours, and is what is told.
func TestAFileThatCannotBeOpenedEndsTheBackup(t *testing.T) {
	c, dir, _ := copying(t)
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	s, ctx := c.store(t.Context(), 2)
	r := &baseRun{o: BaseOptions{Workers: 2}}
	out := file{path: "../elsewhere", size: 2 * stretchSize, mode: 0o600} // no file below the directory
	err := r.copyListed(ctx, s, []file{out, {path: "other", size: 100, mode: 0o600}})
	if err == nil || ctx.Err() == nil {
		t.Errorf("it goes on: %v", err)
	}
	s.fail(errors.New("something that follows"))
	if _, told := s.wait(ctx); told == nil || !strings.Contains(told.Error(), "../elsewhere") {
		t.Errorf("told is %v", told)
	}
	if err := c.to.Abort(); err != nil {
		t.Error(err)
	}
}
