package backup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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
}

const controlFile = "global/pg_control"

// emptied are directories whose content must not be in a backup (PostgreSQL manual, "Making a Base Backup
// Using the Low Level API"): it belongs to the running server, or recovery makes it anew.
func emptied(dir string) bool {
	switch dir {
	case "pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans":
		return true
	}
	return strings.HasPrefix(path.Base(dir), "pgsql_tmp")
}

// leftOut are single files that are left out: what the running server or Holdfast says about itself here,
// and what the vault writes by its own hand.
func leftOut(p string) bool {
	base := path.Base(p)
	switch p {
	case "postmaster.pid", "postmaster.opts", "current_logfiles", "current_logfiles.tmp", "backup_label", "backup_label.old",
		"tablespace_map", "tablespace_map.old", "backup_manifest", "postgresql.auto.conf.tmp", "recovery.signal", "standby.signal", controlFile:
		return true
	}
	return strings.HasPrefix(base, "pg_internal.init") || strings.HasPrefix(base, "pgsql_tmp") || strings.HasPrefix(base, "holdfast.")
}

// relationName takes a relation file apart: 16384, 16384_fsm, 16384.1, 16384_vm.2, 16384_init. A temporary
// relation is t3_16384.
var relationName = regexp.MustCompile(`^(t\d+_)?(\d+)(_(?:fsm|vm|init))?(?:\.(\d+))?$`)

// relationDir holds relation files: global, base/OID.
func relationDir(dir string) bool {
	return dir == "global" || path.Dir(dir) == "base"
}

// scan lists what a backup of dataDir holds, largest file first, so that no worker is left alone with a big
// one at the end. Tablespaces outside the data directory are returned by name; the caller refuses them.
func scan(dataDir string) (files []file, dirs []vault.Entry, tablespaces []string, err error) {
	unlogged := map[string]bool{} // dir/relfilenode with an init fork
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
			if emptied(rel) {
				return fs.SkipDir
			}
			return nil
		case !fi.Mode().IsRegular():
			return fmt.Errorf("back up %s: neither a file nor a directory (%s)", rel, fi.Mode().Type())
		case leftOut(rel):
			return nil
		}
		f := file{path: rel, size: fi.Size(), mode: mode, modTime: fi.ModTime()}
		if m := relationName.FindStringSubmatch(path.Base(rel)); m != nil && relationDir(path.Dir(rel)) {
			if m[1] != "" {
				return nil // temporary: gone with its session
			}
			if m[3] == "_init" {
				unlogged[path.Dir(rel)+"/"+m[2]] = true
			}
			f.relation = true
			if m[4] != "" {
				n, err := strconv.ParseUint(m[4], 10, 32)
				if err != nil {
					return fmt.Errorf("back up %s: %w", rel, err)
				}
				f.segment = uint32(n)
			}
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list data directory %s: %w", dataDir, err)
	}
	files = slices.DeleteFunc(files, func(f file) bool { return f.relation && dropUnlogged(f.path, unlogged) })
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.path, b.path)) })
	return files, dirs, tablespaces, nil
}

// dropUnlogged reports whether p belongs to an unlogged relation and is not its init fork: recovery empties
// such a relation from the init fork.
func dropUnlogged(p string, unlogged map[string]bool) bool {
	m := relationName.FindStringSubmatch(path.Base(p))
	return m != nil && m[3] != "_init" && unlogged[path.Dir(p)+"/"+m[2]]
}

func skipIfDir(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}
