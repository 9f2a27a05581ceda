package gate

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database/kernelpath"
	"holdfast/internal/database/kernelpath/spacetest"
	"holdfast/internal/event"
)

// kernelSpec is a gate with the kernel path, inside a namespace.
func kernelSpec(t *testing.T) Spec {
	spec := testSpec(t)
	spec.Listen = []string{"10.233.0.1:5432"}
	spec.Application, spec.Path = "clinic", PathKernel
	return spec
}

func echoAt(t *testing.T, addr, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l, name)
	return addr
}

func wasCut(c net.Conn) bool {
	_, err := c.Read(make([]byte, 1))
	return isReset(err)
}

func rulesNow(t *testing.T) string {
	t.Helper()
	return spacetest.Run(t, "nft", "list", "ruleset")
}

func TestTheKernelPathFollowsOrdersAndOutlivesItsGate(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	spec := kernelSpec(t)
	first, second := echoAt(t, "10.233.0.2:7430", "first"), echoAt(t, "10.233.0.3:7430", "second")
	process := startProcess(t, spec)
	control := Dial(spec.Control)
	defer control.Close()
	status := func() Status {
		t.Helper()
		s, err := control.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	order := func(o Order) {
		t.Helper()
		if _, err := control.Order(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	order(Order{Epoch: 1, Generation: 1, State: Open, Target: first})
	led := connect(t, spec.Listen[0], "first")
	if s := status(); s.Path != PathKernel || s.Accepted != 0 {
		t.Fatalf("the client came through the gate: %+v", s)
	}

	process.kill(t)
	if err := ping(led, "without a gate"); err != nil {
		t.Errorf("a session ended with the gate that it did not need: %v", err)
	}
	connect(t, spec.Listen[0], "first").Close()

	process = startProcess(t, spec)
	if s := status(); s.State != Hold || s.Epoch != 1 || s.Path != PathKernel {
		t.Errorf("the next gate begins with %+v", s)
	}
	order(Order{Epoch: 1, Generation: 1, State: Open, Target: first})
	if err := ping(led, "taken over"); err != nil {
		t.Errorf("the next gate cut a session of the order that it follows: %v", err)
	}
	if _, err := control.Order(t.Context(), Order{Epoch: 0, State: Hold}); err == nil {
		t.Error("an order of no epoch was taken")
	}

	order(Order{Epoch: 2, State: Hold, Reason: "a primary is being made"})
	if !wasCut(led) {
		t.Error("a session on the former primary goes on")
	}
	held, err := net.Dial("tcp", spec.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	waitFor(t, "a client is held", func() bool { return status().Held == 1 })
	if _, err := control.Order(t.Context(), Order{Epoch: 1, Generation: 9, State: Open, Target: first}); err == nil {
		t.Error("an order of a lower epoch was taken")
	}
	if strings.Contains(rulesNow(t), "dnat") {
		t.Error("a refused order made rules")
	}
	order(Order{Epoch: 2, State: Open, Target: second})
	want := make([]byte, len("second"))
	if _, err := io.ReadFull(held, want); err != nil || string(want) != "second" {
		t.Errorf("the held client read %q: %v", want, err)
	}
	next := connect(t, spec.Listen[0], "second")
	if s := status(); s.Accepted != 1 || s.Connections != 1 {
		t.Errorf("one client was held, and the gate counts %+v", s)
	}
	if _, err := control.Cut(t.Context(), 2, "the agent is silent"); err != nil {
		t.Fatal(err)
	}
	if !wasCut(next) || !wasCut(held) {
		t.Error("a fence left a session")
	}

	// Killed after a fence, and started again: nothing leads anywhere.
	process.kill(t)
	process = startProcess(t, spec)
	if s := status(); s.State != Hold || strings.Contains(rulesNow(t), "dnat") {
		t.Errorf("after a fence: %+v\n%s", s, rulesNow(t))
	}

	// Killed while rules lead, and started without the kernel path: they go, and so do their sessions.
	order(Order{Epoch: 3, State: Open, Target: first})
	last := connect(t, spec.Listen[0], "first")
	process.kill(t)
	spec.Path = PathProxy
	startProcess(t, spec)
	if !wasCut(last) || rulesNow(t) != "" {
		t.Errorf("rules of the path that was given up still stand:\n%s", rulesNow(t))
	}
}

// A drain leaves sessions that go past the gate too, and an order back to the same server keeps them.
func TestADrainAndAGoodEndOfTheKernelPath(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	g := startGate(t, kernelSpec(t))
	first := echoAt(t, "10.233.0.2:7430", "first")
	open := Order{Epoch: 1, State: Open, Target: first}
	g.order(t, open)
	c := connect(t, g.spec.Listen[0], "first")
	g.order(t, Order{Epoch: 1, State: Hold, DrainFor: event.Duration(time.Hour)})
	if err := ping(c, "still here"); err != nil {
		t.Fatalf("a drain leaves what exists: %v", err)
	}
	g.order(t, open)
	if err := ping(c, "resumed"); err != nil {
		t.Fatalf("an abandoned switchover cuts nobody: %v", err)
	}
	g.order(t, Order{Epoch: 1, State: Hold, DrainFor: event.Duration(20 * time.Millisecond)})
	if !wasCut(c) {
		t.Error("after the drain a session goes on")
	}
	g.order(t, open)
	spacetest.Run(t, "nft", "flush", "ruleset") // anybody may
	g.order(t, open)
	c = connect(t, g.spec.Listen[0], "first")
	if s := g.status(t); s.Path != PathKernel || s.Accepted != 0 {
		t.Errorf("flushed rules were not made again: %+v", s)
	}
	g.stop()
	if !wasCut(c) || rulesNow(t) != "" {
		t.Errorf("the gate ended and left\n%s", rulesNow(t))
	}
}

func TestWhereTheKernelPathCannotBeTheGateSaysWhyAndServes(t *testing.T) {
	spec := testSpec(t) // on loopback, from which nothing leads to another host
	spec.Application, spec.Path = "clinic", PathKernel
	g := startGate(t, spec)
	g.order(t, Order{Epoch: 1, State: Open, Target: startEcho(t, "p")})
	connect(t, spec.Listen[0], "p")
	if s := g.status(t); s.Path != PathProxy || !strings.Contains(s.PathReason, "loopback") {
		t.Errorf("status %+v", s)
	}
}

// stubborn is a kernel path that fails as often as it is told to, and writes down what was asked of it.
type stubborn struct {
	tag      kernelpath.Tag
	ok       bool
	failing  int
	asked    []string
	sessions bool
}

func (s *stubborn) Now() (kernelpath.Tag, bool, error) { return s.tag, s.ok, nil }

func (s *stubborn) Set(tag kernelpath.Tag) error {
	if s.failing > 0 {
		s.failing--
		return errors.New("the kernel refuses")
	}
	s.tag, s.ok = tag, true
	s.asked = append(s.asked, fmt.Sprintf("%d to %t", tag.Epoch, tag.Leads()))
	s.sessions = s.sessions || tag.Leads()
	return nil
}

func (s *stubborn) Cut(netip.AddrPort) (int, error) {
	s.asked = append(s.asked, "cut")
	if !s.tag.Leads() { // rules that lead make new ones
		s.sessions = false
	}
	return 0, nil
}

func (s *stubborn) Remove() error { s.ok = false; return nil }

// Rules that do not change when they must are an error of the order, and are changed as soon as the kernel lets them.
func TestRulesThatDoNotChangeAreTriedUntilTheyDo(t *testing.T) {
	g, err := open(Config{Spec: Spec{
		Database: "orders", Host: "a1", Listen: []string{"127.0.0.1:1"}, Control: "unused", StateFile: filepath.Join(t.TempDir(), "state"),
	}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	kernel := &stubborn{}
	g.rules.path = kernel
	obey := func(o Order) error { return g.Obey(t.Context(), o) }
	if err := obey(Order{Epoch: 1, State: Open, Target: "10.0.0.1:5432"}); err != nil {
		t.Fatal(err)
	}
	kernel.failing = 3
	if err := obey(Order{Epoch: 2, State: Open, Target: "10.0.0.2:5432"}); err == nil {
		t.Fatal("opened while rules still lead to the former primary")
	}
	if g.Status().State == Open || !kernel.sessions {
		t.Fatalf("state %s", g.Status().State)
	}
	for range 3 {
		g.tick(t.Context())
	}
	if kernel.sessions || kernel.tag.Leads() || kernel.tag.Epoch != 2 {
		t.Errorf("left are %+v", kernel)
	}
	if err := obey(Order{Epoch: 2, State: Open, Target: "10.0.0.2:5432"}); err != nil {
		t.Fatal(err)
	}
	g.Cut(2, "the agent is silent")
	want := []string{"1 to true", "cut", "cut", "cut", "2 to false", "cut", "2 to true", "2 to false", "cut"}
	if !slices.Equal(kernel.asked, want) {
		t.Errorf("asked %q, want %q: first the rule to the gate, then the cut, then the rule to the next", kernel.asked, want)
	}
}

// process is a gate that can be killed.
type process struct{ cmd *exec.Cmd }

func startProcess(t *testing.T, spec Spec) process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), gateSpecEnv+"="+writeSpec(t, spec))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := process{cmd}
	t.Cleanup(func() { p.kill(t) })
	c := Dial(spec.Control)
	defer c.Close()
	waitFor(t, "the gate answers", func() bool { _, err := c.Status(t.Context()); return err == nil })
	return p
}

func (p process) kill(t *testing.T) {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	_ = p.cmd.Wait() // killed, perhaps twice: the error says only that
}
