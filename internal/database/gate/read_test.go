package gate

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/internal/event"
)

func readSpec(t testing.TB) Spec {
	s := testSpec(t)
	s.ReadListen = []string{freeAddr(t)}
	return s
}

// may is a member that may be read for long.
func may(host, target string, near int) ReadMember {
	return ReadMember{Host: host, Target: target, Near: near, For: event.Duration(time.Hour)}
}

func (r *running) reads(t testing.TB, o ReadOrder) {
	t.Helper()
	if _, err := r.Read(t.Context(), o); err != nil {
		t.Fatalf("read order %+v: %v", o, err)
	}
}

// reader connects to the read-only address and gives the name of the server that it was led to.
func reader(t testing.TB, r *running) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", r.spec.ReadListen[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	name := make([]byte, 2)
	if _, err := io.ReadFull(c, name); err != nil {
		t.Fatalf("reader not led: %v", err)
	}
	return c, string(name)
}

// isCut waits for the reset of a connection.
func isCut(t testing.TB, what string, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("%s: %v, want a reset", what, err)
	}
}

// turnedAway is what a client reads that asks for a session and is refused.
func turnedAway(t testing.TB, addr string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{0, 0, 0, 9, 0, 3, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

func TestReadersSpreadOverStandbysAndPreferWhatIsNear(t *testing.T) {
	g := startGate(t, readSpec(t))
	g.order(t, Order{Epoch: 4, State: Open, Target: startEcho(t, "pp")})
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{may("b2", startEcho(t, "b2"), 1), may("b3", startEcho(t, "b3"), 0)}})
	if _, name := reader(t, g); name != "b3" {
		t.Errorf("the first reader was led to %s, not to the nearest", name)
	}
	counts := map[string]int{"b3": 1}
	for range 19 {
		_, name := reader(t, g)
		counts[name]++
	}
	if counts["b2"] != 10 || counts["b3"] != 10 {
		t.Errorf("20 readers were spread as %v", counts)
	}
	connect(t, g.spec.Listen[0], "pp")
	s := g.status(t).Read
	if len(s.Members) != 2 || s.Members[0].Connections != 10 {
		t.Errorf("status %+v", s)
	}
}

func TestAMemberThatIsNamedNoMoreIsCutAndOneThatIsKeptIsNot(t *testing.T) {
	g := startGate(t, readSpec(t))
	b2, b3 := may("b2", startEcho(t, "b2"), 0), may("b3", startEcho(t, "b3"), 1)
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{b2, b3}})
	first, _ := reader(t, g)
	second, name := reader(t, g)
	if name != "b3" {
		t.Fatalf("the second reader was led to %s", name)
	}
	kept := b2
	kept.Keep = true
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{kept, b3}})
	for range 3 {
		if _, name := reader(t, g); name != "b3" {
			t.Errorf("a reader was led to %s, which takes no new sessions", name)
		}
	}
	if err := ping(first, "still here"); err != nil {
		t.Errorf("a session of a kept member: %v", err)
	}
	g.reads(t, ReadOrder{Epoch: 5, Members: []ReadMember{b3}})
	isCut(t, "a session of a member that left", first)
	if err := ping(second, "still here"); err != nil {
		t.Errorf("a session of the member that stays: %v", err)
	}
	moved := may("b3", startEcho(t, "xx"), 1)
	g.reads(t, ReadOrder{Epoch: 5, Members: []ReadMember{moved}})
	isCut(t, "a session of a member whose address changed", second)
	if _, name := reader(t, g); name != "xx" {
		t.Errorf("led to %s", name)
	}
}

func TestAMemberIsLeftWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	g := startGate(t, readSpec(t))
	long := may("b2", startEcho(t, "b2"), 0)
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{long}})
	c, _ := reader(t, g)
	short := long
	short.For = event.Duration(100 * time.Millisecond)
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{short}})
	isCut(t, "a session of a member that nothing was heard of", c)
	if said := turnedAway(t, g.spec.ReadListen[0]); !strings.Contains(said, "no standby may be read now") || !strings.Contains(said, "b2") {
		t.Errorf("the client is told %q", said)
	}
	late := short
	late.For = -1
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{late}})
	if s := g.status(t).Read; len(s.Members) != 0 {
		t.Errorf("an order that came too late is followed: %+v", s)
	}
}

func TestReadersGoToThePrimaryOnlyIfTheOrderSaysSo(t *testing.T) {
	t.Parallel()
	g := startGate(t, readSpec(t))
	g.order(t, Order{Epoch: 4, State: Open, Target: startEcho(t, "pp")})
	g.reads(t, ReadOrder{Epoch: 4, Reason: "b2: may be 12s behind"})
	if said := turnedAway(t, g.spec.ReadListen[0]); !strings.Contains(said, "57P03") || !strings.Contains(said, "b2: may be 12s behind") {
		t.Errorf("the client is told %q", said)
	}
	g.reads(t, ReadOrder{Epoch: 4, Primary: true})
	c, name := reader(t, g)
	if name != "pp" {
		t.Errorf("led to %s", name)
	}
	g.reads(t, ReadOrder{Epoch: 4, Primary: true, Members: []ReadMember{may("b2", startEcho(t, "b2"), 0)}})
	if _, name := reader(t, g); name != "b2" {
		t.Errorf("led to %s, and a standby may be read", name)
	}
	if err := ping(c, "still here"); err != nil {
		t.Errorf("a session that was led to the primary: %v", err)
	}
	g.order(t, Order{Epoch: 5, State: Hold})
	isCut(t, "a reader's session with the primary of an older epoch", c)
}

func TestTheReadOnlyAddressDoesNotFallBackToAPrimaryOfAnOlderEpoch(t *testing.T) {
	t.Parallel()
	g := startGate(t, readSpec(t))
	g.order(t, Order{Epoch: 4, State: Open, Target: startEcho(t, "pp")})
	g.reads(t, ReadOrder{Epoch: 5, Primary: true, Reason: "epoch 5"})
	if said := turnedAway(t, g.spec.ReadListen[0]); !strings.Contains(said, "epoch 5") {
		t.Errorf("the client is told %q", said)
	}
}

func TestAReadOrderOfAnOlderEpochIsRefused(t *testing.T) {
	g := startGate(t, readSpec(t))
	stale, isStale := (*StaleError)(nil), false
	refused := func(o ReadOrder) {
		t.Helper()
		_, err := g.Read(t.Context(), o)
		if stale, isStale = errors.AsType[*StaleError](err); !isStale || stale.HighestEpoch != 6 {
			t.Errorf("epoch %d: %v, %+v", o.Epoch, err, stale)
		}
	}
	g.reads(t, ReadOrder{Epoch: 6})
	refused(ReadOrder{Epoch: 5})
	other := startGate(t, readSpec(t))
	other.order(t, Order{Epoch: 6, State: Hold})
	g = other
	refused(ReadOrder{Epoch: 5, Members: []ReadMember{may("b2", startEcho(t, "b2"), 0)}})
	none := startGate(t, testSpec(t))
	if _, err := none.Read(t.Context(), ReadOrder{Epoch: 6}); err == nil {
		t.Error("a gate without a read-only address takes a read order")
	}
}

func TestAReaderIsLedToAnotherStandbyWhenOneDoesNotAnswer(t *testing.T) {
	g := startGate(t, readSpec(t))
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{may("b2", freeAddr(t), 0), may("b3", startEcho(t, "b3"), 1)}})
	for range 4 {
		if _, name := reader(t, g); name != "b3" {
			t.Errorf("led to %s", name)
		}
	}
}

func TestAReaderThatComesBeforeTheFirstOrderIsLedOnceItIsThere(t *testing.T) {
	spec := readSpec(t)
	spec.ReadHold = event.Duration(patience)
	g := startGate(t, spec)
	target := startEcho(t, "b2")
	c, err := net.Dial("tcp", g.spec.ReadListen[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	waitFor(t, "it is held", func() bool { return g.status(t).Held == 1 })
	g.reads(t, ReadOrder{Epoch: 4, Members: []ReadMember{may("b2", target, 0)}})
	name := make([]byte, 2)
	if _, err := io.ReadFull(c, name); err != nil || string(name) != "b2" {
		t.Errorf("led to %q, %v", name, err)
	}
}
