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

// rules is the gate's hand on its shortcut. It is guarded by Gate.mu: the kernel answers within milliseconds, and a fence
// that returned before the rules had changed would be none.
type rules struct {
	path  shortcut       // nil = every client goes through the gate
	why   string         // that path is nil though the plan asks for one, or that rules could not be made
	ledTo netip.AddrPort // a server that sessions may have been led to since the last cut; the zero value = none

	// What did not succeed is tried again until it does.
	owesHold bool // rules may still lead to ledTo
	owesCut  bool // sessions may still be there
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
	if !ok {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	last := g.led.Last
	if tag.Epoch > last.Epoch || (tag.Epoch == last.Epoch && tag.Generation > last.Generation) {
		// The state file is older than the rules: an epoch never falls.
		g.led = g.led.take(Order{Epoch: tag.Epoch, Generation: tag.Generation, State: Hold, Reason: "taken from the rules in the kernel"})
		g.unkept, g.cuts = true, g.cuts+1
	}
	g.rules.ledTo = tag.Target
	if want, err := g.tag(last); err == nil && last.State == Open && !g.led.Cut && want == tag {
		g.target = last.Target // the order to open it again cuts nobody
		return nil
	}
	return errors.Join(g.unlead(), g.cutLed())
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

// leadOn makes the rules follow an order to open, which is on disk. When that fails clients still come through the gate.
// Callers hold g.mu.
func (g *Gate) leadOn(ctx context.Context) {
	if g.rules.path == nil {
		return
	}
	tag, err := g.tag(g.led.Last)
	if err == nil {
		now, ok, nowErr := g.rules.path.Now() // an order is repeated often, and rules may be flushed by anybody
		if nowErr == nil && ok && now == tag {
			g.rules.why = ""
			return
		}
		g.settle(ctx)
		g.rules.ledTo = tag.Target
		if err = g.rules.path.Set(tag); err == nil {
			g.rules.owesHold = false
		}
	}
	if err != nil {
		g.rules.why = err.Error()
		g.log.WarnContext(ctx, "rules not made: clients go through the gate", "err", err)
		return
	}
	g.rules.why = ""
}

// unlead makes the rules lead to the gate. Callers hold g.mu.
func (g *Gate) unlead() error {
	if g.rules.path == nil || !g.rules.ledTo.IsValid() {
		return nil
	}
	err := g.rules.path.Set(kernelpath.Tag{Epoch: g.led.Last.Epoch, Generation: g.led.Last.Generation})
	g.rules.owesHold = err != nil
	g.wakeTime()
	return err
}

// cutLed ends the sessions that rules led. Callers hold g.mu, and have called unlead.
func (g *Gate) cutLed() error {
	if g.rules.path == nil || !g.rules.ledTo.IsValid() {
		return nil
	}
	_, err := g.rules.path.Cut(g.rules.ledTo)
	g.rules.owesCut = err != nil || g.rules.owesHold // rules that still lead make sessions that need another cut
	if !g.rules.owesCut {
		g.rules.ledTo = netip.AddrPort{}
	}
	g.wakeTime()
	return err
}

// owedPause is between two tries of what the kernel refused.
const owedPause = 100 * time.Millisecond

// owes says whether the rules or their sessions are not yet as the gate's state has them.
func (r rules) owes() bool { return r.owesHold || r.owesCut }

// settle tries again what did not succeed. Callers hold g.mu.
func (g *Gate) settle(ctx context.Context) {
	if !g.rules.owes() {
		return
	}
	var errs []error
	if g.rules.owesHold {
		errs = append(errs, g.unlead())
	}
	if g.rules.owesCut {
		errs = append(errs, g.cutLed())
	}
	if err := errors.Join(errs...); err != nil {
		g.log.ErrorContext(ctx, "rules in the kernel still lead to a former primary", "err", err)
		return
	}
	g.log.InfoContext(ctx, "rules in the kernel follow again")
}

// closeShortcut takes the rules away and ends what they led, as the end of this process ends all others.
func (g *Gate) closeShortcut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.endShortcut()
}
