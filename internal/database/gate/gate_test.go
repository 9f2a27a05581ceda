package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/event"
)

// gateSpecEnv makes this test binary the gate of a spec file, so that tests can kill one.
const gateSpecEnv = "HOLDFAST_TEST_GATE_SPEC"

func TestMain(m *testing.M) {
	if file := os.Getenv(gateSpecEnv); file != "" {
		spec, err := ReadSpec(file)
		if err == nil {
			err = Run(context.Background(), Config{Spec: spec, Log: slog.New(slog.DiscardHandler)})
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

var nextAddress atomic.Int32

// freeAddr is a loopback address and port that nobody else has.
func freeAddr(t testing.TB) string {
	t.Helper()
	n := nextAddress.Add(1)
	l, err := net.Listen("tcp", fmt.Sprintf("127.43.%d.%d:0", os.Getpid()%200+1, n%250+1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testSpec(t testing.TB) Spec {
	dir := t.TempDir()
	return Spec{
		Database: "orders", Host: "a1", Listen: []string{freeAddr(t)},
		Control: filepath.Join(dir, "gate.sock"), StateFile: filepath.Join(dir, "gate.json"),
		HoldMax: event.Duration(patience),
	}
}

// running is a gate of this process, its client, and how to end it.
type running struct {
	*Client
	spec Spec
	stop func()
}

func startGate(t testing.TB, spec Spec) *running {
	t.Helper()
	g, err := open(Config{Spec: spec, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.run(ctx) }()
	stopped := false
	r := &running{Client: Dial(spec.Control), spec: spec}
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("gate ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("gate did not end")
		}
	}
	t.Cleanup(r.stop)
	waitFor(t, "the gate answers", func() bool { _, err := r.Status(t.Context()); return err == nil })
	return r
}

func (r *running) order(t testing.TB, o Order) {
	t.Helper()
	if _, err := r.Order(t.Context(), o); err != nil {
		t.Fatalf("order %+v: %v", o, err)
	}
}

func (r *running) status(t testing.TB) Status {
	t.Helper()
	s, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// patience bounds what must happen, however busy the machine; nothing is asserted about speed.
const patience = 2 * time.Minute

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// startEcho is a server that gives its name and then every byte back.
func startEcho(t testing.TB, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.43.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l, name)
	return l.Addr().String()
}

func serveEcho(t testing.TB, l net.Listener, name string) {
	done := make(chan struct{})
	var conns atomic.Int64
	finished := make(chan struct{}, 1<<16)
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer func() { finished <- struct{}{} }()
				defer c.Close()
				if _, err := io.WriteString(c, name); err != nil {
					return
				}
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for range conns.Load() {
			<-finished
		}
	})
}

// connect is a client that expects to be led to the server named name.
func connect(t testing.TB, addr, name string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	got := make([]byte, len(name))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != name {
		t.Fatalf("led to %q (%v), want %q", got, err, name)
	}
	return c
}

func ping(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("sent %q, got %q", text, got)
	}
	return nil
}

func writeSpec(t testing.TB, s Spec) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
