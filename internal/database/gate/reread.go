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

// ErrFixed refuses a spec that takes another process: another database, host, socket, state file or heartbeat address, or
// other limits.
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
	limits := func(x Spec) [5]int64 {
		return [5]int64{int64(x.HoldMax), int64(x.ReadHold), int64(x.AgentSilent), int64(x.HeldMax), int64(x.ConnMax)}
	}
	switch {
	case !slices.Equal(fixed(s), fixed(next)), limits(s) != limits(next):
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
	g.serveBy(next)
	g.log.InfoContext(ctx, "gate serves by another spec", "listen", next.Listen, "read_listen", next.ReadListen, "path", next.Path)
	if err := g.takePath(path, why); err != nil {
		g.mu.Lock()
		g.spec.Path = now.Path // so that the same spec asked for again ends what is left
		g.mu.Unlock()
		return fmt.Errorf("serve by another spec: %w", err)
	}
	return nil
}

// serveBy makes next the spec, whose doors are open.
func (g *Gate) serveBy(next Spec) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spec = next
	if len(next.ReadListen) > 0 {
		return
	}
	for _, m := range g.read.members {
		m.cut()
	}
	g.read = reading{changed: g.read.changed}
	g.readChanged()
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
// there shall be none any more are the sessions ended that they led. Callers hold g.orders.
func (g *Gate) takePath(path shortcut, why string) error {
	if _, same := path.(kept); same {
		return nil
	}
	if path == nil {
		return g.endShortcut(why)
	}
	g.kernel.Lock() // nobody talks with the kernel by the former path any more
	g.mu.Lock()
	g.rules.path, g.rules.why = path, why
	if g.state == Open {
		g.rules.anew = true // the same tag leads from other addresses
		g.leadOn()
	}
	g.mu.Unlock()
	g.kernel.Unlock()
	return g.follow()
}

// endShortcut takes the rules away and ends what they led; why says that there are none though the plan asks for them.
// Until it succeeds the rules are what they were: whoever asks for the spec again tries again.
func (g *Gate) endShortcut(why string) error {
	g.mu.Lock()
	path := g.rules.path
	g.cutLed()
	g.mu.Unlock()
	if path != nil {
		if err := errors.Join(g.follow(), g.removeRules(path)); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rules = rules{why: why}
	return nil
}

func (g *Gate) removeRules(path shortcut) error {
	g.kernel.Lock()
	defer g.kernel.Unlock()
	return path.Remove()
}
