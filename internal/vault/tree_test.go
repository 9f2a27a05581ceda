package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/vault"
)

// treeSample is a file set: nodes in order, and what the files hold.
func treeSample() ([]vault.Node, map[string][]byte) {
	big := make([]byte, 6<<20)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(big) // never fails
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC).UnixNano()
	file := func(p string, mode uint32) vault.Node {
		return vault.Node{Path: p, Kind: vault.KindFile, Mode: mode, ModNs: at}
	}
	dir := func(p string) vault.Node {
		return vault.Node{Path: p, Kind: vault.KindDir, Mode: 0o755, ModNs: at}
	}
	odd := file("d/odd%FF", 0o600)
	odd.Raw = []byte("d/odd\xff")
	nodes := []vault.Node{
		dir("."), dir("d"), dir("d/empty"), file("d/new\nline", 0o640), odd, file("d.txt", 0o4755), file("empty", 0o600),
		{Path: "link", Kind: vault.KindSymlink, Mode: 0o777, ModNs: at, Target: []byte("d/elsewhere")},
		{Path: "pipe", Kind: vault.KindPipe, Mode: 0o600, ModNs: at, Attrs: []vault.Xattr{{Name: "user.x", Value: []byte{0, 255}}}},
		file("zbig", 0o600),
	}
	return nodes, map[string][]byte{"d/new\nline": []byte("one"), "d/odd%FF": []byte("two"), "d.txt": []byte("three"), "empty": {}, "zbig": big}
}

func storeTree(t *testing.T, v *vault.Vault, nodes []vault.Node, contents map[string][]byte) (vault.FileBackup, []vault.Node) {
	t.Helper()
	w, err := v.BeginTree(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	nodes = slices.Clone(nodes)
	buf := make([]byte, 64<<10)
	for i := range nodes {
		n := &nodes[i]
		content := contents[n.Path]
		if n.Kind == vault.KindSymlink {
			content = n.Target
		}
		if n.Kind == vault.KindFile || n.Kind == vault.KindSymlink {
			if n.Object, n.Size, err = w.Content(n.Path, bytes.NewReader(content), buf); err != nil {
				t.Fatal(err)
			}
		}
		if n.Kind == vault.KindSymlink {
			n.Size = 0
		}
		if err := w.Add(*n); err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Commit(vault.FileBackup{Set: "attachments", Host: "h1", Path: "/srv/a", Started: time.Now().UTC(), Ended: time.Now().UTC(), Files: len(contents)})
	if err != nil {
		t.Fatal(err)
	}
	return b, nodes
}

func TestATreeIsReadAsItWasStored(t *testing.T) {
	onEachKind(t, func(t *testing.T, at func() place) {
		v := createIn(t, at())
		nodes, contents := treeSample()
		b, stored := storeTree(t, v, nodes, contents)
		var got []vault.Node
		tree := v.OpenTree(b)
		err := tree.Each(t.Context(), func(n vault.Node) error {
			got = append(got, n)
			if n.Kind != vault.KindFile {
				return nil
			}
			r, err := tree.Open(t.Context(), n)
			if err != nil {
				return err
			}
			raw, err := io.ReadAll(r)
			if !bytes.Equal(raw, contents[n.Path]) {
				t.Errorf("%q holds something else", n.Path)
			}
			return errors.Join(err, r.Close())
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(stored, got); d != "" {
			t.Error(d)
		}
	})
}

func TestNamesOutOfOrderAreRefused(t *testing.T) {
	v, _ := create(t)
	dir := vault.Node{Path: ".", Kind: vault.KindDir}
	for name, nodes := range map[string][]vault.Node{
		"the root is not first":         {{Path: "a", Kind: vault.KindPipe}},
		"twice":                         {dir, {Path: "a", Kind: vault.KindPipe}, {Path: "a", Kind: vault.KindPipe}},
		"backwards":                     {dir, {Path: "b", Kind: vault.KindPipe}, {Path: "a", Kind: vault.KindPipe}},
		"in a directory not named":      {dir, {Path: "a/b", Kind: vault.KindPipe}},
		"into a directory that is over": {dir, {Path: "a", Kind: vault.KindDir}, {Path: "b", Kind: vault.KindPipe}, {Path: "a/x", Kind: vault.KindPipe}},
		"out of the set":                {dir, {Path: "..", Kind: vault.KindPipe}},
		"a raw name out of the set":     {dir, {Path: "a", Raw: []byte("../a"), Kind: vault.KindPipe}},
		"an absolute name":              {dir, {Path: "/a", Kind: vault.KindPipe}},
		"a kind that is none":           {dir, {Path: "a", Kind: "fd"}},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := v.BeginTree(t.Context(), "test")
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				if err = w.Add(n); err != nil {
					break
				}
			}
			if err == nil {
				t.Error("it was taken")
			}
			if err := w.Abort(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPathsAreOrderedAsAWalkGoes(t *testing.T) {
	walk := []string{".", "a", "a/b", "a/b/c", "a/b.c", "a!", "a.b", "b", "é"}
	for i, a := range walk {
		for j, b := range walk {
			if got, want := vault.ComparePaths(a, b), min(1, max(-1, i-j)); got != want {
				t.Errorf("%q and %q: %d, want %d", a, b, got, want)
			}
		}
	}
}

// checkStock holds what kopia made of a file set against it; times as fine as it gives them.
func checkStock(t *testing.T, out string, nodes []vault.Node, contents map[string][]byte, finest time.Duration) {
	t.Helper()
	for _, n := range nodes {
		st, err := os.Lstat(filepath.Join(out, n.Path))
		if n.Kind == vault.KindPipe {
			if err == nil {
				t.Error("kopia restores special files now: the list need not")
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		switch n.Kind {
		case vault.KindFile:
			raw, err := os.ReadFile(filepath.Join(out, n.Path))
			if err != nil || !bytes.Equal(raw, contents[n.Path]) {
				t.Errorf("%q holds something else: %v", n.Path, err)
			}
			if !st.ModTime().Equal(n.ModTime().Truncate(finest)) || uint32(st.Mode().Perm()) != n.Mode&0o777 || (n.Mode&0o4000 != 0) != (st.Mode()&os.ModeSetuid != 0) {
				t.Errorf("%q is %v %v", n.Path, st.ModTime(), st.Mode())
			}
		case vault.KindSymlink:
			if to, err := os.Readlink(filepath.Join(out, n.Path)); err != nil || to != string(n.Target) {
				t.Errorf("%q leads to %q, %v", n.Path, to, err)
			}
		}
	}
}

// The unmodified kopia program lists, checks and restores a file set.
func TestStockProgramRestoresAFileSet(t *testing.T) {
	kopia := stockProgram(t)
	v, dir := create(t)
	nodes, contents := treeSample()
	b, _ := storeTree(t, v, nodes, contents)
	home := t.TempDir()
	run := stockRunner(t, kopia, dir, home)
	run("repository", "connect", "filesystem", "--path="+filepath.Join(dir, "repository"), "--cache-directory="+filepath.Join(home, "cache"))
	list := run("snapshot", "list", "--all", "--json")
	if !strings.Contains(list, b.ID) {
		t.Errorf("kopia snapshot list does not name %s:\n%s", b.ID, list)
	}
	run("snapshot", "verify", "--verify-files-percent=100")
	_, after, ok := strings.Cut(list, `"obj":"`)
	if !ok {
		t.Fatalf("no root object in\n%s", list)
	}
	root, _, _ := strings.Cut(after, `"`)
	out := filepath.Join(home, "out")
	run("snapshot", "restore", root+"/"+vault.FilesDir, out)
	checkStock(t, out, nodes, contents, time.Nanosecond)
	if err := v.OpenTree(b).Each(context.WithoutCancel(t.Context()), func(vault.Node) error { return nil }); err != nil {
		t.Errorf("after the stock program has been there: %v", err)
	}
}
