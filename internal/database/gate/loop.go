package gate

import (
	"errors"
	"fmt"
	"runtime"
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
	// busyWait is for how many milliseconds without a message a loop counts as busy. It is well below the 10 ms after which
	// the Go runtime sends a signal to whoever does not yield.
	busyWait = 4
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
	asked    []func()
	stopping bool

	// Of run alone:
	sides     []*side // by descriptor; nil = none
	buf       *[bufSize]byte
	stores    sync.Pool // of *[bufSize]byte, for what sockets do not take
	leaving   []*link   // whose server has ended; the earliest cutAt first
	beginning []*link   // whose server has not answered; the earliest cutAt first
	doors     map[int32]*door
	spare     bool // the Go runtime has a processor for others while this thread keeps one
	busy      bool // something came within busyWait

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
	l := &loop{epoll: epoll, wake: wake, buf: new([bufSize]byte), stores: sync.Pool{New: newStore}, farewell: afterServerEnd, doors: map[int32]*door{}}
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

// run serves until stop. Its thread is its own, and ends with it.
func (l *loop) run() {
	defer func() { _ = l.free() }() // nothing is in them any more
	runtime.LockOSThread()
	gather()
	events := make([]unix.EpollEvent, eventsMax)
	var knocked []*door
	for {
		n, err := l.wait(events, l.patience(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Only a wrong argument makes it fail (epoll_wait(2)). The keeper starts a process that ended anew.
			panic(fmt.Sprintf("gate: wait for events: %v", err))
		}
		roused, knocked := false, knocked[:0]
		for _, e := range events[:max(n, 0)] {
			if e.Fd == int32(l.wake) {
				roused = true
			} else if s := l.side(e.Fd); s != nil { // nil: its link was closed by an earlier event of this batch
				l.handle(s, e.Events)
			} else if d := l.doors[e.Fd]; d != nil {
				knocked = append(knocked, d)
			}
		}
		l.cutLate(time.Now())
		// New links come last, for they may have numbers that events of this batch still mean otherwise.
		for _, d := range knocked {
			l.letIn(d)
		}
		if roused && !l.arrive() {
			return
		}
	}
}

// wait is epoll_wait(2) for at most patience milliseconds, -1 = for ever. While traffic goes on the Go runtime is not told
// that the thread waits: it would take the thread's processor away and give it back, and wake its monitor, for every
// message.
func (l *loop) wait(events []unix.EpollEvent, patience int) (n int, err error) {
	if l.busy {
		brief := busyWait
		if patience >= 0 {
			brief = min(brief, patience)
		}
		if n, err = epollWait(l.epoll, events, brief); n != 0 || err != nil || brief == patience {
			return n, err
		}
	}
	n, err = unix.EpollWait(l.epoll, events, patience)
	l.busy = l.spare && n > 0
	return n, err
}

// arrive takes what came, and says whether the loop goes on.
func (l *loop) arrive() bool {
	var buf [8]byte
	_, _ = unix.Read(l.wake, buf[:]) // EAGAIN: somebody was faster, which is nobody
	l.mu.Lock()
	arrived, asked, stopping := l.arriving, l.asked, l.stopping
	l.arriving, l.asked = nil, nil
	l.mu.Unlock()
	for _, k := range arrived {
		l.enter(k)
	}
	for _, f := range asked {
		f()
	}
	return !stopping
}

// enter makes k one of the loop's links.
func (l *loop) enter(k *link) {
	for _, s := range []*side{&k.client, &k.server} {
		for len(l.sides) <= s.fd {
			l.sides = append(l.sides, nil)
		}
		l.sides[s.fd] = s
	}
	l.watch(k)
}

// side is the link's end that has the descriptor, nil when none has.
func (l *loop) side(fd int32) *side {
	if int(fd) >= len(l.sides) {
		return nil
	}
	return l.sides[fd]
}

// patience is how long epoll_wait may wait, in its own unit.
func (l *loop) patience(now time.Time) int {
	wait := -1
	for _, some := range [][]*link{l.leaving, l.beginning} {
		if len(some) > 0 {
			ms := max(0, int(some[0].cutAt.Sub(now).Milliseconds())+1)
			if wait < 0 || ms < wait {
				wait = ms
			}
		}
	}
	return wait
}

// cutLate ends the links whose clients did not leave in time after their servers had, and gives back the clients whose
// servers did not answer in time.
func (l *loop) cutLate(now time.Time) {
	for len(l.beginning) > 0 && (!l.beginning[0].opening || !now.Before(l.beginning[0].cutAt)) {
		k := l.beginning[0]
		l.beginning = l.beginning[1:]
		if k.opening {
			l.answered(k, false)
		}
	}
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
	if s.link.opening {
		l.answered(s.link, events&(unix.EPOLLERR|unix.EPOLLHUP) == 0)
		return
	}
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
		if k.opening {
			if s == &k.server {
				want = unix.EPOLLOUT
			}
		} else if !s.ended && len(s.peer.rest) == 0 {
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
	k.opening = false
	for _, s := range []*side{&k.client, &k.server} {
		l.sides[s.fd] = nil
		l.drop(s)
	}
	k.close() // which takes them out of epoll, for nobody else has these sockets
	l.links.Add(-1)
	k.done()
}
