package proxy

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/edge"
)

// backend is one instance, for as long as snapshots name it and requests use it.
type backend struct {
	id, address, service string
	transport            *http.Transport
	settings             atomic.Pointer[checking]
	draining             atomic.Bool
	inFlight             atomic.Int64
	requests             atomic.Int64
	failures             atomic.Int64

	once       sync.Once
	stopChecks context.CancelFunc
	watched    context.Context // of its checks
	first      chan struct{}   // closed once the first check has ended
	kick       chan struct{}   // a failed request asks for a check now

	mu        sync.Mutex // guards what follows
	health    edge.Health
	since     time.Time // of health.State
	returned  bool      // was up, was not, is up again
	record    edge.Record
	ejectedAt time.Time
	last      []CheckStatus // newest last
	checks    int64
	bad       int64
}

// checking is how a backend is checked.
type checking struct {
	Check
	policy edge.Policy
	host   string
}

// checksKept is how many checks status shows.
const checksKept = 5

func (e *Edge) newBackend(b Backend, service string) *backend {
	ctx, cancel := context.WithCancel(e.requests)
	return &backend{
		id: b.ID, address: b.Address, service: service,
		transport: &http.Transport{
			DialContext: dial, DisableCompression: true, // what the client accepts is between it and the backend
			MaxIdleConns: 512, MaxIdleConnsPerHost: 512, IdleConnTimeout: 30 * time.Second,
			ResponseHeaderTimeout: time.Duration(e.cfg.AnswerTimeout), ExpectContinueTimeout: time.Second,
			MaxResponseHeaderBytes: headerMax, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
		},
		watched: ctx, stopChecks: cancel,
		first: make(chan struct{}), kick: make(chan struct{}, 1),
		since: e.cfg.Clock.Now(), health: edge.Health{State: edge.Starting},
	}
}

// start begins its checks, once.
func (b *backend) start(e *Edge) {
	b.once.Do(func() { e.work.Go(func() { e.watch(b.watched, b) }) })
}

// retire ends its checks and idle connections. What runs through it goes on.
func (b *backend) retire() {
	b.stopChecks()
	b.draining.Store(true) // for requests that still hold the old table; also keeps idle connections from piling up
	b.transport.CloseIdleConnections()
}

func (b *backend) member(p edge.Policy, now time.Time, tried bool) edge.Member {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.record.Ejected && now.Sub(b.ejectedAt) >= b.record.Span(p) {
		b.record = b.record.Back()
	}
	return edge.Member{
		ID: b.id, State: b.health.State, StateAge: now.Sub(b.since), Returned: b.returned,
		Ejected: b.record.Ejected, Draining: b.draining.Load(), InFlight: int(b.inFlight.Load()), Tried: tried,
	}
}

func (b *backend) succeeded() {
	b.mu.Lock()
	b.record = b.record.Succeeded()
	b.mu.Unlock()
}

func (b *backend) failed(p edge.Policy, mayEject bool, now time.Time) {
	b.failures.Add(1)
	b.mu.Lock()
	was := b.record.Ejected
	b.record = b.record.Failed(p, mayEject)
	if b.record.Ejected && !was {
		b.ejectedAt = now
	}
	b.mu.Unlock()
	select {
	case b.kick <- struct{}{}:
	default: // one waits already
	}
}

// checked takes in the outcome of a check, and says whether the state changed.
func (b *backend) checked(p edge.Policy, c CheckStatus, now time.Time) (was, is edge.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was = b.health.State
	b.health = b.health.After(p, c.Result)
	is = b.health.State
	b.checks++
	if c.Result != edge.Passed {
		b.bad++
	}
	b.last = append(b.last, c)
	if len(b.last) > checksKept {
		b.last = append(b.last[:0], b.last[1:]...)
	}
	if was != is {
		b.since = now
		if is == edge.Up {
			b.returned = was != edge.Starting
			b.record = edge.Record{} // what came back is not what failed
		}
	}
	return was, is
}

// meter counts a route, across snapshots.
type meter struct {
	requests, errors, unsent, repeats, seconds, refused atomic.Int64

	mu       sync.Mutex // guards budget and refilled
	budget   edge.Budget
	refilled time.Time
}

func newMeter(p edge.Policy, now time.Time) *meter {
	return &meter{budget: edge.NewBudget(p), refilled: now}
}

func (m *meter) earn(p edge.Policy) {
	m.mu.Lock()
	m.budget = m.budget.Earn(p)
	m.mu.Unlock()
}

func (m *meter) spend(p edge.Policy, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.budget = m.budget.Refill(p, now.Sub(m.refilled))
	m.refilled = now
	var ok bool
	m.budget, ok = m.budget.Spend()
	return ok
}
