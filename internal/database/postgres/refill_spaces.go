package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast/internal/problem"
)

// The tablespaces of a base backup go where the primary has them, for the log that follows names that path. The log may make
// others, and drop some that the backup holds: it does both here as on any standby.

// vaultSpaces are the tablespaces of a copy that is made from a vault.
type vaultSpaces struct {
	server *Server
	places map[uint32]string // of those that the base backup holds, by number
	ready  map[string]bool   // directories that were made ready; true = the log fills it from nothing
}

// placeVaultSpaces makes the directories ready for those of the backup, and for those of the primary that the log makes, or
// refuses. It changes nothing that was there.
func (s *Server) placeVaultSpaces(from Replica, primary []space) (*vaultSpaces, error) {
	v := &vaultSpaces{server: s, places: map[uint32]string{}, ready: map[string]bool{}}
	now := map[string]string{}
	for _, x := range primary {
		now[x.oid] = x.dir
		v.ready[filepath.Clean(x.dir)] = true
	}
	if err := s.prepareSpaces(primary); err != nil {
		return nil, err
	}
	for oid, was := range from.Spaces() {
		dir, is := now[strconv.FormatUint(uint64(oid), 10)]
		if !is {
			dir = s.spaceDir(was)
			if err := s.prepareDropped(from, dir); err != nil {
				return nil, err
			}
		}
		dir = filepath.Clean(dir)
		v.places[oid], v.ready[dir] = dir, false
	}
	return v, nil
}

// prepareDropped is prepareSpaces for a tablespace that the backup holds and the database does not have any more.
func (s *Server) prepareDropped(from Replica, dir string) error {
	title := "it lay within a data directory"
	if !strings.HasPrefix(filepath.Clean(dir)+"/", s.at.data+"/") {
		err := s.prepareSpaces([]space{{dir: dir}})
		why, ok := errors.AsType[*problem.Problem](err)
		if !ok {
			return err
		}
		title = why.Title
	}
	return &problem.Problem{
		Code: "database.no-copy-in-vault", Subject: s.cfg.Database, Severity: problem.Degraded,
		Title:   fmt.Sprintf("%s cannot give a copy: it holds a tablespace that was dropped since, and on %s that has no place: %s", from, s.cfg.Host, title),
		Meaning: "Nothing was touched. The next source that copy_from names is asked; the database has one copy less meanwhile.",
		Remedy:  "nothing, where copy_from names another source; a base backup that is made now does not hold it",
	}
}

// empty removes what lies of this version where the log makes a tablespace: its replay takes pages that it finds for its own.
// The directories are ours, and our data are no copy any more.
func (v *vaultSpaces) empty() error {
	for dir, fresh := range v.ready {
		if !fresh {
			continue
		}
		if err := v.server.emptySpace(dir); err != nil {
			return err
		}
	}
	return nil
}

// made makes a directory ready in which the placed log makes a tablespace. Most are known by then; others were made and dropped
// since the base backup, or only now.
func (v *vaultSpaces) made(dir string) error {
	dir = filepath.Clean(dir)
	if _, known := v.ready[dir]; known {
		return nil
	}
	if err := v.server.prepareSpaces([]space{{dir: dir}}); err != nil {
		return err
	}
	v.ready[dir] = true
	return v.server.emptySpace(dir)
}

// emptySpace removes PostgreSQL's own folder of this version from a tablespace's directory, which is ours, and nothing beside that.
func (s *Server) emptySpace(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("empty the directory of a tablespace: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), s.spaceVersion()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("empty the directory of a tablespace: %w", err)
		}
	}
	return nil
}
