package orders_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/internal/clock"
	"holdfast/internal/orders"
)

type question struct {
	Say string `json:"say"`
}

type answer struct {
	Heard string `json:"heard"`
}

// obey runs a server that repeats what it hears, behind a prefix, until stop is called.
func obey(t *testing.T, path, prefix string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := orders.Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	s := orders.Server{LineMax: 1 << 10, Log: slog.New(slog.DiscardHandler), Clock: clock.Real(), Answer: func(_ context.Context, line []byte) any {
		var q question
		if err := json.Unmarshal(line, &q); err != nil {
			return answer{Heard: "nothing"}
		}
		return answer{Heard: prefix + q.Say}
	}}
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return sync.OnceFunc(func() { cancel(); done.Wait() })
}

func socket(t *testing.T) string {
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a temporary folder
	return filepath.Join(dir, "s")
}

func TestAnOrderIsAnsweredAlsoByTheProcessThatComesAfter(t *testing.T) {
	path := socket(t)
	stop := obey(t, path, "first ")
	c := orders.Dial[question, answer](path)
	defer func() { _ = c.Close() }() // the test ends anyway
	if a, err := c.Call(t.Context(), question{"hold"}); err != nil || a.Heard != "first hold" {
		t.Fatalf("got %+v, %v", a, err)
	}
	stop()
	if _, err := c.Call(t.Context(), question{"hold"}); err == nil {
		t.Fatal("nobody is there, and the call succeeded")
	}
	defer obey(t, path, "second ")()
	if a, err := c.Call(t.Context(), question{"open"}); err != nil || a.Heard != "second open" {
		t.Fatalf("got %+v, %v", a, err)
	}
}

func TestASocketIsTakenOnlyFromTheDead(t *testing.T) {
	path := socket(t)
	stop := obey(t, path, "")
	if l, err := orders.Listen(t.Context(), path); err == nil {
		_ = l.Close()
		t.Fatal("a socket that answers was taken")
	}
	stop()
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false) // as a killed process leaves it
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	defer obey(t, path, "")()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestACallEndsWithItsContextAndSpoilsNoLaterOne(t *testing.T) {
	path := socket(t)
	l, err := orders.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var done sync.WaitGroup
	done.Go(func() { // takes the first order and never answers it
		if c, err := l.Accept(); err == nil {
			_, _ = c.Read(make([]byte, 64))
			cancel()
			_, _ = c.Read(make([]byte, 64)) // until the client has given up
			_ = c.Close()
		}
		_ = l.Close()
	})
	c := orders.Dial[question, answer](path)
	defer func() { _ = c.Close() }() // the test ends anyway
	if _, err := c.Call(ctx, question{"hold"}); err == nil {
		t.Fatal("an answer came from nowhere")
	}
	done.Wait()
	defer obey(t, path, "")()
	if a, err := c.Call(t.Context(), question{"open"}); err != nil || a.Heard != "open" {
		t.Errorf("got %+v, %v", a, err)
	}
}
