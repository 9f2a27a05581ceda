package gate

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkLink compares what a link costs with a direct connection:
// small = one 100-byte question and answer, as a short query; bulk = 256 KiB one way, as COPY. What a database's
// clients feel of it is measured by `make bench-listener`.
func BenchmarkLink(b *testing.B) {
	for _, way := range []struct {
		name string
		dial func(b *testing.B, target string) net.Conn
	}{
		{"direct", func(b *testing.B, target string) net.Conn { return connect(b, target, "") }},
		{"loop", linked},
	} {
		b.Run("small/"+way.name, func(b *testing.B) {
			c := way.dial(b, startEcho(b, ""))
			buf := make([]byte, 100)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("bulk/"+way.name, func(b *testing.B) {
			c := way.dial(b, startEcho(b, ""))
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := c.Write(buf); err != nil {
						b.Error(err)
					}
				})
				if _, err := io.CopyN(io.Discard, c, int64(len(buf))); err != nil {
					b.Fatal(err)
				}
				wg.Wait()
			}
		})
	}
}

// linked is a client's connection to target through a loop.
func linked(b *testing.B, target string) net.Conn {
	lp, stop := startLoop(b)
	var led sync.WaitGroup
	var in, out atomic.Int64
	client, _ := linkThrough(b, lp, target, &in, &out, &led)
	b.Cleanup(func() {
		_ = client.Close() // the link ends with it
		led.Wait()
		stop()
	})
	return client
}

// linkThrough is a client's connection to target through lp; led is done when the link has ended.
func linkThrough(t testing.TB, lp *loop, target string, in, out *atomic.Int64, led *sync.WaitGroup) (*net.TCPConn, *link) {
	t.Helper()
	l, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newLink(accepted.(*net.TCPConn), server.(*net.TCPConn), in, out)
	if err != nil {
		t.Fatal(err)
	}
	led.Add(1)
	k.done = led.Done
	lp.take(k)
	return client.(*net.TCPConn), k
}
