package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"holdfast/internal/clock"
)

const (
	// busyMax is how many reads of the vault are under way at most, those that nobody waits for any more among them.
	busyMax = 8
	// idleMax is how many files are kept open in the vault: each holds a chunk of its content, 1 MiB or a few.
	idleMax = 8
)

var (
	errSlow        = errors.New("the vault does not answer in time")
	errInterrupted = errors.New("whoever asked was interrupted")
)

// contents reads files from the vault: so many at once and no more, and nobody waits for longer than the limit.
type contents struct {
	open  func(context.Context, name) (io.ReadSeekCloser, error)
	ctx   context.Context // of the mount; a file in the vault is open for longer than one request for it
	limit time.Duration
	clock clock.Clock
	busy  chan struct{} // holds one of each read that is under way
	under sync.WaitGroup

	mu   sync.Mutex
	idle []*reader // the longest unused first
	over bool      // close was called
}

// reader is a file that is open in the vault.
type reader struct {
	of   name
	from io.ReadSeekCloser
	at   int64
	buf  []byte // what was read last
}

func (r *reader) close() { _ = r.from.Close() } // opened for reading alone

func newContents(ctx context.Context, limit time.Duration, c clock.Clock, open func(context.Context, name) (io.ReadSeekCloser, error)) *contents {
	return &contents{open: open, ctx: ctx, limit: limit, clock: c, busy: make(chan struct{}, busyMax)}
}

// read fills to with what the file holds from an offset on; less is an error.
func (c *contents) read(cancel <-chan struct{}, of name, to []byte, off int64) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	timer := c.clock.NewTimer(c.limit)
	defer timer.Stop()
	select {
	case c.busy <- struct{}{}:
	case <-timer.C():
		return errSlow
	case <-cancel:
		return errInterrupted
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	type answer struct {
		r   *reader
		err error
	}
	done, gone := make(chan answer), make(chan struct{})
	defer close(gone)
	begun := c.begin(func() {
		defer func() { <-c.busy }()
		r, err := c.fetch(of, len(to), off)
		select {
		case done <- answer{r, err}:
		case <-gone:
			if r != nil {
				r.close()
			}
		}
	})
	if !begun {
		<-c.busy
		return context.Canceled
	}
	select {
	case a := <-done:
		if a.err != nil {
			return a.err
		}
		copy(to, a.r.buf)
		c.park(a.r)
		return nil
	case <-timer.C():
		return errSlow
	case <-cancel:
		return errInterrupted
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// begin starts what close waits for; false = close has begun to wait.
func (c *contents) begin(read func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.under.Go(read)
	}
	return !c.over
}

// fetch reads into the buffer of a reader, which nobody else has meanwhile.
func (c *contents) fetch(of name, size int, off int64) (*reader, error) {
	r := c.take(of)
	if r == nil {
		from, err := c.open(c.ctx, of)
		if err != nil {
			return nil, err
		}
		r = &reader{of: of, from: from}
	}
	if cap(r.buf) < size {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	var err error
	if r.at != off {
		_, err = r.from.Seek(off, io.SeekStart)
	}
	if err == nil {
		_, err = io.ReadFull(r.from, r.buf)
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("read %d bytes from %d on: %w", size, off, err)
	}
	r.at = off + int64(size)
	return r, nil
}

// take gives a reader of the file that is not in use; nil = there is none.
func (c *contents) take(of name) *reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.idle {
		if r.of == of {
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			return r
		}
	}
	return nil
}

func (c *contents) park(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		r.close()
		return
	}
	if len(c.idle) == idleMax {
		c.idle[0].close()
		c.idle = append(c.idle[:0], c.idle[1:]...)
	}
	c.idle = append(c.idle, r)
}

// close waits for the reads that are under way, and reports whether all have ended within the limit. Its context must have
// ended.
func (c *contents) close() bool {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		c.under.Wait()
		close(ended)
	}()
	timer := c.clock.NewTimer(c.limit)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C():
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.idle {
		r.close()
	}
	c.idle = nil
	return true
}
