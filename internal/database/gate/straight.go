package gate

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// road is where the last order to open leads, as the kernel wants it.
type road struct {
	target string
	family int
	addr   unix.Sockaddr // nil: target is a name, and clients are led by [Gate.serve]
}

func roadTo(target string) road {
	r := road{target: target}
	ap, err := netip.ParseAddrPort(target)
	if err != nil || ap.Addr().Zone() != "" {
		return r
	}
	if a := ap.Addr().Unmap(); a.Is4() {
		r.family, r.addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: a.As4()}
	} else {
		r.family, r.addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(ap.Port()), Addr: a.As16()}
	}
	return r
}

// attend serves e's clients until ctx ends or e is closed. Each that does not only read is first led straight.
func (g *Gate) attend(ctx context.Context, e *entrance) error {
	l := e.listener
	d, err := newDoor(l)
	if err != nil {
		return err
	}
	lp := g.loops[0]
	d.welcome = func(fd int) {
		g.accepted.Add(1)
		if g.clients.Add(1) > int64(g.cfg.ConnMax) {
			g.clients.Add(-1)
			g.refused.Add(1)
			refuseAtOnce(fd)
			return
		}
		if e.reads.Load() {
			g.hand(ctx, fd, g.serveRead)
		} else if !g.straight(ctx, lp, fd, g.serve) {
			g.hand(ctx, fd, g.serve)
		}
	}
	d.trouble = func(err error) { // out of descriptors or memory, which passes
		g.log.WarnContext(ctx, "clients not accepted", "listen", l.Addr().String(), "err", err)
		g.conns.Go(func() {
			if g.pause(ctx, dialPause) {
				lp.reopen(d)
			}
		})
	}
	lp.reopen(d)
	select {
	case <-ctx.Done():
	case <-e.closed: // its clients stay, those that wait too
	}
	_ = l.Close() // the address is free when both descriptors are
	lp.closeDoor(d)
	return nil
}

// hand lets a goroutine serve a client that waits for something.
func (g *Gate) hand(ctx context.Context, fd int, serve func(context.Context, *net.TCPConn)) {
	g.conns.Go(func() {
		c, err := connOf(fd)
		if err != nil {
			g.clients.Add(-1)
			g.log.WarnContext(ctx, "client not accepted", "err", err)
			return
		}
		serve(ctx, c)
	})
}

// straight leads a client to the primary on the loop's own thread, and says no when there is none, or when it does not
// even begin to answer. Then, and when it does not answer in time, serve has the client.
func (g *Gate) straight(ctx context.Context, lp *loop, client int, serve func(context.Context, *net.TCPConn)) bool {
	g.mu.Lock()
	open := !g.fenceIfDue(g.cfg.Clock.Now()) && g.state == Open && g.road.target == g.target && g.road.addr != nil
	to := g.road
	g.mu.Unlock()
	if !open {
		return false
	}
	server, connected, err := connectingTo(to.family, to.addr)
	if err != nil {
		return false // told by the wait that follows, and by the server's own keeper
	}
	l := linkOf(client, server, &g.bytesIn, &g.bytesOut)
	l.done = func() { g.left(l, g.links) }
	l.opened = func(ok bool) bool {
		if ok && g.enlist(l, to.target) {
			return true
		}
		g.forget(l)
		g.hand(ctx, client, serve)
		g.conns.Done()
		return false
	}
	if connected {
		if !g.enlist(l, to.target) {
			l.giveBack()
			return false
		}
		g.conns.Add(1)
		if to := g.loopFor(); to == lp {
			lp.links.Add(1)
			lp.enter(l)
		} else {
			to.take(l)
		}
		return true
	}
	g.mu.Lock()
	if g.state != Open || g.target != to.target {
		g.mu.Unlock()
		l.giveBack()
		return false
	}
	g.dialled[l] = struct{}{}
	g.mu.Unlock()
	g.conns.Add(1)
	lp.begin(l)
	return true
}

// enlist makes l one of the links that a fence cuts, unless the order changed meanwhile.
func (g *Gate) enlist(l *link, target string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.dropped || g.fenceIfDue(g.cfg.Clock.Now()) || g.state != Open || g.target != target {
		return false
	}
	delete(g.dialled, l)
	g.links[l] = struct{}{}
	return true
}

func (g *Gate) forget(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.dialled, l)
}

// dropDialled ends the tries that lead where the order does not any more: their clients need not wait for a host that
// does not answer. Callers hold g.mu.
func (g *Gate) dropDialled() {
	for l := range g.dialled {
		l.dropped = true
		l.mu.Lock()
		if !l.closed {
			abort(l.server.fd)
		}
		l.mu.Unlock()
		delete(g.dialled, l)
	}
}
