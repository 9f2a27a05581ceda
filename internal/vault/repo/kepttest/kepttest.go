// Package kepttest gives tests of the repository engine what another program wrote in our settings: kopia 0.23.1, in the vaults that
// internal/cli/testdata/vaults keeps.
package kepttest

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Password opens the repository, and OldPassword opened it before the key was changed.
const (
	Password    = "the key of every kept vault"
	OldPassword = "the key before it was rotated"
)

// Vault gives the files of the vault, by their names below it, such as key/00000001-… and repository/kopia.repository.f.
func Vault(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open(filepath.Join(root(t), "internal", "cli", "testdata", "vaults", "before-0.1.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]byte{}
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, "vault/")
		if !ok {
			continue
		}
		if out[name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

// Blobs gives the blobs of the repository by the names that it knows them by. On a disk they lie in folders that are called as the
// names begin, and end in .f.
func Blobs(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, content := range Vault(t) {
		name, ok := strings.CutPrefix(name, "repository/")
		if name, f := strings.CutSuffix(name, ".f"); ok && f {
			out[strings.ReplaceAll(name, "/", "")] = content
		}
	}
	if len(out) < 10 {
		t.Fatalf("the kept vault holds %d blobs", len(out))
	}
	return out
}

// root is the folder of this module.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above this test")
	return ""
}
