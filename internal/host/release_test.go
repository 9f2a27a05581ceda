package host

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
)

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if _, there := os.Stat(path); err == nil && mode&0o111 != 0 && errors.Is(there, fs.ErrNotExist) { // it may be started
		err = durable.WriteProgram(path, strings.NewReader(text))
	} else if err == nil {
		err = os.WriteFile(path, []byte(text), mode)
	}
	if err = errors.Join(err, os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

// archive writes a .tar.gz of these entries.
func archive(t *testing.T, path string, all ...tar.Header) {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, h := range all {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname = h.Linkname, "" // a file's content is given there
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close(), os.WriteFile(path, out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func file(name, text string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Linkname: text}
}

// holds checks one file of a copy.
func holds(t *testing.T, r release, rel, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(r.dir, rel)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != text || info.Mode().Perm() != mode {
		t.Errorf("%s holds %q with mode %v, want %q with %v", rel, data, info.Mode(), text, mode)
	}
}

func take(t *testing.T, dir, from string) release {
	t.Helper()
	r, err := takeRelease(dir, from)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAReleaseIsCopiedBelowTheHost(t *testing.T) {
	src := t.TempDir()
	tree := filepath.Join(src, "tree")
	put(t, filepath.Join(tree, "bin", "web"), "#!web", 0o755)
	put(t, filepath.Join(tree, "readme"), "words", 0o644)
	packed, link := filepath.Join(src, "app.tar.gz"), filepath.Join(src, "current")
	archive(t, packed,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		file("./bin/web", "#!web", 0o755), file("./readme", "words", 0o644))
	fromGit := filepath.Join(src, "git.tar.gz")
	archive(t, fromGit,
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "5fde3ae"}},
		file("bin/web", "#!web", 0o755), file("readme", "words", 0o644))
	if err := os.Symlink(tree, link); err != nil {
		t.Fatal(err)
	}
	hashes := map[string]bool{}
	for _, c := range []struct{ name, from string }{
		{"a directory", tree},
		{"a .tar.gz", packed},
		{"a .tar.gz as git archive writes it, with the commit's name in front", fromGit},
		{"a link to a directory, as a deployment's current one is", link},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			r := take(t, dir, c.from)
			holds(t, r, "bin/web", "#!web", 0o755)
			holds(t, r, "readme", "words", 0o644)
			if filepath.Dir(r.dir) != filepath.Join(dir, "releases") {
				t.Errorf("it lies in %s", r.dir)
			}
			hashes[r.hash] = true
			left, err := os.ReadDir(filepath.Join(dir, "releases"))
			if err != nil || len(left) != 2 { // the copy and its stamp
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if len(hashes) != 1 {
		t.Errorf("one content has several versions: %v", hashes)
	}
	t.Run("no release at all", func(t *testing.T) {
		if r := take(t, t.TempDir(), ""); r.dir != "" || r.hash == "" {
			t.Errorf("%+v", r)
		}
	})
}

func TestTheSecondStartReadsTheStampAlone(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	web := filepath.Join(tree, "web")
	put(t, web, "one", 0o755)
	before := time.Unix(1_700_000_000, 0)
	if err := os.Chtimes(web, before, before); err != nil {
		t.Fatal(err)
	}
	first := take(t, dir, tree)
	// Were the release read again, this would be seen: same size, same time, other content.
	put(t, web, "two", 0o755)
	if err := os.Chtimes(web, before, before); err != nil {
		t.Fatal(err)
	}
	if again := take(t, dir, tree); again != first {
		t.Errorf("it was read again: %+v after %+v", again, first)
	}
	if err := os.Chtimes(web, before, before.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	second := take(t, dir, tree)
	if second.hash == first.hash {
		t.Error("a changed release is taken for the old one")
	}
	holds(t, second, "web", "two", 0o755)
	holds(t, first, "web", "one", 0o755) // what runs from it is not disturbed
	if err := os.RemoveAll(second.dir); err != nil {
		t.Fatal(err)
	}
	holds(t, take(t, dir, tree), "web", "two", 0o755)
	if err := os.Chmod(web, 0o644); err != nil {
		t.Fatal(err)
	}
	if third := take(t, dir, tree); third.hash == second.hash {
		t.Error("a program that is none any more is taken for the old one")
	}
}

func TestALinkThatLeadsElsewhereIsANewRelease(t *testing.T) {
	src, dir := t.TempDir(), t.TempDir()
	link := filepath.Join(src, "current")
	var seen []string
	for _, n := range []string{"1", "2"} {
		put(t, filepath.Join(src, n, "web"), n, 0o755)
		if err := os.Symlink(n, link+n); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+n, link); err != nil {
			t.Fatal(err)
		}
		r := take(t, dir, link)
		holds(t, r, "web", n, 0o755)
		seen = append(seen, r.hash)
	}
	if seen[0] == seen[1] {
		t.Error("both have one version")
	}
}

func TestAReleaseThatIsRefusedLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string) string
		says string
	}{
		{"a path that leads out", func(t *testing.T, dir string) string {
			archive(t, dir+"/app.tar.gz", file("web", "x", 0o755), file("../../evil", "x", 0o755))
			return dir + "/app.tar.gz"
		}, "leads out of the release"},
		{"a path that leads out in the middle", func(t *testing.T, dir string) string {
			archive(t, dir+"/app.tar.gz", file("./bin/../../evil", "x", 0o755))
			return dir + "/app.tar.gz"
		}, "leads out of the release"},
		{"a whole path", func(t *testing.T, dir string) string {
			archive(t, dir+"/app.tar.gz", file("/tmp/evil", "x", 0o755))
			return dir + "/app.tar.gz"
		}, "leads out of the release"},
		{"a link in an archive", func(t *testing.T, dir string) string {
			archive(t, dir+"/app.tar.gz", tar.Header{Name: "web", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, file("web/evil", "x", 0o755))
			return dir + "/app.tar.gz"
		}, "neither a file nor a directory"},
		{"a link in a directory", func(t *testing.T, dir string) string {
			if err := os.Symlink("/etc/passwd", dir+"/web"); err != nil {
				t.Fatal(err)
			}
			return dir
		}, "neither a file nor a directory"},
		{"an archive that is none", func(t *testing.T, dir string) string {
			put(t, dir+"/app.tar.gz", "plain words", 0o644)
			return dir + "/app.tar.gz"
		}, "no .tar.gz"},
		{"an archive that ends in the middle", func(t *testing.T, dir string) string {
			archive(t, dir+"/app.tar.gz", file("web", strings.Repeat("x", 4096), 0o755))
			data, err := os.ReadFile(dir + "/app.tar.gz")
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir+"/app.tar.gz", string(data[:len(data)-20]), 0o644)
			return dir + "/app.tar.gz"
		}, "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			from := c.make(t, t.TempDir())
			_, err := takeRelease(dir, from)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %v, nothing of %q", err, c.says)
			}
			left, err := os.ReadDir(filepath.Join(dir, "releases"))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "evil")); err == nil {
				t.Error("it wrote outside of the release")
			}
		})
	}
	t.Run("one that is not there is a problem, and nothing is made", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "b1")
		_, err := takeRelease(dir, "/nowhere/app.tar.gz")
		var p *problem.Problem
		if !errors.As(err, &p) || p.Code != "release.missing" || p.Severity != problem.Critical || !strings.Contains(p.Title, "/nowhere/app.tar.gz") {
			t.Errorf("it says %v", err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("the host's directory was made")
		}
	})
}
