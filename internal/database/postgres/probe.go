package postgres

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"holdfast/internal/database"
	"holdfast/internal/database/stored"
)

const (
	probeEvery = 500 * time.Millisecond // also what makes a standby's silence mean something (DATABASE.md, A11)
	probeWait  = time.Second
)

// probe writes a tiny WAL record now and then and remembers how that went. A record that cannot be written in
// time means a disk or a server that hangs.
type probe struct {
	conn *pgx.Conn // of the one probe that runs, or kept between two

	mu      sync.Mutex // guards what follows
	running bool
	begun   time.Time
	ok      bool
	known   bool
	fault   database.DiskFault // what PostgreSQL itself says of its disk
}

// writable judges a primary's ability to take writes: ok; waiting when commits wait for standbys; hung when not
// even a commit that waits for nobody gets to the disk; how the disk refuses it, by PostgreSQL's word or by what our own
// small write met; "" before the first probe ended.
func (s *Server) writable(a answer, l *database.Local) string {
	p := &s.watch.probe
	now := s.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running && now.Sub(p.begun) >= probeEvery && s.background.Err() == nil {
		p.running, p.begun = true, now
		s.tasks.Go(s.probeOnce)
	}
	quorum := 0
	for _, x := range l.Senders {
		if x.State == "streaming" && x.Sync == "quorum" && !stored.IsVote(x.Name) {
			quorum++
		}
	}
	fault := cmp.Or(l.Disk.Fault, p.fault)
	switch hangs := p.running && now.Sub(p.begun) > probeWait || p.known && !p.ok; {
	case hangs:
		return hungBy(fault)
	case fault != "":
		return string(fault)
	case !p.known:
		return ""
	case quorum < l.Names.W || a.waiting > 0:
		return "waiting"
	default:
		return "ok"
	}
}

// hungBy is what a server that takes no write in time says of its disk. One that is only full has another answer than a
// takeover, and must not hide that it hangs: nothing else would ever end it.
func hungBy(fault database.DiskFault) string {
	if fault == "" || fault == database.FaultFull {
		return "hung"
	}
	return string(fault)
}

func (s *Server) probeOnce() {
	ctx, cancel := context.WithTimeout(s.background, probeWait)
	defer cancel()
	p := &s.watch.probe
	err := error(nil)
	if p.conn == nil || p.conn.IsClosed() {
		p.conn, err = s.connect(ctx, "postgres")
	}
	if err == nil {
		_, err = p.conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'holdfast', '')")
	}
	if err != nil {
		p.drop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	if s.background.Err() != nil {
		return
	}
	late := errors.Is(err, context.DeadlineExceeded)
	p.known, p.ok, p.fault = err == nil || late, err == nil, faultOf(err)
	if err != nil && !late { // it is stopping, or the observation says what is wrong with it
		s.log.Debug("write probe failed", "err", err)
	}
}

func (p *probe) drop() {
	if p.conn != nil {
		closeSession(p.conn)
		p.conn = nil
	}
}

// faultOf is what an error of a write says of the disk, as PostgreSQL or as the system puts it; "" = nothing.
func faultOf(err error) database.DiskFault {
	state := ""
	if p, ok := errors.AsType[*pgconn.PgError](err); ok {
		state = p.Code
	}
	switch {
	case errors.Is(err, unix.EROFS) || state == "42501": // PostgreSQL's class for EROFS too: insufficient_privilege
		return database.FaultReadOnly
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || state == "53100": // disk_full
		return database.FaultFull
	case errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || state == "58030": // io_error
		return database.FaultIO
	}
	return ""
}

const (
	touchEvery = 2 * time.Second        // a small write beside the data tells what the disk says to it
	touchSoon  = 500 * time.Millisecond // while it refuses
)

// touch writes a small file now and then, whether or not a server runs: a disk that refuses is seen before a start, on a
// standby, and where PostgreSQL writes nothing.
type touch struct {
	mu      sync.Mutex // guards what follows
	running bool
	begun   time.Time
	fault   database.DiskFault
	said    string
}

// observeFault tells what the last small write met, and begins the next. It never waits: a disk that hangs is the write
// probe's business.
func (s *Server) observeFault(d *database.Disk) {
	t := &s.watch.touch
	now := s.clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	every := touchEvery
	if t.fault != "" {
		every = touchSoon
	}
	if !t.running && now.Sub(t.begun) >= every && s.background.Err() == nil {
		t.running, t.begun = true, now
		s.tasks.Go(s.touchOnce)
	}
	d.Fault, d.Said = t.fault, t.said
}

func (s *Server) touchOnce() {
	err := touchFile(filepath.Join(s.at.dir, "touched"), s.clock.Now())
	t := &s.watch.touch
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running, t.fault, t.said = false, faultOf(err), ""
	if t.fault != "" {
		t.said = err.Error()
	}
	if err != nil && t.fault == "" {
		s.log.Debug("small write did not succeed", "err", err)
	}
}

// touchFile overwrites a file and waits until the disk has it.
func touchFile(path string, at time.Time) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(at.UTC().Format(time.RFC3339Nano)+"\n"), 0)
	return errors.Join(err, f.Sync(), f.Close())
}
