package filestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/vault/filestore"
	"holdfast/internal/vault/store"
	"holdfast/internal/vault/store/storetest"
)

func open(t *testing.T) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFilesAreAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t) })
}

func TestAnUnfinishedFileIsNoBlob(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.Root(), "x.holdfast-tmp-00"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.List(t.Context(), "", func(i store.Info) error {
		t.Errorf("listed %v", i)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if names, err := s.Names(t.Context(), ""); err != nil || len(names) != 0 {
		t.Errorf("named %v, %v", names, err)
	}
}

func TestARepositoryLiesAsKopiaLaysItOut(t *testing.T) {
	s := open(t)
	for _, name := range []string{"repository/kopia.repository", "repository/p0123456789abcdef0123456789abcdef"} {
		if err := s.Put(t.Context(), name, store.Bytes("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"kopia.repository.f", "p/012/3456789abcdef0123456789abcdef.f", ".shards"} {
		if _, err := os.Stat(filepath.Join(s.Root(), "repository", want)); err != nil {
			t.Error(err)
		}
	}
}

// A disk that is unmounted leaves its mount point: nothing may be stored there.
func TestNothingIsWrittenIntoAnotherDirectoryOfTheSameName(t *testing.T) {
	root := filepath.Join(t.TempDir(), "mount")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := filestore.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root, root+".disk"); err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{false, true} {
		if there {
			if err := os.Mkdir(root, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Put(t.Context(), "a/b", store.Bytes("x")); !errors.Is(err, store.ErrNoPlace) {
			t.Errorf("stored where nothing is mounted (%v): %v", there, err)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("the mount point holds %v, %v", left, err)
	}
}
