package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/event"
)

// reading is the read-only side of a gate. Gate.mu guards all of it.
type reading struct {
	epoch   uint64 // of the last order
	known   bool   // an order has come since the start
	primary bool
	reason  string
	members []*member // those that may be read, by host
	changed chan struct{}
	turn    uint64 // rises with each session, to take turns among equals
}

// member is one standby that may be read, with the sessions that lead to it.
type member struct {
	ReadMember
	until time.Time // left by itself then
	links map[*link]struct{}
	turn  uint64 // when it was last chosen
}

var errNoReads = errors.New("this gate has no read-only address")

// ObeyRead carries out o. Sessions that lead to a server which o does not name, or names at another address, are
// reset before it returns.
func (g *Gate) ObeyRead(ctx context.Context, o ReadOrder) error {
	if err := o.check(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.spec.ReadListen) == 0 {
		return errNoReads
	}
	if o.Epoch < g.led.Last.Epoch || o.Epoch < g.read.epoch {
		return fmt.Errorf("read order: %w", &StaleError{Epoch: o.Epoch, HighestEpoch: max(g.led.Last.Epoch, g.read.epoch)})
	}
	before := g.read.names()
	now := g.cfg.Clock.Now()
	var next []*member
	for _, m := range o.Members {
		if m.For <= 0 {
			continue // too old when it came
		}
		i := slices.IndexFunc(g.read.members, func(x *member) bool { return x.Host == m.Host && x.Target == m.Target })
		x := &member{links: map[*link]struct{}{}}
		if i >= 0 {
			x = g.read.members[i]
		}
		x.ReadMember, x.until = m, now.Add(time.Duration(m.For))
		next = append(next, x)
	}
	for _, x := range g.read.members {
		if !slices.Contains(next, x) {
			x.cut()
		}
	}
	g.read.epoch, g.read.known, g.read.primary, g.read.reason, g.read.members = o.Epoch, true, o.Primary, o.Reason, next
	if after := g.read.names(); after != before {
		g.readChanged()
		g.log.InfoContext(ctx, "readers are led", "epoch", o.Epoch, "to", after, "reason", o.Reason)
	}
	g.wakeTime()
	return nil
}

// names are the members in words, to compare and to tell.
func (r *reading) names() string {
	var out []string
	for _, m := range r.members {
		name := m.Host + " " + m.Target
		if m.Keep {
			name += " (no new sessions)"
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

// readChanged wakes whoever waits for a server to read. Callers hold g.mu.
func (g *Gate) readChanged() {
	close(g.read.changed)
	g.read.changed = make(chan struct{})
}

// cut resets the member's sessions. Callers hold Gate.mu.
func (m *member) cut() {
	for l := range m.links {
		l.reset()
		delete(m.links, l)
	}
}

// expireReads leaves the members whose time is over, and says when the next one's is; zero = never. Callers hold
// g.mu.
func (g *Gate) expireReads(now time.Time) (next time.Time) {
	var left []string
	cut := 0
	g.read.members = slices.DeleteFunc(g.read.members, func(m *member) bool {
		if now.Before(m.until) {
			if next.IsZero() || m.until.Before(next) {
				next = m.until
			}
			return false
		}
		cut += len(m.links)
		m.cut()
		left = append(left, m.Host)
		return true
	})
	if len(left) > 0 {
		g.log.Warn("readers are led no more", "left", left, "connections", cut)
		g.read.reason = "nothing was heard of " + strings.Join(left, " and ") + " for longer than they may be behind"
		g.readChanged()
	}
	return next
}

// choose picks the member for a new session: the fewest sessions, then the nearest, then whose turn it is.
// Callers hold g.mu.
func (g *Gate) choose(tried []string) *member {
	var best *member
	for _, m := range g.read.members {
		if m.Keep || m.Target == g.target || slices.Contains(tried, m.Host) { // an order to write there is the newer word
			continue
		}
		if best == nil || m.before(best) {
			best = m
		}
	}
	if best != nil {
		g.read.turn++
		best.turn = g.read.turn
	}
	return best
}

func (m *member) before(x *member) bool {
	switch {
	case len(m.links) != len(x.links):
		return len(m.links) < len(x.links)
	case m.Near != x.Near:
		return m.Near < x.Near
	}
	return m.turn < x.turn
}

// serveRead leads one client of the read-only address.
func (g *Gate) serveRead(ctx context.Context, c *net.TCPConn) {
	l, why := g.leadReader(ctx, c)
	g.take(ctx, c, l, why)
}

// leadReader finds a reader's way, and says why there is none.
func (g *Gate) leadReader(ctx context.Context, c *net.TCPConn) (*link, refusal) {
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
		if limit != nil && gone(c) {
			return nil, refusal{codeCannotConnectNow, "the client left while it waited", ""}
		}
		l, changed, reason := g.tryReaders(ctx, c)
		if l != nil {
			return l, refusal{}
		}
		if limit == nil {
			if g.held.Add(1) > int64(g.cfg.HeldMax) {
				g.held.Add(-1)
				return nil, refusal{codeTooManyConnections, "too many clients wait for a standby to read", reason}
			}
			limit = g.cfg.Clock.NewTimer(time.Duration(g.cfg.ReadHold))
		}
		pause.Reset(dialPause)
		select {
		case <-ctx.Done():
			return nil, refusal{}
		case <-changed:
		case <-pause.C():
		case <-limit.C():
			return nil, refusal{codeCannotConnectNow, fmt.Sprintf("no standby may be read now: waited %s", time.Duration(g.cfg.ReadHold)), reason}
		}
	}
}

// tryReaders asks each member once, the best first, then the primary if the order says so and there is no member.
func (g *Gate) tryReaders(ctx context.Context, c *net.TCPConn) (l *link, changed chan struct{}, reason string) {
	var tried []string
	for {
		g.mu.Lock()
		g.expireReads(g.cfg.Clock.Now())
		m := g.choose(tried)
		target := ""
		if m != nil {
			target = m.Target
		}
		changed, reason = g.read.changed, g.read.reason
		known, fallback := g.read.known, g.read.known && g.read.primary && !g.read.takes(g.target)
		g.fenceIfDue(g.cfg.Clock.Now())
		state, primary, writes := g.state, g.target, g.changed
		of, reads := g.led.Last.Epoch, g.read.epoch
		g.mu.Unlock()
		switch {
		case m == nil && fallback && state == Open && of >= reads:
			return g.dial(ctx, c, primary, writes), changed, reason
		case m == nil && !known:
			return nil, changed, "no order has come yet"
		case m == nil:
			return nil, changed, reason
		}
		if l := g.dialMember(ctx, c, m, target, changed); l != nil {
			return l, changed, reason
		}
		tried = append(tried, m.Host)
	}
}

// takes reports whether some member takes new sessions. Callers hold Gate.mu.
func (r *reading) takes(primary string) bool {
	return slices.ContainsFunc(r.members, func(m *member) bool { return !m.Keep && m.Target != primary })
}

// dialMember connects to a member and registers the link, unless the member has been left meanwhile.
func (g *Gate) dialMember(ctx context.Context, c *net.TCPConn, m *member, target string, changed <-chan struct{}) *link {
	l := g.connect(ctx, c, target, changed)
	if l == nil {
		return nil
	}
	l.done = func() { g.left(l, m.links) }
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expireReads(g.cfg.Clock.Now())
	if m.Keep || m.Target != target || m.Target == g.target || !slices.Contains(g.read.members, m) {
		l.drop()
		return nil
	}
	m.links[l] = struct{}{}
	return l
}

// ReadStatus is the read-only side in a gate's status.
type ReadStatus struct {
	Epoch   uint64             `json:"epoch"`
	Primary bool               `json:"primary,omitempty"` // with no member, readers are led to the primary
	Reason  string             `json:"reason,omitempty"`
	Members []ReadMemberStatus `json:"members"`
}

// ReadMemberStatus is one server that may be read.
type ReadMemberStatus struct {
	Host        string         `json:"host"`
	Target      string         `json:"target"`
	Keep        bool           `json:"keep,omitempty"`
	For         event.Duration `json:"for"` // until it is left without another order
	Connections int            `json:"connections"`
}

// readStatus reports the present. Callers hold g.mu.
func (g *Gate) readStatus(now time.Time) *ReadStatus {
	if len(g.spec.ReadListen) == 0 {
		return nil
	}
	s := &ReadStatus{Epoch: g.read.epoch, Primary: g.read.primary, Reason: g.read.reason}
	for _, m := range g.read.members {
		s.Members = append(s.Members, ReadMemberStatus{
			Host: m.Host, Target: m.Target, Keep: m.Keep, For: event.Duration(m.until.Sub(now)), Connections: len(m.links),
		})
	}
	return s
}
