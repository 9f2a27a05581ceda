package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	headerMax   = 64 << 10
	headerTime  = 10 * time.Second // for a client to send its header
	idleTime    = 75 * time.Second // between two requests of a client
	acceptPause = 50 * time.Millisecond
)

// port is one open listener.
type port struct {
	scheme   string
	listener net.Listener
	server   *http.Server  // nil with tcp
	done     chan struct{} // closed when nothing is accepted any more
}

// openPorts makes the listeners those of t: unchanged ones stay. Callers hold e.applying.
func (e *Edge) openPorts(ctx context.Context, t *table) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for addr, p := range e.ports {
		if d := t.doors[addr]; d == nil || d.scheme != p.scheme {
			delete(e.ports, addr)
			_ = p.listener.Close() // the address is free at once; what runs through it ends in its own time
			e.work.Go(func() { p.close(e.requests) })
		}
	}
	errs := map[string]error{}
	for _, addr := range t.addresses() {
		if e.ports[addr] != nil {
			continue
		}
		p, err := e.openPort(ctx, addr, t.doors[addr].scheme)
		if err != nil {
			errs[addr] = err
			if e.portErrs[addr] == nil {
				e.log.ErrorContext(ctx, "listener not opened; tried again each second", "listen", addr, "err", err)
			}
			continue
		}
		e.ports[addr] = p
	}
	e.portErrs = errs
}

func (e *Edge) openPort(ctx context.Context, addr, scheme string) (*port, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	p := &port{scheme: scheme, listener: l, done: make(chan struct{})}
	if scheme == "tcp" {
		e.work.Go(func() {
			defer close(p.done)
			e.acceptTCP(addr, l.(*net.TCPListener))
		})
		return p, nil
	}
	p.server = &http.Server{
		Handler:           e.handler(addr),
		ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: headerMax,
		ErrorLog:    slog.NewLogLogger(e.log.Handler(), slog.LevelDebug), // a client's fault, mostly
		BaseContext: func(net.Listener) context.Context { return e.requests },
	}
	serve := p.server.Serve
	if scheme == "https" {
		p.server.TLSConfig = &tls.Config{
			MinVersion: tls.VersionTLS12,
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				return e.certificate(addr, hello.ServerName)
			},
		}
		serve = func(l net.Listener) error { return p.server.ServeTLS(l, "", "") }
	}
	e.work.Go(func() {
		defer close(p.done)
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			e.log.ErrorContext(e.requests, "listener ended", "listen", addr, "err", err)
		}
	})
	return p, nil
}

// close stops accepting, lets requests under way finish until ctx ends, and ends the rest.
func (p *port) close(ctx context.Context) {
	_ = p.listener.Close() // closed already when the port was taken away
	if p.server != nil {
		if p.server.Shutdown(ctx) != nil { // the time is over
			_ = p.server.Close()
		}
	}
	<-p.done
}

// certificate is the one for a name that a client asks for on addr.
func (e *Edge) certificate(addr, name string) (*tls.Certificate, error) {
	t := e.table.Load()
	r := t.doors[addr].route(name)
	for _, other := range t.routes { // a client that names nobody known gets some certificate, to read the 404 by
		if r == nil && other.Listen == addr {
			r = other
		}
	}
	if r == nil || r.Scheme != "https" {
		return nil, fmt.Errorf("find a certificate for %q on %s: no route", name, addr)
	}
	return e.certs.load(r.CertFile, r.KeyFile, e.cfg.Clock.Now())
}
