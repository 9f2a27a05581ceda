// Package storetest is the contract of [store.Store] as tests. Every driver passes it.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"holdfast/internal/vault/store"
)

// Run tests a kind of store. open gives an empty one each time.
func Run(t *testing.T, open func(*testing.T) store.Store) {
	for name, f := range map[string]func(*testing.T, store.Store){
		"a blob is never replaced by other bytes":        neverReplaced,
		"one of many writers wins and the rest are told": oneWins,
		"a part of a blob can be read":                   parts,
		"what is not there is not found":                 notFound,
		"names cannot leave the root":                    names,
		"lists give what begins with the prefix":         lists,
		"an object repository's names are kept":          repositoryNames,
	} {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

func put(t *testing.T, s store.Store, name, content string) {
	t.Helper()
	if err := s.Put(t.Context(), name, store.Bytes(content)); err != nil {
		t.Fatal(err)
	}
}

func neverReplaced(t *testing.T, s store.Store) {
	ctx := t.Context()
	put(t, s, "wal/7/1/x", "first")
	put(t, s, "wal/7/1/x", "first")
	if err := s.Put(ctx, "wal/7/1/x", store.Bytes("other")); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("other bytes: got %v, want ErrDiffers", err)
	}
	if err := s.Put(ctx, "wal/7/1/x", store.Bytes("longer than before")); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("more bytes: got %v, want ErrDiffers", err)
	}
	if got, err := store.Read(ctx, s, "wal/7/1/x"); err != nil || string(got) != "first" {
		t.Errorf("holds %q, %v", got, err)
	}
	if err := s.Replace(ctx, "wal/7/1/x", store.Bytes("meant")); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Stat(ctx, "wal/7/1/x"); err != nil || info.Size != 5 || info.Name != "wal/7/1/x" || info.ModTime.IsZero() {
		t.Errorf("looked up %+v, %v", info, err)
	}
	put(t, s, "empty", "")
	if got, err := store.Read(ctx, s, "empty"); err != nil || len(got) != 0 {
		t.Errorf("holds %q, %v", got, err)
	}
}

func oneWins(t *testing.T, s store.Store) {
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.Put(t.Context(), "a/b", store.Bytes{byte(i)}) })
	}
	wg.Wait()
	got, err := store.Read(t.Context(), s, "a/b")
	if err != nil || len(got) != 1 {
		t.Fatalf("holds %v, %v", got, err)
	}
	for i, err := range errs {
		switch {
		case err == nil && i != int(got[0]):
			t.Errorf("writer %d was told that its bytes are stored; those of %d are", i, got[0])
		case err != nil && i == int(got[0]):
			t.Errorf("writer %d was told %v, and its bytes are stored", i, err)
		case err != nil && !errors.Is(err, store.ErrDiffers):
			t.Errorf("writer %d: %v", i, err)
		}
	}
}

func parts(t *testing.T, s store.Store) {
	big := bytes.Repeat([]byte("0123456789"), 200_000)
	if err := s.Put(t.Context(), "big", store.Bytes(big)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ offset, length int64 }{{0, 10}, {7, 1_000_000}, {1_999_990, 10}, {5, 0}} {
		var b bytes.Buffer
		if err := s.Get(t.Context(), "big", c.offset, c.length, &b); err != nil || !bytes.Equal(b.Bytes(), big[c.offset:c.offset+c.length]) {
			t.Errorf("%d bytes from %d: got %d, %v", c.length, c.offset, b.Len(), err)
		}
	}
	var b bytes.Buffer
	if err := s.Get(t.Context(), "big", 1_999_995, 10, &b); !errors.Is(err, store.ErrShort) {
		t.Errorf("bytes beyond the end: got %v", err)
	}
	if err := s.Get(t.Context(), "big", 3_000_000, 10, &b); !errors.Is(err, store.ErrShort) {
		t.Errorf("bytes behind the end: got %v", err)
	}
}

func notFound(t *testing.T, s store.Store) {
	ctx := t.Context()
	if _, err := store.Read(ctx, s, "wal/none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("read: got %v", err)
	}
	if _, err := s.Stat(ctx, "wal/none"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("look up: got %v", err)
	}
	if err := s.Delete(ctx, "wal/none"); err != nil {
		t.Errorf("delete: got %v", err)
	}
	if names, err := s.Names(ctx, "wal"); err != nil || len(names) != 0 {
		t.Errorf("names: got %v, %v", names, err)
	}
	put(t, s, "wal/one", "x")
	if err := s.Delete(ctx, "wal/one"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "wal/one"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("look up what was deleted: got %v", err)
	}
}

func names(t *testing.T, s store.Store) {
	for _, n := range []string{"../x", "/etc/x", "", ".", "a/../../x"} {
		if err := s.Put(t.Context(), n, store.Bytes("x")); err == nil {
			t.Errorf("%q was accepted", n)
		}
	}
}

func listed(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	var got []string
	err := s.List(t.Context(), prefix, func(i store.Info) error {
		got = append(got, fmt.Sprintf("%s %d", i.Name, i.Size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got
}

func lists(t *testing.T, s store.Store) {
	for _, n := range []string{"wal/7/00000001/a", "wal/7/00000001/bb", "wal/7/00000002/c", "wall", "top"} {
		put(t, s, n, n)
	}
	for prefix, want := range map[string][]string{
		"":               {"top 3", "wal/7/00000001/a 16", "wal/7/00000001/bb 17", "wal/7/00000002/c 16", "wall 4"},
		"wal/":           {"wal/7/00000001/a 16", "wal/7/00000001/bb 17", "wal/7/00000002/c 16"},
		"wal/7/00000001": {"wal/7/00000001/a 16", "wal/7/00000001/bb 17"},
		"wal":            {"wal/7/00000001/a 16", "wal/7/00000001/bb 17", "wal/7/00000002/c 16", "wall 4"},
		"none":           nil,
	} {
		if got := listed(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", prefix, got, want)
		}
	}
	stop := errors.New("enough")
	if err := s.List(t.Context(), "", func(store.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the end of a list: got %v", err)
	}
	for dir, want := range map[string][]string{"": {"top", "wal", "wall"}, "wal/7": {"00000001", "00000002"}, "wal/7/00000001": {"a", "bb"}} {
		got, err := s.Names(t.Context(), dir)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("names in %q: got %v, %v, want %v", dir, got, err, want)
		}
	}
}

// repositoryNames: kopia's blobs are found by the beginnings of their names, wherever a driver puts them.
func repositoryNames(t *testing.T, s store.Store) {
	long := "p0123456789abcdef0123456789abcdef-s0123456789abcdef012"
	for _, n := range []string{"repository/kopia.repository", "repository/" + long, "repository/q" + long, "repository/_log_20261121000000_abcd_1_2_3"} {
		put(t, s, n, "content")
	}
	for prefix, want := range map[string]int{"repository/": 4, "repository/p": 1, "repository/p01": 1, "repository/p0123456789abcdef": 1, "repository/p1": 0, "repository/q": 1, "repository/_log": 1, "repository/kopia.": 1} {
		if got := listed(t, s, prefix); len(got) != want {
			t.Errorf("%q: got %v, want %d", prefix, got, want)
		}
	}
	if got, err := store.Read(t.Context(), s, "repository/"+long); err != nil || string(got) != "content" {
		t.Errorf("holds %q, %v", got, err)
	}
	if err := s.Delete(t.Context(), "repository/"+long); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s, "repository/p"); len(got) != 0 {
		t.Errorf("still lists %v", got)
	}
}
