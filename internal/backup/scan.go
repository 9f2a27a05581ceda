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
	"strconv"
	"strings"
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

// listing is what a backup of a data directory holds.
type listing struct {
	files  []file // largest first, so that no worker is left alone with a big one at the end
	dirs   []vault.Entry
	spaces []vault.Tablespace // that a link leads to, without their names
}

// scan lists what a backup of dataDir holds, and of its tablespaces what a server of its major version has there.
func scan(dataDir string) (listing, error) {
	var l listing
	dataDir, err := filepath.EvalSymlinks(dataDir) // a walk does not go through a link, and tablespaces are found by their true places
	if err != nil {
		return l, fmt.Errorf("list data directory: %w", err)
	}
	version, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return l, fmt.Errorf("list data directory %s: %w", dataDir, err)
	}
	spaces, err := findSpaces(dataDir)
	if err != nil {
		return l, err
	}
	skip := map[string]bool{} // a tablespace that lies inside the data directory is read once
	for _, s := range spaces {
		skip[s.Location] = true
	}
	if err := l.walk(dataDir, "", skip); err != nil {
		return l, fmt.Errorf("list data directory %s: %w", dataDir, err)
	}
	for _, s := range spaces {
		if err := l.walkSpace(s, strings.TrimSpace(string(version))); err != nil {
			return l, fmt.Errorf("list tablespace %s: %w", s.Location, err)
		}
		l.spaces = append(l.spaces, s)
	}
	var relations []string
	for _, f := range l.files {
		if f.relation {
			relations = append(relations, f.path)
		}
	}
	unlogged := pgdata.Unlogged(relations)
	l.files = slices.DeleteFunc(l.files, func(f file) bool { return f.relation && pgdata.DropUnlogged(f.path, unlogged) })
	for _, f := range l.files {
		if oid, _, ok := pgdata.InSpace(f.path); ok {
			for i := range l.spaces {
				if spaceName(l.spaces[i]) == oid {
					l.spaces[i].Bytes += f.size
				}
			}
		}
	}
	slices.SortFunc(l.files, func(a, b file) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.path, b.path)) })
	return l, nil
}

// findSpaces follows the links to tablespaces. One that is a plain directory there is part of the data directory.
func findSpaces(dataDir string) ([]vault.Tablespace, error) {
	entries, err := os.ReadDir(filepath.Join(dataDir, pgdata.Spaces))
	if err != nil {
		return nil, fmt.Errorf("list tablespaces: %w", err)
	}
	var out []vault.Tablespace
	for _, e := range entries {
		oid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || e.Type() != fs.ModeSymlink {
			continue
		}
		to, err := filepath.EvalSymlinks(filepath.Join(dataDir, pgdata.Spaces, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(filepath.Join(dataDir, pgdata.Spaces, e.Name())); errors.Is(err, fs.ErrNotExist) {
				continue // dropped meanwhile; the log repeats that
			}
		}
		if err != nil {
			return nil, fmt.Errorf("follow the link of tablespace %s: %w", e.Name(), err)
		}
		out = append(out, vault.Tablespace{OID: uint32(oid), Location: to})
	}
	return out, nil
}

// spaceName is the name of a tablespace's link.
func spaceName(s vault.Tablespace) string { return strconv.FormatUint(uint64(s.OID), 10) }

// walkSpace lists one tablespace: the folders of other major versions there belong to other servers.
func (l *listing) walkSpace(s vault.Tablespace, major string) error {
	entries, err := os.ReadDir(s.Location)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), fmt.Sprintf("PG_%s_", major)) {
			if err := l.walk(filepath.Join(s.Location, e.Name()), path.Join(pgdata.Spaces, spaceName(s), e.Name()), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk lists a directory that stands at prefix in the backup, and is named itself unless that is its root.
func (l *listing) walk(top, prefix string, skip map[string]bool) error {
	return filepath.WalkDir(top, func(full string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && full != top {
			return nil // vanished since its directory was read; the log repeats that
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, full)
		if err != nil {
			return err
		}
		if rel = path.Join(prefix, filepath.ToSlash(rel)); rel == "." {
			return nil
		}
		if skip[full] {
			return skipIfDir(d)
		}
		return l.note(full, rel, d)
	})
}

// note takes one file or directory in.
func (l *listing) note(full, rel string, d fs.DirEntry) error {
	fi, err := os.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mode := uint32(fi.Mode().Perm())
	switch {
	case path.Dir(rel) == pgdata.Spaces && fi.Mode().Type() == fs.ModeSymlink:
		return nil // listed by itself
	case rel == "pg_wal": // a directory, or a link to another disk
		l.dirs = append(l.dirs, vault.Entry{Path: rel, Mode: 0o700, ModTime: fi.ModTime()}, vault.Entry{Path: "pg_wal/archive_status", Mode: 0o700, ModTime: fi.ModTime()})
		return skipIfDir(d)
	case d.IsDir():
		l.dirs = append(l.dirs, vault.Entry{Path: rel, Mode: mode, ModTime: fi.ModTime()})
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
		f.relation, f.segment = true, r.Segment
	}
	l.files = append(l.files, f)
	return nil
}

func skipIfDir(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}
