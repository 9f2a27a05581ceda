package backup

import (
	"slices"
	"time"

	"holdfast/internal/vault/wal"
)

// How far behind the vault is must never be told as less than it is. What was received and waits says too little: while a piece
// is on its way to a slow vault, or nothing comes through a dead line, more and more is missing that nobody here has counted. So
// it is told from the other end: from the last moment of which it is known that the vault holds everything from before it.
//
// That needs a question. A server says with each piece of its log where the log ended when the piece was read
// (XLogSendPhysical), but not when that was by our clock: the piece may have lain in the line for long. It answers a status that
// asks for one with how far it has sent (ProcessStandbyReplyMessage), between two pieces. So a piece behind the answer was read
// after the question was asked. And the second of two answers without a piece between them says that at the first one nothing was
// left to send: the server looks for more after each, and the second question leaves here when the first answer has come.

// mark says that all that the server had written at a moment lies before end.
type mark struct {
	end wal.LSN
	at  time.Time // by the server's clock; zero = not known by that
	by  time.Time // by ours; zero = not known by that
}

// covering makes marks of what a server says on one timeline, and keeps those that the vault has not come to.
type covering struct {
	timeline uint32        // of the marks; 0 = the stream is of an older one than the server's, and says nothing of it
	waiting  []mark        // oldest first
	reached  mark          // newest that the vault has come to
	told     time.Time     // by the server's clock: until when the vault itself knows that it has everything; zero = not of this clock
	apart    time.Duration // of two marks at least; 0 = marksApart

	asked  time.Time // the question that is not answered yet; zero = there is none
	floor  time.Time // what comes now was read at the server after this, by our clock; zero = nothing is known
	heard  time.Time // when the newest answer left, by the server's clock; zero = none came on this connection
	pieces bool      // there was log behind the newest answer
	sent   time.Time // when the newest message left, by the server's clock
}

const (
	// marksMax is how many marks wait at most. Beyond it every second one is given up, and the next lie as far apart.
	marksMax = 64
	// marksApart is what lies between two of them at least, until there were too many.
	marksApart = 100 * time.Millisecond
	// answersApart is what lies between two answers of which the server looked for more between. It queues an answer and looks in its next
	// turn (WalSndLoop); only a question that is there by then, which followed upon the first answer, has the second one out before that.
	answersApart = replyEvery / 2
)

// begin starts with a connection to a server, whose log was flushed up to a position when it was asked at a moment. What is
// known of the vault stays.
func (c *covering) begin(timeline uint32, flushed wal.LSN, asked time.Time) {
	if c.timeline != timeline {
		*c = covering{timeline: timeline, reached: mark{by: c.reached.by}}
	}
	c.asked, c.floor, c.heard, c.pieces = time.Time{}, asked, time.Time{}, false
	c.add(mark{end: flushed, by: asked})
}

// ask reports whether the server should be asked now, and notes that it is.
func (c *covering) ask(now time.Time) bool {
	if !c.asked.IsZero() || now.Sub(c.floor) < replyEvery {
		return false
	}
	c.asked = now
	return true
}

// hear takes a message; at is where the log ends that has come with it.
func (c *covering) hear(m message, at wal.LSN) {
	if m.sent.Before(c.sent) {
		c.clockSetBack()
	}
	all := at >= m.serverEnd
	switch {
	case m.data != nil:
		if all {
			c.add(mark{end: at, at: c.sent, by: c.floor})
		}
		c.pieces = true
	case !m.wantReply && !c.asked.IsZero(): // one that wants a reply is no answer
		if all && !c.heard.IsZero() && !c.pieces && m.sent.Sub(c.heard) >= answersApart {
			c.add(mark{end: at, at: c.heard, by: c.floor})
		}
		c.floor, c.heard, c.asked, c.pieces = c.asked, m.sent, time.Time{}, false
	}
	c.sent = m.sent
}

// clockSetBack forgets what was known by the server's clock: those moments come again.
func (c *covering) clockSetBack() {
	c.reached.at, c.told, c.heard, c.sent = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	for i := range c.waiting {
		c.waiting[i].at = time.Time{}
	}
}

// add keeps a mark; the one before it only where that lies far enough behind the one before itself.
func (c *covering) add(m mark) {
	if c.timeline == 0 {
		return
	}
	if n := len(c.waiting); n > 0 {
		last := &c.waiting[n-1]
		if m.end <= last.end {
			*last = last.with(m)
			return
		}
		if n > 1 && c.waiting[n-2].near(m, max(c.apart, marksApart)) {
			*last = m // the newest one moves along
			return
		}
	}
	if c.waiting = append(c.waiting, m); len(c.waiting) > marksMax {
		kept := c.waiting[:0]
		for i, m := range c.waiting {
			if i%2 == 0 {
				kept = append(kept, m)
			}
		}
		c.waiting, c.apart = kept, 2*max(c.apart, marksApart)
	}
}

// with is m with the later moments of both, for o says the same of no more log.
func (m mark) with(o mark) mark {
	if o.at.After(m.at) {
		m.at = o.at
	}
	if o.by.After(m.by) {
		m.by = o.by
	}
	return m
}

// near reports whether so little time lies between m and a later one that none is needed between them.
func (m mark) near(later mark, apart time.Duration) bool {
	return later.by.Sub(m.by) < apart && later.at.Sub(m.at) < apart
}

// reach notes that the vault holds all of the timeline up to end.
func (c *covering) reach(end wal.LSN) {
	n := 0
	for ; n < len(c.waiting) && c.waiting[n].end <= end; n++ {
		m := c.waiting[n]
		c.reached.end = m.end
		c.reached = c.reached.with(m)
	}
	if c.waiting = slices.Delete(c.waiting, 0, n); len(c.waiting) < marksMax/8 {
		c.apart = 0
	}
}

// at is up to which moment by the server's clock everything lies before end; zero = not known.
func (c *covering) at(timeline uint32, end wal.LSN) (at time.Time) {
	if timeline != c.timeline {
		return at
	}
	if c.reached.end <= end {
		at = c.reached.at
	}
	for _, m := range c.waiting {
		if m.end <= end && m.at.After(at) {
			at = m.at
		}
	}
	return at
}
