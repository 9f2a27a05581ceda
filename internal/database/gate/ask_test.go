package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"holdfast/internal/event"
)

// twoGates are the gates of two hosts that can ask each other. The agent of the first counts as silent soon.
func twoGates(t *testing.T) (quiet, other *running) {
	t.Helper()
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(certs.Certificate())
	start := func(silent time.Duration, spec Spec, to string) *running {
		spec.Others = []Other{{Host: "example.com", Address: to}} // what httptest certifies
		spec.AgentSilent = event.Duration(silent)
		return startAs(t, Config{
			Spec: spec, Log: discard(), Beats: http.NotFoundHandler(),
			BeatsTLS: &tls.Config{Certificates: certs.TLS.Certificates}, OthersTLS: &tls.Config{RootCAs: roots},
		})
	}
	certs.Close()
	a, b := readSpec(t), readSpec(t)
	a.BeatListen, b.BeatListen = freeAddr(t), freeAddr(t)
	return start(200*time.Millisecond, a, b.BeatListen), start(time.Hour, b, a.BeatListen)
}

func startAs(t *testing.T, cfg Config) *running {
	t.Helper()
	g, err := open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.run(ctx) }()
	r := &running{Client: Dial(cfg.Control), spec: cfg.Spec}
	t.Cleanup(func() {
		_ = r.Close() // the gate ends anyway
		cancel()
		if err := <-done; err != nil {
			t.Errorf("gate ended with %v", err)
		}
	})
	waitFor(t, "the gate answers", func() bool { _, err := r.Status(t.Context()); return err == nil })
	return r
}

func TestAGateWhoseAgentIsSilentFollowsANewerOrderOfAnother(t *testing.T) {
	t.Parallel()
	quiet, other := twoGates(t)
	former, next := startEcho(t, "b1"), startEcho(t, "b2")
	quiet.order(t, Order{Epoch: 3, Generation: 7, State: Open, Target: former})
	quiet.reads(t, ReadOrder{Epoch: 3, Members: []ReadMember{may("b2", next, 0), may("b3", startEcho(t, "b3"), 1)}})
	c := connect(t, quiet.spec.Listen[0], "b1")
	old, name := reader(t, quiet)
	if name != "b2" {
		t.Fatalf("the reader was led to %s", name)
	}

	other.order(t, Order{Epoch: 3, Generation: 6, State: Hold})
	other.order(t, Order{Epoch: 4, Generation: 8, State: Open, Target: next})
	waitFor(t, "it follows", func() bool { return quiet.status(t).Epoch == 4 && quiet.status(t).State == Open })
	isCut(t, "a session with the former primary", c)
	isCut(t, "a reader's session with the new primary", old)
	connect(t, quiet.spec.Listen[0], "b2")
	for range 3 {
		if _, name := reader(t, quiet); name != "b3" {
			t.Errorf("a reader was led to %s", name)
		}
	}
	if _, err := quiet.Order(t.Context(), Order{Epoch: 3, Generation: 9, State: Open, Target: former}); err == nil {
		t.Error("an order of the epoch before was taken after that")
	}
}

// An agent that cannot read the agreed state repeats the last order that it knows, which the gate is beyond.
func TestAnAgentThatIsBehindItsGateCountsAsSilent(t *testing.T) {
	t.Parallel()
	quiet, other := twoGates(t)
	quiet.order(t, Order{Epoch: 3, Generation: 7, State: Open, Target: startEcho(t, "b1")})
	other.order(t, Order{Epoch: 4, Generation: 8, State: Hold})
	waitFor(t, "it follows", func() bool { return quiet.status(t).Epoch == 4 })
	behind, end := context.WithCancel(t.Context())
	repeated := make(chan struct{})
	go func() {
		defer close(repeated)
		for behind.Err() == nil {
			if _, err := quiet.Order(behind, Order{Epoch: 3, Generation: 7, State: Hold}); err == nil {
				t.Error("an order of the epoch before was taken")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	next := startEcho(t, "b2")
	other.order(t, Order{Epoch: 5, Generation: 9, State: Open, Target: next})
	waitFor(t, "it asks on", func() bool { s := quiet.status(t); return s.Epoch == 5 && s.Target == next })
	end()
	<-repeated
}

func TestAGateKeepsItsOrderWhenNobodyKnowsANewerOne(t *testing.T) {
	t.Parallel()
	quiet, other := twoGates(t)
	target := startEcho(t, "b1")
	quiet.order(t, Order{Epoch: 3, Generation: 7, State: Open, Target: target})
	c := connect(t, quiet.spec.Listen[0], "b1")
	other.order(t, Order{Epoch: 3, Generation: 7, State: Hold, Reason: "of its own host"})
	other.order(t, Order{Epoch: 3, Generation: 7, State: Hold})
	older := twoSeconds()
	for time.Now().Before(older) {
		if err := ping(c, "still here"); err != nil {
			t.Fatalf("a session of a primary that is still the one: %v", err)
		}
	}
	if s := quiet.status(t); s.State != Open || s.Target != target {
		t.Errorf("it is %s, to %s", s.State, s.Target)
	}
}

// twoSeconds is long enough for two questions to other gates.
func twoSeconds() time.Time { return time.Now().Add(2 * askEvery) }

func TestWhichOrderIsTheNewerOne(t *testing.T) {
	o := func(epoch, generation uint64, s State) Order {
		return Order{Epoch: epoch, Generation: generation, State: s}
	}
	for _, c := range []struct {
		name string
		a, b Order
		want bool
	}{
		{"a higher epoch", o(4, 1, Hold), o(3, 9, Open), true},
		{"a lower epoch is not", o(3, 9, Open), o(4, 1, Hold), false},
		{"a higher generation", o(4, 2, Hold), o(4, 1, Open), true},
		{"open beside a hold of the same generation", o(4, 2, Open), o(4, 2, Hold), true},
		{"a hold beside open is not, for it may be of that host alone", o(4, 2, Hold), o(4, 2, Open), false},
		{"the same is not", o(4, 2, Open), o(4, 2, Open), false},
		{"no order at all is not", Order{}, Order{}, false},
	} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
