package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/clock"
)

const (
	dialTimeout = time.Second           // one try; a server that is alive on this network answers in far less
	dialPause   = 50 * time.Millisecond // between tries while the order says open but the server does not answer
	refusingMax = 256                   // refusals that are being written at once; beyond it connections are just reset
)

// keepAlive notices a peer that vanished without a word after 10 + 3 x 5 s, if nothing was on its way to it; else the
// kernel does after a quarter of an hour, as it does for a client of the server itself. TCP_USER_TIMEOUT would be
// quicker, and is wrong here: it also cuts who lives and does not read for so long, a dump into a slow disk or a server
// that waits for a lock, for a closed window counts from its first probe, answered or not (tcp(7)).
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

func (g *Gate) pause(ctx context.Context, d time.Duration) bool {
	t := g.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C():
		return true
	}
}

// serve leads one client to the primary, waiting for one if it must. A client that is led belongs to a loop from then
// on.
func (g *Gate) serve(ctx context.Context, c *net.TCPConn) {
	l, why := g.lead(ctx, c)
	g.take(ctx, c, l, why)
}

// take gives a client that is led to a loop, and turns any other away.
func (g *Gate) take(ctx context.Context, c *net.TCPConn, l *link, why refusal) {
	switch {
	case l != nil:
		_ = c.Close() // the link has a descriptor of its own
		g.conns.Add(1)
		g.loopFor().take(l)
		return
	case ctx.Err() != nil:
		reset(c)
	default:
		g.refuse(c, why)
	}
	g.refused.Add(1)
	g.clients.Add(-1)
}

// left forgets a link of some that has ended.
func (g *Gate) left(l *link, some map[*link]struct{}) {
	g.mu.Lock()
	delete(some, l)
	delete(g.dialled, l)
	g.mu.Unlock()
	g.clients.Add(-1)
	g.conns.Done()
}

// loopFor is the loop with the fewest links.
func (g *Gate) loopFor() *loop {
	return slices.MinFunc(g.loops, func(a, b *loop) int { return cmp.Compare(a.links.Load(), b.links.Load()) })
}

// lead finds the client's way, and says why there is none.
func (g *Gate) lead(ctx context.Context, c *net.TCPConn) (*link, refusal) {
	var limit clock.Timer // set once the client is held
	defer func() {
		if limit != nil {
			limit.Stop()
			g.held.Add(-1)
		}
	}()
	pause := g.cfg.Clock.NewTimer(dialPause)
	defer pause.Stop()

	for {
		g.mu.Lock()
		g.fenceIfDue(g.cfg.Clock.Now())
		state, target, reason, changed := g.state, g.target, g.reason, g.changed
		g.mu.Unlock()

		var again <-chan time.Time
		switch state {
		case Shut:
			return nil, refusal{codeCannotConnectNow, "the database system has no primary", reason}
		case Open:
			if limit != nil && gone(c) {
				return nil, refusal{codeCannotConnectNow, "the client left while it waited", ""}
			}
			if l := g.dial(ctx, c, target, changed); l != nil {
				return l, refusal{}
			}
			pause.Reset(dialPause)
			again = pause.C()
		}
		if limit == nil {
			if g.held.Add(1) > int64(g.cfg.HeldMax) {
				g.held.Add(-1)
				return nil, refusal{codeTooManyConnections, "too many clients wait for a primary", reason}
			}
			limit = g.cfg.Clock.NewTimer(time.Duration(g.cfg.HoldMax))
		}
		select {
		case <-ctx.Done():
			return nil, refusal{}
		case <-changed:
		case <-again:
		case <-limit.C():
			return nil, refusal{codeCannotConnectNow,
				fmt.Sprintf("the database system has no primary: waited %s", time.Duration(g.cfg.HoldMax)), reason}
		}
	}
}

// connect links c with target, unless changed closes before; nil when it does not answer.
func (g *Gate) connect(ctx context.Context, c *net.TCPConn, target string, changed <-chan struct{}) *link {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	g.conns.Go(func() { // an order that leads elsewhere need not wait for a host that does not answer
		select {
		case <-changed:
			cancel()
		case <-done:
		}
	})
	d := net.Dialer{KeepAliveConfig: keepAlive}
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil // told by the wait that follows, and by the server's own keeper
	}
	l, err := newLink(c, conn.(*net.TCPConn), &g.bytesIn, &g.bytesOut)
	if err != nil {
		g.log.WarnContext(ctx, "client not led", "err", err) // out of descriptors, which passes
		return nil
	}
	return l
}

// drop ends a link that leads where it must not any more, before it has led.
func (l *link) drop() {
	abort(l.server.fd)
	l.close()
}

// dial connects to target and registers the link, unless the order changed meanwhile.
func (g *Gate) dial(ctx context.Context, c *net.TCPConn, target string, changed <-chan struct{}) *link {
	l := g.connect(ctx, c, target, changed)
	if l == nil {
		return nil
	}
	l.done = func() { g.left(l, g.links) }
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fenceIfDue(g.cfg.Clock.Now()) || g.state != Open || g.target != target {
		l.drop()
		return nil
	}
	g.links[l] = struct{}{}
	return l
}

// closeLinks ends every connection that leads to a server through this process, and has [Gate.follow] end those past it
// and lead no new one past it. Callers hold g.mu, and have set the state.
func (g *Gate) closeLinks() {
	for l := range g.links {
		l.reset()
		delete(g.links, l)
	}
	g.cutLed()
}

// gone says whether the client closed its side while nobody read from it.
func gone(c *net.TCPConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return true // closed by us
	}
	closed := false
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = (n == 0 && err == nil) || errors.Is(err, syscall.ECONNRESET)
	})
	return closed || err != nil
}

// reset closes with RST, so that the peer learns of it at once even when it only waits to read.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only when closed already
	_ = c.Close()
}
