package host

import (
	"context"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/edge/proxy"
	"holdfast/internal/event"
	"holdfast/internal/plan"
)

// aloneAfter is the silence after which a host counts as cut off: by then a primary on it has been fenced, so that
// nothing it could answer from a database is acknowledged, or fresh.
const aloneAfter = 5 * time.Second

const (
	aloneEvery = time.Second     // how often the edge is told while it lasts
	aloneFor   = 5 * time.Second // how long it believes that without being told again
)

// cutOff reports whether this host hears nothing at all: no agent, no listener, and not the agreed state. No answer
// is unknown and not "down"; but whatever is up elsewhere, a client is served better there.
func cutOff(f agent.Facts) bool {
	if f.Late || len(f.Peers) == 0 || f.Now < aloneAfter || f.ContactAge < aloneAfter {
		return false
	}
	return !slices.ContainsFunc(f.Peers, func(p agent.PeerFacts) bool {
		if p.AgentAge < aloneAfter {
			return true
		}
		for _, age := range p.GateAge {
			if age < aloneAfter {
				return true
			}
		}
		return false
	})
}

// needsOthers lists the services that use a database which this host alone cannot serve.
func needsOthers(p *plan.Plan, self string, now agent.Snapshot) []string {
	here := map[string]bool{}
	for _, d := range now.Facts.Databases {
		here[d.Name] = d.Record.Primary == self && d.Local.Role == database.Primary && now.Outcome.Decisions[d.Name].Lease > 0
	}
	var out []string
	for _, s := range p.Services {
		if s.Route != nil && slices.ContainsFunc(usedDatabases(s), func(name string) bool { return !here[name] }) {
			out = append(out, s.Name)
		}
	}
	return out
}

// usedDatabases are those that a service's environment leads to.
func usedDatabases(s plan.Service) []string {
	var out []string
	for _, v := range s.Env {
		_, err := plan.ExpandEnv(v.Value, func(key string) (string, bool) {
			if name, _, ok := plan.DatabaseURL(key); ok {
				out = append(out, name)
			}
			return "", true
		})
		if err != nil {
			continue // refused when the plan was read; whatever it is, it leads to no database
		}
	}
	return out
}

// tendAlone notes for which services requests are refused now.
func (b *balancer) tendAlone(now agent.Snapshot) {
	next := proxy.Alone{For: event.Duration(aloneFor)}
	if cutOff(now.Facts) {
		next.Services = needsOthers(b.host.plan(), b.host.self.Name, now)
		next.Why = "this host is cut off from the others, and its database cannot be reached: try another one"
	}
	b.mu.Lock()
	changed := strings.Join(next.Services, " ") != strings.Join(b.alone.Services, " ")
	b.alone = next
	b.mu.Unlock()
	if changed {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

// tellAlone tells the edge as long as it lasts, and once that it is over. It gives the time until the next telling.
func (b *balancer) tellAlone(ctx context.Context) time.Duration {
	b.mu.Lock()
	a, told := b.alone, b.told
	b.mu.Unlock()
	if len(a.Services) == 0 && !told {
		return applyEvery
	}
	call, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := b.client.SetAlone(call, a); err != nil {
		if ctx.Err() == nil {
			b.host.cfg.Log.Debug("edge not told", "err", err)
		}
		return aloneEvery / 3
	}
	b.mu.Lock()
	b.told = len(a.Services) > 0
	b.mu.Unlock()
	return aloneEvery
}
