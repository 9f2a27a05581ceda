package proxy

import (
	"maps"
	"slices"
	"time"

	"holdfast/internal/edge"
	"holdfast/internal/event"
)

// Status is what an edge tells of itself.
type Status struct {
	Host     string         `json:"host"`
	Cluster  string         `json:"cluster,omitempty"`
	Revision uint64         `json:"revision"`
	Since    event.Duration `json:"since"`              // age of the revision here
	Problems []string       `json:"problems,omitempty"` // listeners not open, certificates not read, snapshot not on disk
	Routes   []RouteStatus  `json:"routes"`
}

// RouteStatus is one route. Counts are since the route first appeared.
type RouteStatus struct {
	Service  string          `json:"service"`
	Scheme   string          `json:"scheme"`
	Host     string          `json:"host,omitempty"`
	Listen   string          `json:"listen"`
	Open     bool            `json:"open"`  // its listener is
	Panic    bool            `json:"panic"` // so few are well that doubtful backends help out
	Requests int64           `json:"requests"`
	Errors   int64           `json:"errors"`          // answered by the edge itself, for no backend did
	Refused  int64           `json:"refused"`         // of those, for want of a backend or because the host is cut off
	Alone    string          `json:"alone,omitempty"` // why all requests are refused now
	Unsent   int64           `json:"unsent"`          // went on to another backend, never sent to the first
	Repeats  int64           `json:"repeats"`         // repeated after a backend broke off
	Seconds  int64           `json:"seconds"`         // second tries beside one that hung
	Backends []BackendStatus `json:"backends"`
}

// BackendStatus is one backend.
type BackendStatus struct {
	ID       string         `json:"id"`
	Address  string         `json:"address"`
	State    edge.State     `json:"state"`
	Reason   string         `json:"reason,omitempty"` // why it gets no requests, or fewer; "" = it gets its share
	Since    event.Duration `json:"since"`            // age of State
	Draining bool           `json:"draining,omitempty"`
	Ejected  event.Duration `json:"ejected,omitempty"` // how long it still is set aside
	InFlight int64          `json:"in_flight"`
	Requests int64          `json:"requests"`
	Failures int64          `json:"failures"`
	Checks   int64          `json:"checks"`
	Bad      int64          `json:"bad"`         // checks that did not pass
	Last     []CheckStatus  `json:"last_checks"` // newest last
}

// CheckStatus is one check.
type CheckStatus struct {
	At     time.Time      `json:"at"` // this host's wall clock; for people
	Result edge.Result    `json:"result"`
	Took   event.Duration `json:"took"`
	Error  string         `json:"error,omitempty"`
}

// Status reports the present.
func (e *Edge) Status() Status {
	t, now := e.table.Load(), e.cfg.Clock.Now()
	e.mu.Lock()
	s := Status{Host: e.cfg.Host, Cluster: t.snap.Cluster, Revision: t.snap.Revision,
		Since: event.Duration(now.Sub(e.since)), Routes: []RouteStatus{}}
	for _, addr := range slices.Sorted(maps.Keys(e.portErrs)) {
		s.Problems = append(s.Problems, e.portErrs[addr].Error())
	}
	if e.unkept != nil {
		s.Problems = append(s.Problems, e.unkept.Error())
	}
	open := maps.Clone(e.ports)
	e.mu.Unlock()

	for _, r := range t.routes {
		rs := RouteStatus{
			Service: r.Service, Scheme: r.Scheme, Host: r.Host, Listen: r.Listen, Open: open[r.Listen] != nil,
			Alone:    e.refusesAlone(r.Service),
			Panic:    edge.Panicking(r.policy, r.members(nil, now, nil)),
			Requests: r.meter.requests.Load(), Errors: r.meter.errors.Load(), Refused: r.meter.refused.Load(),
			Unsent: r.meter.unsent.Load(), Repeats: r.meter.repeats.Load(), Seconds: r.meter.seconds.Load(),
			Backends: []BackendStatus{},
		}
		if r.Scheme == "https" {
			if err := e.certs.problem(r.CertFile, r.KeyFile); err != nil {
				s.Problems = append(s.Problems, "service "+r.Service+": "+err.Error())
			}
		}
		for _, b := range r.backends {
			rs.Backends = append(rs.Backends, b.status(r.policy, now))
		}
		s.Routes = append(s.Routes, rs)
	}
	return s
}

func (b *backend) status(p edge.Policy, now time.Time) BackendStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BackendStatus{
		ID: b.id, Address: b.address, State: b.health.State, Since: event.Duration(now.Sub(b.since)),
		Draining: b.draining.Load(), InFlight: b.inFlight.Load(), Requests: b.requests.Load(),
		Failures: b.failures.Load(), Checks: b.checks, Bad: b.bad, Last: slices.Clone(b.last),
	}
	if b.record.Ejected {
		s.Ejected = event.Duration(max(0, b.record.Span(p)-now.Sub(b.ejectedAt)))
	}
	var lastError string
	if n := len(b.last); n > 0 {
		lastError = b.last[n-1].Error
	}
	switch {
	case s.Draining:
		s.Reason = "draining"
	case s.State == edge.Starting:
		s.Reason = "no check has passed yet"
	case s.State == edge.Silent, s.State == edge.Down:
		s.Reason = "checks fail"
	case s.Ejected > 0:
		s.Reason = "set aside: it failed requests in a row"
	case b.returned && now.Sub(b.since) < p.SlowStart:
		s.Reason = "came back: its share is growing"
	}
	if s.State != edge.Up && lastError != "" {
		s.Reason += ": " + lastError
	}
	return s
}
