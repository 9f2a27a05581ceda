package gate

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// link is one client and its connection to the primary.
type link struct {
	client, server *net.TCPConn
}

// afterServerEnd is how long a client may still speak after the server has closed its side. A server that
// closed has ended the session; the client only needs to read what it was told.
const afterServerEnd = 5 * time.Second

// reset ends both sides at once.
func (l *link) reset() {
	reset(l.client)
	reset(l.server)
}

// relay passes bytes both ways until both sides have ended or one has broken, and closes both.
func (l *link) relay(g *Gate) {
	var wg sync.WaitGroup
	wg.Go(func() {
		l.end(pump(l.server, l.client, &g.buffers, &g.bytesIn), l.server)
	})
	err := pump(l.client, l.server, &g.buffers, &g.bytesOut)
	_ = l.client.SetReadDeadline(time.Now().Add(afterServerEnd)) // fails only when closed already
	l.end(err, l.client)
	wg.Wait()
	_ = l.client.Close()
	_ = l.server.Close()
}

// end passes the end of one direction on: a regular end half-closes the other side, a broken connection
// breaks it too, so that neither peer mistakes a cut for a good-bye.
func (l *link) end(err error, to *net.TCPConn) {
	if err != nil {
		l.reset()
		return
	}
	_ = to.CloseWrite() // fails when it broke meanwhile, which the other direction sees
}

// bufSize is one read. PostgreSQL sends up to 8 KiB at a time unless a result is large.
const bufSize = 64 << 10

// bulkSize is how much is spliced at a time once a read filled its buffer.
const bulkSize = 1 << 20

// pump copies src to dst until src ends. Small messages, which is most of what a database says, go through
// a shared buffer; when one read fills the buffer the next stretch goes by splice(2), which is quicker for
// bulk and no better for small ones (relay_bench_test.go). The buffer is taken only when bytes are there, so
// that an idle connection holds none.
func pump(dst, src *net.TCPConn, buffers *sync.Pool, count *atomic.Int64) error {
	rc, err := src.SyscallConn()
	if err != nil {
		return err
	}
	var buf *[bufSize]byte
	defer func() {
		if buf != nil {
			buffers.Put(buf)
		}
	}()
	for {
		var n int
		var readErr error
		err := rc.Read(func(fd uintptr) bool {
			if buf == nil {
				buf = buffers.Get().(*[bufSize]byte)
			}
			for {
				n, readErr = unix.Read(int(fd), buf[:])
				if !errors.Is(readErr, unix.EINTR) {
					break
				}
			}
			if errors.Is(readErr, unix.EAGAIN) {
				buffers.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err = errors.Join(err, readErr); err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return err
		}
		count.Add(int64(n))
		if n < bufSize {
			continue
		}
		buffers.Put(buf)
		buf = nil
		spliced, err := io.CopyN(dst, src, bulkSize)
		count.Add(spliced)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// newBuffer fills the pool that pump borrows from.
func newBuffer() any { return new([bufSize]byte) }
