package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/vault/wal"
)

// A walsender is woken by every flush of the log, reads that little piece and sends it: under many small commits that takes
// more of the primary's processors than all that happens to the log afterwards. No setting makes it wait, and one that
// is connected and idle is woken as well (PostgreSQL before 16). So the archive leaves a server that commits so often,
// and comes by to take in one go what has gathered; its slot keeps the log meanwhile. One that commits seldom is followed
// without a break.
const (
	busyAt  = 500                   // small messages a second from which on leaving is worth the way back
	awayFor = time.Second           // how long it stays away; part of a commit's way into the vault
	glance  = 40 * time.Millisecond // how long it looks, with all of the log taken, whether the server is still busy
	leaveIn = 10 * time.Second      // how long the server may take to let it go
	glances = 10                    // of so many visits one takes that look; the others judge by how much has gathered
	clearly = 2                     // times busyAt is a rate that needs no look
	bulky   = 20                    // times busyAt is none of small commits: what gathered is of larger ones
)

// visits are busyAt and awayFor, but in tests.
type visits struct {
	busyAt float64
	away   time.Duration
}

// tally counts small messages, to judge whether each costs the server a wake-up.
type tally struct {
	since time.Time     // from when on they count; zero = not before all that waited is taken
	small int           // of them
	bytes int64         // of log in them
	look  time.Duration // how long they are counted before they are judged

	left    time.Time // when the server was left; zero = it was not
	came    int64     // bytes of log that had gathered since then
	mean    float64   // bytes of log in a small message, when they were counted last; 0 = not known
	unlooks int       // visits since they were
}

// add counts a message of so many bytes of log. caught = with it nothing waits at the server.
func (t *tally) add(bytes int, caught bool, now time.Time) {
	switch {
	case t.since.IsZero():
		t.came += int64(bytes)
		if caught {
			t.since = now
		}
	case bytes > 0 && bytes < bulk: // a larger one is of many commits, or of one that shares its wake-up with nobody
		t.small, t.bytes = t.small+1, t.bytes+int64(bytes)
	}
}

// clear reports, with all taken that had gathered, whether that was so much that no look is needed at how often the server
// commits: each look is a time in which it is woken for each commit.
func (t *tally) clear(at float64, now time.Time) bool {
	if t.since.IsZero() || t.left.IsZero() || t.mean <= 0 || t.unlooks >= glances-1 {
		return false
	}
	commits, few := float64(t.came)/t.mean, at*now.Sub(t.left).Seconds()
	return commits >= clearly*few && commits <= bulky*few
}

// busy judges what was counted, once that was long enough, against messages a second, and begins anew.
func (t *tally) busy(at float64, now time.Time) bool {
	if t.clear(at, now) {
		*t = tally{since: now, look: replyEvery, mean: t.mean, unlooks: t.unlooks + 1}
		return true
	}
	took := now.Sub(t.since)
	if t.since.IsZero() || took < t.look {
		return false
	}
	busy, mean := float64(t.small) >= at*took.Seconds(), t.mean
	if t.small > 0 {
		mean = float64(t.bytes) / float64(t.small)
	}
	*t = tally{since: now, look: replyEvery, mean: mean}
	return busy
}

// visited is the tally of a visit to a server that was left at that time.
func (t *tally) visited(left time.Time) tally {
	return tally{look: glance, left: left, mean: t.mean, unlooks: t.unlooks}
}

// visit leaves the server for a while, and comes back to where the log goes on. at is the end of what is spooled, then and
// after it.
func (s *stream) visit(ctx context.Context, timeline uint32, at wal.LSN) (wal.LSN, error) {
	g := gathering{s: s, timeline: timeline, begin: at, data: s.gathered[:0]}
	leaving, cancel := context.WithTimeout(ctx, leaveIn)
	err := s.sess.leave(leaving, g.take)
	cancel()
	err = errors.Join(err, g.put())
	at, s.gathered = g.begin, g.data
	s.sess.close()
	if err != nil {
		return at, fmt.Errorf("leave the server for a while: %w", err)
	}
	left := s.r.o.Clock.Now()
	if err := s.pause(ctx, s.r.visits.away); err != nil {
		return at, err
	}
	sess, err := dial(ctx, s.cfg)
	if err != nil {
		return at, err
	}
	s.sess = sess
	asked := s.r.o.Clock.Now()
	srv, err := sess.identify(ctx)
	switch {
	case err != nil:
		return at, err
	case srv.systemID != s.srv.systemID || srv.timeline != s.srv.timeline || srv.segmentSize != s.srv.segmentSize:
		return at, fmt.Errorf("the server of cluster %d on timeline %d is now of cluster %d on timeline %d", s.srv.systemID, s.srv.timeline, srv.systemID, srv.timeline)
	}
	s.r.connected(timeline, srv, asked)
	s.tally = s.tally.visited(left)
	return at, sayOnly(sess.start(ctx, s.r.o.Slot, timeline, at))
}

// sayOnly makes a server's refusal to go on end the stream and nothing more: log that it removed meanwhile is a gap from
// where the vault's log ends, which is for the next Run to find, not from where this one began.
func sayOnly(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Errorf("come back to the server: %s (SQLSTATE %s)", e.Message, e.Code)
	}
	return err
}

// pause waits, unless ctx ends before.
func (s *stream) pause(ctx context.Context, d time.Duration) error {
	t := s.r.o.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C():
		return nil
	}
}

// leave ends streaming, so that the server lets go of the slot and notes nothing unusual. What it had sent before it
// heard of that is taken.
func (s *session) leave(ctx context.Context, take func(message) error) error {
	s.conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := s.conn.Frontend().Flush(); err != nil {
		return err
	}
	var failed error
	for {
		msg, err := s.conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			got, err := parseCopy(m.Data)
			if err == nil {
				err = take(got)
			}
			if err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}
