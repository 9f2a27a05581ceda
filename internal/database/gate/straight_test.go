package gate

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// deafServer is an address that accepts nothing: its queue is full, so that the kernel drops who knocks, as a host that
// is off does.
func deafServer(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 43, 0, 3}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 43, 0, 3}), uint16(port))
	waitFor(t, "the queue is full", func() bool {
		c, done, err := connectingTo(unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: addr.Addr().As4()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		return !done
	})
	return addr.String()
}

func TestAClientOfAServerThatDoesNotAnswerIsHeldAndFollowsTheNextOrder(t *testing.T) {
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 1, State: Open, Target: deafServer(t)})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			c, err := net.Dial("tcp", g.spec.Listen[0])
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := ping(c, "x"); err != nil {
				t.Errorf("a client that waited was not led: %v", err)
			}
		})
	}
	waitFor(t, "all knocked", func() bool { return g.status(t).Accepted == 20 })
	g.order(t, Order{Epoch: 2, State: Open, Target: startEcho(t, "")})
	wg.Wait()
}

func TestAServerThatNeverAnswersHoldsItsClients(t *testing.T) {
	t.Parallel()
	g := startGate(t, testSpec(t))
	g.order(t, Order{Epoch: 1, State: Open, Target: deafServer(t)})
	c, err := net.Dial("tcp", g.spec.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waitFor(t, "the client is held", func() bool { return g.status(t).Held == 1 })
	g.order(t, Order{Epoch: 1, Generation: 1, State: Open, Target: startEcho(t, "")})
	if err := ping(c, "x"); err != nil {
		t.Error(err)
	}
}

// However orders and clients cross, a client is led to a server that an order named, or its connection breaks, and
// nothing is left of any of them.
func TestClientsThatComeWhileOrdersChangeLeaveNothingBehind(t *testing.T) {
	before := descriptors(t)
	t.Run("", func(t *testing.T) {
		g := startGate(t, testSpec(t))
		names := []string{"even", "oddly"}
		targets := []string{startEcho(t, names[0]), startEcho(t, names[1]), deafServer(t)}
		var led, broken atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 60 {
					c, err := net.Dial("tcp", g.spec.Listen[0])
					if err != nil {
						broken.Add(1)
						continue
					}
					greeting := make([]byte, 4)
					_, err = io.ReadFull(c, greeting)
					switch {
					case err != nil:
						broken.Add(1)
					case string(greeting) != names[0] && string(greeting) != names[1][:4]:
						t.Errorf("led to %q", greeting)
					default:
						led.Add(1)
					}
					c.Close()
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		for epoch := uint64(1); ; epoch++ {
			g.order(t, Order{Epoch: epoch, State: Open, Target: targets[epoch%3]})
			select {
			case <-done:
				t.Logf("%d led, %d broken, %d epochs", led.Load(), broken.Load(), epoch)
				if led.Load() == 0 {
					t.Error("nobody was led")
				}
				waitFor(t, "all links have ended", func() bool { s := g.status(t); return s.Connections == 0 && s.Held == 0 })
				return
			default:
			}
		}
	})
	waitFor(t, fmt.Sprintf("only %d descriptors are open, as before", before), func() bool { return descriptors(t) <= before })
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
