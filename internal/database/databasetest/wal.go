package databasetest

import (
	"slices"
	"time"

	"holdfast/internal/database"
)

// walStart is where the log of a new server begins: its second segment, as after initdb.
const walStart = database.LSN(1 << 24)

// end is the end of the last complete record.
func (s *Server) end() database.LSN { return endOf(s.d.wal) }

func (s *Server) flushedLSN() database.LSN { return endOf(s.d.wal[:s.d.flushed]) }

func endOf(wal []Entry) database.LSN {
	if len(wal) == 0 {
		return walStart
	}
	return wal[len(wal)-1].End
}

// timeline is that of the newest record.
func (s *Server) timeline() uint32 {
	if len(s.d.wal) == 0 {
		return 1
	}
	return s.d.wal[len(s.d.wal)-1].Timeline
}

// truncate takes records back. The array behind is not written again: standbys may share it.
func (s *Server) truncate(n int) {
	s.d.wal = slices.Clip(s.d.wal[:n])
	s.d.flushed = min(s.d.flushed, n)
	s.trimHistory()
}

// trimHistory drops forks whose timeline the log does not reach.
func (s *Server) trimHistory() {
	tl := s.timeline()
	for i, f := range s.d.history {
		if f.Timeline > tl {
			s.d.history = slices.Clip(s.d.history[:i])
			return
		}
	}
}

// write adds a record of a running primary. It is not flushed yet.
func (s *Server) write(kind EntryKind, id int) Entry {
	start := s.end()
	size := database.LSN(56 + s.w.Rand().IntN(400))
	e := Entry{Timeline: s.timeline(), Start: start, End: start + size, Epoch: s.d.promise.Epoch, Kind: kind, ID: id}
	s.d.wal = append(s.d.wal, e)
	return e
}

// waiter is a backend whose commit is written and not yet told.
type waiter struct {
	entry   Entry
	flushed bool
	done    func(acknowledged bool)
}

// Submit is a client's commit. done is called when the client is told, or when its session ends without an
// answer. The row becomes visible when it is told, and not before.
func (s *Server) Submit(id int, done func(acknowledged bool)) bool {
	if !s.Serves() || s.d.readOnly {
		return false
	}
	e := s.write(Commit, id)
	s.p.waiters = append(s.p.waiters, &waiter{entry: e, done: done})
	s.flush()
	return true
}

// Cancel is a client that loses patience with a commit that waits for standbys: PostgreSQL then makes the row
// visible and warns (DATABASE.md, A15). It is no acknowledgement.
func (s *Server) Cancel(id int) {
	if s.p == nil {
		return
	}
	s.p.waiters = slices.DeleteFunc(s.p.waiters, func(w *waiter) bool {
		if w.entry.ID != id || !w.flushed {
			return false
		}
		w.done(false)
		return true
	})
}

// Visible tells the id of the newest commit that a reader would see, and the epoch of the server.
func (s *Server) Visible() (id int, epoch int64, ok bool) {
	if !s.Serves() {
		return 0, 0, false
	}
	for i := len(s.d.wal) - 1; i >= 0; i-- {
		e := s.d.wal[i]
		waits := slices.ContainsFunc(s.p.waiters, func(w *waiter) bool { return w.entry.ID == e.ID })
		if e.Kind == Commit && !waits {
			return e.ID, s.d.promise.Epoch, true
		}
	}
	return 0, s.d.promise.Epoch, true
}

// flush brings what is written to the disk, one fsync at a time.
func (s *Server) flush() {
	p := s.p
	if p == nil || p.flushing || s.d.flushed == len(s.d.wal) {
		return
	}
	why := ""
	switch {
	case s.fault != "" && s.how != Quiet:
		why = string(s.fault)
	case s.noRoom():
		why = errFull.Error()
	}
	if why != "" { // PostgreSQL ends itself when its log cannot be written
		p.flushing = true
		s.w.After(s.host, 0, func() {
			if s.p == p {
				s.Panic("PANIC: could not write to the log: " + why)
				s.words.Own = true
			}
		})
		return
	}
	d, ok := s.w.Fsync(s.host)
	if !ok {
		p.flushing = true
		if !p.stalled {
			p.stalled, p.stalledAt = true, s.w.Now()
		}
		s.w.After(s.host, 100*time.Millisecond, func() { p.flushing = false; s.resumeFlush(p) })
		return
	}
	p.flushing, p.stalled = true, false
	upTo := len(s.d.wal)
	s.w.After(s.host, d, func() {
		p.flushing = false
		if s.p != p {
			return
		}
		s.d.flushed = max(s.d.flushed, upTo)
		s.flushedMore()
		s.flush()
	})
}

func (s *Server) resumeFlush(p *process) {
	if s.p == p {
		s.flush()
	}
}

// flushedMore passes news on: to whoever streams from here, and to the primary when we are a standby.
func (s *Server) flushedMore() {
	p := s.p
	at := s.flushedLSN()
	if p.role != database.Primary {
		if p.receiver != nil {
			p.receiver.reply(at)
		}
		for _, x := range slices.Clone(p.senders) { // to standbys that follow this one
			x.pump()
		}
		return
	}
	for _, w := range p.waiters {
		w.flushed = w.flushed || w.entry.End <= at
	}
	if !p.defined {
		p.release(s, at)
	}
	for _, x := range slices.Clone(p.senders) {
		x.pump()
	}
}

// release tells every client whose commit is flushed and lies at or before upTo.
func (p *process) release(s *Server, upTo database.LSN) {
	var told []*waiter
	p.waiters = slices.DeleteFunc(p.waiters, func(w *waiter) bool {
		if !w.flushed || w.entry.End > upTo {
			return false
		}
		told = append(told, w)
		return true
	})
	for _, w := range told {
		s.o.Acknowledged(s.host, s.d.incarnation, s.d.promise.Epoch, w.entry)
		w.done(true)
	}
}

// drop ends every session without an answer.
func (p *process) drop() {
	ws := p.waiters
	p.waiters = nil
	for _, w := range ws {
		w.done(false)
	}
}
