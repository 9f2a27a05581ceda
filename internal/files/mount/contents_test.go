package mount

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"holdfast/internal/clock"
)

// stuck is a file in a vault that does not answer until it is told to.
type stuck struct {
	*bytes.Reader
	until  <-chan struct{}
	closed chan<- struct{}
}

func (s stuck) Read(p []byte) (int, error) {
	<-s.until
	return s.Reader.Read(p)
}

func (s stuck) Close() error {
	s.closed <- struct{}{}
	return nil
}

// The kernel may still ask when the directory was in use.
func TestNothingIsReadBehindTheEnd(t *testing.T) {
	closed := 0
	c := newContents(t.Context(), time.Minute, clock.Real(), func(context.Context, name) (io.ReadSeekCloser, error) {
		return struct {
			io.ReadSeeker
			io.Closer
		}{bytes.NewReader([]byte("content")), closer(func() error { closed++; return nil })}, nil
	})
	buf := make([]byte, 7)
	if err := c.read(nil, 1, buf, 0); err != nil || !c.close() || closed != 1 {
		t.Fatalf("%v; %d were closed", err, closed)
	}
	if err := c.read(nil, 1, buf, 0); !errors.Is(err, context.Canceled) || len(c.busy) > 0 {
		t.Errorf("behind the end: %v, and %d reads are under way", err, len(c.busy))
	}
	late, err := c.open(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	c.park(&reader{from: late})
	if closed != 2 || len(c.idle) > 0 {
		t.Errorf("a file that was read meanwhile stays open")
	}
}

type closer func() error

func (f closer) Close() error { return f() }

func TestAVaultThatHangsHoldsNobodyUpForLongerThanTheLimit(t *testing.T) {
	until, closed := make(chan struct{}), make(chan struct{}, 4*busyMax)
	hangs := true // only changed while nobody reads
	ctx, end := context.WithCancel(t.Context())
	c := newContents(ctx, 50*time.Millisecond, clock.Real(), func(context.Context, name) (io.ReadSeekCloser, error) {
		s := stuck{Reader: bytes.NewReader([]byte("content")), until: until, closed: closed}
		if !hangs {
			s.until = nil
			return struct {
				io.ReadSeeker
				io.Closer
			}{s.Reader, s}, nil
		}
		return s, nil
	})
	buf := make([]byte, 7)
	for i := range busyMax + 2 { // the last ones do not even get their turn
		if err := c.read(nil, name(i), buf, 0); !errors.Is(err, errSlow) {
			t.Fatalf("read %d of a vault that hangs: %v", i, err)
		}
	}
	if len(c.busy) != busyMax {
		t.Errorf("%d reads are under way", len(c.busy))
	}
	interrupted := make(chan struct{})
	close(interrupted)
	c.limit = time.Minute // else both could be due, when this machine stands still for a moment
	if err := c.read(interrupted, 1, buf, 0); !errors.Is(err, errInterrupted) {
		t.Errorf("whoever reads is killed: %v", err)
	}
	close(until)
	for range busyMax { // what nobody waited for is let go of
		<-closed
	}
	c.under.Wait()
	hangs, c.limit = false, time.Minute
	for i := range 3 * idleMax {
		if err := c.read(nil, name(i), buf, 0); err != nil || string(buf) != "content" {
			t.Fatalf("behind it: %q, %v", buf, err)
		}
	}
	if len(c.idle) != idleMax {
		t.Errorf("%d files are kept open", len(c.idle))
	}
	if err := c.read(nil, name(3*idleMax-1), buf[:4], 3); err != nil || string(buf[:4]) != "tent" {
		t.Errorf("from the middle: %q, %v", buf[:4], err)
	}
	if err := c.read(nil, 1, buf, 3); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("less than there should be: %v", err)
	}
	end()
	if err := c.read(nil, 1, buf, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is over: %v", err)
	}
	if ended := c.close(); !ended || len(closed) != 3*idleMax+1 {
		t.Errorf("ended: %v; %d of %d were closed", ended, len(closed), 3*idleMax+1)
	}
}
