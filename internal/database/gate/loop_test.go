package gate

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// speech is what one end of a link does, from a draw.
type speech struct {
	size  int  // bytes it says
	chunk int  // in one write
	gulp  int  // in one read
	reset bool // it breaks the connection after its last byte, where others half-close
	late  bool // it reads only once it has said everything
}

func drawSpeech(t *rapid.T, who string) speech {
	return speech{
		size: rapid.SampledFrom([]int{0, 1, 100, bufSize - 1, bufSize, bufSize + 1, 700_000}).Draw(t, who+" size"), chunk: rapid.IntRange(300, 200_000).Draw(t, who+" chunk"),
		gulp: rapid.IntRange(300, 100_000).Draw(t, who+" gulp"), reset: rapid.IntRange(0, 4).Draw(t, who+" reset") == 0,
		late: rapid.Bool().Draw(t, who+" late"),
	}
}

// pattern tells a byte that is lost, doubled or of the other end.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i%251) + byte(i/251%7)
	}
	return b
}

// Whatever is said in whatever pieces arrives whole and in order, and a regular end after it; when one end breaks off,
// the other has read a beginning of what was said and learns of the break.
func TestALoopLosesNoByteAndNoEnd(t *testing.T) {
	lp, stop := startLoop(t)
	defer stop()
	rapid.Check(t, func(rt *rapid.T) {
		a, b := drawSpeech(rt, "client"), drawSpeech(rt, "server")
		if a.late && b.late {
			b.late = false // both would wait for room for ever
		}
		var in, out atomic.Int64
		var led sync.WaitGroup
		client, server := linkedEnds(t, lp, &in, &out, &led)
		var heardA, heardB []byte // by the client, by the server
		var errA, errB error
		var wait sync.WaitGroup
		wait.Go(func() { heardA, errA = a.live(client, pattern(a.size, 1)) })
		wait.Go(func() { heardB, errB = b.live(server, pattern(b.size, 100)) })
		wait.Wait()
		led.Wait()
		whole := !a.reset && !b.reset
		for _, c := range []struct {
			who         string
			said, heard []byte
			err         error
			count       int64
		}{
			{"client", pattern(a.size, 1), heardB, errB, in.Load()},
			{"server", pattern(b.size, 100), heardA, errA, out.Load()},
		} {
			switch {
			case whole && (c.err != nil || !bytes.Equal(c.heard, c.said)):
				rt.Errorf("of %d bytes that the %s said %d were heard: %v", len(c.said), c.who, len(c.heard), c.err)
			case whole && c.count != int64(len(c.said)):
				rt.Errorf("%d bytes of the %s were counted as %d", len(c.said), c.who, c.count)
			case !bytes.HasPrefix(c.said, c.heard):
				rt.Errorf("what was heard of the %s (%d bytes) is no beginning of what it said", c.who, len(c.heard))
			}
		}
		if !a.reset && b.reset && errA == nil && len(heardA) < b.size {
			rt.Errorf("the server broke off after %d bytes, and the client heard %d and a good-bye", b.size, len(heardA))
		}
	})
}

// live says and hears until both sides have ended.
func (s speech) live(c *net.TCPConn, say []byte) (heard []byte, err error) {
	var wait sync.WaitGroup
	said := make(chan struct{})
	var broke error // the kernel tells a break once, to whoever asks first: here it may be the one who writes
	wait.Go(func() {
		defer close(said)
		for len(say) > 0 {
			n, err := c.Write(say[:min(s.chunk, len(say))])
			if err != nil {
				broke = err
				return
			}
			say = say[n:]
		}
		if s.reset {
			reset(c)
			return
		}
		broke = c.CloseWrite()
	})
	if s.late {
		<-said
	}
	buf := make([]byte, s.gulp)
	for {
		n, readErr := c.Read(buf)
		heard = append(heard, buf[:n]...)
		if readErr != nil {
			err = readErr
			break
		}
	}
	wait.Wait()
	_ = c.Close() // closed by a reset, perhaps
	if errors.Is(err, io.EOF) {
		err = broke
	}
	return heard, err
}

// A client that goes on speaking to a server that has ended the session is cut after a while, for nobody listens.
func TestAClientThatDoesNotLeaveAfterItsServerIsCut(t *testing.T) {
	lp, stop := startLoop(t)
	defer stop()
	lp.farewell = 20 * time.Millisecond // nothing runs through it yet
	var in, out atomic.Int64
	var led sync.WaitGroup
	client, server := linkedEnds(t, lp, &in, &out, &led)
	defer client.Close()
	defer server.Close()
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, client); n != 0 || err != nil && !isReset(err) { // a reset when it looks late
		t.Fatalf("the client read %d bytes and %v, want the server's end", n, err)
	}
	led.Wait()
	if _, err := server.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the server read %v, want a reset", err)
	}
}

// A reset from outside strikes whatever the loop is doing, and never another link that got the same numbers.
func TestResetsFromOutsideStrikeOnlyTheirOwnLink(t *testing.T) {
	lp, stop := startLoop(t)
	defer stop()
	echo := startEcho(t, "")
	var in, out atomic.Int64
	var led, wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 50 {
				c, k := linkThrough(t, lp, echo, &in, &out, &led)
				other, _ := linkThrough(t, lp, echo, &in, &out, &led)
				var striking sync.WaitGroup
				striking.Go(k.reset)
				for ping(c, "struck") == nil {
				}
				striking.Wait()
				k.reset() // again, when its numbers may be another's
				if err := ping(other, "spared"); err != nil {
					t.Errorf("a link that was not reset: %v", err)
				}
				_ = c.Close()
				_ = other.Close()
			}
		})
	}
	wait.Wait()
	led.Wait()
}

func startLoop(t testing.TB) (lp *loop, stop func()) {
	t.Helper()
	lp, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	lp.farewell = time.Minute
	var running sync.WaitGroup
	running.Go(lp.run)
	return lp, func() { lp.stop(); running.Wait() }
}

// linkedEnds are both ends of a link, with buffers at the ends that are small, so that the loop meets full sockets, but not smaller
// than one segment of loopback, which the kernel sends at the pace of its timers.
func linkedEnds(t testing.TB, lp *loop, in, out *atomic.Int64, led *sync.WaitGroup) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, _ = linkThrough(t, lp, l.Addr().String(), in, out, led)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server = accepted.(*net.TCPConn)
	for _, c := range []*net.TCPConn{client, server} {
		if err := errors.Join(c.SetReadBuffer(96<<10), c.SetWriteBuffer(32<<10), c.SetDeadline(time.Now().Add(patience))); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}
