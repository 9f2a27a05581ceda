package gate

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func (r *running) reread(t testing.TB, change func(*Spec)) {
	t.Helper()
	next := r.spec
	next.Listen, next.ReadListen, next.Former = slices.Clone(next.Listen), slices.Clone(next.ReadListen), slices.Clone(next.Former)
	change(&next)
	if _, err := r.Reread(t.Context(), next); err != nil {
		t.Fatalf("reread %+v: %v", next, err)
	}
	r.spec = next
	if s := r.status(t); !s.Spec.Equal(next) {
		t.Fatalf("it says that it serves by %+v", s.Spec)
	}
}

func refusedAt(t testing.TB, addr string) {
	t.Helper()
	waitFor(t, "nobody listens on "+addr, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

// A port changes while clients are connected: sessions go on, both ports serve for a while, then the former is closed
// and its sessions still go on.
func TestAPortChangesUnderItsSessions(t *testing.T) {
	g := startGate(t, testSpec(t))
	was, is := g.spec.Listen[0], freeAddr(t)
	g.order(t, Order{Epoch: 3, State: Open, Target: startEcho(t, "b1")})
	old := connect(t, was, "b1")
	g.reread(t, func(s *Spec) { s.Listen, s.Former = []string{is}, []Former{{Address: was, Until: 1}} })
	for _, c := range []net.Conn{old, connect(t, was, "b1"), connect(t, is, "b1")} {
		if err := ping(c, "still"); err != nil {
			t.Error(err)
		}
	}
	g.reread(t, func(s *Spec) { s.Former[0].Ended = true })
	refusedAt(t, was)
	if err := ping(old, "on"); err != nil {
		t.Errorf("a session of the former port was cut: %v", err)
	}
	g.order(t, Order{Epoch: 4, State: Open, Target: startEcho(t, "b2")})
	isCut(t, "a session of the former port, when the primary changed", old)
	connect(t, is, "b2")
}

// The former port belongs to somebody else when the gate is started: clients of the plan's own port are served.
func TestAFormerPortThatIsTakenKeepsNobodyOut(t *testing.T) {
	spec := testSpec(t)
	spec.Former = []Former{{Address: startEcho(t, "other"), Until: 1}}
	g := startGate(t, spec)
	g.order(t, Order{Epoch: 3, State: Open, Target: startEcho(t, "b1")})
	connect(t, spec.Listen[0], "b1")
	connect(t, spec.Former[0].Address, "other")
}

func TestReadersComeAndGoWithThePlan(t *testing.T) {
	g := startGate(t, testSpec(t))
	write, read := g.spec.Listen[0], freeAddr(t)
	g.order(t, Order{Epoch: 3, State: Open, Target: startEcho(t, "pp")})
	writer := connect(t, write, "pp")
	order := ReadOrder{Epoch: 3, Members: []ReadMember{may("b2", startEcho(t, "b2"), 0)}}
	if _, err := g.Read(t.Context(), order); err == nil {
		t.Error("a gate without a read-only address took readers' order")
	}
	g.reread(t, func(s *Spec) { s.ReadListen = []string{read} })
	g.reads(t, order)
	c, name := reader(t, g)
	if name != "b2" {
		t.Fatalf("led to %s", name)
	}
	g.reread(t, func(s *Spec) { s.Listen, s.ReadListen = []string{read}, []string{write} }) // the two ports change places
	connect(t, read, "pp")
	if _, name := reader(t, g); name != "b2" {
		t.Errorf("led to %s", name)
	}
	if err := ping(writer, "still"); err != nil {
		t.Error(err)
	}
	g.reread(t, func(s *Spec) { s.ReadListen = nil })
	isCut(t, "a reader where there is no read-only address any more", c)
	if err := ping(writer, "still"); err != nil {
		t.Error(err)
	}
	refusedAt(t, write)
}

func TestASpecThatCannotBeHadChangesNothing(t *testing.T) {
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 3, State: Open, Target: startEcho(t, "b1")})
	c := connect(t, g.spec.Listen[0], "b1")
	taken := startEcho(t, "xx")
	for name, change := range map[string]func(*Spec){
		"a port of somebody else": func(s *Spec) { s.Listen = []string{taken} },
		"no port":                 func(s *Spec) { s.Listen = nil },
		"a path of no meaning":    func(s *Spec) { s.Path = "tunnel" },
		"another limit":           func(s *Spec) { s.ConnMax = 5 },
		"another database":        func(s *Spec) { s.Database = "other" },
	} {
		next := g.spec
		change(&next)
		_, err := g.Reread(t.Context(), next)
		if err == nil || errors.Is(err, ErrFixed) != strings.HasPrefix(name, "another") {
			t.Errorf("%s: %v", name, err)
		}
		if s := g.status(t); !s.Spec.Equal(g.spec) || s.State != Open {
			t.Errorf("%s changed the gate: %+v", name, s)
		}
	}
	if err := ping(c, "still"); err != nil {
		t.Error(err)
	}
	connect(t, g.spec.Listen[0], "b1")
}
