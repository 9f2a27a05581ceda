package gate

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/event"
)

func TestManyClientsReachThePrimaryAndLoseNoByte(t *testing.T) {
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 1, State: Open, Target: startEcho(t, "p")})
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			c, err := net.Dial("tcp", g.spec.Listen[0])
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			want := make([]byte, 300<<10)
			rand.Read(want)
			var sending sync.WaitGroup
			sending.Go(func() {
				_, err := c.Write(want)
				if err == nil {
					err = c.(*net.TCPConn).CloseWrite()
				}
				if err != nil {
					t.Error(err)
				}
			})
			got, err := io.ReadAll(c)
			sending.Wait()
			if err != nil || !bytes.Equal(got, append([]byte("p"), want...)) {
				t.Errorf("got %d bytes back (%v), want %d: half-close must pass through", len(got), err, len(want)+1)
			}
		})
	}
	wg.Wait()
	waitFor(t, "all have left", func() bool { return g.status(t).Connections == 0 })
	s := g.status(t)
	if want := int64(60 * 300 << 10); s.BytesIn != want || s.BytesOut != want+60 || s.Accepted != 60 || s.Refused != 0 {
		t.Errorf("counted %+v, want %d bytes each way", s, want)
	}
}

func TestANewEpochCutsTheOldOneUnderLoad(t *testing.T) {
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 1, State: Open, Target: startEcho(t, "old")})
	var wg sync.WaitGroup
	var pings atomic.Int64
	for range 40 {
		c := connect(t, g.spec.Listen[0], "old")
		wg.Go(func() {
			for {
				if err := ping(c, "hello"); err != nil {
					if !isReset(err) {
						t.Errorf("cut client saw %v, want a reset", err)
					}
					return
				}
				pings.Add(1)
			}
		})
	}
	waitFor(t, "load runs", func() bool { return pings.Load() > 1000 })
	g.order(t, Order{Epoch: 2, State: Open, Target: startEcho(t, "new")})
	wg.Wait()
	if c := connect(t, g.spec.Listen[0], "new"); ping(c, "hi") != nil {
		t.Error("the new primary does not answer")
	}
}

func TestHeldClientsAreLedOnceItOpens(t *testing.T) {
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 3, State: Hold, Reason: "a primary is being made"})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c, err := net.Dial("tcp", g.spec.Listen[0])
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := ping(c, "x"); err != nil { // the echo server has no name here
				t.Errorf("held client: %v", err)
			}
		})
	}
	left, err := net.Dial("tcp", g.spec.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all are held", func() bool { return g.status(t).Held == 51 })
	left.Close()
	g.order(t, Order{Epoch: 3, State: Open, Target: startEcho(t, "")})
	wg.Wait()
	waitFor(t, "nobody is held", func() bool { return g.status(t).Held == 0 })
}

// A target that refuses (a server that still starts) is tried again, so that opening a little early costs nothing.
func TestOpenBeforeTheServerListens(t *testing.T) {
	g := startGate(t, testSpec(t))
	target := freeAddr(t)
	g.order(t, Order{Epoch: 1, State: Open, Target: target})
	got := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", g.spec.Listen[0])
		if err == nil {
			err = ping(c, "x")
			c.Close()
		}
		got <- err
	}()
	waitFor(t, "the client waits", func() bool { return g.status(t).Held == 1 })
	l, err := net.Listen("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l, "")
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestDrain(t *testing.T) {
	g := startGate(t, testSpec(t))
	target := startEcho(t, "p")
	g.order(t, Order{Epoch: 1, Generation: 1, State: Open, Target: target})
	c := connect(t, g.spec.Listen[0], "p")

	g.order(t, Order{Epoch: 1, Generation: 1, State: Hold, DrainFor: event.Duration(time.Hour)})
	if err := ping(c, "still here"); err != nil {
		t.Fatalf("a drain leaves what exists: %v", err)
	}
	g.order(t, Order{Epoch: 1, Generation: 1, State: Open, Target: target})
	if err := ping(c, "resumed"); err != nil {
		t.Fatalf("an abandoned switchover cuts nobody: %v", err)
	}
	g.order(t, Order{Epoch: 1, Generation: 1, State: Hold, DrainFor: event.Duration(20 * time.Millisecond)})
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("after the drain the client saw %v, want a reset", err)
	}
	if s := g.status(t); s.State != Hold || s.Connections != 0 {
		t.Errorf("after the drain: %+v", s)
	}
}

func TestCutShutsUntilSomethingNewer(t *testing.T) {
	g := startGate(t, testSpec(t))
	target := startEcho(t, "p")
	first := Order{Epoch: 7, Generation: 2, State: Open, Target: target}
	g.order(t, first)
	c := connect(t, g.spec.Listen[0], "p")

	if s, err := g.Cut(t.Context(), 6, ""); err != nil || s.State != Open {
		t.Fatalf("a fence of an older epoch changes nothing: %+v, %v", s, err)
	}
	if s, err := g.Cut(t.Context(), 7, "the agent is silent"); err != nil || s.State != Shut || s.Connections != 0 {
		t.Fatalf("cut: %+v, %v", s, err)
	}
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("cut client saw %v, want a reset", err)
	}
	_, err := g.Order(t.Context(), first)
	if stale, ok := errors.AsType[*StaleError](err); !ok || !stale.Cut || stale.HighestEpoch != 7 {
		t.Errorf("the order that was cut opened again: %v", err)
	}
	g.order(t, Order{Epoch: 7, Generation: 3, State: Open, Target: target})
	connect(t, g.spec.Listen[0], "p")
}

func TestTheGateFencesWhenNobodyExtends(t *testing.T) {
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 1, State: Open, Target: startEcho(t, "p")})
	c := connect(t, g.spec.Listen[0], "p")
	if _, err := g.Extend(t.Context(), 2, time.Hour); err == nil {
		t.Error("extended an epoch that it does not serve")
	}
	if s, err := g.Extend(t.Context(), 1, time.Hour); err != nil || s.Deadline == 0 {
		t.Fatalf("extend: %+v, %v", s, err)
	}
	if _, err := g.Extend(t.Context(), 1, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("client of a fenced primary saw %v, want a reset", err)
	}
	s := g.status(t)
	if s.State != Shut || s.Fenced == "" || !s.Cut {
		t.Errorf("after the deadline: %+v", s)
	}
	if _, err := g.Extend(t.Context(), 1, time.Hour); err == nil {
		t.Error("extended an epoch that was fenced")
	}
	g.order(t, Order{Epoch: 2, State: Open, Target: startEcho(t, "q")})
	if s := g.status(t); s.Fenced != "" || s.Deadline != 0 {
		t.Errorf("a deadline outlived its epoch: %+v", s)
	}
}

func TestAKilledBackendIsNoticedAtOnce(t *testing.T) {
	addr := freeAddr(t)
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperEcho$")
	cmd.Env = append(os.Environ(), "HOLDFAST_TEST_ECHO="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 1, State: Open, Target: addr})
	var clients []net.Conn
	for range 20 {
		clients = append(clients, connect(t, g.spec.Listen[0], "helper"))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: the error says only that
	for _, c := range clients {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client of a killed server saw %v", err)
		}
		c.Close()
	}
	waitFor(t, "no link is left", func() bool { return g.status(t).Connections == 0 })
}

// TestHelperEcho is no test: it is the server that another test kills.
func TestHelperEcho(t *testing.T) {
	addr := os.Getenv("HOLDFAST_TEST_ECHO")
	if addr == "" {
		t.Skip("only as a child of another test")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l, "helper")
	select {}
}

func TestAKilledGateKeepsItsEpoch(t *testing.T) {
	spec := testSpec(t)
	file := writeSpec(t, spec)
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), gateSpecEnv+"="+file)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed: the error says only that
	}
	c := Dial(spec.Control)
	defer c.Close()
	answers := func() bool { _, err := c.Status(t.Context()); return err == nil }

	target := startEcho(t, "p")
	cmd := start()
	waitFor(t, "the gate answers", answers)
	if _, err := c.Order(t.Context(), Order{Epoch: 41, Generation: 3, State: Open, Target: target}); err != nil {
		t.Error(err)
	}
	connect(t, spec.Listen[0], "p")
	kill(cmd)

	cmd = start()
	defer func() { kill(cmd) }()
	waitFor(t, "the gate answers again", answers)
	s, err := c.Status(t.Context())
	if err != nil || s.State != Hold || s.Epoch != 41 || s.Generation != 3 {
		t.Errorf("restarted gate: %+v, %v; want it to hold at 41", s, err)
	}
	if _, err := c.Order(t.Context(), Order{Epoch: 40, Generation: 9, State: Open, Target: target}); err == nil {
		t.Error("a restarted gate took a lower epoch")
	}
	if _, err := c.Order(t.Context(), Order{Epoch: 41, Generation: 3, State: Open, Target: target}); err != nil {
		t.Errorf("a restarted gate refused its own order: %v", err)
	}
	connect(t, spec.Listen[0], "p")
}

func TestAnotherGatesStateIsRefused(t *testing.T) {
	spec := testSpec(t)
	if err := os.WriteFile(spec.StateFile, []byte(`{"database":"stock","host":"a1","last":{"epoch":9}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(Config{Spec: spec, Log: discard()}); err == nil || !strings.Contains(err.Error(), "stock") {
		t.Errorf("opened with the state of another database: %v", err)
	}
}

func TestASecondGateOnTheSameSocketIsRefused(t *testing.T) {
	g := startGate(t, testSpec(t))
	second := g.spec
	second.Listen = []string{freeAddr(t)}
	if err := Run(t.Context(), Config{Spec: second, Log: discard()}); err == nil || !strings.Contains(err.Error(), "answers on it") {
		t.Errorf("second gate ended with %v", err)
	}
	g.status(t)
}

// An order is not taken when it cannot be written down, but what it closes is closed all the same.
func TestAFullDiskOpensNothingAndClosesAll(t *testing.T) {
	spec := testSpec(t)
	g := startGate(t, spec)
	g.order(t, Order{Epoch: 1, State: Open, Target: startEcho(t, "p")})
	c := connect(t, spec.Listen[0], "p")
	if err := os.Remove(spec.StateFile); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(spec.StateFile+"/in-the-way", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Order(t.Context(), Order{Epoch: 2, State: Open, Target: startEcho(t, "q")}); err == nil {
		t.Error("opened an epoch that is not on disk")
	}
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("client of the old epoch saw %v, want a reset", err)
	}
	if s := g.status(t); s.State != Hold {
		t.Errorf("state %s, want hold", s.State)
	}
	if err := os.RemoveAll(spec.StateFile); err != nil {
		t.Fatal(err)
	}
	g.order(t, Order{Epoch: 2, State: Open, Target: startEcho(t, "q")})
	connect(t, spec.Listen[0], "q")
}

func startup(code uint32, rest string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return append(binary.BigEndian.AppendUint32(b, code), rest...)
}

func TestRefusedClientsReadWhy(t *testing.T) {
	spec := testSpec(t)
	spec.HoldMax, spec.HeldMax = event.Duration(30*time.Millisecond), 1
	g := startGate(t, spec)
	plain := startup(protocol3<<16, "user\x00clinic\x00\x00")
	for _, c := range []struct {
		name  string
		order Order
		send  []byte
		want  []string // in what the client reads; nil = nothing at all
	}{
		{"shut answers a start-up packet with 57P03 and the reason",
			Order{Epoch: 1, State: Shut, Reason: "1 of 2 recruits is missing"}, plain,
			[]string{"E", "C57P03\x00", "Mthe database system has no primary\x00", "1 of 2 recruits is missing"}},
		{"shut answers a request for TLS like a server that cannot fork",
			Order{Epoch: 2, State: Shut}, startup(requestSSL, ""), []string{"E", "C57P03\x00"}},
		{"shut answers what follows a request for GSS",
			Order{Epoch: 3, State: Shut}, append(startup(requestGSS, ""), plain...), []string{"NE", "C57P03\x00"}},
		{"shut says nothing to a cancel request", Order{Epoch: 4, State: Shut}, startup(requestCancel, "12345678"), nil},
		{"shut says nothing to another protocol", Order{Epoch: 5, State: Shut}, []byte("GET / HTTP/1.1\r\n\r\n"), nil},
		{"hold refuses after its longest wait", Order{Epoch: 6, State: Hold}, plain, []string{"E", "C57P03\x00", "waited 30ms"}},
		{"open with a server that never listens refuses after the same wait",
			Order{Epoch: 7, State: Open, Target: freeAddr(t)}, plain, []string{"E", "C57P03\x00", "waited 30ms"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.order(t, c.order)
			got := converseOnce(t, spec.Listen[0], c.send)
			if c.want == nil && got != "" {
				t.Errorf("read %q, want nothing", got)
			}
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("read %q, want %q in it", got, w)
				}
			}
			if len(c.want) > 0 && !strings.HasPrefix(got, c.want[0]) {
				t.Errorf("read %q, want it to begin with %q", got, c.want[0])
			}
		})
	}
}

// isReset says whether err is how a client learns that its connection was ended from outside: the kernel tells it
// once, to whichever of reading and writing asks first, and the other one only that nobody is there any more.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

// converseOnce is all that a client reads who says one thing.
func converseOnce(t *testing.T, addr string, send []byte) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(send); err != nil && !isReset(err) {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil && !isReset(err) {
		t.Fatal(err)
	}
	return string(got)
}

func TestOnlySoManyWait(t *testing.T) {
	spec := testSpec(t)
	spec.HeldMax = 3
	g := startGate(t, spec)
	for range 3 {
		c, err := net.Dial("tcp", spec.Listen[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	waitFor(t, "three are held", func() bool { return g.status(t).Held == 3 })
	got := converseOnce(t, spec.Listen[0], startup(protocol3<<16, "user\x00clinic\x00\x00"))
	if !strings.Contains(got, "C53300\x00") {
		t.Errorf("the fourth read %q, want 53300", got)
	}
}

func TestBadRequestsAreAnswered(t *testing.T) {
	g := startGate(t, testSpec(t))
	c, err := net.Dial("unix", g.spec.Control)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(c)
	for _, line := range []string{"not json", "{}", `{"order":{"epoch":1,"state":"ajar"}}`} {
		if _, err := fmt.Fprintln(c, line); err != nil {
			t.Fatal(err)
		}
		got, err := in.ReadString('\n')
		if err != nil || !strings.Contains(got, `"ok":false`) || !strings.Contains(got, `"error":`) {
			t.Errorf("%q was answered %q (%v)", line, got, err)
		}
	}
}

// A client's server may answer just when the gate ends: nobody could cut that link any more.
func TestAGateThatEndsLeadsNobodyAnyMore(t *testing.T) {
	g, err := open(Config{Spec: testSpec(t), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := startEcho(t, "primary")
	g.mu.Lock()
	g.set(Open, server, "")
	changed := g.changed
	g.mu.Unlock()
	dialled, err := net.Dial("tcp", startEcho(t, "whoever"))
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	ours := dialled.(*net.TCPConn)
	if err := g.leave(); err != nil {
		t.Fatal(err)
	}
	if l := g.dial(t.Context(), ours, server, make(chan struct{})); l != nil {
		l.drop()
		t.Error("a client is led by a gate that has ended")
	}
	select {
	case <-changed:
	default:
		t.Error("who waits for a primary is not told")
	}
	g.conns.Wait()
}
