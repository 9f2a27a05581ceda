package filestore

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/store"
)

// What backups store fills a disk by packs of 20 MB. They leave some of it, so that the log, which cannot be had again, goes
// on being taken, and so that deleting, which writes down first what it is about to do, goes on too.

const (
	// reservePart of the disk is kept: a tenth. reserveMax bounds it, in bytes, where disks are large.
	reservePart = 10
	reserveMax  = 4 << 30
	// packPrefix begins the names of kopia's packs of files' content; what describes that is small and goes on.
	packPrefix = repositoryPrefix + "p"
)

// spare refuses bulk that would take what is kept. A file system that tells no size keeps nothing.
func (s *Store) spare(ctx context.Context, name string, size int64) error {
	if !strings.HasPrefix(name, packPrefix) || store.MayUseReserve(ctx) {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return fmt.Errorf("look how much room %s has: %w", s.root, err)
	}
	total, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	if keep := min(total/reservePart, reserveMax); total > 0 && free-size < keep {
		return fmt.Errorf("%w: %d of %d MB are free in %s, and %d are kept", store.ErrReserve, free>>20, total>>20, s.root, keep>>20)
	}
	return nil
}
