package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// Files are made durable together at the end, as PostgreSQL's own tools do it: a file system writes its journal for each
// file that is synced on its own, and a database has thousands of small ones. What a crash leaves before that counts for
// nothing: pg_control is not there, and whoever goes on looks at every byte.

// later notes that a file's content must be made durable, and has the disk begin with it.
func (r *run) later(rel string, f *os.File) {
	if r.o.Throwaway {
		return
	}
	// Only so that there is less to wait for at the end: where it cannot be asked for, all of it is done then.
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	r.unsyncedMu.Lock()
	defer r.unsyncedMu.Unlock()
	r.unsynced = append(r.unsynced, rel)
}

// sync makes durable what was written, and then the directories that name it.
func (r *run) sync(ctx context.Context) error {
	if r.o.Throwaway {
		return nil
	}
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Workers)
	for _, rel := range r.unsynced {
		if running.Err() != nil {
			break
		}
		g.Go(func() error { return r.syncFile(rel) })
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	for _, top := range r.tops() {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			return durable.SyncDir(p)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) syncFile(rel string) error {
	root, below := r.at(rel)
	f, err := root.Open(below)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", rel, err)
	}
	return nil
}
