package filestore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/clock"
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

func TestADirectoryMayBeALink(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		link := filepath.Join(t.TempDir(), "backups")
		if err := os.Symlink(t.TempDir(), link); err != nil {
			t.Fatal(err)
		}
		s, err := filestore.Open(link)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
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

// later is a clock that can be put forward.
type later struct{ by *time.Duration }

func (l later) Now() time.Time                       { return time.Unix(2e9, 0).Add(*l.by) }
func (l later) NewTimer(d time.Duration) clock.Timer { return clock.Real().NewTimer(d) }

// What was deleted is in no list, can be read for as long as it is kept, and is ended not a moment sooner.
func TestWhatIsDeletedIsKeptForAWhile(t *testing.T) {
	var by time.Duration
	trash := filestore.Trash{For: 24 * time.Hour, Of: func(name string) bool { return name != "light" }, Clock: later{&by}}
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := filestore.OpenKeeping(t.TempDir(), trash, 0)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
	s, err := filestore.OpenKeeping(t.TempDir(), trash, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, content := range []string{"one", "another"} { // deleted twice in one moment
		for _, name := range []string{"wal/7/x~1", "light"} {
			if err := errors.Join(s.Put(ctx, name, store.Bytes(content)), s.Delete(ctx, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.List(ctx, "", func(i store.Info) error { t.Errorf("listed %v", i); return nil }); err != nil {
		t.Fatal(err)
	}
	if names, err := s.Names(ctx, ""); err != nil || !slices.Equal(names, []string{"wal"}) {
		t.Errorf("named %v, %v", names, err)
	}
	if err := s.Put(ctx, ".trash/x", store.Bytes("x")); err == nil {
		t.Error("something was stored in the trash")
	}
	all := func() (out []store.Deleted) {
		t.Helper()
		if err := s.Deleted(ctx, "wal/", func(d store.Deleted) error { out = append(out, d); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	deleted := all()
	got := map[string]bool{}
	for _, d := range deleted {
		var b bytes.Buffer
		if err := s.GetDeleted(ctx, d, &b); err != nil || d.Name != "wal/7/x~1" || d.Size != int64(b.Len()) {
			t.Errorf("%+v: %v", d, err)
		}
		got[b.String()] = true
	}
	if len(deleted) != 2 || !got["one"] || !got["another"] {
		t.Fatalf("deleted are %v", got)
	}
	by = 24*time.Hour - time.Second
	if err := s.Expunge(ctx, deleted[0]); !errors.Is(err, store.ErrLocked) || len(all()) != 2 {
		t.Errorf("ended too soon: %v", err)
	}
	by += 2 * time.Second
	if err := s.Expunge(ctx, deleted[0]); err != nil || len(all()) != 1 {
		t.Errorf("not ended in time: %v", err)
	}
	if err := s.Expunge(ctx, store.Deleted{Info: store.Info{Name: "wal/7/x~1"}, ID: "../wal/7/y"}); err == nil {
		t.Error("something outside of the trash was ended")
	}
}

// Large blobs go to the disk in another way: whatever their length and however they lie in memory, and nothing beside them changes there.
func TestALargeBlobIsStoredWhole(t *testing.T) {
	s := open(t)
	const mib = 1 << 20
	all := make([]byte, 8*mib)
	for i := range all {
		all[i] = byte(i>>12 + i*7)
	}
	want := bytes.Clone(all)
	for _, c := range []struct{ from, length int }{{0, 4*mib - 1}, {0, 4 * mib}, {0, 4*mib + 1}, {4096, 5*mib - 1}, {1, 5 * mib}, {77, 4*mib + 4097}, {0, 7*mib + 4096}} {
		name := fmt.Sprintf("repository/p%032d", c.from*100+c.length)
		blob := all[c.from : c.from+c.length]
		for range 2 { // the same again is no error
			if err := s.Put(t.Context(), name, store.Bytes(blob)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := store.Read(t.Context(), s, name); err != nil || !bytes.Equal(got, want[c.from:c.from+c.length]) {
			t.Errorf("%d bytes from %d on: %d come back, or others: %v", c.length, c.from, len(got), err)
		}
		if err := s.Put(t.Context(), name, store.Bytes(blob[:c.length-1])); !errors.Is(err, store.ErrDiffers) {
			t.Errorf("%d bytes from %d on, and one byte less: %v", c.length, c.from, err)
		}
	}
	if !bytes.Equal(all, want) {
		t.Error("what is stored was changed in memory")
	}
}
