package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"holdfast/internal/edge"
	"holdfast/internal/event"
)

// kickPause is the least time between two checks that failed requests ask for.
const kickPause = 100 * time.Millisecond

// watch checks b until ctx ends: at once, then at the route's pace, faster while anything is amiss.
func (e *Edge) watch(ctx context.Context, b *backend) {
	clk := e.cfg.Clock
	timer := clk.NewTimer(time.Hour)
	defer timer.Stop()
	for first := true; ; first = false {
		set := b.settings.Load()
		began := clk.Now()
		result, err := e.check(ctx, b, set)
		if ctx.Err() != nil {
			return
		}
		c := CheckStatus{At: began, Result: result, Took: event.Duration(clk.Now().Sub(began))}
		if err != nil {
			c.Error = err.Error()
		}
		if was, is := b.checked(set.policy, c, clk.Now()); was != is {
			e.log.InfoContext(ctx, "backend "+string(is), "service", b.service, "instance", b.id, "address", b.address, "was", was, "err", err)
		}
		if first {
			close(b.first)
		}
		timer.Reset(kickPause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C():
		}
		b.mu.Lock()
		state := b.health.State
		b.mu.Unlock()
		timer.Reset(edge.Pause(state, result == edge.Passed, time.Duration(set.Every), checkFast, e.dice.Add(3)) - kickPause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C():
		case <-b.kick:
		}
	}
}

// check asks once.
func (e *Edge) check(ctx context.Context, b *backend, set *checking) (edge.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(set.Timeout))
	defer cancel()
	if set.Kind == "tcp" {
		c, err := dial(ctx, "tcp", b.address)
		if err != nil {
			return resultOf(ctx, err), err
		}
		_ = c.Close() // nothing was said
		return edge.Passed, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.address+set.Path, nil)
	if err != nil {
		return edge.Wrong, err
	}
	req.Host = set.host
	req.Header.Set("User-Agent", "holdfast-check")
	resp, err := e.checks.RoundTrip(req) // not a client: a redirect is an answer
	if err != nil {
		return resultOf(ctx, err), err
	}
	defer func() { _ = resp.Body.Close() }() // the connection is not used again
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // only to explain
		return edge.Wrong, fmt.Errorf("status %d: %q", resp.StatusCode, text)
	}
	return edge.Passed, nil
}

// resultOf tells no answer from a bad one.
func resultOf(ctx context.Context, err error) edge.Result {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return edge.Refused
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return edge.NoAnswer
	}
	return edge.Wrong
}
