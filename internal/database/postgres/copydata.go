package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/database"
)

// CopyData copies the data directory of a stopped server, still of an incarnation, to a new folder, so that a server
// may be started on the copy: without what would make it follow somebody. It waits for other work of this server and
// keeps it waiting.
func (s *Server) CopyData(ctx context.Context, incarnation, to string) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.present("copy the data"); err != nil {
		return err
	}
	now, err := readIncarnation(s.at.data)
	if err != nil {
		return err
	}
	if now != incarnation {
		return fmt.Errorf("copy the data: they have been made anew since (%s): %w", now, database.ErrStale)
	}
	if l := s.look(ctx); !l.gone {
		return errors.New("copy the data: the server runs")
	}
	return filepath.WalkDir(s.at.data, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return s.copyEntry(path, filepath.Join(to, strings.TrimPrefix(path, s.at.data)), e)
	})
}

func (s *Server) copyEntry(from, to string, e fs.DirEntry) error {
	switch {
	case e.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	case e.Type()&fs.ModeSymlink != 0:
		return fmt.Errorf("copy the data: %s is a link to another place (a tablespace), which would be shared", from)
	case !e.Type().IsRegular():
		return nil
	case e.Name() == "standby.signal" || e.Name() == "recovery.signal" || e.Name() == "postmaster.pid":
		return nil
	default:
		if err := copyLoosely(from, to); err != nil {
			return err
		}
	}
	return s.owner.own(to)
}

// copyLoosely copies a file and leaves it to the kernel when it reaches the disk: a copy that is thrown away needs no
// sync, and thousands of them would keep etcd's own from the disk.
func copyLoosely(from, to string) error {
	return copyThen(from, to, func(*os.File) error { return nil })
}

// DataBytes is how much room a copy of the data directory takes.
func (s *Server) DataBytes() (int64, error) {
	var sum int64
	err := filepath.WalkDir(s.at.data, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type().IsRegular() {
			info, err := e.Info()
			if err != nil {
				return err
			}
			sum += info.Size()
		}
		return nil
	})
	return sum, err
}
