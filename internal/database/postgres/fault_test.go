package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"holdfast/internal/clock"
	"holdfast/internal/database"
)

func TestWhatAnErrorSaysOfTheDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want database.DiskFault
	}{
		{"nothing went wrong", nil, ""},
		{"the file system is read-only", &fs.PathError{Op: "open", Path: "x", Err: unix.EROFS}, database.FaultReadOnly},
		{"the disk has an error", fmt.Errorf("sync: %w", unix.EIO), database.FaultIO},
		{"the file system is damaged", unix.EUCLEAN, database.FaultIO},
		{"there is no room", unix.ENOSPC, database.FaultFull},
		{"a quota is used up", unix.EDQUOT, database.FaultFull},
		{"two errors, of which one is the disk's", errors.Join(unix.EBADF, unix.EIO), database.FaultIO},
		{"PostgreSQL had an error of its disk", fmt.Errorf("probe: %w", &pgconn.PgError{Code: "58030"}), database.FaultIO},
		{"PostgreSQL had no room", &pgconn.PgError{Code: "53100"}, database.FaultFull},
		{"PostgreSQL was not let write", &pgconn.PgError{Code: "42501"}, database.FaultReadOnly},
		{"the server is going down", &pgconn.PgError{Code: "57P01"}, ""},
		{"the directory is not there", unix.ENOENT, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := faultOf(tt.err); got != tt.want {
				t.Errorf("%v is %q, want %q", tt.err, got, tt.want)
			}
		})
	}
}

// A full disk has its own answer, but a server that takes no write in time must still be seen to hang.
func TestAFullDiskDoesNotHideThatAServerHangs(t *testing.T) {
	hangs := func(p *probe) { p.known = true }
	for _, tt := range []struct {
		name   string
		fault  database.DiskFault // of our own small write
		probed func(p *probe)
		want   string
	}{
		{"it takes writes", "", func(p *probe) { p.known, p.ok = true, true }, "ok"},
		{"it hangs", "", hangs, "hung"},
		{"it hangs, and the disk is full", database.FaultFull, hangs, "hung"},
		{"it hangs, and had said that the disk is full", "", func(p *probe) { p.running, p.fault = true, database.FaultFull }, "hung"},
		{"it hangs, and the disk has an error", database.FaultIO, hangs, "io-error"},
		{"the disk is full", database.FaultFull, func(p *probe) { p.known, p.ok = true, true }, "full"},
		{"PostgreSQL says that the disk is read-only", "", func(p *probe) { p.fault = database.FaultReadOnly }, "read-only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Server{clock: clock.Real()}
			s.background, s.end = context.WithCancel(t.Context())
			s.end()                                                     // no probe is begun
			s.watch.probe.begun = s.clock.Now().Add(-100 * time.Second) // if one runs, it is late
			tt.probed(&s.watch.probe)
			if got := s.writable(answer{}, &database.Local{Disk: database.Disk{Fault: tt.fault}}); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestASmallWriteTellsOfTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "touched")
	for range 2 {
		if err := touchFile(path, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		t.Errorf("%q, %v", b, err)
	}
	// /dev/full answers each write with ENOSPC: a disk that refuses, and no root is needed for it.
	if err := touchFile("/dev/full", time.Now()); faultOf(err) != database.FaultFull {
		t.Errorf("a full disk is %q: %v", faultOf(err), err)
	}
}
