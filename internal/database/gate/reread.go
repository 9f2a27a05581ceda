package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync/atomic"

	"holdfast/internal/database/kernelpath"
)

// A plan that is applied changes ports and paths while clients are connected. The gate takes the new spec over as it
// runs: what is new is opened before anything is given up, a session goes on whatever address it came by, and only
// sessions that the kernel led are ended where the kernel shall lead no more.

// ErrFixed refuses a spec that takes another process: another database, host, socket, state file or heartbeat address.
var ErrFixed = errors.New("the gate must be started anew for this spec")

// entrance is one address where clients are taken.
type entrance struct {
	listener *net.TCPListener
	reads    atomic.Bool // its clients only read
	closed   chan struct{}
}

// addresses are where the spec wants clients to be taken, and whether they only read.
func (s Spec) addresses() map[string]bool {
	all := map[string]bool{}
	for _, f := range s.Former {
		if !f.Ended {
			all[f.Address] = f.Reads
		}
	}
	for _, a := range s.Listen {
		all[a] = false
	}
	for _, a := range s.ReadListen {
		all[a] = true
	}
	return all
}

// gaveUp reports whether an address is only served on.
func (s Spec) gaveUp(addr string) bool {
	return !slices.Contains(s.Listen, addr) && !slices.Contains(s.ReadListen, addr)
}

// Equal reports whether two specs say the same, however they came here.
func (s Spec) Equal(other Spec) bool {
	a, errA := json.Marshal(s)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// becomes refuses a spec that this process cannot turn to.
func (s Spec) becomes(next Spec) error {
	fixed := func(x Spec) []string {
		return []string{x.Database, x.Host, x.Control, x.StateFile, x.CertDir, x.BeatListen, x.Application}
	}
	switch {
	case !slices.Equal(fixed(s), fixed(next)):
		return ErrFixed
	case len(next.Listen) == 0:
		return errors.New("listen is empty")
	case next.Path != "" && next.Path != PathProxy && next.Path != PathKernel:
		return fmt.Errorf("path %q is not proxy or kernel", next.Path)
	}
	return nil
}

// openDoors opens what next wants and is not open yet: all of it, or nothing; at the start without the ports of an
// earlier plan that cannot be had. Callers hold g.orders, or serve nobody yet.
func (g *Gate) openDoors(ctx context.Context, next Spec) error {
	opened := map[string]*entrance{}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false) // PostgreSQL's clients do not speak it, and each of them would pay for it
	for addr, reads := range next.addresses() {
		if g.doors[addr] != nil {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil && g.accept == nil && next.gaveUp(addr) { // somebody else's by now: it must not keep clients from the ports of the plan
			g.log.WarnContext(ctx, "port of an earlier plan not served on", "listen", addr, "err", err)
			continue
		}
		if err != nil {
			for _, e := range opened {
				_ = e.listener.Close() // nobody was let in yet
			}
			return fmt.Errorf("listen for clients of %s: %w", g.cfg.Database, err)
		}
		e := &entrance{listener: l.(*net.TCPListener), closed: make(chan struct{})}
		e.reads.Store(reads)
		opened[addr] = e
	}
	for addr, e := range opened {
		g.doors[addr] = e
		if g.accept != nil {
			g.accept(e)
		}
	}
	return nil
}

// Reread makes the gate serve by next. When an address cannot be had, nothing changes.
func (g *Gate) Reread(ctx context.Context, next Spec) error {
	g.orders.Lock()
	defer g.orders.Unlock()
	g.mu.Lock()
	now := g.spec
	g.mu.Unlock()
	if now.Equal(next) {
		return nil
	}
	if err := now.becomes(next); err != nil {
		return fmt.Errorf("serve by another spec: %w", err)
	}
	path, why, err := g.shortcutFor(ctx, now, next)
	if err != nil {
		return fmt.Errorf("serve by another spec: %w", err)
	}
	if err := g.openDoors(ctx, next); err != nil {
		return fmt.Errorf("serve by another spec: %w", err)
	}
	wanted := next.addresses()
	for addr, e := range g.doors {
		reads, stays := wanted[addr]
		if !stays {
			close(e.closed)
			delete(g.doors, addr)
			continue
		}
		e.reads.Store(reads)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spec = next
	if len(next.ReadListen) == 0 {
		for _, m := range g.read.members {
			m.cut()
		}
		g.read = reading{changed: g.read.changed}
		g.readChanged()
	}
	g.log.InfoContext(ctx, "gate serves by another spec", "listen", next.Listen, "read_listen", next.ReadListen, "path", next.Path)
	if err := g.takePath(ctx, path, why); err != nil {
		g.spec.Path = now.Path // so that the same spec asked for again ends what is left
		return fmt.Errorf("serve by another spec: %w", err)
	}
	return nil
}

// kept stands for the shortcut that there is.
type kept struct{ shortcut }

// shortcutFor makes the shortcut that next wants: nil = none, [kept] = the one that there is. why says that it is none
// though the plan asks for one.
func (g *Gate) shortcutFor(ctx context.Context, now, next Spec) (path shortcut, why string, err error) {
	before, errBefore := now.kernelConfig()
	after, errAfter := next.kernelConfig()
	if err := errors.Join(errBefore, errAfter); err != nil {
		return nil, "", err
	}
	switch {
	case next.Application == "" || next.Path != PathKernel:
		return nil, "", nil
	case now.Path == PathKernel && reflect.DeepEqual(before, after):
		return kept{}, "", nil
	}
	opened, openErr := kernelpath.Open(after)
	if openErr != nil {
		g.log.WarnContext(ctx, "kernel path not used: clients go through the gate", "err", openErr)
		return nil, openErr.Error(), nil
	}
	return opened, "", nil
}

// takePath puts another shortcut in the place of the one that there is. Rules go on leading where they led; only where
// there shall be none any more are the sessions ended that they led. Callers hold g.mu.
func (g *Gate) takePath(ctx context.Context, path shortcut, why string) error {
	if _, same := path.(kept); same {
		return nil
	}
	if path == nil {
		err := g.endShortcut()
		g.rules.why = why
		return err
	}
	g.rules.path, g.rules.why = path, why
	if g.state != Open {
		return nil
	}
	tag, err := g.tag(g.led.Last)
	if err == nil {
		g.settle(ctx)
		g.rules.ledTo = tag.Target
		err = path.Set(tag)
	}
	if err != nil {
		g.rules.why = err.Error()
		g.log.WarnContext(ctx, "rules not made: clients go through the gate", "err", err)
	}
	return nil
}

// endShortcut takes the rules away and ends what they led. Callers hold g.mu.
func (g *Gate) endShortcut() error {
	if g.rules.path == nil {
		return nil
	}
	err := errors.Join(g.unlead(), g.cutLed(), g.rules.path.Remove())
	if err == nil {
		g.rules = rules{}
		return nil
	}
	return err // tried again by whoever asks for the spec again
}
