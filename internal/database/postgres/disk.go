package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
)

const (
	reserveMost  = 256 << 20 // bytes that the reserve file holds back on a large disk
	reserveLeast = 32 << 20  // and at least: two segments, so that a recovery gets through
	reserveAbove = 8         // it is made only where so many times as much is free
)

// observeDisk measures the file system of the log, and keeps the reserve there.
func (s *Server) observeDisk(l *database.Local) error {
	size, free, err := s.space()
	if err != nil {
		return err
	}
	l.Disk = database.Disk{Size: size, Free: free}
	if l.Data == database.DataPresent || l.Data == database.DataPartial {
		s.observeFault(&l.Disk)
	}
	info, err := os.Lstat(s.at.reserve)
	switch {
	case err == nil:
		l.Disk.Reserve = info.Size()
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look at the reserve: %w", err)
	}
	want := max(reserveLeast, min(reserveMost, size/50))
	if free < reserveAbove*want || l.Data != database.DataPresent {
		return nil
	}
	if err := s.makeReserve(want); err != nil {
		return err
	}
	l.Disk.Free, l.Disk.Reserve = free-want, want
	return nil
}

// space is the size of the log's file system, and what PostgreSQL's user may still write there.
func (s *Server) space() (size, free int64, err error) {
	for path := s.at.wal(); ; path = filepath.Dir(path) {
		var st unix.Statfs_t
		switch err := unix.Statfs(path, &st); {
		case err == nil:
			return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
		case !errors.Is(err, unix.ENOENT) || path == filepath.Dir(path):
			return 0, 0, fmt.Errorf("measure the disk of %s: %w", s.at.dir, err)
		}
	}
}

// makeReserve takes space out of everybody's reach, with real blocks: a hole would hold nothing back.
func (s *Server) makeReserve(size int64) (err error) {
	f, err := os.OpenFile(s.at.reserve, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the reserve: %w", err)
	}
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Sync(), f.Close())
	if err == nil {
		return nil
	}
	err = errors.Join(err, os.Remove(s.at.reserve))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a file system without fallocate has no reserve
	}
	return fmt.Errorf("make the reserve: %w", err)
}

// releaseReserve gives the reserve back when a server would not get through its start without it.
func (s *Server) releaseReserve() error {
	_, free, err := s.space()
	if err != nil || free >= reserveLeast {
		return nil // what cannot be measured, the start itself will say
	}
	err = os.Remove(s.at.reserve)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release the reserve: %w", err)
	}
	s.log.Warn("the disk is full: the reserve was released, so that the server gets through its start", "free", free)
	return durable.SyncDir(s.at.dir)
}

// observeOldest finds where the log begins that lies here.
func (s *Server) observeOldest(l *database.Local) error {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	segments, err := walscan.Segments(s.at.wal(), c.SegSize)
	if err != nil {
		return err
	}
	for _, x := range segments {
		if at := database.LSN(x.Number * c.SegSize); l.Oldest == 0 || at < l.Oldest {
			l.Oldest = at
		}
	}
	return nil
}

// ReadOnly makes new transactions of clients read-only, or takes that back. A session may still ask for write
// access by itself: this is a warning that every ordinary application understands, given while there is time.
func (s *Server) ReadOnly(ctx context.Context, on bool) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.readOnly(ctx, on); err != nil {
		return fmt.Errorf("make new transactions read-only (%t): %w", on, err)
	}
	return nil
}

func (s *Server) readOnly(ctx context.Context, on bool) error {
	if err := s.present("change whether transactions may write"); err != nil {
		return err
	}
	if on {
		if err := s.releaseReserve(); err != nil { // also for the file that is written now
			return err
		}
	}
	var before time.Time
	err := s.within(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&before) })
	if err != nil {
		return err
	}
	d, err := readDynamic(s.at.data)
	if err != nil {
		return err
	}
	d.readOnly = on
	if err := s.writeDynamic(s.at.data, d); err != nil {
		return err
	}
	if err := s.signal(syscall.SIGHUP); err != nil {
		return err
	}
	return s.until(ctx, "see the reload in a new session", func(conn *pgx.Conn) (bool, error) {
		var loaded time.Time
		err := conn.QueryRow(ctx, "SELECT pg_conf_load_time()").Scan(&loaded)
		return loaded.After(before), err
	})
}
