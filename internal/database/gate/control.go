package gate

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

	"holdfast/internal/event"
)

// request is one line on the control socket; exactly one field is set.
type request struct {
	Order  *Order     `json:"order,omitempty"`
	Cut    bool       `json:"cut,omitempty"`
	Epoch  uint64     `json:"epoch,omitempty"`  // with cut: the epoch to cut; 0 = whatever is now
	Reason string     `json:"reason,omitempty"` // with cut
	Extend *extension `json:"extend,omitempty"`
	Status bool       `json:"status,omitempty"`
}

// extension moves the deadline of the primary on this host.
type extension struct {
	Epoch     uint64         `json:"epoch"`
	Remaining event.Duration `json:"remaining"` // until the keeper's own deadline; 0 takes it away
}

// response is the answer in one line.
type response struct {
	OK     bool        `json:"ok"`
	Error  string      `json:"error,omitempty"`
	Stale  *StaleError `json:"stale,omitempty"` // set when the epoch or generation was too low
	Status *Status     `json:"status,omitempty"`
}

const (
	lineMax      = 64 << 10
	controlMax   = 32               // control connections at once: an agent, a keeper, and people looking
	controlIdle  = 10 * time.Minute // a control connection that says nothing is closed
	controlWrite = 2 * time.Second
)

// listenControl takes the socket at path, unless a living gate has it. A socket left by a killed process is replaced.
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
func (g *Gate) serveControl(ctx context.Context, l net.Listener) error {
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
			g.log.WarnContext(ctx, "control connection not accepted", "err", err)
			if !g.pause(ctx, dialPause) {
				return nil
			}
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
			g.converse(ctx, c)
		})
	}
}

// converse answers line by line until the other side ends or ctx does.
func (g *Gate) converse(ctx context.Context, c net.Conn) {
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
		answer := g.answer(ctx, in.Bytes())
		if err := c.SetWriteDeadline(time.Now().Add(controlWrite)); err != nil {
			return
		}
		if err := out.Encode(answer); err != nil {
			g.log.DebugContext(ctx, "control answer not delivered", "err", err)
			return
		}
	}
}

func (g *Gate) answer(ctx context.Context, line []byte) response {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return response{Error: fmt.Sprintf("read request: %v", err)}
	}
	var err error
	switch {
	case r.Cut:
		reason := r.Reason
		if reason == "" {
			reason = "cut by the fence"
		}
		g.Cut(r.Epoch, reason)
	case r.Order != nil:
		err = g.Obey(ctx, *r.Order)
	case r.Extend != nil:
		err = g.Extend(r.Extend.Epoch, time.Duration(r.Extend.Remaining))
	case r.Status:
	default:
		err = errors.New("a request needs order, cut, extend or status")
	}
	s := g.Status()
	answer := response{OK: err == nil, Status: &s}
	if err != nil {
		answer.Error = err.Error()
		answer.Stale, _ = errors.AsType[*StaleError](err)
	}
	return answer
}
