package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
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
}

// writable judges a primary's ability to take writes: ok; waiting when commits wait for standbys; hung when not
// even a commit that waits for nobody gets to the disk; "" before the first probe ended.
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
		if x.State == "streaming" && x.Sync == "quorum" {
			quorum++
		}
	}
	switch {
	case p.running && now.Sub(p.begun) > probeWait || p.known && !p.ok:
		return "hung"
	case !p.known:
		return ""
	case quorum < l.Names.W || a.waiting > 0:
		return "waiting"
	default:
		return "ok"
	}
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
	p.known, p.ok = err == nil || late, err == nil
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
