package heartbeat_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/cluster/clustertest"
	"holdfast/internal/cluster/heartbeat"
)

// A first packet that was lost is sent again by TCP after a second. Nothing waits for that.
func TestAConnectionThatHangsKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	base, _ := w.serve(t, "b1", "127.41.3.1:0", p)
	l := newListener(t, w, "b2", map[string]string{"b1": base})
	var dials atomic.Int64
	over := make(chan struct{})
	l.Connecting(func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			<-over // whatever its limit is: as long as this test wants
			return nil, errors.New("it hung")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	})
	listen(t, l)
	t.Cleanup(func() { close(over) }) // before the listener is waited for
	clustertest.Eventually(t, has(l, "b1", "null"))
	publish(t, p, `"still"`)
	clustertest.Eventually(t, has(l, "b1", `"still"`))
}

// muted is a network that swallows what connections of before bring, as a cut link does: no end, no reset.
type muted struct {
	net.Conn
	deaf *atomic.Bool
}

func (c muted) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.deaf.Load() {
			return n, err
		}
	}
}

// A stream that stands and brings nothing is not waited for either, and what it still brings is late.
func TestAStreamThatFellSilentIsOvertaken(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	base, _ := w.serve(t, "b1", "127.41.3.1:0", p)
	l := heartbeat.NewListener(map[string]string{"b1": base}, w.client(t, "b2"), clock.Real(), quick, slog.New(slog.DiscardHandler))
	var cut atomic.Bool
	var dials atomic.Int64
	l.Connecting(func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil && dials.Add(1) == 1 {
			conn = muted{Conn: conn, deaf: &cut}
		}
		return conn, err
	})
	listen(t, l)
	clustertest.Eventually(t, has(l, "b1", "null"))
	cut.Store(true)
	publish(t, p, `"after the cut"`)
	clustertest.Eventually(t, has(l, "b1", `"after the cut"`))
	seq := l.Latest()["b1"].Seq
	clustertest.Eventually(t, func() error {
		if b := l.Latest()["b1"]; b.Seq <= seq+5 {
			return fmt.Errorf("beat %d after %d", b.Seq, seq)
		}
		return nil
	})
	if n := dials.Load(); n > 100 {
		t.Errorf("%d connections were made", n)
	}
}

// While a peer is not there few connections hang at once, and its return is heard.
func TestAPeerThatIsAwayIsNotStormed(t *testing.T) {
	w := newWorld(t)
	p := heartbeat.NewPublisher("b1", clock.Real())
	base, _ := w.serve(t, "b1", "127.41.3.1:0", p)
	l := newListener(t, w, "b2", map[string]string{"b1": base})
	var hanging, most atomic.Int64
	back := make(chan struct{})
	l.Connecting(func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-back:
			return (&net.Dialer{}).DialContext(ctx, network, address)
		default:
		}
		n := hanging.Add(1)
		defer hanging.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	listen(t, l)
	clustertest.Eventually(t, func() error {
		if l.Latest()["b1"].Age < 2*time.Second {
			return errors.New("not long enough")
		}
		return nil
	})
	close(back)
	clustertest.Eventually(t, has(l, "b1", "null"))
	if n := most.Load(); n < 2 || n > 5 {
		t.Errorf("%d connections hung at once, want 2 to 5", n)
	}
}
