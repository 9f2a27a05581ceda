package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"holdfast/internal/database/kernelpath"
)

// The paths that clients may take to the primary.
const (
	PathProxy  = "proxy"  // through this process
	PathKernel = "kernel" // this host's own processes go straight to the server; all others through this process
)

// shortcut is what the gate asks of a kernel path; [kernelpath.Path] says what each does.
type shortcut interface {
	Now() (tag kernelpath.Tag, ok bool, err error)
	Set(tag kernelpath.Tag) error
	Cut(server netip.AddrPort) (ended int, err error)
	Remove() error
}

// rules is what the gate wants of its shortcut, and what it knows of it. Gate.mu guards it, and whoever holds that lock
// only writes down what is wanted; [Gate.follow] talks with the kernel, without that lock.
type rules struct {
	path  shortcut       // nil = every client goes through the gate
	why   string         // that path is nil though the plan asks for one, or that rules could not be made
	ledTo netip.AddrPort // a server that sessions may have been led to since the last cut; the zero value = none

	want kernelpath.Tag // what the table shall say
	asks bool           // it may say something else
	anew bool           // it must be made again even if it says so
	cut  bool           // the sessions that were led have to end, before the table leads anywhere

	failed bool // the last try
}

// kernelConfig is the spec as the kernel path wants it.
func (s Spec) kernelConfig() (kernelpath.Config, error) {
	c := kernelpath.Config{Application: s.Application, Host: s.Host, Database: s.Database}
	for _, l := range s.Listen {
		a, err := netip.ParseAddrPort(l)
		if err != nil {
			return c, fmt.Errorf("read a listener's address: %w", err)
		}
		c.Listen = append(c.Listen, a)
	}
	for _, f := range s.Former {
		a, err := netip.ParseAddrPort(f.Address)
		if err != nil {
			return c, fmt.Errorf("read a former listener's address: %w", err)
		}
		switch {
		case f.Reads: // never led by rules
		case f.Ended:
			c.Left = append(c.Left, a)
		default:
			c.Listen = append(c.Listen, a)
		}
	}
	for _, p := range s.Peers {
		a, err := netip.ParseAddr(p)
		if err != nil {
			return c, fmt.Errorf("read a peer's address: %w", err)
		}
		c.Peers = append(c.Peers, a)
	}
	return c, nil
}

// openShortcut finds out whether this host can have the path that the plan asks for, and takes over or takes away what an
// earlier gate left.
func (g *Gate) openShortcut(ctx context.Context) error {
	if g.cfg.Application == "" {
		return nil // a gate by hand, as in a bench: it never made rules
	}
	conf, err := g.cfg.kernelConfig()
	if err != nil {
		return err
	}
	if g.cfg.Path == PathKernel {
		path, err := kernelpath.Open(conf)
		if err == nil {
			g.rules.path = path
			return g.takeOver()
		}
		g.rules.why = err.Error()
		g.log.WarnContext(ctx, "kernel path not used: clients go through the gate", "err", err)
	}
	if err := kernelpath.Clean(conf); err != nil { // the servers themselves still know who is primary
		g.log.ErrorContext(ctx, "rules of an earlier gate not removed", "err", err)
	}
	return nil
}

// takeOver judges the rules that an earlier gate left. They stay when they follow the very order that this gate last took:
// a gate that was killed does not end the sessions that need no gate. Anything else leads nowhere from here on.
func (g *Gate) takeOver() error {
	tag, ok, err := g.rules.path.Now()
	if err != nil {
		return err
	}
	if !ok || g.follows(tag) {
		return nil
	}
	return g.follow()
}

// follows says whether rules that an earlier gate left follow the last order, and takes over what tag says of it.
func (g *Gate) follows(tag kernelpath.Tag) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	last := g.led.Last
	if tag.Epoch > last.Epoch || (tag.Epoch == last.Epoch && tag.Generation > last.Generation) {
		// The state file is older than the rules: an epoch never falls.
		g.led = g.led.take(Order{Epoch: tag.Epoch, Generation: tag.Generation, State: Hold, Reason: "taken from the rules in the kernel"})
		g.unkept, g.cuts = true, g.cuts+1
	}
	g.rules.ledTo = tag.Target
	want, err := g.tag(last)
	follows := err == nil && last.State == Open && !g.led.Cut && want == tag
	if follows {
		g.target = last.Target // the order to open it again cuts nobody
	} else {
		g.cutLed()
	}
	return follows
}

// tag is what the rules say when they follow o.
func (g *Gate) tag(o Order) (kernelpath.Tag, error) {
	tag := kernelpath.Tag{Epoch: o.Epoch, Generation: o.Generation}
	if o.State != Open {
		return tag, nil
	}
	target, err := netip.ParseAddrPort(o.Target)
	if err != nil {
		return tag, fmt.Errorf("lead to %s in the kernel: %w", o.Target, err)
	}
	tag.Target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	return tag, nil
}

// leadOn wants the rules to follow an order to open, which is on disk. Callers hold g.mu.
func (g *Gate) leadOn() {
	if g.rules.path == nil {
		return
	}
	tag, err := g.tag(g.led.Last)
	if err != nil {
		g.noRules(err)
		return
	}
	g.rules.want, g.rules.asks = tag, true // an order is repeated often, and rules may be flushed by anybody
}

// noRules says why clients come through the gate. Callers hold g.mu.
func (g *Gate) noRules(err error) {
	g.rules.why = err.Error()
	g.log.Warn("rules not made: clients go through the gate", "err", err)
}

// toGate is what the rules say when they lead to the gate. Callers hold g.mu.
func (g *Gate) toGate() kernelpath.Tag {
	return kernelpath.Tag{Epoch: g.led.Last.Epoch, Generation: g.led.Last.Generation}
}

// unlead wants the rules to lead to the gate. Callers hold g.mu.
func (g *Gate) unlead() {
	g.rules.want, g.rules.asks = g.toGate(), g.rules.ledTo.IsValid()
	g.wakeTime()
}

// cutLed wants them to lead to the gate, and the sessions that they led to end. Callers hold g.mu.
func (g *Gate) cutLed() {
	g.unlead()
	g.rules.cut = g.rules.ledTo.IsValid()
}

// owedPause is between two tries of what the kernel refused.
const owedPause = 100 * time.Millisecond

// follow makes rules and sessions in the kernel what the gate wanted when it was called. The error says what still leads
// to a former primary; it is owed, and [Gate.keepTime] tries it again. Where the way to the primary alone cannot be made,
// clients come through the gate, which the next order tries to mend. Callers do not hold g.mu.
func (g *Gate) follow() error {
	g.kernel.Lock()
	defer g.kernel.Unlock()
	err := g.followCut()
	if err == nil {
		err = g.followWant()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && g.rules.failed {
		g.log.Info("rules in the kernel follow again")
	}
	g.rules.failed = err != nil
	return err
}

// followCut ends the sessions that have to end, once no rule makes new ones. Callers hold g.kernel.
func (g *Gate) followCut() error {
	g.mu.Lock()
	path, due, server, tag := g.rules.path, g.rules.cut, g.rules.ledTo, g.toGate()
	g.mu.Unlock()
	if path == nil || !due {
		return nil
	}
	err := path.Set(tag)
	_, cutErr := path.Cut(server) // whatever became of the rule: what still leads makes sessions that need another cut
	if err := errors.Join(err, cutErr); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rules.cut, g.rules.ledTo = false, netip.AddrPort{} // nobody led meanwhile
	if g.rules.want == tag {
		g.rules.asks = false
	}
	return nil
}

// followWant makes the table say what is wanted. Callers hold g.kernel.
func (g *Gate) followWant() error {
	g.mu.Lock()
	r := g.rules
	if r.path == nil || !r.asks || r.cut { // a cut that came meanwhile is the caller's who wanted it
		g.mu.Unlock()
		return nil
	}
	if r.want.Leads() {
		g.rules.ledTo = r.want.Target
	}
	g.mu.Unlock()

	err := r.lead()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.rules.want != r.want: // whoever changed it follows too
	case err != nil && !r.want.Leads():
		return err
	case err != nil:
		g.rules.asks = false
		g.noRules(err)
	default:
		g.rules.asks, g.rules.anew = false, false
		if r.want.Leads() {
			g.rules.why = ""
		}
	}
	return nil
}

// lead makes the table say what is wanted, unless it does.
func (r rules) lead() error {
	if r.want.Leads() && !r.anew {
		if now, ok, err := r.path.Now(); err == nil && ok && now == r.want {
			return nil
		}
	}
	return r.path.Set(r.want)
}

// closeShortcut takes the rules away and ends what they led, as the end of this process ends all others.
func (g *Gate) closeShortcut() error { return g.endShortcut("") }
