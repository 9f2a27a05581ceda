package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/durable"
	"holdfast/internal/orders"
)

// Edge is one running balancer.
type Edge struct {
	cfg     Config
	log     *slog.Logger
	table   atomic.Pointer[table]
	dice    atomic.Uint64
	alone   atomic.Pointer[alone] // nil until the agent has said anything
	certs   certificates
	buffers bufferPool
	checks  *http.Transport // of active checks: a new connection each

	requests context.Context // ends when requests under way must; parent of every one
	end      context.CancelFunc
	work     sync.WaitGroup // requests, connections, second tries, checks and servers

	applying sync.Mutex // one snapshot at a time; taken before mu

	mu       sync.Mutex // guards what follows; never held across anything that waits
	ports    map[string]*port
	portErrs map[string]error // listeners that could not be opened, by address; they are tried again
	unkept   error            // why the served snapshot is not on disk; nil = it is
	since    time.Time        // when it was taken
}

const portRetry = time.Second

// Run serves until ctx ends: then listeners close, requests under way have the grace of the spec, and what
// is still there (WebSockets, TCP connections) is ended.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.fill(); err != nil {
		return err
	}
	e := &Edge{
		cfg: cfg, log: cfg.Log.With("host", cfg.Host),
		checks:   &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: dial},
		ports:    map[string]*port{},
		portErrs: map[string]error{},
		since:    cfg.Clock.Now(),
	}
	e.dice.Store(cfg.Seed)
	e.requests, e.end = context.WithCancel(context.WithoutCancel(ctx))
	defer e.end()
	e.table.Store(&table{})

	kept, found, err := e.kept()
	if err != nil {
		return err
	}
	control, err := orders.Listen(ctx, cfg.Control)
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }() // closed already after a regular end
	if found {
		e.applying.Lock()
		e.swap(ctx, kept)
		e.applying.Unlock()
	}
	grp, ctx := errgroup.WithContext(ctx)
	grp.Go(func() error { return e.serveControl(ctx, control) })
	grp.Go(func() error { return e.mend(ctx) })
	err = grp.Wait()
	e.shut()
	return err
}

// kept reads the snapshot that was served last.
func (e *Edge) kept() (Snapshot, bool, error) {
	data, err := os.ReadFile(e.cfg.StateFile)
	if errors.Is(err, os.ErrNotExist) {
		return Snapshot{}, false, nil
	}
	if err != nil {
		return Snapshot{}, false, fmt.Errorf("read the last snapshot: %w", err)
	}
	var s Snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return Snapshot{}, false, fmt.Errorf("read the last snapshot in %s: %w", e.cfg.StateFile, err)
	}
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return Snapshot{}, false, fmt.Errorf("read the last snapshot in %s: %w", e.cfg.StateFile, err)
	}
	return s, true, nil
}

// Apply serves s from now on. It refuses a wrong snapshot whole, and one of a lower revision with a
// *StaleError; the present one again is a no-op. A listener that cannot be opened, and a disk that does not take
// the snapshot, do not keep the rest from being served: Status names them, and both are tried again.
func (e *Edge) Apply(ctx context.Context, s Snapshot) error {
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return fmt.Errorf("apply revision %d: %w", s.Revision, err)
	}
	e.applying.Lock()
	defer e.applying.Unlock()
	if now := e.table.Load().snap; now.Cluster == s.Cluster {
		if s.Revision < now.Revision {
			return &StaleError{Revision: s.Revision, Served: now.Revision}
		}
		if s.Revision == now.Revision && s.Revision != 0 {
			return nil
		}
	}
	e.swap(ctx, s)
	e.keep(ctx)
	return nil
}

// swap replaces the table. Callers hold e.applying.
func (e *Edge) swap(ctx context.Context, s Snapshot) {
	old := e.table.Load()
	next := e.build(s, old)
	e.table.Store(next)
	for b := range old.backends() {
		if !next.has(b) {
			b.retire()
		}
	}
	e.openPorts(ctx, next)
	e.mu.Lock()
	e.since = e.cfg.Clock.Now()
	e.mu.Unlock()
	e.log.InfoContext(ctx, "snapshot served", "revision", s.Revision, "routes", len(s.Routes))
}

// keep writes the served snapshot to disk. Callers hold e.applying.
func (e *Edge) keep(ctx context.Context) {
	data, err := json.Marshal(e.table.Load().snap)
	if err == nil {
		err = durable.WriteFile(e.cfg.StateFile, append(data, '\n'), 0o600)
	}
	if err != nil {
		err = fmt.Errorf("keep the snapshot: %w", err)
	}
	e.mu.Lock()
	again := e.unkept != nil
	e.unkept = err
	e.mu.Unlock()
	if err != nil && !again {
		e.log.WarnContext(ctx, "snapshot served but not on disk", "err", err)
	}
}

// mend tries again what Apply could not do, until ctx ends.
func (e *Edge) mend(ctx context.Context) error {
	t := e.cfg.Clock.NewTimer(portRetry)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		t.Reset(portRetry)
		e.mu.Lock()
		ports, disk := len(e.portErrs) > 0, e.unkept != nil
		e.mu.Unlock()
		e.applying.Lock()
		if ports {
			e.openPorts(ctx, e.table.Load())
		}
		if disk {
			e.keep(ctx)
		}
		e.applying.Unlock()
	}
}

// shut ends everything, requests under way last.
func (e *Edge) shut() {
	e.mu.Lock()
	ports := e.ports
	e.ports = map[string]*port{}
	e.mu.Unlock()
	for b := range e.table.Load().backends() {
		b.stopChecks()
	}
	ctx, cancel := context.WithTimeout(e.requests, time.Duration(e.cfg.Grace))
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range ports {
		wg.Go(func() { p.close(ctx) })
	}
	wg.Wait()
	e.end()
	e.work.Wait()
	for b := range e.table.Load().backends() {
		b.transport.CloseIdleConnections()
	}
	e.checks.CloseIdleConnections()
}

// dialTimeout bounds a try to connect: a backend that is alive on this network answers in far less.
const dialTimeout = time.Second

// dialError marks a request that was never sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &dialError{err}
	}
	return c, nil
}

// keepAlive notices a peer that vanished without a word after 10 + 3 x 5 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}
