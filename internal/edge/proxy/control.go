package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// request is one line on the control socket; exactly one field is set.
type request struct {
	Members *Snapshot `json:"members,omitempty"`
	Status  bool      `json:"status,omitempty"`
}

// response is the answer in one line.
type response struct {
	OK     bool        `json:"ok"`
	Error  string      `json:"error,omitempty"`
	Stale  *StaleError `json:"stale,omitempty"` // set when the revision was too low
	Status *Status     `json:"status,omitempty"`
}

const (
	lineMax      = 8 << 20          // a snapshot of some ten thousand backends
	controlMax   = 32               // control connections at once: an agent, and people looking
	controlIdle  = 10 * time.Minute // a control connection that says nothing is closed
	controlWrite = 2 * time.Second
)

// listenControl takes the socket at path, unless a living edge has it. A socket left by a killed process is replaced.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
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

// serveControl answers until ctx ends, and returns when its last connection has.
func (e *Edge) serveControl(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, controlMax)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on the control socket: %w", err)
		}
		if err != nil {
			e.log.WarnContext(ctx, "control connection not accepted", "err", err)
			t := e.cfg.Clock.NewTimer(acceptPause)
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
			e.converse(ctx, c)
		})
	}
}

// converse answers line by line until the other side ends or ctx does.
func (e *Edge) converse(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() { _ = c.Close() }()
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 0, 4096), lineMax)
	out := json.NewEncoder(c)
	for {
		if err := c.SetReadDeadline(time.Now().Add(controlIdle)); err != nil {
			return
		}
		if !in.Scan() {
			return
		}
		answer := e.answer(ctx, in.Bytes())
		if err := c.SetWriteDeadline(time.Now().Add(controlWrite)); err != nil {
			return
		}
		if err := out.Encode(answer); err != nil {
			e.log.DebugContext(ctx, "control answer not delivered", "err", err)
			return
		}
	}
}

func (e *Edge) answer(ctx context.Context, line []byte) response {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return response{Error: fmt.Sprintf("read request: %v", err)}
	}
	var err error
	switch {
	case r.Members != nil:
		err = e.Apply(ctx, *r.Members)
	case r.Status:
	default:
		err = errors.New("a request needs members or status")
	}
	s := e.Status()
	answer := response{OK: err == nil, Status: &s}
	if err != nil {
		answer.Error = err.Error()
		answer.Stale, _ = errors.AsType[*StaleError](err)
	}
	return answer
}
