package backup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"holdfast/internal/pgdata"
	"holdfast/internal/vault"
)

// file is one file of the data directory that the backup holds.
type file struct {
	path     string // relative to the data directory, slash-separated
	size     int64
	mode     uint32
	modTime  time.Time
	relation bool   // its pages carry checksums
	segment  uint32 // number of the 1 GiB file within its relation
	fact     fact   // as the file system told
}

// scan lists what a backup of dataDir holds, largest file first, so that no worker is left alone with a big
// one at the end. Tablespaces outside the data directory are returned by name; the caller refuses them.
func scan(dataDir string) (files []file, dirs []vault.Entry, tablespaces []string, err error) {
	var relations []string
	err = filepath.WalkDir(dataDir, func(full string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && full != dataDir {
			return nil // vanished since its directory was read; the log repeats that
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dataDir, full)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		fi, err := os.Lstat(full)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := uint32(fi.Mode().Perm())
		switch {
		case path.Dir(rel) == "pg_tblspc":
			tablespaces = append(tablespaces, rel)
			return nil
		case rel == "pg_wal": // a directory, or a link to another disk
			dirs = append(dirs, vault.Entry{Path: rel, Mode: 0o700, ModTime: fi.ModTime()}, vault.Entry{Path: "pg_wal/archive_status", Mode: 0o700, ModTime: fi.ModTime()})
			return skipIfDir(d)
		case d.IsDir():
			dirs = append(dirs, vault.Entry{Path: rel, Mode: mode, ModTime: fi.ModTime()})
			if pgdata.Emptied(rel) {
				return fs.SkipDir
			}
			return nil
		case !fi.Mode().IsRegular():
			return fmt.Errorf("back up %s: neither a file nor a directory (%s)", rel, fi.Mode().Type())
		case pgdata.LeftOut(rel):
			return nil
		}
		f := file{path: rel, size: fi.Size(), mode: mode, modTime: fi.ModTime()}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			f.fact = fact{Size: fi.Size(), Inode: st.Ino, Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano()}
		}
		if r, ok := pgdata.ParseRelation(rel); ok {
			if r.Temporary {
				return nil // gone with its session
			}
			relations = append(relations, rel)
			f.relation, f.segment = true, r.Segment
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list data directory %s: %w", dataDir, err)
	}
	unlogged := pgdata.Unlogged(relations)
	files = slices.DeleteFunc(files, func(f file) bool { return f.relation && pgdata.DropUnlogged(f.path, unlogged) })
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.path, b.path)) })
	return files, dirs, tablespaces, nil
}

func skipIfDir(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}
