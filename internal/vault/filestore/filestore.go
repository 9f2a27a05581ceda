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
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/clock"
	"holdfast/internal/durable"
	"holdfast/internal/vault/store"
)

// tempMark is part of every unfinished file's name; List and Get never see such a file.
const tempMark = ".holdfast-tmp-"

// Store is one root directory. It holds no state besides the path: use it from any goroutine.
type Store struct {
	root  string
	is    fs.FileInfo // which directory it was when it was opened
	trash Trash
	log   int64 // bytes that bulk leaves to the log; 0 = [reservePart] of the disk
}

// Trash says what is kept of what is deleted. The zero value keeps nothing.
type Trash struct {
	For   time.Duration          // how long; 0 = nothing is kept
	Of    func(name string) bool // which blobs; the others are gone at once. nil = all
	Clock clock.Clock            // nil = the real one
}

// OpenKeeping is Open for a directory that keeps for a while what is deleted in it, and room for what matters most: bulk leaves so
// many bytes of its disk to the log; 0 = a tenth of it, 4 GiB at most.
func OpenKeeping(root string, trash Trash, log int64) (*Store, error) {
	s, err := Open(root)
	if err != nil {
		return nil, err
	}
	if trash.Clock == nil {
		trash.Clock = clock.Real()
	}
	s.trash, s.log = trash, log
	return s, nil
}

// Open uses an existing directory.
func Open(root string) (*Store, error) {
	fi, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("open store %s: not a directory", root)
	}
	return &Store{root: root, is: fi}, nil
}

// mounted refuses to write when another directory lies where ours was, such as the one below a disk that was unmounted.
func (s *Store) mounted() error {
	now, err := os.Stat(s.root)
	if err == nil && !os.SameFile(now, s.is) {
		err = errors.New("another directory lies where this one was")
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", store.ErrNoPlace, s.root, err)
	}
	return nil
}

// Root is the directory.
func (s *Store) Root() string { return s.root }

// Address implements [store.Store].
func (s *Store) Address() string { return "file://" + s.root }

// Put stores data under name for ever. The same bytes again are no error; other bytes are ErrDiffers. When
// it returns nil, file and name are on the disk.
func (s *Store) Put(ctx context.Context, name string, data store.Data) error {
	return s.put(ctx, name, data, false)
}

// Replace stores data under name whatever was there. It is for the few blobs that are meant to change.
func (s *Store) Replace(ctx context.Context, name string, data store.Data) error {
	return s.put(ctx, name, data, true)
}

func (s *Store) put(ctx context.Context, name string, data store.Data, replace bool) error {
	err := s.putOnce(ctx, name, data, replace)
	if s.gaveUpRoom(ctx, err) {
		err = s.putOnce(ctx, name, data, replace)
	}
	return err
}

func (s *Store) putOnce(ctx context.Context, name string, data store.Data, replace bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	full, err := s.path(name)
	if err != nil {
		return err
	}
	if err := s.mounted(); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	if err := s.spare(ctx, name, int64(data.Length())); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	if strings.HasPrefix(name, repositoryPrefix) {
		if err := s.layRepository(); err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
	}
	made, err := s.makeDirs(filepath.ToSlash(filepath.Dir(pathOf(name))))
	if err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	var folders errgroup.Group // they come to the disk beside what lies in the last of them
	for _, dir := range made {
		folders.Go(func() error { return durable.SyncDir(filepath.Dir(dir)) })
	}
	tmp, err := fill(full, data)
	if err = errors.Join(err, folders.Wait()); err != nil {
		if tmp != "" {
			err = errors.Join(err, os.Remove(tmp))
		}
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
func fill(full string, data store.Data) (string, error) {
	var salt [8]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	tmp := full + tempMark + hex.EncodeToString(salt[:])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	if large, ok := data.(store.Bytes); ok && len(large) >= directMin {
		err = writeDirect(f, large)
	} else {
		in := data.Reader()
		_, err = io.Copy(f, in)
		err = errors.Join(err, in.Close())
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	return tmp, nil
}

// directMin is the size, in bytes, from which a blob goes to the disk past the kernel's memory: it is a pack, which nobody reads soon.
const directMin = 4 << 20

// writeDirect writes a large blob. Its end goes through room of our own, for it is written with zeros behind it.
func writeDirect(f *os.File, large []byte) error {
	d, err := durable.NewDirect(f, int64(len(large)))
	if err != nil {
		return err
	}
	const piece = 1 << 20
	end := len(large) / piece * piece
	for at := 0; at < end && err == nil; at += piece {
		_, err = d.WriteAt(large[at:at+piece:at+piece], int64(at))
	}
	if err == nil {
		_, err = d.WriteAt(append(durable.DirectRoom(piece), large[end:]...), int64(end))
	}
	if err == nil {
		err = d.Truncate(int64(len(large)))
	}
	return err
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
		return fmt.Errorf("store %s: %w (%d bytes there, %d offered)", name, store.ErrDiffers, len(b), len(a))
	}
	return durable.SyncDir(filepath.Dir(full))
}

// makeDir creates missing directories and syncs the parent of each.
func (s *Store) makeDir(dir string) error {
	made, err := s.makeDirs(dir)
	if err != nil {
		return err
	}
	for _, d := range made {
		if err := durable.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs creates missing directories, and gives them, the outermost first: nothing in them counts before the parent of each is synced.
func (s *Store) makeDirs(dir string) (made []string, err error) {
	if dir == "." {
		return nil, nil
	}
	full := filepath.Join(s.root, filepath.FromSlash(dir))
	if fi, err := os.Stat(full); err == nil && fi.IsDir() {
		return nil, nil
	}
	if made, err = s.makeDirs(filepath.ToSlash(filepath.Dir(filepath.FromSlash(dir)))); err != nil {
		return nil, err
	}
	if err := os.Mkdir(full, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return append(made, full), nil
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
		_, err = f.Seek(offset, io.SeekStart)
		if err == nil {
			_, err = io.Copy(to, f)
		}
	} else {
		_, err = io.CopyN(to, io.NewSectionReader(f, offset, length), length)
		if errors.Is(err, io.EOF) {
			err = store.ErrShort
		}
	}
	if err != nil {
		return fmt.Errorf("read stored %s: %w", name, err)
	}
	return nil
}

// Stat describes one blob.
func (s *Store) Stat(_ context.Context, name string) (store.Info, error) {
	full, err := s.path(name)
	if err != nil {
		return store.Info{}, err
	}
	fi, err := os.Stat(full)
	if err != nil {
		return store.Info{}, fmt.Errorf("look up stored %s: %w", name, err)
	}
	return store.Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// List implements [store.Store].
func (s *Store) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	root, err := filepath.EvalSymlinks(s.root) // a walk that begins at a link ends there
	if err != nil {
		return fmt.Errorf("list store under %q: %w", prefix, err)
	}
	var stopped error // by each, whose own error is given back as it is
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != root {
			return nil // removed between listing and looking
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == trashDir || !mayHold(rel, prefix) {
				return fs.SkipDir
			}
			return nil
		}
		name, ok := nameOf(rel)
		if !ok || !strings.HasPrefix(name, prefix) {
			return nil
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		stopped = each(store.Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()})
		return stopped
	})
	if err != nil && stopped == nil {
		return fmt.Errorf("list store under %q: %w", prefix, err)
	}
	return err
}

// Delete removes a blob, or puts it into the trash; one that is not there is no error.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := s.deleteOnce(name)
	if s.gaveUpRoom(store.LettingGo(ctx), err) { // a folder may have to grow for a name
		err = s.deleteOnce(name)
	}
	return err
}

func (s *Store) deleteOnce(name string) error {
	full, err := s.path(name)
	if err != nil {
		return err
	}
	if s.trash.For > 0 && (s.trash.Of == nil || s.trash.Of(name)) {
		if err := s.throwAway(name, full); err != nil {
			return fmt.Errorf("delete stored %s: %w", name, err)
		}
		return nil
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
	if !valid(name) {
		return "", fmt.Errorf("use %q as a name in the store: not a clean relative path", name)
	}
	return filepath.Join(s.root, pathOf(name)), nil
}

// layRepository says in the repository's folder how it is laid out, as kopia does.
func (s *Store) layRepository() error {
	full := filepath.Join(s.root, filepath.FromSlash(shardsFile))
	if _, err := os.Lstat(full); err == nil {
		return nil
	}
	if err := s.makeDir(strings.TrimSuffix(repositoryPrefix, "/")); err != nil {
		return err
	}
	return durable.WriteFile(full, []byte(shardsText), 0o600)
}

// Names implements [store.Store] without looking at the files: cheap in directories with many of them. In the
// repository it gives what lies there on the disk.
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
		if !strings.Contains(e.Name(), tempMark) && (dir != "" || e.Name() != trashDir) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
