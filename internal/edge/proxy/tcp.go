package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// acceptTCP takes connections of a tcp route until its listener is closed.
func (e *Edge) acceptTCP(addr string, l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, or a client that left: both pass
			e.log.WarnContext(e.requests, "client not accepted", "listen", addr, "err", err)
			t := e.cfg.Clock.NewTimer(acceptPause)
			select {
			case <-t.C():
			case <-e.requests.Done():
			}
			t.Stop()
			continue
		}
		r := e.table.Load().doors[addr].route("")
		if r == nil || r.Scheme != "tcp" {
			reset(c) // the route was taken away while the client connected
			continue
		}
		e.work.Go(func() { r.carry(c) })
	}
}

// carry leads one connection to a backend until it ends. A connection cannot be tried again once it stands.
func (r *route) carry(c *net.TCPConn) {
	r.meter.requests.Add(1)
	if r.edge.refusesAlone(r.Service) != "" {
		r.meter.errors.Add(1)
		r.meter.refused.Add(1)
		reset(c)
		return
	}
	r.waitFirst(r.edge.requests)
	var tried []*backend
	for {
		b := r.pick(tried)
		if b == nil {
			r.meter.errors.Add(1)
			r.meter.refused.Add(1)
			reset(c)
			return
		}
		tried = append(tried, b)
		b.requests.Add(1)
		conn, err := dial(r.edge.requests, "tcp", b.address)
		if err != nil {
			r.failed(b)
			r.meter.unsent.Add(1)
			continue
		}
		b.succeeded()
		b.inFlight.Add(1)
		join(r.edge.requests, c, conn.(*net.TCPConn))
		b.inFlight.Add(-1)
		return
	}
}

// join copies both ways until both sides have ended, one has broken or ctx ends, and closes both. io.Copy
// between TCP connections uses splice(2).
func join(ctx context.Context, a, b *net.TCPConn) {
	stop := context.AfterFunc(ctx, func() { reset(a); reset(b) })
	defer stop()
	var wg sync.WaitGroup
	one := func(dst, src *net.TCPConn) {
		if _, err := io.Copy(dst, src); err != nil {
			reset(dst)
			reset(src)
			return
		}
		_ = dst.CloseWrite() // fails when it broke meanwhile, which the other direction sees
	}
	wg.Go(func() { one(a, b) })
	one(b, a)
	wg.Wait()
	_ = a.Close()
	_ = b.Close()
}

// reset closes with RST: the peer learns that it did not end well.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only when closed already
	_ = c.Close()
}
