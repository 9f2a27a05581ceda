// Package orders lets one process obey another on the same host: a line of JSON asks, a line answers, over a
// private Unix socket. It knows nothing of what is ordered.
package orders

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"holdfast/internal/clock"
)

const (
	connsMax    = 32               // connections at once: an agent, a keeper, and people looking
	idleMax     = 10 * time.Minute // a connection that says nothing is closed
	writeMax    = 2 * time.Second
	acceptPause = 100 * time.Millisecond
)

// Listen takes the socket at path for this user alone, unless a living process answers on it. A socket left by a
// killed process is replaced.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it was only to see whether somebody answers
		return nil, fmt.Errorf("take the control socket %s: another process answers on it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("take the control socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("take the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("take the control socket: %w", err), l.Close())
	}
	return l, nil
}

// Server answers orders.
type Server struct {
	LineMax int // bytes of the longest order
	Log     *slog.Logger
	Clock   clock.Clock
	// Answer gives what is sent back for one line. It is called from several goroutines.
	Answer func(ctx context.Context, line []byte) any
}

// Serve answers until ctx ends, and returns when its last connection has.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }() // ctx may end while a connection is accepted: whoever waits for us may take the path at once
	slots := make(chan struct{}, connsMax)
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on the control socket: %w", err)
		case err != nil:
			s.Log.WarnContext(ctx, "control connection not accepted", "err", err)
			t := s.Clock.NewTimer(acceptPause)
			select {
			case <-t.C():
			case <-ctx.Done():
			}
			t.Stop()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close() // too many at once
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.converse(ctx, c)
		})
	}
}

// converse answers line by line until the other side ends or ctx does.
func (s Server) converse(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() { _ = c.Close() }()
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 0, 4096), s.LineMax)
	out := json.NewEncoder(c)
	for {
		if err := c.SetReadDeadline(time.Now().Add(idleMax)); err != nil {
			return
		}
		if !in.Scan() {
			return
		}
		answer := s.Answer(ctx, in.Bytes())
		if err := c.SetWriteDeadline(time.Now().Add(writeMax)); err != nil {
			return
		}
		if err := out.Encode(answer); err != nil {
			s.Log.DebugContext(ctx, "control answer not delivered", "err", err)
			return
		}
	}
}
