package backup

import (
	"context"
	"errors"
	"os"
	"time"

	"holdfast/internal/vault/wal"
)

// spillEvery is how often it is looked whether the first place is full.
const spillEvery = 100 * time.Millisecond

// spillAgain is how often it is looked again at a second place that could not be used: its disk may be mounted meanwhile.
const spillAgain = 30 * time.Second

// openSpill takes the second place over. Without it the log goes on as if there were none, and that is told.
func (s *stream) openSpill(ctx context.Context) {
	if s.spill == nil {
		return
	}
	err := s.spill.take()
	if err != nil && err.Error() != s.r.Status().SpillError {
		s.r.log.ErrorContext(ctx, "no second place for log that waits for the vault", "dir", s.r.o.Spill, "err", err)
	}
	s.noteSpill(err)
}

// noteSpill keeps how it stands with the second place; failed is why nothing can be kept there now.
func (s *stream) noteSpill(failed error) {
	if s.spill == nil {
		return
	}
	var holds, room int64
	n := s.spill.waiting()
	if failed == nil {
		failed, _ = s.spill.trouble()
	}
	if failed == nil || n > 0 {
		var err error
		if holds, room, err = s.spill.room(); failed == nil {
			failed = err
		}
	}
	text := ""
	if failed != nil {
		text = failed.Error()
	}
	s.r.update(func(st *Status) {
		st.Spilled, st.SpillHolds, st.SpillRoom, st.SpillError = int64(n)*int64(s.segmentSize), holds, room, text
	})
}

// spillAll moves the oldest whole segments to the second place whenever the first is full, until the stream has ended. It does
// not wait for the vault, which may hang.
func (s *stream) spillAll(ctx context.Context, received <-chan struct{}) error {
	t := s.r.o.Clock.NewTimer(spillEvery)
	defer t.Stop()
	looked, failing := s.r.o.Clock.Now(), false
	for {
		select {
		case <-received:
			return nil
		case <-ctx.Done():
			return nil
		case <-t.C():
			t.Reset(spillEvery)
		}
		if now := s.r.o.Clock.Now(); now.Sub(looked) >= spillAgain {
			looked = now
			if _, again := s.spill.trouble(); again {
				s.openSpill(ctx)
			}
		}
		if !s.spool.full() {
			if failing {
				failing = false
				s.noteSpill(nil)
			}
			continue
		}
		err := s.spillOldest()
		if err != nil && !failing {
			s.r.log.ErrorContext(ctx, "the second place takes no log", "err", err)
		}
		failing = err != nil
		s.noteSpill(err)
	}
}

// spillOldest moves segments until half of the first place is free. What the server must keep no more is told only when a
// segment is durable in the second place.
func (s *stream) spillOldest() error {
	for s.spool.over(s.spool.max / 2) {
		p, ok := s.spool.next(false)
		if !ok || !p.whole {
			return nil
		}
		content, err := p.read()
		if errors.Is(err, os.ErrClosed) { // the vault took it meanwhile
			continue
		}
		if err != nil {
			return err
		}
		end := p.seg.start + wal.LSN(p.length)
		if err := s.spill.put(s.log, p, content, s.r.coveredAt(p.seg.timeline, end)); err != nil {
			return err
		}
		s.r.mu.Lock()
		s.r.status.Released = max(s.r.status.Released, end)
		s.r.mu.Unlock()
		if err := s.spool.stored(p); err != nil {
			return err
		}
	}
	return nil
}

// drainSpill brings into the vault what lies in the second place, for as long as more says so; empty = nothing is left there.
func (s *stream) drainSpill(ctx context.Context, more func() bool) (empty bool, err error) {
	if s.spill.waiting() == 0 {
		return true, nil
	}
	defer s.noteSpill(nil)
	err = s.spill.drain(ctx, draining{more: more, now: s.r.o.Clock.Now, stored: func(h wal.Held) {
		s.stored, s.stores = s.r.o.Clock.Now(), s.stores+1
		s.r.update(func(st *Status) {
			st.Doubts++ // what lay there need not follow what the vault held
			if st.Timeline == h.Timeline {
				st.Archived = max(st.Archived, h.End)
			}
		})
		s.noteSpill(nil)
	}, lost: func(object string, err error) {
		s.r.update(func(st *Status) { st.Doubts++ })
		s.votes.ends() // before anything that follows is told
		s.r.log.ErrorContext(ctx, "log in the second place cannot be brought to the vault, and is set aside", "object", object, "err", err)
		s.r.lostSpilled(object, s.segmentSize, err)
	}})
	return s.spill.waiting() == 0, err
}

// lostSpilled tells of one segment that was in the second place alone. Several in a row are one gap.
func (r *Receiver) lostSpilled(object string, size uint64, err error) {
	timeline, start, bad := wal.ParseSegmentName(object[:24], size)
	if bad != nil || r.o.Lost == nil {
		return
	}
	r.mu.Lock()
	if g := &r.lostThere; g.Timeline != timeline || g.To != start {
		*g = GapError{Database: r.o.Database, Timeline: timeline, From: start, ToTimeline: timeline}
	}
	r.lostThere.To = start + wal.LSN(size)
	gap := r.lostThere
	r.mu.Unlock()
	r.o.Lost(&gap, err)
}

// toldBefore keeps what the server was told in an earlier run, for that must never be taken back: it need not have that log
// any more. stored is how far the vault holds the log, from where streaming goes on.
func (s *stream) toldBefore(ctx context.Context, stored, from wal.LSN) error {
	told := from
	if stored < from {
		at, known, err := s.sess.slotAt(ctx, s.r.o.Slot)
		if err != nil {
			return err
		}
		if known {
			told = min(from, max(at, stored))
		}
	}
	s.r.update(func(st *Status) { st.Told = told })
	return nil
}

// released is up to where the server may forget: what the vault holds, and what the second place holds but for the last
// that the server has room for. While neither place takes more, the server needs that room for what is nowhere else. at is the
// end of what was received.
func (s *stream) released(at wal.LSN) wal.LSN {
	full := s.spill != nil && s.spool.full()
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	st := &s.r.status
	st.Told = mayForget(*st, at, wal.LSN(s.r.o.Keep), full)
	return st.Told
}

// mayForget judges that. Pure.
func mayForget(st Status, at, keep wal.LSN, full bool) wal.LSN {
	to := max(st.Told, st.Archived)
	if full && st.SpillError != "" {
		return max(to, st.Released)
	}
	if at > keep {
		to = max(to, min(st.Released, at-keep))
	}
	return to
}

// drained returns when the vault holds all that was spooled, and all of the second place.
func (s *stream) drained(ctx context.Context) error {
	for {
		if s.spool.waiting() == 0 && s.spill.waiting() == 0 {
			return nil
		}
		t := s.r.o.Clock.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C():
		}
	}
}
