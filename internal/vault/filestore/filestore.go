// Package filestore keeps blobs as files under one root, so that what Put said was stored survives a power
// cut and is never replaced by other bytes. Several processes on several hosts may share a root.
package filestore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// ErrDiffers is returned by Put when a blob of that name exists with other bytes. What is stored stays.
var ErrDiffers = errors.New("stored already with other bytes")

// ErrNotFound is returned for a blob that does not exist.
var ErrNotFound = fs.ErrNotExist

// tempMark is part of every unfinished file's name; List and Get never see such a file.
const tempMark = ".holdfast-tmp-"

// Store is one root directory. It holds no state besides the path: use it from any goroutine.
type Store struct{ root string }

// Open uses an existing directory.
func Open(root string) (*Store, error) {
	fi, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("open store %s: not a directory", root)
	}
	return &Store{root: root}, nil
}

// Root is the directory.
func (s *Store) Root() string { return s.root }

// Info is what List says of one blob.
type Info struct {
	Name    string // slash-separated, relative to the root
	Size    int64
	ModTime time.Time
}

// Put stores data under name for ever. The same bytes again are no error; other bytes are ErrDiffers. When
// it returns nil, file and name are on the disk.
func (s *Store) Put(ctx context.Context, name string, data io.WriterTo) error {
	return s.put(ctx, name, data, false)
}

// Replace stores data under name whatever was there. It is for the few blobs that are meant to change.
func (s *Store) Replace(ctx context.Context, name string, data io.WriterTo) error {
	return s.put(ctx, name, data, true)
}

func (s *Store) put(ctx context.Context, name string, data io.WriterTo, replace bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	full, err := s.path(name)
	if err != nil {
		return err
	}
	if err := s.makeDir(path.Dir(name)); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	tmp, err := fill(full, data)
	if err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	defer func() { _ = os.Remove(tmp) }() // gone already when it became the blob
	if replace {
		err = os.Rename(tmp, full)
	} else {
		err = renameNew(tmp, full)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return same(tmp, full, name)
	case err != nil:
		return fmt.Errorf("store %s: %w", name, err)
	}
	return durable.SyncDir(filepath.Dir(full))
}

// fill writes and syncs a temporary file beside full and returns its name.
func fill(full string, data io.WriterTo) (string, error) {
	var salt [8]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	tmp := full + tempMark + hex.EncodeToString(salt[:])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = data.WriteTo(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	return tmp, nil
}

// renameNew renames unless the target exists. File systems that cannot do that in one step (NFS) are given
// a hard link instead, which refuses in the same way.
func renameNew(tmp, full string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, full, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = os.Link(tmp, full)
	}
	return err
}

// same reports nil when both files hold the same bytes. The earlier writer may still be on its way to
// syncing, so both are synced here before the blob counts as stored.
func same(tmp, full, name string) error {
	a, err := os.ReadFile(tmp)
	if err != nil {
		return fmt.Errorf("compare %s: %w", name, err)
	}
	b, err := os.ReadFile(full)
	if err != nil {
		return fmt.Errorf("compare %s: %w", name, err)
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("store %s: %w (%d bytes there, %d offered)", name, ErrDiffers, len(b), len(a))
	}
	return durable.SyncDir(filepath.Dir(full))
}

// makeDir creates missing directories and syncs the parent of each.
func (s *Store) makeDir(dir string) error {
	if dir == "." {
		return nil
	}
	full := filepath.Join(s.root, filepath.FromSlash(dir))
	if fi, err := os.Stat(full); err == nil && fi.IsDir() {
		return nil
	}
	if err := s.makeDir(path.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(full, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(full))
}

// Get reads length bytes from offset on; length below 0 means all of it.
func (s *Store) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	full, err := s.path(name)
	if err != nil {
		return err
	}
	f, err := os.Open(full)
	if err != nil {
		return fmt.Errorf("read stored %s: %w", name, err)
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	if length < 0 {
		_, err = io.Copy(to, f)
	} else {
		_, err = io.CopyN(to, io.NewSectionReader(f, offset, length), length)
	}
	if err != nil {
		return fmt.Errorf("read stored %s: %w", name, err)
	}
	return nil
}

// Stat describes one blob.
func (s *Store) Stat(_ context.Context, name string) (Info, error) {
	full, err := s.path(name)
	if err != nil {
		return Info{}, err
	}
	fi, err := os.Stat(full)
	if err != nil {
		return Info{}, fmt.Errorf("look up stored %s: %w", name, err)
	}
	return Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// List gives every blob under a directory ("" = all), in lexical order. A directory that does not exist is empty.
func (s *Store) List(ctx context.Context, dir string) ([]Info, error) {
	var out []Info
	base := filepath.Join(s.root, filepath.FromSlash(dir))
	err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // never there, or removed between listing and looking
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.IsDir() || strings.Contains(d.Name(), tempMark) {
			return nil
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.root, p)
		if err != nil {
			return err
		}
		out = append(out, Info{Name: filepath.ToSlash(rel), Size: fi.Size(), ModTime: fi.ModTime()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list store under %q: %w", dir, err)
	}
	return out, nil
}

// Delete removes a blob; one that is not there is no error.
func (s *Store) Delete(_ context.Context, name string) error {
	full, err := s.path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(full); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("delete stored %s: %w", name, err)
	}
	return durable.SyncDir(filepath.Dir(full))
}

// path refuses names that would leave the root.
func (s *Store) path(name string) (string, error) {
	if !fs.ValidPath(name) || name == "." {
		return "", fmt.Errorf("use %q as a name in the store: not a clean relative path", name)
	}
	return filepath.Join(s.root, filepath.FromSlash(name)), nil
}

// Names gives the names of the blobs directly in dir, without looking at the files: cheap in directories
// with many of them. A directory that does not exist is empty.
func (s *Store) Names(ctx context.Context, dir string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list store %q: %w", dir, err)
	}
	entries, err := os.ReadDir(filepath.Join(s.root, filepath.FromSlash(dir)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list store %q: %w", dir, err)
	}
	var out []string
	for _, e := range entries {
		if !strings.Contains(e.Name(), tempMark) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
