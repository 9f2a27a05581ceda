package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/durable"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// A tablespace of the original lies where its link led, and there the live server may have its files. So each gets a place
// of its own beside the data directory, or where it was asked for, and the links are made anew.

// space is one tablespace of a restore.
type space struct {
	vault.Tablespace
	dir     string // where its files go
	link    string // dir as it was asked for: where the data directory's link leads
	version string // what the name of this PostgreSQL's folder in it begins with
	ours    bool   // there are files to go on with
	root    *os.Root
}

// folders are the entries of its place that are this PostgreSQL version's. Nothing else there is a restore's to clear:
// servers of other versions keep folders beside it, and so may people.
func (s *space) folders() ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the place of tablespace %s: %w", s.Name, err)
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), s.version) }), nil
}

// used is how much room the files take that a restore clears or writes over.
func (s *space) used() (int64, error) {
	folders, err := s.folders()
	sum := int64(0)
	for _, f := range folders {
		n, err := usedBy(filepath.Join(s.dir, f.Name()))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, err
}

// prefix is where it stands in the backup, below the data directory.
func (s *space) prefix() string {
	return path.Join(pgdata.Spaces, strconv.FormatUint(uint64(s.OID), 10))
}

// planSpaces says where the tablespaces of a backup will lie.
func planSpaces(dir string, b vault.Backup, asked map[string]string) ([]*space, error) {
	left := maps.Clone(asked)
	var out []*space
	for _, t := range b.Tablespaces {
		to := filepath.Join(dir+".tablespaces", strconv.FormatUint(uint64(t.OID), 10))
		if named, ok := left[t.Name]; ok && t.Name != "" {
			to = named
			delete(left, t.Name)
		}
		out = append(out, newSpace(b, t, to))
	}
	if err := apart(dir, out); err != nil {
		return nil, err
	}
	if len(left) > 0 {
		var names []string
		for _, t := range b.Tablespaces {
			names = append(names, t.Name)
		}
		return nil, &problem.Problem{Code: "restore.no-tablespace", Subject: b.Database, Severity: problem.Note,
			Title: fmt.Sprintf("the backup has no tablespace %v; it has %v", slices.Sorted(maps.Keys(left)), names), Meaning: "Nothing was written.",
			Remedy: "name one that it has with --tablespace NAME=DIR"}
	}
	return out, nil
}

func newSpace(b vault.Backup, t vault.Tablespace, dir string) *space {
	dir = filepath.Clean(dir)
	return &space{Tablespace: t, dir: dir, link: dir, version: fmt.Sprintf("PG_%d_", b.ServerVersion/10000)}
}

// apart refuses places for tablespaces that are none, or that are not each one's own.
func apart(dir string, all []*space) error {
	taken := map[string]string{filepath.Clean(dir): "the data directory"}
	for _, s := range all {
		switch other, twice := taken[s.dir]; {
		case !filepath.IsAbs(s.dir):
			return fmt.Errorf("place tablespace %s: %s is not an absolute path", s.Name, s.dir)
		case twice:
			return fmt.Errorf("place tablespace %s: %s is %s already", s.Name, s.dir, other)
		case strings.HasPrefix(s.dir+"/", filepath.Clean(dir)+"/"):
			return fmt.Errorf("place tablespace %s: %s lies inside the data directory", s.Name, s.dir)
		}
		taken[s.dir] = "the place of tablespace " + s.Name
	}
	return nil
}

// placeSpaces says where the tablespaces will lie, and refuses places that are not ours.
func (r *run) placeSpaces() (err error) {
	b := r.o.Choice.Backup
	if r.o.replica != nil { // whoever asked for it has seen to whose they are
		r.spaces, err = replicaSpaces(r.o.Dir, b, r.o.replica.o.Spaces)
		return err
	}
	if r.spaces, err = planSpaces(r.o.Dir, b, r.o.Tablespaces); err != nil {
		return err
	}
	return r.claimSpaces()
}

// claimSpaces refuses places that hold anything but what an interrupted restore left, or what Dir's own link leads to. It
// changes nothing.
func (r *run) claimSpaces() error {
	for _, s := range r.spaces {
		var err error
		if s.ours, err = s.look(r.o.Dir, r.o.Choice.Backup.SystemID, r.again); err != nil {
			return err
		}
	}
	return nil
}

// look says whether a tablespace's place holds files of a system to go on with; a problem when they are somebody else's.
func (s *space) look(dir string, system uint64, again bool) (bool, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the place of tablespace %s: %w", s.Name, err)
	}
	m, marked, err := readMarker(s.dir)
	if err != nil {
		return false, err
	}
	switch {
	case !again:
	case marked && m.SystemID == system:
		return true, nil
	case marked:
		return false, &problem.Problem{Code: "restore.not-empty", Subject: s.Name, Severity: problem.Critical,
			Title:   fmt.Sprintf("the place of the tablespace, %s, holds an unfinished restore of another database, from backup %s", s.dir, m.Backup),
			Meaning: "Nothing was touched.", Remedy: "name an empty directory with --tablespace " + s.Name + "=DIR, or remove that one if it is not wanted any more"}
	default:
		to, err := filepath.EvalSymlinks(filepath.Join(dir, filepath.FromSlash(s.prefix())))
		if here, hereErr := filepath.EvalSymlinks(s.dir); err == nil && hereErr == nil && to == here {
			return true, nil
		}
	}
	return false, &problem.Problem{Code: "restore.not-empty", Subject: s.Name, Severity: problem.Critical, Title: "the place of the tablespace, " + s.dir + ", is not empty",
		Meaning: fmt.Sprintf("It holds %s. Nothing was touched: a restore never writes over what is there.", entries[0].Name()),
		Remedy:  "name an empty directory with --tablespace " + s.Name + "=DIR"}
}

// makeSpaces makes the places ours.
func (r *run) makeSpaces(about []byte) error {
	for _, s := range r.spaces {
		if err := r.makeSpace(s, about); err != nil {
			return fmt.Errorf("make the place of tablespace %s: %w", s.Name, err)
		}
	}
	return nil
}

func (r *run) makeSpace(s *space, about []byte) (err error) {
	if r.o.replica != nil {
		s.dir, err = filepath.EvalSymlinks(s.dir)
		return err
	}
	if above := filepath.Dir(s.dir); above == r.o.Dir+".tablespaces" {
		if err := errors.Join(os.MkdirAll(above, 0o700), r.o.Owner.take(above)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if s.dir, err = filepath.EvalSymlinks(s.dir); err != nil {
		return err
	}
	s.link = s.dir
	return errors.Join(os.Chmod(s.dir, 0o700), durable.WriteFile(filepath.Join(s.dir, markerFile), append(about, '\n'), 0o600), r.o.Owner.take(s.dir))
}

func (r *run) openSpaces() error {
	for _, s := range r.spaces {
		var err error
		if s.root, err = os.OpenRoot(s.dir); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) closeSpaces() {
	r.folders.close()
	for _, s := range r.spaces {
		if s.root != nil {
			_ = s.root.Close() // each file was closed with its own error
		}
	}
}

// at is where a path of the backup lies.
func (r *run) at(rel string) (root *os.Root, below string) {
	if oid, rest, ok := pgdata.InSpace(rel); ok {
		for _, s := range r.spaces {
			if strconv.FormatUint(uint64(s.OID), 10) == oid {
				return r.folders.at(s.root, rel, rest)
			}
		}
	}
	return r.folders.at(r.root, rel, rel)
}

// isSpace reports whether a path of the backup is that of a tablespace's link.
func (r *run) isSpace(rel string) bool {
	return slices.ContainsFunc(r.spaces, func(s *space) bool { return s.prefix() == rel })
}

// tops are the directories that a restore fills.
func (r *run) tops() []string {
	out := []string{r.o.Dir}
	for _, s := range r.spaces {
		out = append(out, s.dir)
	}
	return out
}

// linkSpaces makes the links by which a server finds its tablespaces.
func (r *run) linkSpaces() error {
	for _, s := range r.spaces {
		if err := r.root.Symlink(s.link, s.prefix()); err != nil {
			return fmt.Errorf("link tablespace %s: %w", s.Name, err)
		}
		if r.o.Owner.Set {
			if err := r.root.Lchown(s.prefix(), int(r.o.Owner.UID), int(r.o.Owner.GID)); err != nil {
				return fmt.Errorf("link tablespace %s: %w", s.Name, err)
			}
		}
	}
	return nil
}

func (r *run) unmarkSpaces() error {
	if r.o.replica != nil { // they were not marked
		return nil
	}
	for _, s := range r.spaces {
		if err := errors.Join(s.root.Remove(markerFile), durable.SyncDir(s.dir)); err != nil {
			return err
		}
	}
	return nil
}
