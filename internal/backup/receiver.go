package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/clock"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// ReceiverOptions say whose log goes where.
type ReceiverOptions struct {
	Vault        *vault.Vault
	Database     string
	SystemID     uint64        // the cluster that is expected; 0 = whichever answers first
	Spool        string        // directory of this receiver alone, on a local disk
	SpoolMax     int64         // bytes that may wait for the vault before reading stops; 0 = 1 GiB, at least two segments
	Spill        string        // directory on another disk that takes what has no room in Spool; the one around it must be there; "" = none
	Keep         int64         // bytes of log that the server keeps beside what Spill holds, at least
	Slot         string        // "" = holdfast_archive
	PartialEvery time.Duration // how often an unfinished segment is stored when it grew; one that is soon full waits half as long again at most; 0 = 2 s
	// Lost hears of log that was in Spill alone and can not be brought to the vault, and why. It is called within Run.
	Lost func(g *GapError, why error)
	// Votes tells how this receiver is to vote for the vault in the server's quorum. nil = never. It is asked often.
	Votes   func() Vote
	SkipGap bool         // the Run after one that returned *GapError goes on behind the gap; a new base backup must follow
	Clock   clock.Clock  // nil = the machine's
	Log     *slog.Logger // nil = silent
}

// Receiver copies a server's write-ahead log into a vault as it is written. Its stream is never a synchronous
// standby, and its slot lets the server forget only what the vault holds: losing this host loses nothing. With a second place,
// and only while that is in use, it lets it forget what lies there too. Where it is asked to it votes for the vault beside that
// stream, see votes.go.
type Receiver struct {
	o      ReceiverOptions
	log    *slog.Logger
	visits visits

	mu     sync.Mutex // guards the rest
	status Status
	system uint64
	covers covering
	deaf   time.Time // when what the server says was last not read; zero = never
	lost   *GapError // log that the server does not have any more; nil = none since the receiver was made

	spill     *spill   // nil = there is no second place
	lostThere GapError // in the second place, as it was told last
}

// Status is where a receiver stands. Ages are by the local monotonic clock.
type Status struct {
	Connected    bool          `json:"connected"`
	Streaming    bool          `json:"streaming"` // this connection's stream runs: the server has sent something of it
	SystemID     uint64        `json:"system_id,string"`
	Timeline     uint32        `json:"timeline"`
	ServerEnd    wal.LSN       `json:"server_end"`    // as the server last said
	Received     wal.LSN       `json:"received"`      // end of what came
	Flushed      wal.LSN       `json:"flushed"`       // end of what is on this host's disk
	Archived     wal.LSN       `json:"archived"`      // end of what the vault holds
	CoveredUntil time.Time     `json:"covered_until"` // server's clock: every commit up to then can be restored; zero = unknown
	HeardAge     time.Duration `json:"heard_age"`     // since the last message
	Behind       time.Duration `json:"behind"`        // every commit that was acknowledged longer ago than that is in the vault, whatever the server's clock says; < 0 = not known
	Waiting      int64         `json:"waiting_bytes"` // received, not in the vault
	SpoolFull    bool          `json:"spool_full"`    // reading has stopped until the vault takes more
	Spilled      int64         `json:"spilled_bytes"` // of these, in the second place
	SpillHolds   int64         `json:"spill_holds"`   // bytes on the second place's disk, for they are compressed there
	SpillRoom    int64         `json:"spill_room"`    // bytes that it could hold altogether
	Released     wal.LSN       `json:"released"`      // what is before this is in the vault or in the second place
	Told         wal.LSN       `json:"told"`          // the server was told that it may forget what is before this
	SpillError   string        `json:"spill_error,omitempty"`
	Votes        int           `json:"votes,omitempty"`  // connections that vote for the vault
	Doubts       int           `json:"doubts,omitempty"` // how often since the receiver was made something befell the log after which it may have a hole
	VaultError   string        `json:"vault_error,omitempty"`

	heard time.Time
}

// NewReceiver checks the options.
func NewReceiver(o ReceiverOptions) (*Receiver, error) {
	var errs []error
	if o.Vault == nil {
		errs = append(errs, errors.New("no vault"))
	}
	if o.Spool == "" {
		errs = append(errs, errors.New("no spool directory"))
	}
	if o.PartialEvery < 0 || o.SpoolMax < 0 {
		errs = append(errs, errors.New("negative limits"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("set up the log receiver of %s: %w", o.Database, err)
	}
	if o.Slot == "" {
		o.Slot = archiveSlot
	}
	if o.SpoolMax == 0 {
		o.SpoolMax = 1 << 30
	}
	if o.PartialEvery == 0 {
		o.PartialEvery = 2 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Receiver{o: o, system: o.SystemID, log: o.Log.With("database", o.Database), visits: visits{busyAt: busyAt, away: awayFor}}
	if o.Spill != "" {
		r.spill = newSpill(o.Spill, o.Spool, o.Vault)
	}
	return r, nil
}

// Status is safe at any time.
func (r *Receiver) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, now := r.status, r.o.Clock.Now()
	if !s.heard.IsZero() {
		s.HeardAge = now.Sub(s.heard)
	}
	if s.Behind = -1; !r.covers.reached.by.IsZero() {
		s.Behind = now.Sub(r.covers.reached.by)
	}
	return s
}

// Run streams from one server until the connection or ctx ends, and returns when its last goroutine has.
// Before it returns it tries for a few seconds to bring what it has into the vault. Call it again, with
// another server after a failover; it goes on where the vault ends. *GapError needs a new base backup, and with SkipGap the next
// Run goes on behind the gap; *vault.DuplicateError needs a person; every other error is for trying again.
func (r *Receiver) Run(ctx context.Context, cfg *pgconn.Config) (err error) {
	defer func() {
		r.update(func(s *Status) { s.Connected, s.Streaming, s.Votes = false, false, 0 })
		if err != nil {
			err = fmt.Errorf("archive the log of %s: %w", r.o.Database, err)
		}
	}()
	sess, err := dial(ctx, cfg)
	if err != nil {
		return err
	}
	s := &stream{r: r, sess: sess, cfg: cfg, votes: votes{begun: make(chan struct{}, 1)}}
	defer func() { s.sess.close() }() // whichever it is by then
	asked := r.o.Clock.Now()
	srv, err := sess.identify(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.system == 0 {
		r.system = srv.systemID
	}
	known := r.system
	r.mu.Unlock()
	if known != srv.systemID {
		return fmt.Errorf("the server is of cluster %d, not %d: its log does not belong here", srv.systemID, known)
	}
	s.votes.system = srv.systemID
	s.srv, s.identified, s.log, s.spill, s.segmentSize = srv, asked, r.o.Vault.Log(srv.systemID, srv.segmentSize), r.spill, srv.segmentSize
	if s.spool, err = openSpool(r.o.Spool, srv.segmentSize, r.o.SpoolMax); err != nil {
		return err
	}
	s.openSpill(ctx)
	return errors.Join(s.run(ctx), s.spool.close())
}

// stream is one Run.
type stream struct {
	r     *Receiver
	cfg   *pgconn.Config // of the server
	sess  *session       // after a visit another one
	srv   server
	log   *vault.Log
	spool *spool
	spill *spill // nil = there is no second place

	segmentSize uint64    // of the server, in bytes; srv is receiveAll's alone
	identified  time.Time // when srv was asked for; likewise

	votes    votes
	tally    tally
	gathered []byte // of receiveRound: its memory, used again

	stored  time.Time // when the vault last took a piece; archiveAll's alone
	stores  int       // how often it took anything; likewise
	growing growing   // likewise
}

func (s *stream) run(ctx context.Context) error {
	if err := s.sess.ensureSlot(ctx, s.r.o.Slot); err != nil {
		return err
	}
	s.r.update(func(st *Status) {
		st.Connected, st.SystemID, st.heard = true, s.srv.systemID, s.r.o.Clock.Now()
	})
	g, gctx := errgroup.WithContext(ctx)
	flushed := make(chan struct{}, 1)
	received := make(chan struct{})
	g.Go(func() error {
		defer close(received)
		return s.receiveAll(gctx)
	})
	g.Go(func() error { return s.flushAll(received, flushed) })
	g.Go(func() error { return s.archiveAll(received, flushed) })
	if s.spill != nil {
		g.Go(func() error { return s.spillAll(gctx, received) })
	}
	g.Go(func() error { s.voteAll(gctx); return nil })
	return g.Wait()
}

// receiveAll follows the server from timeline to timeline.
func (s *stream) receiveAll(ctx context.Context) error {
	for {
		history, err := wal.ParseHistory(s.srv.timeline, s.srv.history)
		if err != nil {
			return err
		}
		if s.srv.timeline > 1 {
			if err := s.log.PutHistory(ctx, s.srv.timeline, s.srv.history); err != nil {
				return err
			}
		}
		there := s.spill.holds(s.srv.systemID) // before the vault is asked: what is brought meanwhile is in one of both
		held, err := s.log.Held(ctx)
		if err != nil {
			return err
		}
		stored := storedUpTo(history, held, there, s.srv.flushed, s.srv.segmentSize)
		held = slices.Concat(held, there) // what follows the second place is asked of the server while that is brought
		timeline, from, fresh := resume(history, held, s.srv.flushed, s.srv.segmentSize)
		asked := place{timeline, from}
		timeline, from = s.behindGap(ctx, asked, history, held)
		if len(there) == 0 {
			stored = from
		}
		s.r.log.InfoContext(ctx, "archiving the log", "timeline", timeline, "lsn", from.String(), "fresh", fresh)
		s.r.update(func(st *Status) {
			st.Timeline, st.Received, st.Flushed, st.Archived, st.Released = timeline, from, from, min(stored, from), from
		})
		if err := s.toldBefore(ctx, min(stored, from), from); err != nil {
			return err
		}
		s.r.connected(timeline, s.srv, s.identified)
		err = s.sess.start(ctx, s.r.o.Slot, timeline, from)
		if slotLost(err) { // the log itself may still be there
			s.r.log.WarnContext(ctx, "the server has given up the archive's slot, making it anew", "err", err)
			if err = s.sess.renewSlot(ctx, s.r.o.Slot); err == nil {
				s.r.update(func(st *Status) { st.Told = from })
				err = s.sess.start(ctx, s.r.o.Slot, timeline, from)
			}
		}
		if err == nil {
			s.votes.begins(history, place{timeline, from}, fresh || asked != place{timeline, from})
			err = s.receive(ctx, timeline, from)
			s.votes.ends()
		}
		if err != nil && !errors.Is(err, errTimelineEnded) {
			return s.gap(err, asked, place{timeline, from}, history, held)
		}
		s.spool.end()
		if err := s.drained(ctx); err != nil {
			return err
		}
		s.identified = s.r.o.Clock.Now()
		if s.srv, err = s.sess.identify(ctx); err != nil {
			return err
		}
		if s.srv.timeline == timeline {
			return fmt.Errorf("timeline %d ended at the server, which names no other", timeline)
		}
	}
}

// gap makes a *GapError out of the server's refusal to send what it has removed. asked is where the vault's log goes
// on, began where streaming did: behind a gap that was known.
func (s *stream) gap(err error, asked, began place, history wal.History, held []wal.Held) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Code != "58P01" { // undefined_file
		return err
	}
	g := &GapError{Database: s.r.o.Database, Timeline: asked.timeline, From: asked.lsn}
	if !s.r.o.SkipGap {
		return g
	}
	to := place{s.srv.timeline, s.srv.flushed.SegmentStart(s.srv.segmentSize)}
	if later, ok := heldBehind(asked, history, held); ok && began == asked {
		to = later // an archivist before this one was there: what followed may still be on the server
	}
	if to.timeline == asked.timeline && to.lsn <= asked.lsn {
		return g // what the server writes now is what it does not have: nothing lies behind that
	}
	g.ToTimeline, g.To = to.timeline, to.lsn
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.lost = g // the next Run begins with a connection of its own: this one is in the middle of an answer
	return g
}

// behindGap is where streaming begins when what follows asked is known to be lost. It stays at the place that was
// chosen when the gap was found, so that the server's slot keeps what comes behind it however often this is tried.
func (s *stream) behindGap(ctx context.Context, asked place, history wal.History, held []wal.Held) (uint32, wal.LSN) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	g := s.r.lost
	if g == nil || g.Timeline != asked.timeline || g.From != asked.lsn {
		return asked.timeline, asked.lsn
	}
	if !reaches(history, place{g.ToTimeline, g.To}) { // the server that was to have it is gone, and its successor parted before that
		moved := *g
		moved.ToTimeline, moved.To = s.srv.timeline, s.srv.flushed.SegmentStart(s.srv.segmentSize)
		g, s.r.lost = &moved, &moved
	}
	at := behind(g, history, held, s.srv.segmentSize)
	s.r.log.ErrorContext(ctx, "log is lost, going on behind it", "timeline", asked.timeline, "lsn", asked.lsn.String(), "to_timeline", at.timeline, "to", at.lsn.String())
	return at.timeline, at.lsn
}

const (
	// replyEvery is how often the server hears how far we are, and is asked how far it is; its own limit is wal_sender_timeout, which
	// Holdfast sets to 5 s.
	replyEvery = time.Second
	// silentMax is how long it may leave that unanswered. A line that is dead without a word is held up by nothing else for a
	// quarter of an hour.
	silentMax = 30 * time.Second
)

// receive spools one timeline until it ends. It alone uses the connection.
func (s *stream) receive(ctx context.Context, timeline uint32, from wal.LSN) error {
	at := from
	s.tally = tally{since: s.r.o.Clock.Now(), look: replyEvery}
	for {
		ask, err := s.r.ask(s.spool.full())
		if err == nil {
			err = s.sess.reply(at, s.released(at), ask, s.r.o.Clock.Now())
		}
		if err != nil {
			return err
		}
		round, cancel := context.WithTimeout(ctx, s.tally.look)
		next, err := s.receiveRound(round, timeline, at)
		cancel()
		at = next
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !pgconn.Timeout(err) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if s.tally.busy(s.r.visits.busyAt, s.r.o.Clock.Now()) && !s.spool.full() && !s.votes.standing() {
			if at, err = s.visit(ctx, timeline, at); err != nil {
				return err
			}
		}
	}
}

// Log comes in one small message for each commit that nobody else shared. Taking them one by one would wake this
// process as often as the primary commits, on processors that it shares with it: what comes within gatherFor is taken
// together. It is little beside PartialEvery.
const (
	gatherFor = 20 * time.Millisecond
	takeFor   = time.Millisecond // how long messages are taken before the next rest
	bulk      = 32 << 10         // a message this long, in bytes, says that more waits at the server: there is no rest
)

// receiveRound spools what comes until ctx ends, the server asks for an answer, or the timeline ends. next is the end of
// what is spooled.
func (s *stream) receiveRound(ctx context.Context, timeline uint32, at wal.LSN) (next wal.LSN, err error) {
	g := gathering{s: s, timeline: timeline, begin: at, data: s.gathered[:0]}
	defer func() {
		if failed := g.put(); failed != nil {
			err = failed // alone: beside the end of a round it would be taken for one
		}
		next, s.gathered = g.begin, g.data
	}()
	for {
		if s.spool.full() { // stop reading: TCP tells the server to wait
			s.r.update(func(st *Status) { st.SpoolFull = true })
			select {
			case <-ctx.Done():
				return g.begin, ctx.Err()
			case <-s.spool.room:
				continue
			}
		}
		size, answer, err := s.takeOne(ctx, &g)
		if err != nil || answer {
			return g.begin, err
		}
		if size >= bulk {
			continue
		}
		if err := g.put(); err != nil {
			return g.begin, err
		}
		if s.votes.standing() { // somebody waits for what has come
			continue
		}
		s.rest(ctx)
		if answer, err = s.takeWaiting(ctx, &g); err != nil || answer {
			return g.begin, err
		}
	}
}

// takeWaiting takes what came during a rest: until nothing more does, or for takeFor.
func (s *stream) takeWaiting(ctx context.Context, g *gathering) (answer bool, err error) {
	brief, cancel := context.WithTimeout(ctx, takeFor)
	defer cancel()
	for {
		_, answer, err := s.takeOne(brief, g)
		if err != nil && brief.Err() != nil && ctx.Err() == nil {
			return false, g.put()
		}
		if err != nil || answer {
			return answer, err
		}
	}
}

// takeOne waits for a message and takes it; answer = the server asks where this stream is, or is to be left at once.
func (s *stream) takeOne(ctx context.Context, g *gathering) (size int, answer bool, err error) {
	m, err := s.sess.receive(ctx)
	if err != nil {
		return 0, false, err
	}
	if m.ended {
		return 0, false, errTimelineEnded
	}
	if err := g.take(m); err != nil {
		return 0, false, err
	}
	now := s.r.o.Clock.Now()
	s.r.heard(g.timeline, g.end(), m, now)
	s.tally.add(len(m.data), g.end() >= m.serverEnd, now)
	return len(m.data), m.wantReply || s.tally.clear(s.r.visits.busyAt, now), nil
}

// gathering is log that came and is not in the spool yet.
type gathering struct {
	s        *stream
	timeline uint32
	begin    wal.LSN // of data
	data     []byte
}

func (g *gathering) end() wal.LSN { return g.begin + wal.LSN(len(g.data)) }

// take adds a message's log, and spools what there is once it is much.
func (g *gathering) take(m message) error {
	if m.data == nil {
		return nil
	}
	if at := g.end(); m.at != at {
		return fmt.Errorf("receive log: the server sent %s where %s follows", m.at, at)
	}
	g.data = append(g.data, m.data...)
	if len(g.data) < bulk {
		return nil
	}
	return g.put()
}

// put spools what was gathered.
func (g *gathering) put() error {
	if len(g.data) == 0 {
		return nil
	}
	if err := g.s.spool.append(g.timeline, g.begin, g.data, g.s.r.o.Clock.Now()); err != nil {
		g.data = g.data[:0] // some of it may lie there: this stream is over, and the server sends it again
		return err
	}
	g.begin, g.data = g.end(), g.data[:0]
	return nil
}

// rest lets messages gather.
func (s *stream) rest(ctx context.Context) {
	t := s.r.o.Clock.NewTimer(gatherFor)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C():
	}
}

// heard notes where the server is, and whether it has sent everything.
func (r *Receiver) heard(timeline uint32, at wal.LSN, m message, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.heard, r.status.Received, r.status.SpoolFull, r.status.Streaming = now, at, false, true
	r.status.ServerEnd = max(r.status.ServerEnd, m.serverEnd)
	if timeline == r.covers.timeline {
		r.covers.hear(m, at)
	}
	r.cover()
}

// connected notes on which timeline a server's log comes, and how far that was when it was asked.
func (r *Receiver) connected(timeline uint32, srv server, asked time.Time) {
	if timeline != srv.timeline { // where an older one ends says nothing of what it writes now
		timeline = 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.covers.begin(timeline, srv.flushed, asked)
	r.cover()
}

// ask reports whether the server should be asked how far it is. full = what it says is not read now.
func (r *Receiver) ask(full bool) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Clock.Now()
	if full {
		r.deaf = now
	}
	if c := &r.covers; !c.asked.IsZero() && now.Sub(c.asked) > silentMax && now.Sub(r.status.heard) > silentMax && now.Sub(r.deaf) > silentMax {
		return false, fmt.Errorf("the server has said nothing for %s", now.Sub(r.status.heard).Round(time.Second))
	}
	return r.covers.ask(now), nil
}

// cover notes how far the vault is. The caller holds the lock.
func (r *Receiver) cover() {
	if r.status.Timeline == r.covers.timeline {
		r.covers.reach(r.status.Archived)
	}
}

func (r *Receiver) update(f func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.status)
	r.cover()
}
