package host

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/edge/proxy"
	"holdfast/internal/event"
	"holdfast/internal/plan"
)

// balancer gives this host's edge its members whenever the placement changes.
type balancer struct {
	host   *Host
	client *proxy.Client
	before bool // an edge has served routes here in an earlier life of the agent, and may go on with them

	mu    sync.Mutex // guards what follows
	want  proxy.Snapshot
	alone proxy.Alone
	told  bool // the edge has been told that the host is alone
	wake  chan struct{}
}

// applyEvery is how often the snapshot is given again: an edge that was started anew may have missed one.
const applyEvery = 5 * time.Second

// edgeState is where the edge keeps what it serves.
func edgeState(dir string) string { return filepath.Join(dir, "keep", "edge.state.json") }

func edgeSocket(dir string) string { return filepath.Join(runDir(dir), "edge.sock") }

func newBalancer(h *Host) *balancer {
	_, err := os.Stat(edgeState(h.cfg.Dir))
	return &balancer{host: h, client: proxy.Dial(edgeSocket(h.cfg.Dir)), wake: make(chan struct{}, 1), before: err == nil}
}

// tend notes what the edge shall serve now.
func (b *balancer) tend(now agent.Snapshot) {
	b.tendAlone(now)
	if now.Facts.Services.Revision == 0 || !hasRoutes(b.host.plan()) && !b.served() {
		return
	}
	snap := b.snapshot(now)
	b.mu.Lock()
	changed := snap.Revision != b.want.Revision
	b.want = snap
	b.mu.Unlock()
	if changed {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

// served reports whether the edge has ever been told of a route.
func (b *balancer) served() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.before || b.want.Revision > 0
}

// snapshot is every route with its instances, wherever they are placed.
func (b *balancer) snapshot(now agent.Snapshot) proxy.Snapshot {
	p := b.host.plan()
	// Both revisions are the store's, so the later one rises with each change of either. A plan that is agreed and not yet
	// adopted does not count: the edge takes one revision once, and would keep the routes of the plan before.
	revision := now.Facts.Services.Revision
	if a := now.Facts.Adopted; a != nil {
		revision = max(revision, a.Revision)
	}
	out := proxy.Snapshot{Cluster: p.Application, Revision: uint64(revision)}
	for _, s := range p.Services {
		if s.Route == nil {
			continue
		}
		r := proxy.Route{Service: s.Name, Scheme: s.Route.Scheme, Host: s.Route.Host, Listen: hostPort(b.host.self.Address, s.Route.Port), Ready: routeCheck(s)}
		if s.Route.Scheme == "https" {
			r.CertFile, r.KeyFile = filepath.Join(certDir(b.host.cfg.Dir), "host.crt"), filepath.Join(certDir(b.host.cfg.Dir), "host.key")
			if s.TLS != nil {
				r.CertFile, r.KeyFile = s.TLS.Cert.Target(), s.TLS.Key.Target()
			}
		}
		for _, placed := range now.Facts.Services.Agreed {
			if placed.Service != s.Name {
				continue
			}
			for _, a := range placed.Assignments {
				if h, ok := p.Host(a.Host); ok {
					r.Backends = append(r.Backends, proxy.Backend{ID: a.ID, Address: hostPort(h.Address, cmp.Or(a.Port, s.Port)), Draining: a.Leave})
				}
			}
		}
		slices.SortFunc(r.Backends, func(x, y proxy.Backend) int { return strings.Compare(x.ID, y.ID) })
		out.Routes = append(out.Routes, r)
	}
	return out
}

// routeCheck is what the edge asks of a backend. A program that only a command can judge is asked for a
// connection here; its host leaves an unready one out in time.
func routeCheck(s plan.Service) proxy.Check {
	if s.Ready == nil || s.Ready.Kind == "exec" {
		return proxy.Check{Kind: "tcp"}
	}
	return proxy.Check{
		Kind: s.Ready.Kind, Path: s.Ready.Path, Every: event.Duration(s.Ready.Every), Timeout: event.Duration(s.Ready.Timeout),
		Fall: s.Ready.Fall, Rise: s.Ready.Rise,
	}
}

// run gives the edge its snapshots until ctx ends.
func (b *balancer) run(ctx context.Context) error {
	defer func() { _ = b.client.Close() }() // the edge goes on
	for {
		b.mu.Lock()
		snap := b.want
		b.mu.Unlock()
		pause := min(applyEvery, b.tellAlone(ctx))
		if snap.Revision > 0 {
			call, cancel := context.WithTimeout(ctx, time.Second)
			if _, err := b.client.Apply(call, snap); err != nil && ctx.Err() == nil {
				b.host.cfg.Log.Debug("edge not told", "err", err)
				pause = 300 * time.Millisecond
			}
			cancel()
		}
		t := b.host.clock.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-b.wake:
			t.Stop()
		case <-t.C():
		}
	}
}

// hasRoutes reports whether a plan needs an edge at all.
func hasRoutes(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Services, func(s plan.Service) bool { return s.Route != nil })
}
