package gate

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkRelay compares what a relay costs with a direct connection and with splice(2):
// small = one 100-byte question and answer, as a short query; bulk = 256 KiB one way, as COPY.
//
// 2026-11-20, 2 cores shared with others, see docs/decisions/0003 for what was seen and chosen.
func BenchmarkRelay(b *testing.B) {
	ways := []struct {
		name string
		pump func(dst, src *net.TCPConn) error // nil = direct
	}{
		{"direct", nil},
		{"buffer", bufferPump()},
		{"splice", splice},
	}
	for _, w := range ways {
		b.Run("small/"+w.name, func(b *testing.B) {
			c := relayed(b, w.pump)
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
		b.Run("bulk/"+w.name, func(b *testing.B) {
			c := relayed(b, w.pump)
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

func bufferPump() func(dst, src *net.TCPConn) error {
	pool := &sync.Pool{New: newBuffer}
	var n atomic.Int64
	return func(dst, src *net.TCPConn) error { return pump(dst, src, pool, &n) }
}

// splice is the way that was tried against pump: io.Copy between TCP connections uses splice(2).
func splice(dst, src *net.TCPConn) error {
	_, err := io.Copy(dst, src)
	return err
}

// relayed is a client's connection to an echo server, through a relay made of way.
func relayed(b *testing.B, way func(dst, src *net.TCPConn) error) net.Conn {
	target := startEcho(b, "")
	if way == nil {
		return connect(b, target, "")
	}
	l, err := net.Listen("tcp", "127.43.0.2:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client := connect(b, l.Addr().String(), "")
	in, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	out, err := net.Dial("tcp", target)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = way(out.(*net.TCPConn), in.(*net.TCPConn)); out.Close() })
	wg.Go(func() { _ = way(in.(*net.TCPConn), out.(*net.TCPConn)); in.Close() })
	b.Cleanup(func() {
		client.Close()
		wg.Wait()
	})
	return client
}
