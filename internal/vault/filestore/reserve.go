package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/vault/store"
)

// What backups store fills a disk by packs of 20 MB. They leave some of it, so that the log, which cannot be had again, goes
// on being taken. That may be filled too, by the log or by somebody else: letting go, which writes down first what it is about to
// do, has room of its own then, in a file of real blocks that is given up for it and made anew when there is room again.

const (
	// reservePart of the disk is kept: a tenth. reserveMax bounds it, in bytes, where disks are large.
	reservePart = 10
	reserveMax  = 4 << 30
	// roomFile holds room back for letting go: roomPart of the disk, 2 %, and roomMax bytes at most. It lies in the trash, which no
	// list shows, so that this folder is there as well when nothing can be made any more.
	roomFile = trashDir + "/room"
	roomPart = 50
	roomMax  = 32 << 20
	// packPrefix begins the names of kopia's packs of files' content; what describes that is small and goes on.
	packPrefix = repositoryPrefix + "p"
)

// spare refuses bulk that would take what is kept. A file system that tells no size keeps nothing.
func (s *Store) spare(ctx context.Context, name string, size int64) error {
	if !strings.HasPrefix(name, packPrefix) || store.MayUseReserve(ctx) {
		return nil
	}
	r, err := s.Room()
	if err != nil {
		return err
	}
	if r.Free -= size; r.Short() {
		return fmt.Errorf("%w: %d of %d MB are free in %s, and %d are kept", store.ErrReserve, (r.Free+size)>>20, r.Total>>20, s.root, r.Kept>>20)
	}
	if back := min(r.Total/roomPart, roomMax); r.Free >= r.Kept+back {
		return s.holdRoom(back)
	}
	return nil
}

// Room is how much of a disk there is, in bytes.
type Room struct {
	Total, Free int64
	Kept        int64 // of what is free: for the log
}

// Short reports whether no more is free than is kept. A file system that tells no size is never short.
func (r Room) Short() bool { return r.Total > 0 && r.Free < r.Kept }

// Room looks at the disk of the store's directory.
func (s *Store) Room() (Room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return Room{}, fmt.Errorf("look how much room %s has: %w", s.root, err)
	}
	r := Room{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize, Kept: s.log}
	if r.Kept == 0 {
		r.Kept = min(r.Total/reservePart, reserveMax)
	}
	return r, nil
}

// holdRoom makes the file that holds room back, where it is not there. Where blocks cannot be asked for (NFS), none is held back.
func (s *Store) holdRoom(room int64) error {
	full := filepath.Join(s.root, filepath.FromSlash(roomFile))
	if fi, err := os.Lstat(full); err == nil && fi.Size() >= room {
		return nil
	}
	err := s.makeDir(trashDir)
	if err != nil {
		return fmt.Errorf("hold room back in %s: %w", s.root, err)
	}
	f, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("hold room back in %s: %w", s.root, err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); { // tmpfs ends with it at any signal
		err = unix.Fallocate(int(f.Fd()), 0, 0, room)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		return durable.SyncDir(filepath.Dir(full))
	}
	rmErr := os.Remove(full)
	if errors.Is(rmErr, fs.ErrNotExist) || cannotHold(err) || noRoom(err) {
		rmErr, err = nil, nil // given up meanwhile, not to be had here, or taken by another writer
	}
	if err = errors.Join(err, rmErr); err != nil {
		return fmt.Errorf("hold room back in %s: %w", s.root, err)
	}
	return nil
}

// cannotHold reports whether a file system has no way to hold room back, which no backup depends on.
func cannotHold(err error) bool {
	for _, no := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.ENODEV, unix.EPERM} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// gaveUpRoom reports whether what had no room may find some now: the room that is held back for it, or that another one has just
// given up.
func (s *Store) gaveUpRoom(ctx context.Context, err error) bool {
	if !noRoom(err) || !store.IsLettingGo(ctx) || s.mounted() != nil {
		return false
	}
	rmErr := os.Remove(filepath.Join(s.root, filepath.FromSlash(roomFile)))
	return rmErr == nil || errors.Is(rmErr, fs.ErrNotExist)
}
