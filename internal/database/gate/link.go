package gate

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// link is one client and its connection to the primary. Its descriptors are ours alone, out of the Go runtime's
// reach, and one [loop] reads and writes them.
type link struct {
	client, server side
	done           func() // called once by the loop, when both are closed
	// opened is called once by the loop for a link that was dialled, when its server has answered or will not. It says
	// whether the link goes on; if not, the client's descriptor is not the link's any more.
	opened  func(ok bool) bool
	opening bool      // the loop's: opened has not been called
	dropped bool      // the gate's: the order changed before opened
	cutAt   time.Time // the loop's: when the client must have left after the server has; zero = no limit

	mu     sync.Mutex // guards closed, so that whoever resets from outside never touches a number that was given away again
	closed bool
}

// side is one end of a link. All but fd belongs to the loop.
type side struct {
	fd      int
	link    *link
	peer    *side
	count   *atomic.Int64 // of bytes read here
	rest    []byte        // read from the peer, and not yet taken by this socket; part of store
	store   *[bufSize]byte
	ended   bool   // it has said all it will say
	shut    bool   // it was told that the peer has
	watched uint32 // events that epoll was asked for; 0 = not in epoll
}

// newLink takes both connections out of the Go runtime's hands; c stays usable, so that a client that cannot be led
// after all can be told so, and is closed by the caller. server is closed whatever happens.
func newLink(c, server *net.TCPConn, in, out *atomic.Int64) (*link, error) {
	defer func() { _ = server.Close() }() // the link has a descriptor of its own
	to, err := descriptor(server)
	if err != nil {
		return nil, err
	}
	from, err := descriptor(c)
	if err != nil {
		return nil, errors.Join(err, unix.Close(to))
	}
	return linkOf(from, to, in, out), nil
}

// linkOf links two non-blocking descriptors, which are the link's from here on.
func linkOf(client, server int, in, out *atomic.Int64) *link {
	l := &link{}
	l.client = side{fd: client, link: l, peer: &l.server, count: in}
	l.server = side{fd: server, link: l, peer: &l.client, count: out}
	return l
}

// descriptor is a second descriptor of c's socket, non-blocking as every socket of Go is.
func descriptor(c *net.TCPConn) (fd int, err error) {
	rc, err := c.SyscallConn()
	if err == nil {
		var own error
		err = rc.Control(func(p uintptr) { fd, own = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) })
		err = errors.Join(err, own)
	}
	if err != nil {
		return -1, fmt.Errorf("take over a connection: %w", err)
	}
	return fd, nil
}

// reset ends both connections at once: when it returns both peers are sent RST and not a byte passes any more. The
// loop sees two dead sockets and closes them.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		abort(l.client.fd)
		abort(l.server.fd)
	}
}

// close frees both descriptors.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = unix.Close(l.client.fd) // the number is free whatever it says (close(2))
	_ = unix.Close(l.server.fd)
}
