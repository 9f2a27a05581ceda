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
	base := filepath.Join(dir, "releases")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return release{}, err
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
	if _, err := os.Stat(r.dir); err == nil {
		return r, nil
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return release{}, err
	}
	return r, os.Rename(tmp, r.dir)
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
