package vault_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// holding is what lies in a place: its blobs, which whoever runs the store may read, change and take away. Names are below the place,
// with slashes.
type holding interface {
	Names(ctx context.Context, beginning string) ([]string, error)
	Read(ctx context.Context, name string) ([]byte, error)
	Write(ctx context.Context, name string, content []byte) error
	Remove(ctx context.Context, name string) error
}

// folder is the directory that a place is.
type folder string

func (f folder) Names(_ context.Context, beginning string) ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(string(f)), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasPrefix(name, beginning) {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

func (f folder) file(name string) string { return filepath.Join(string(f), filepath.FromSlash(name)) }

func (f folder) Read(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(f.file(name))
}

func (f folder) Write(_ context.Context, name string, content []byte) error {
	return os.WriteFile(f.file(name), content, 0o600)
}

func (f folder) Remove(_ context.Context, name string) error { return os.Remove(f.file(name)) }

// contents is all of a holding whose names begin so.
func contents(t *testing.T, in holding, beginning string) map[string][]byte {
	t.Helper()
	names, err := in.Names(t.Context(), beginning)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, n := range names {
		if out[n], err = in.Read(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// sums names all of a holding, and says what each holds.
func sums(t *testing.T, in holding) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, content := range contents(t, in, "") {
		out[name] = fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return out
}

// damageIn flips one byte in the middle of all that pick names.
func damageIn(t *testing.T, in holding, pick func(name string) bool) int {
	t.Helper()
	n := 0
	for name, content := range contents(t, in, "") {
		if !pick(name) {
			continue
		}
		content[len(content)/2] ^= 0x10
		if err := in.Write(t.Context(), name, content); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// damage is [damageIn] for a directory.
func damage(t *testing.T, dir string, pick func(name string) bool) int {
	t.Helper()
	return damageIn(t, folder(dir), pick)
}

// biggestIn is the name of the biggest of those that begin so.
func biggestIn(t *testing.T, in holding, beginning string) string {
	t.Helper()
	best, size := "", -1
	for name, content := range contents(t, in, beginning) {
		if len(content) > size {
			best, size = name, len(content)
		}
	}
	return best
}
