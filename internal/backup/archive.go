package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// drainFor bounds how long the end of a Run may take to bring what was received into the vault.
const drainFor = 5 * time.Second

// syncEvery is how long log of an unfinished segment may wait for its sync to this host's disk. Each sync is a write of
// the file system's journal, for which the primary's own commits on that disk wait; the server keeps all that the vault
// does not hold, so nothing depends on it. What the vault is to have is synced before, see [stream.partDue].
const syncEvery = 5 * time.Second

// coverEvery is how often the vault is told that nothing has happened, as a multiple of PartialEvery. It bounds what a restore to a
// time on an idle database can be asked for.
const coverEvery = 5

// flushAll syncs whatever has been spooled, many messages at once, until the stream has ended and all of it
// is on the disk.
func (s *stream) flushAll(received <-chan struct{}, flushed chan<- struct{}) error {
	for last := false; ; {
		if err := s.sync(); err != nil {
			return err
		}
		select {
		case flushed <- struct{}{}:
		default:
		}
		if last {
			return nil
		}
		select {
		case <-received:
			last = true // once more, for what came since
		case <-s.spool.wake:
			last = s.untilRipe(received)
		}
	}
}

// sync makes durable on this host's disk what was spooled, and says so.
func (s *stream) sync() error {
	if err := s.spool.flush(); err != nil {
		return err
	}
	if at := s.spool.flushedTo(); at > 0 {
		s.r.update(func(st *Status) { st.Flushed = max(st.Flushed, at) })
	}
	return nil
}

// untilRipe waits until what has come should be synced; it reports whether the stream has ended.
func (s *stream) untilRipe(received <-chan struct{}) bool {
	if s.votes.standing() {
		select {
		case <-received:
			return true
		default:
			return false
		}
	}
	t := s.r.o.Clock.NewTimer(syncEvery)
	defer t.Stop()
	select {
	case <-received:
		return true
	case <-s.votes.begun: // from now on somebody waits for what has come
	case <-s.spool.ripe:
	case <-t.C():
	}
	return false
}

// archiveAll stores whole segments as they come, unfinished ones every PartialEvery unless they are nearly full, and at
// the end all that is left. A vault that does not answer is tried again for as long as the stream runs; meanwhile the spool
// fills, and then the server keeps its log.
func (s *stream) archiveAll(received, flushed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.Background()) // outlives the stream's, for the drain
	defer cancel()
	look := s.r.o.PartialEvery / 4
	tick := s.r.o.Clock.NewTimer(look)
	defer tick.Stop()
	yielding := beginYielding(ctx, s.r.log)
	defer yielding.end()
	partial, covered := false, s.r.o.Clock.Now()
	var deadline <-chan time.Time
	more := s.untilOver(received)
	for {
		before := s.stores
		err := s.archive(ctx, partial, more, func(f func() error) error { // judged anew for each piece: many may wait
			if deadline != nil || s.urgent() {
				return f()
			}
			return yielding.do(f)
		})
		if _, ok := errors.AsType[*vault.DuplicateError](err); ok {
			return err
		}
		if err == nil && s.r.o.Clock.Now().Sub(covered) >= coverEvery*s.r.o.PartialEvery {
			covered = s.r.o.Clock.Now()
			err = s.recordCovered(ctx)
		}
		s.noteVault(ctx, err, s.stores > before)
		if deadline != nil && (s.spool.waiting() == 0 && s.spill.empty() || err != nil && ctx.Err() != nil) {
			return s.recordCovered(ctx)
		}
		select {
		case <-received:
			received = nil
			t := s.r.o.Clock.NewTimer(drainFor)
			defer t.Stop()
			deadline = t.C()
			partial = true
		case <-deadline:
			return nil // the slot keeps it; the next Run begins there
		case <-flushed:
			partial = deadline != nil || s.votes.standing()
		case <-tick.C():
			tick.Reset(look)
			var err error
			if partial, err = s.partDue(); err != nil {
				return err
			}
			partial = partial || deadline != nil
		}
	}
}

// partDue reports whether the beginning of a segment is to be stored now. What came of it is on this host's disk then.
func (s *stream) partDue() (bool, error) {
	if !s.spool.partDue(s.stored, s.r.o.PartialEvery, s.r.o.Clock.Now()) {
		return false, nil
	}
	return true, s.sync()
}

// urgentFrom is how many segments wait when the vault was away, or is slow.
const urgentFrom = 4

// urgent reports whether the vault is to have what waits as soon as can be, whatever that takes from the primary.
func (s *stream) urgent() bool {
	if !s.spill.empty() {
		return true
	}
	waiting, age := s.spool.waiting(), 0.0
	if waiting > 0 {
		age = float64(s.r.o.Clock.Now().Sub(s.stored)) / float64(s.r.o.PartialEvery)
	}
	return urgent(s.votes.standing(), waiting, s.segmentSize, age)
}

// urgent judges that. age is how long ago the vault took the last piece, in times of PartialEvery, while another waits. Pure.
func urgent(votes bool, waiting int64, segment uint64, age float64) bool {
	return votes || waiting > urgentFrom*int64(segment) || age > 2
}

// untilOver says whether there is time for another piece of the second place: that may be much, and lies safe where it is
// when the stream has ended.
func (s *stream) untilOver(received <-chan struct{}) func() bool {
	var over time.Time
	return func() bool {
		select {
		case <-received:
		default:
			return true
		}
		now := s.r.o.Clock.Now()
		if over.IsZero() {
			over = now.Add(drainFor)
		}
		return now.Before(over)
	}
}

// archive stores everything that is ready, and gets each piece ready by do. more ends it before another piece of the second place.
func (s *stream) archive(ctx context.Context, partial bool, more func() bool, do func(func() error) error) error {
	for {
		if empty, err := s.drainSpill(ctx, more); err != nil || !empty { // it is older than what is in the spool
			return err
		}
		p, ok, again := s.choose(partial)
		if again {
			continue
		}
		if !ok {
			return nil
		}
		if p.length > p.had {
			gone, err := s.storePiece(ctx, p, do)
			if err != nil {
				return err
			}
			if gone {
				continue
			}
		}
		if p.retired {
			s.growing.seg, s.growing.to = nil, nil
		}
		if err := s.spool.stored(p); err != nil {
			return err
		}
		partial = partial && p.retired
	}
}

// storePiece stores what the vault lacks of a segment. gone = it went to the second place meanwhile.
func (s *stream) storePiece(ctx context.Context, p part, do func(func() error) error) (gone bool, err error) {
	end := p.seg.start + wal.LSN(p.length)
	var at time.Time
	var drop func(context.Context) error
	err = do(func() error {
		err := s.growing.upTo(s.log, p)
		if gone = errors.Is(err, os.ErrClosed); gone {
			return nil
		}
		if err == nil {
			at = s.r.coveredAt(p.seg.timeline, end)
			drop, err = s.growing.to.Store(ctx, at)
		}
		return err
	})
	if gone || err != nil {
		return gone, err
	}
	s.stored, s.stores = s.r.o.Clock.Now(), s.stores+1
	s.r.update(func(st *Status) { st.Archived = max(st.Archived, end) })
	s.r.vaultKnows(at)
	s.votes.wakeAll() // before what may take a while
	return false, drop(ctx)
}

// growing is the oldest segment of the spool, as far as it was taken for the vault: each byte is read, hashed and compressed once.
type growing struct {
	seg  *spooled // nil = none
	to   *vault.Growing
	room []byte
}

// spoolPiece is how much of the spool, in bytes, is read at once.
const spoolPiece = 1 << 20

// upTo takes what is not taken yet of a piece. After an error it goes on where it was.
func (g *growing) upTo(log *vault.Log, p part) error {
	if g.seg != p.seg {
		to, err := log.Grow(p.seg.timeline, p.seg.start)
		if err != nil {
			return err
		}
		g.seg, g.to = p.seg, to
	}
	if g.room == nil {
		g.room = make([]byte, spoolPiece)
	}
	for at := g.to.Len(); at < p.length; at = g.to.Len() {
		piece := g.room[:min(p.length-at, spoolPiece)]
		if _, err := p.seg.file.ReadAt(piece, int64(at)); err != nil {
			return fmt.Errorf("read spool at %s: %w", p.seg.start+wal.LSN(at), err)
		}
		if err := g.to.Add(piece); err != nil {
			return err
		}
	}
	return nil
}

// choose is what of the spool is stored next. again = what is older went to the second place meanwhile, and the vault never
// has what follows without it.
func (s *stream) choose(partial bool) (p part, ok, again bool) {
	p, ok = s.spool.next(partial)
	return p, ok, ok && !s.spill.empty()
}

// coveredAt is the server's clock when it had written no further than end; zero when that is not known.
func (r *Receiver) coveredAt(timeline uint32, end wal.LSN) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.covers.at(timeline, end)
}

// recordCovered tells the vault how far in time its log reaches, once for each such moment.
func (s *stream) recordCovered(ctx context.Context) error {
	s.r.mu.Lock()
	c, timeline, told := s.r.covers.reached, s.r.covers.timeline, s.r.covers.told
	s.r.mu.Unlock()
	if timeline == 0 || !c.at.After(told) {
		return nil
	}
	if err := s.log.PutCovered(ctx, timeline, c.end, c.at); err != nil {
		return err
	}
	s.stores++
	s.r.vaultKnows(c.at)
	return nil
}

// vaultKnows notes until when the vault knows, by the server's clock, that it has everything; zero changes nothing, nor does what was said
// by a clock that was set back meanwhile.
func (r *Receiver) vaultKnows(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.IsZero() || !r.covers.sent.IsZero() && at.After(r.covers.sent) {
		return
	}
	r.covers.told, r.status.CoveredUntil = at, at
}

// noteVault keeps the status and logs when the vault's state changes, not each time. While something waits, only what was stored
// shows that the vault is well again: most looks find nothing to be due.
func (s *stream) noteVault(ctx context.Context, err error, stored bool) {
	bytes := s.spool.waiting() + int64(s.spill.waiting())*int64(s.segmentSize)
	text := ""
	if err != nil {
		text = err.Error()
	}
	var before string
	s.r.update(func(st *Status) {
		before = st.VaultError
		if err == nil && !stored && bytes > 0 {
			text = before
		}
		st.VaultError, st.Waiting = text, bytes
	})
	switch {
	case before == "" && text != "":
		s.r.log.WarnContext(ctx, "vault does not take the log", "err", err)
	case before != "" && text == "":
		s.r.log.InfoContext(ctx, "vault takes the log again", "waiting", bytes)
	}
}
