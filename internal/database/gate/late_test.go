package gate

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A client that lives and does not read for longer than keepalive waits, a dump into a slow disk, keeps its session and
// reads all of it later.
func TestAClientThatReadsLateIsNotCut(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the test ends anyway
	const size = 20 << 20
	var server sync.WaitGroup
	server.Go(func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Error(err)
		}
		_ = c.Close() // what it said is all that matters
	})
	r := startGate(t, testSpec(t))
	r.order(t, Order{Epoch: 1, State: Open, Target: l.Addr().String()})
	c, err := net.Dial("tcp", r.spec.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // read to its end
	time.Sleep(17 * time.Second)     // the window is closed all that time
	n, err := io.Copy(io.Discard, c)
	if n != size || err != nil {
		t.Errorf("read %d of %d bytes: %v", n, size, err)
	}
	server.Wait()
}
