package gate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// welcomeMax is how many clients one door lets in before the links that are there have their turn.
const welcomeMax = 16

// door is a listening socket that a loop serves itself: a client that is led to a server at once never enters the Go
// runtime's poller, and needs no goroutine and no timer. All but fd belongs to the loop.
type door struct {
	fd      int
	welcome func(client int) // gets a non-blocking descriptor, and must not wait
	trouble func(error)      // nobody can be let in; the door is closed until [loop.reopen]
	open    bool             // epoll watches it
	gone    bool
}

// newDoor takes l's socket as a second descriptor. Clients inherit its options.
func newDoor(l *net.TCPListener) (*door, error) {
	rc, err := l.SyscallConn()
	d := &door{}
	if err == nil {
		var own error
		err = rc.Control(func(p uintptr) {
			if d.fd, own = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0); own == nil {
				own = setOptions(d.fd)
			}
		})
		err = errors.Join(err, own)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Addr(), err)
	}
	return d, nil
}

// do has the loop's thread call f. It must not be called after stop.
func (l *loop) do(f func()) {
	l.mu.Lock()
	l.asked = append(l.asked, f)
	l.mu.Unlock()
	l.rouse()
}

// reopen lets clients in through d, unless it was closed for good.
func (l *loop) reopen(d *door) {
	l.do(func() {
		if d.gone || d.open {
			return
		}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, d.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(d.fd)}); err != nil {
			d.trouble(err)
			return
		}
		d.open = true
		l.doors[int32(d.fd)] = d
	})
}

// closeDoor returns when nobody comes in through d any more.
func (l *loop) closeDoor(d *door) {
	done := make(chan struct{})
	l.do(func() {
		l.bar(d)
		d.gone = true
		_ = unix.Close(d.fd) // the number is free whatever it says (close(2))
		close(done)
	})
	<-done
}

func (l *loop) bar(d *door) {
	if d.open {
		d.open = false
		delete(l.doors, int32(d.fd))
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, d.fd, nil) // it is in
	}
}

// letIn accepts who waits at d.
func (l *loop) letIn(d *door) {
	for range welcomeMax {
		fd, _, err := unix.Accept4(d.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			d.welcome(fd)
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			// the next one
		default: // out of descriptors or memory: epoll would tell of the waiting client again and again
			l.bar(d)
			d.trouble(err)
			return
		}
	}
}

// begin takes a link whose server has not answered yet: within [dialTimeout] the loop calls its opened. Of the loop's
// thread alone.
func (l *loop) begin(k *link) {
	l.links.Add(1)
	k.opening, k.cutAt = true, time.Now().Add(dialTimeout)
	l.beginning = append(l.beginning, k)
	l.enter(k)
}

// answered decides about a link whose server has answered, or has not.
func (l *loop) answered(k *link, ok bool) {
	k.opening, k.cutAt = false, time.Time{}
	if k.opened(ok) {
		l.watch(k)
		return
	}
	for _, s := range []*side{&k.client, &k.server} {
		l.sides[s.fd] = nil
	}
	k.giveBack()
	l.links.Add(-1)
}

// giveBack closes the server's side alone: the client is somebody else's again.
func (k *link) giveBack() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	_ = unix.Close(k.server.fd) // the number is free whatever it says (close(2))
}

// connectingTo is a socket that connects to addr; connected says that it has already, as it has within one host.
func connectingTo(family int, addr unix.Sockaddr) (fd int, connected bool, err error) {
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, os.NewSyscallError("socket", err)
	}
	if err = setOptions(fd); err == nil {
		err = unix.Connect(fd, addr)
	}
	if errors.Is(err, unix.EINPROGRESS) {
		if err = unix.Connect(fd, addr); errors.Is(err, unix.EALREADY) { // the second call tells (connect(2))
			return fd, false, nil
		}
	}
	if err != nil {
		return -1, false, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	return fd, true, nil
}

// setOptions gives a socket what Go and [keepAlive] give to one.
func setOptions(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds())),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval.Seconds())),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAlive.Count),
	)
}

// connOf gives a client to the Go runtime; fd is taken whatever happens.
func connOf(fd int) (*net.TCPConn, error) {
	f := os.NewFile(uintptr(fd), "client")
	defer func() { _ = f.Close() }() // the connection has a descriptor of its own
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take a client: %w", err)
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.New("take a client: not TCP"), c.Close())
	}
	// net gives it periods of its own. This fails only when the connection is broken, which whoever reads it learns.
	_ = t.SetKeepAliveConfig(keepAlive)
	return t, nil
}

// refuseAtOnce resets a client that no goroutine has seen.
func refuseAtOnce(fd int) {
	abort(fd)
	_ = syscall.Close(fd) // the number is free whatever it says (close(2))
}
