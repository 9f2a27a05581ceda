package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/vault/store"
)

// trashDir holds what was deleted, each as one file whose name is the blob's, escaped, and when that was, in nanoseconds
// since 1970. It is one flat folder, so that deleting needs no new folders on a disk that is full; a rename within a file
// system needs no room either. Nothing but what stands in this file looks into it.
const trashDir = ".trash"

// throwAway moves a blob into the trash, on the disk when it returns nil.
func (s *Store) throwAway(name, full string) error {
	if err := s.mounted(); err != nil {
		return err
	}
	if _, err := os.Lstat(full); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.makeDir(trashDir); err != nil {
		return fmt.Errorf("make the trash, and nothing was deleted: %w", err)
	}
	for at := s.trash.Clock.Now(); ; at = at.Add(1) {
		err := renameNew(full, filepath.Join(s.root, trashDir, trashName(name, at)))
		switch {
		case errors.Is(err, fs.ErrExist):
			continue // deleted twice in one moment: both stay
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		break
	}
	if err := os.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) { // where it was linked and not moved
		return err
	}
	return errors.Join(durable.SyncDir(filepath.Join(s.root, trashDir)), durable.SyncDir(filepath.Dir(full)))
}

func trashName(name string, at time.Time) string {
	return url.PathEscape(name) + "~" + strconv.FormatInt(at.UnixNano(), 10)
}

// parseTrash is the way back; ok is false for what nobody of ours put there.
func parseTrash(file string) (name string, at time.Time, ok bool) {
	i := strings.LastIndex(file, "~")
	if i < 0 {
		return "", at, false
	}
	nanos, err := strconv.ParseInt(file[i+1:], 10, 64)
	name, nameErr := url.PathUnescape(file[:i])
	if err != nil || nameErr != nil || !valid(name) {
		return "", at, false
	}
	return name, time.Unix(0, nanos).UTC(), true
}

// Deleted implements [store.Trash].
func (s *Store) Deleted(ctx context.Context, prefix string, each func(store.Deleted) error) error {
	entries, err := os.ReadDir(filepath.Join(s.root, trashDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the trash: %w", err)
	}
	for _, e := range entries {
		name, at, ok := parseTrash(e.Name())
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("list the trash: %w", err)
		}
		if err := each(store.Deleted{Info: store.Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}, At: at, ID: e.Name()}); err != nil {
			return err
		}
	}
	return nil
}

// inTrash is where a deleted blob lies; what names no blob of the trash is refused.
func (s *Store) inTrash(d store.Deleted) (full string, at time.Time, err error) {
	name, at, ok := parseTrash(d.ID)
	if !ok || name != d.Name || d.ID != filepath.Base(d.ID) {
		return "", at, fmt.Errorf("use %q as a deleted %s: it is none", d.ID, d.Name)
	}
	return filepath.Join(s.root, trashDir, d.ID), at, nil
}

// GetDeleted implements [store.Trash].
func (s *Store) GetDeleted(_ context.Context, d store.Deleted, to io.Writer) error {
	full, _, err := s.inTrash(d)
	if err != nil {
		return err
	}
	f, err := os.Open(full)
	if err != nil {
		return fmt.Errorf("read deleted %s: %w", d.Name, err)
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	if _, err = io.Copy(to, f); err != nil {
		return fmt.Errorf("read deleted %s: %w", d.Name, err)
	}
	return nil
}

// Expunge implements [store.Expunger].
func (s *Store) Expunge(_ context.Context, d store.Deleted) error {
	full, at, err := s.inTrash(d)
	if err != nil {
		return err
	}
	if s.trash.Clock == nil {
		return fmt.Errorf("empty the trash of %s: %w", s.root, store.ErrNoTrash)
	}
	if age := s.trash.Clock.Now().Sub(at); age < s.trash.For {
		return fmt.Errorf("end deleted %s: %w: it was deleted %s ago, and is kept for %s", d.Name, store.ErrLocked, age.Round(time.Second), s.trash.For)
	}
	if err := s.mounted(); err != nil {
		return fmt.Errorf("end deleted %s: %w", d.Name, err)
	}
	if err := os.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end deleted %s: %w", d.Name, err)
	}
	return durable.SyncDir(filepath.Dir(full))
}

// Keeps implements [store.Expunger].
func (s *Store) Keeps() time.Duration { return s.trash.For }

var (
	_ store.Trash    = (*Store)(nil)
	_ store.Expunger = (*Store)(nil)
)
