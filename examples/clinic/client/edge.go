package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// connectTimeout bounds one address; the next is tried after it.
const connectTimeout = 250 * time.Millisecond

// statusError is an answer that is not the one hoped for.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d: %s", e.status, e.body) }

// newEdge makes an HTTP client that behaves as a browser does with a name of several addresses: it stays
// with the one that answers and goes on to the next when a connection cannot be made. Requests are sent
// once; net/http itself sends one again only where no answer had begun on a reused connection and the
// request changes nothing.
func newEdge(cfg Config) *http.Client {
	dial := bounded(cfg.Dial)
	if len(cfg.ResolveTo) > 0 {
		dial = inTurn(cfg.ResolveTo, dial)
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:         dial,
			TLSClientConfig:     cfg.TLS.Clone(),
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded gives up on an address after connectTimeout.
func bounded(dial Dial) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		return dial(ctx, network, address)
	}
}

// inTurn dials the addresses beginning with the last one that answered.
func inTurn(addresses []string, dial Dial) Dial {
	var good atomic.Int64
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		first := int(good.Load())
		var errs []error
		for i := range addresses {
			at := (first + i) % len(addresses)
			conn, err := dial(ctx, network, addresses[at])
			if err == nil {
				good.Store(int64(at))
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, fmt.Errorf("connect to any of %d edges: %w", len(addresses), errors.Join(errs...))
	}
}

// writeEdge sends one numbered row.
func (c *Client) writeEdge(ctx context.Context) {
	n := c.number(EdgeWrite)
	began := c.now()
	body, err := json.Marshal(map[string]any{"client": c.cfg.Client, "number": n})
	if err == nil {
		_, err = c.call(ctx, http.MethodPost, "/api/rows", http.StatusCreated, "", body)
	}
	c.record(EdgeWrite, n, began, err)
}

// readEdge lists the practices, as the first page does.
func (c *Client) readEdge(ctx context.Context) {
	began := c.now()
	_, err := c.call(ctx, http.MethodGet, "/api/practices", http.StatusOK, "", nil)
	c.record(EdgeRead, 0, began, err)
}

// call sends one request once and returns the body of the wanted answer. key, when there is one, lets the
// application recognise a request that is sent again.
func (c *Client) call(ctx context.Context, method, path string, want int, key string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.cfg.EdgeURL+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.edge.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // read to its end or broken: nothing more to learn
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != want {
		return nil, &statusError{status: resp.StatusCode, body: string(answer[:min(len(answer), 200)])}
	}
	return answer, nil
}

// callUntil repeats call until it works, ctx ends, or the answer blames the request itself. For preparing
// and checking, not for measuring.
func (c *Client) callUntil(ctx context.Context, method, path string, want int, key string, body []byte) ([]byte, error) {
	if c.edge == nil {
		return nil, errors.New("this client has no edge")
	}
	for {
		try, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		answer, err := c.call(try, method, path, want, key, body)
		cancel()
		if err == nil {
			return answer, nil
		}
		if se, ok := errors.AsType[*statusError](err); ok && se.status < 500 && se.status != http.StatusTooManyRequests {
			return nil, err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// pause waits, and reports false when ctx ended instead.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
