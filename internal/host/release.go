package host

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
)

// release is this host's own copy of what the plan's services run from.
type release struct {
	dir  string // "" = the plan names no release
	hash string
}

// releaseMax bounds one unpacked release.
const releaseMax = 4 << 30

// takeRelease copies a release (a directory or a .tar.gz) below the host's own directory, once for each content.
// No two hosts share a folder, so that nothing is hidden that real hosts would lose.
func takeRelease(dir, from string) (release, error) {
	if from == "" {
		return release{hash: "none"}, nil
	}
	info, err := os.Stat(from)
	if err != nil {
		return release{}, &problem.Problem{
			Code: "release.missing", Subject: filepath.Base(from), Severity: problem.Critical,
			Title:   "the plan's release is not there: " + from,
			Meaning: "Nothing was started. What runs already goes on.",
			Remedy:  "build the release, or correct `release` in the plan",
		}
	}
	// A link is followed here and nowhere below: a deployment's "current" is one.
	if from, err = filepath.EvalSymlinks(from); err != nil {
		return release{}, fmt.Errorf("take the release: %w", err)
	}
	base := filepath.Join(dir, "releases")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return release{}, err
	}
	stamp, err := stampOf(from)
	if err != nil {
		return release{}, fmt.Errorf("take the release %s: %w", from, err)
	}
	if r, ok := taken(base, stamp); ok {
		return r, nil
	}
	tmp, err := os.MkdirTemp(base, ".taking-")
	if err != nil {
		return release{}, fmt.Errorf("take the release: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // gone already when it was renamed
	sum := sha256.New()
	if info.IsDir() {
		err = copyTree(tmp, from, sum)
	} else {
		err = unpack(tmp, from, sum)
	}
	if err != nil {
		return release{}, fmt.Errorf("take the release %s: %w", from, err)
	}
	r := release{hash: hex.EncodeToString(sum.Sum(nil)[:8])}
	r.dir = filepath.Join(base, r.hash)
	if _, err := os.Stat(r.dir); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.Chmod(tmp, 0o755), os.Rename(tmp, r.dir)); err != nil {
			return release{}, fmt.Errorf("take the release %s: %w", from, err)
		}
	}
	return r, durable.WriteFile(stampFile(base), []byte(stamp+" "+r.hash+"\n"), 0o644)
}

func stampFile(base string) string { return filepath.Join(base, "taken") }

// stampOf names a release by the sizes and times of its files, so that an agent that is started again need not
// read all of it: its primary's lease does not wait.
func stampOf(from string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(sum, "%s\x00%d\x00%d\x00%o\x00", path, info.Size(), info.ModTime().UnixNano(), info.Mode()) // a hash takes everything
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)[:8]), err
}

// taken finds the copy that was made of exactly these files before.
func taken(base, stamp string) (release, bool) {
	data, err := os.ReadFile(stampFile(base))
	if err != nil {
		return release{}, false
	}
	was, hash, ok := strings.Cut(strings.TrimSpace(string(data)), " ")
	if !ok || was != stamp {
		return release{}, false
	}
	r := release{hash: hash, dir: filepath.Join(base, hash)}
	_, err = os.Stat(r.dir)
	return r, err == nil
}

func copyTree(to, from string, sum hash.Hash) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case info.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }() // read alone
			return place(filepath.Join(to, rel), rel, info.Mode().Perm(), f, sum)
		}
		return fmt.Errorf("%s is neither a file nor a directory", rel)
	})
}

// place writes one file of a release and counts it into the sum.
func place(path, rel string, mode fs.FileMode, from io.Reader, sum hash.Hash) error {
	_, _ = fmt.Fprintf(sum, "%s\x00%o\x00", rel, mode&0o111) // a hash takes everything
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o400)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(from, releaseMax+1))
	if n > releaseMax {
		err = fmt.Errorf("%s is larger than %d bytes", rel, int64(releaseMax))
	}
	return errors.Join(err, f.Close())
}

func unpack(to, archive string, sum hash.Hash) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read alone
	zip, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("it is no .tar.gz: %w", err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // words about the archive itself: git archive puts the commit's name there
		}
		rel := filepath.Clean(strings.TrimPrefix(h.Name, "./"))
		if !filepath.IsLocal(rel) {
			return fmt.Errorf("%q leads out of the release", h.Name)
		}
		path := filepath.Join(to, rel)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				err = place(path, rel, fs.FileMode(h.Mode).Perm(), r, sum)
			}
		default:
			err = fmt.Errorf("%q is neither a file nor a directory", h.Name)
		}
		if err != nil {
			return err
		}
	}
}
