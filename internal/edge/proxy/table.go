package proxy

import (
	"iter"
	"maps"
	"net"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"holdfast/internal/edge"
)

// table is a snapshot ready to serve. It is never changed; what moves lies behind its pointers, which
// the next table takes over.
type table struct {
	snap   Snapshot
	routes []*route
	doors  map[string]*door // by listen address
}

// door is one listener and the routes behind it.
type door struct {
	scheme string
	hosts  map[string]*route // "" = any
}

// route finds the route for a Host header, or nil.
func (d *door) route(host string) *route {
	if d == nil {
		return nil
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if r, ok := d.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]; ok {
		return r
	}
	return d.hosts[""]
}

// route is one route of a table.
type route struct {
	Route
	edge     *Edge
	policy   edge.Policy
	backends []*backend
	meter    *meter
	forward  *httputil.ReverseProxy // nil with tcp
}

func (r *route) key() [3]string { return [3]string{r.Service, r.Listen, r.Host} }

func (t *table) backends() iter.Seq[*backend] {
	return func(yield func(*backend) bool) {
		for _, r := range t.routes {
			for _, b := range r.backends {
				if !yield(b) {
					return
				}
			}
		}
	}
}

func (t *table) has(b *backend) bool {
	for other := range t.backends() {
		if other == b {
			return true
		}
	}
	return false
}

// build makes the table of s, taking over meters and backends from old and starting the checks of new ones.
func (e *Edge) build(s Snapshot, old *table) *table {
	t := &table{snap: s, doors: map[string]*door{}}
	before := map[[3]string]*route{}
	for _, r := range old.routes {
		before[r.key()] = r
	}
	for _, spec := range s.Routes {
		r := &route{Route: spec, edge: e, policy: edge.Defaults()}
		if spec.Ready.Fall > 0 {
			r.policy.Fall = spec.Ready.Fall
		}
		if spec.Ready.Rise > 0 {
			r.policy.Rise = spec.Ready.Rise
		}
		known := map[Backend]*backend{}
		if was := before[r.key()]; was != nil {
			r.meter = was.meter
			for _, b := range was.backends {
				known[Backend{ID: b.id, Address: b.address}] = b
			}
		} else {
			r.meter = newMeter(r.policy, e.cfg.Clock.Now())
		}
		for _, want := range spec.Backends {
			b := known[Backend{ID: want.ID, Address: want.Address}]
			if b == nil {
				b = e.newBackend(want, spec.Service)
			}
			b.draining.Store(want.Draining)
			b.settings.Store(&checking{Check: spec.Ready, policy: r.policy, host: spec.Host})
			b.start(e)
			r.backends = append(r.backends, b)
		}
		if spec.Scheme != "tcp" {
			r.forward = e.newForward(r)
		}
		d := t.doors[spec.Listen]
		if d == nil {
			d = &door{scheme: spec.Scheme, hosts: map[string]*route{}}
			t.doors[spec.Listen] = d
		}
		d.hosts[spec.Host] = r
		t.routes = append(t.routes, r)
	}
	return t
}

// addresses are where the table listens, sorted.
func (t *table) addresses() []string { return slices.Sorted(maps.Keys(t.doors)) }

// members is how the route's backends are now; tried ones had the request already.
func (r *route) members(into []edge.Member, now time.Time, tried []*backend) []edge.Member {
	for _, b := range r.backends {
		into = append(into, b.member(r.policy, now, slices.Contains(tried, b)))
	}
	return into
}

// pick chooses a backend, or nil.
func (r *route) pick(tried []*backend) *backend {
	var few [16]edge.Member // so that a usual route needs no memory of its own
	members := r.members(few[:0], r.edge.cfg.Clock.Now(), tried)
	i, err := edge.Choose(r.policy, members, r.edge.dice.Add(3))
	if err != nil {
		return nil // edge.ErrNoBackend is its only error
	}
	return r.backends[i]
}

// failed records that b failed a real request.
func (r *route) failed(b *backend) {
	var few [16]edge.Member
	may := edge.MayEject(r.policy, r.members(few[:0], r.edge.cfg.Clock.Now(), nil))
	b.failed(r.policy, may, r.edge.cfg.Clock.Now())
}
