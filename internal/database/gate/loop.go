package gate

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bufSize is one read. PostgreSQL sends up to 8 KiB at a time unless a result is large.
	bufSize = 64 << 10
	// eventsMax is how much is learnt by one epoll_wait(2).
	eventsMax = 128
	// afterServerEnd is how long a client may still speak after the server has closed its side. A server that closed
	// has ended the session; the client only needs to read what it was told.
	afterServerEnd = 5 * time.Second
)

// loop passes the bytes of many links, on one thread, with one buffer: it learns which sockets have something, reads
// once and writes at once. That is three system calls for a small message, with epoll_wait(2) shared by all that are
// ready together, and no change of thread; a goroutine for each direction costs a wake-up and one read more, and got
// 0.40-0.74 of direct throughput where HAProxy got 0.77 (docs/decisions/0011).
//
// What a socket does not take is kept, up to one buffer, and its peer is not read until it is gone. An idle link holds
// no memory but its own few words.
type loop struct {
	epoll, wake int // wake is an eventfd
	links       atomic.Int64

	mu       sync.Mutex // guards what follows
	arriving []*link
	stopping bool

	// Of run alone:
	sides   []*side // by descriptor; nil = none
	buf     *[bufSize]byte
	stores  sync.Pool // of *[bufSize]byte, for what sockets do not take
	leaving []*link   // whose server has ended; the earliest cutAt first

	farewell time.Duration // afterServerEnd, apart from tests
}

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an event loop: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make an event loop: %w", err), unix.Close(epoll))
	}
	l := &loop{epoll: epoll, wake: wake, buf: new([bufSize]byte), stores: sync.Pool{New: newStore}, farewell: afterServerEnd}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make an event loop: %w", err), l.free())
	}
	return l, nil
}

func newStore() any { return new([bufSize]byte) }

func (l *loop) free() error { return errors.Join(unix.Close(l.epoll), unix.Close(l.wake)) }

// take makes k's bytes pass until both sides have ended or one has broken; then it calls k.done. It must not be called
// after stop.
func (l *loop) take(k *link) {
	l.links.Add(1)
	l.mu.Lock()
	l.arriving = append(l.arriving, k)
	l.mu.Unlock()
	l.rouse()
}

// stop ends run, which must have no link any more.
func (l *loop) stop() {
	l.mu.Lock()
	l.stopping = true
	l.mu.Unlock()
	l.rouse()
}

func (l *loop) rouse() {
	one := [8]byte{1}
	_, _ = unix.Write(l.wake, one[:]) // EAGAIN: it has been roused 2^64-2 times, and will see it
}

// run serves until stop.
func (l *loop) run() {
	defer func() { _ = l.free() }() // nothing is in them any more
	events := make([]unix.EpollEvent, eventsMax)
	for {
		n, err := unix.EpollWait(l.epoll, events, l.patience(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Only a wrong argument makes it fail (epoll_wait(2)). The keeper starts a process that ended anew.
			panic(fmt.Sprintf("gate: wait for events: %v", err))
		}
		roused := false
		for _, e := range events[:max(n, 0)] {
			if e.Fd == int32(l.wake) {
				roused = true
			} else if s := l.sides[e.Fd]; s != nil { // nil: its link was closed by an earlier event of this batch
				l.handle(s, e.Events)
			}
		}
		l.cutLeaving(time.Now())
		// New links come last, for they may have numbers that events of this batch still mean otherwise.
		if roused && !l.arrive() {
			return
		}
	}
}

// arrive takes what came, and says whether the loop goes on.
func (l *loop) arrive() bool {
	var buf [8]byte
	_, _ = unix.Read(l.wake, buf[:]) // EAGAIN: somebody was faster, which is nobody
	l.mu.Lock()
	arrived, stopping := l.arriving, l.stopping
	l.arriving = nil
	l.mu.Unlock()
	for _, k := range arrived {
		for _, s := range []*side{&k.client, &k.server} {
			for len(l.sides) <= s.fd {
				l.sides = append(l.sides, nil)
			}
			l.sides[s.fd] = s
		}
		l.watch(k)
	}
	return !stopping
}

// patience is how long epoll_wait may wait, in its own unit.
func (l *loop) patience(now time.Time) int {
	if len(l.leaving) == 0 {
		return -1
	}
	return max(0, int(l.leaving[0].cutAt.Sub(now).Milliseconds())+1)
}

// cutLeaving ends the links whose clients did not leave in time after their servers had.
func (l *loop) cutLeaving(now time.Time) {
	for len(l.leaving) > 0 && !now.Before(l.leaving[0].cutAt) {
		k := l.leaving[0]
		l.leaving = l.leaving[1:]
		if !k.closed {
			l.end(k, errLate)
		}
	}
}

var (
	errLate   = errors.New("the client did not leave after the server had")
	errBroken = errors.New("the connection broke")
)

// handle does what the events of one socket allow.
func (l *loop) handle(s *side, events uint32) {
	var err error
	if events&unix.EPOLLOUT != 0 && len(s.rest) > 0 {
		err = l.flush(s)
	}
	if err == nil && !s.ended && len(s.peer.rest) == 0 && events&^unix.EPOLLOUT != 0 {
		err = l.forward(s)
	} else if err == nil && events&unix.EPOLLERR != 0 {
		err = errBroken
	}
	if k := s.link; err != nil || (k.client.ended && k.server.ended && len(k.client.rest)+len(k.server.rest) == 0) {
		l.end(k, err)
	} else {
		l.watch(k)
	}
}

// forward reads once from s and writes to its peer.
func (l *loop) forward(s *side) error {
	n, err := read(s.fd, l.buf[:])
	switch {
	case err != nil:
		return err
	case n < 0:
		return nil // epoll tells again
	case n == 0:
		s.ended = true
		if s == &s.link.server && !s.peer.ended {
			s.link.cutAt = time.Now().Add(l.farewell)
			l.leaving = append(l.leaving, s.link)
		}
		return s.peer.sayEnd()
	}
	s.count.Add(int64(n))
	sent, err := write(s.peer.fd, l.buf[:n])
	if err != nil {
		return err
	}
	if sent < n {
		s.peer.store = l.stores.Get().(*[bufSize]byte)
		s.peer.rest = s.peer.store[:copy(s.peer.store[:], l.buf[sent:n])]
	}
	return nil
}

// flush writes what is left, and then the end if the peer has said it.
func (l *loop) flush(s *side) error {
	sent, err := write(s.fd, s.rest)
	if err != nil {
		return err
	}
	s.rest = s.rest[sent:]
	if len(s.rest) > 0 {
		return nil
	}
	l.drop(s)
	if s.peer.ended {
		return s.sayEnd()
	}
	return nil
}

func (l *loop) drop(s *side) {
	if s.store != nil {
		l.stores.Put(s.store)
		s.store, s.rest = nil, nil
	}
}

// sayEnd passes a regular end on, once everything before it was.
func (s *side) sayEnd() error {
	if len(s.rest) > 0 || s.shut {
		return nil
	}
	s.shut = true
	return unix.Shutdown(s.fd, unix.SHUT_WR)
}

// watch asks epoll for what can be used now: bytes of a side whose peer took all before, room where something is left.
// A socket that is asked for nothing leaves epoll, which would report a hang-up of it for ever. Never are both out.
func (l *loop) watch(k *link) {
	for _, s := range []*side{&k.client, &k.server} {
		var want uint32
		if !s.ended && len(s.peer.rest) == 0 {
			want |= unix.EPOLLIN
		}
		if len(s.rest) > 0 {
			want |= unix.EPOLLOUT
		}
		if want == s.watched {
			continue
		}
		op := unix.EPOLL_CTL_MOD
		switch {
		case s.watched == 0:
			op = unix.EPOLL_CTL_ADD
		case want == 0:
			op = unix.EPOLL_CTL_DEL
		}
		if err := unix.EpollCtl(l.epoll, op, s.fd, &unix.EpollEvent{Events: want, Fd: int32(s.fd)}); err != nil {
			l.end(k, err) // no memory, or the user's limit of watches: this client must come again
			return
		}
		s.watched = want
	}
}

// end closes both sides of k: a broken connection is broken on the other side too, so that neither peer mistakes a cut
// for a good-bye.
func (l *loop) end(k *link, err error) {
	if err != nil {
		k.reset()
	}
	for _, s := range []*side{&k.client, &k.server} {
		l.sides[s.fd] = nil
		l.drop(s)
	}
	k.close() // which takes them out of epoll, for nobody else has these sockets
	l.links.Add(-1)
	k.done()
}
