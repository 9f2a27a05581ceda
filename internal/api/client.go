package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/problem"
)

// Client asks the agents of one application. Any of them can answer; the first that does, does.
type Client struct {
	urls []string
	http *http.Client
}

// NewClient is for agents at addr:port each, with an operator's certificate.
func NewClient(agents []string, conf *tls.Config) *Client {
	c := &Client{http: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: conf, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
	}}}
	for _, a := range agents {
		c.urls = append(c.urls, "https://"+a)
	}
	return c
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status is the application as the first agent that answers sees it; a host that was written off is asked last.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var errs []error
	var astray *Status
	for _, u := range c.urls {
		var s Status
		if _, err := c.one(ctx, u, http.MethodGet, "/v1/status", nil, &s); err != nil {
			errs = append(errs, err)
			continue
		}
		if !s.writtenOff() {
			return s, nil
		}
		astray = &s
	}
	if astray != nil {
		return *astray, nil
	}
	return Status{}, unreachable(errors.Join(errs...))
}

// writtenOff reports whether the host whose view this is takes no part: what it knows is of before.
func (s Status) writtenOff() bool {
	return slices.ContainsFunc(s.Problems, func(p problem.Problem) bool { return p.Code == "cluster.written-off" && p.Subject == s.From })
}

// Events are what happened on every host that answers, oldest first within each.
func (c *Client) Events(ctx context.Context) ([]event.Event, error) {
	var all []event.Event
	var errs []error
	for _, u := range c.urls {
		var some []event.Event
		if _, err := c.one(ctx, u, http.MethodGet, "/v1/events", nil, &some); err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, some...)
	}
	if len(errs) == len(c.urls) {
		return nil, unreachable(errors.Join(errs...))
	}
	return all, nil
}

// Candidates says who could take over a database, as the primary's own agent sees it.
func (c *Client) Candidates(ctx context.Context, name string) (Candidates, error) {
	var errs []error
	for _, u := range c.urls {
		var out Candidates
		_, err := c.one(ctx, u, http.MethodGet, "/v1/databases/"+url.PathEscape(name)+"/candidates", nil, &out)
		var p *problem.Problem
		switch {
		case err == nil:
			return out, nil
		case errors.As(err, &p) && p.Code == "api.unknown":
			return out, err
		}
		errs = append(errs, err)
	}
	return Candidates{}, unreachable(errors.Join(errs...))
}

// Ask puts a request and gives it back with its id.
func (c *Client) Ask(ctx context.Context, q agent.Asked) (agent.Asked, error) {
	var taken agent.Asked
	_, err := c.call(ctx, http.MethodPost, "/v1/requests", q, &taken)
	return taken, err
}

// RestartSteps says what a restart of a database would do now.
func (c *Client) RestartSteps(ctx context.Context, name string, pending bool) ([]database.RestartStep, error) {
	var out []database.RestartStep
	_, err := c.call(ctx, http.MethodGet, fmt.Sprintf("/v1/databases/%s/restart?pending=%t", url.PathEscape(name), pending), nil, &out)
	return out, err
}

// Open lists what is asked for and not settled.
func (c *Client) Open(ctx context.Context) ([]OpenRequest, error) {
	var out []OpenRequest
	_, err := c.call(ctx, http.MethodGet, "/v1/requests", nil, &out)
	return out, err
}

// Cancel settles an open request as cancelled, and gives it back.
func (c *Client) Cancel(ctx context.Context, id string) (agent.Asked, error) {
	var out agent.Asked
	_, err := c.call(ctx, http.MethodDelete, "/v1/requests/"+url.PathEscape(id), nil, &out)
	return out, err
}

// Wait returns when a request is settled, telling how it goes meanwhile.
func (c *Client) Wait(ctx context.Context, id string, progress func(agent.Asked)) (agent.Settled, error) {
	var last error
	for {
		var body json.RawMessage
		status, err := c.call(ctx, http.MethodGet, "/v1/requests/"+id, nil, &body)
		switch {
		case err == nil && status == http.StatusOK:
			var s agent.Settled
			return s, json.Unmarshal(body, &s)
		case err == nil:
			var q agent.Asked
			if json.Unmarshal(body, &q) == nil && progress != nil {
				progress(q)
			}
		default:
			last = err
		}
		t := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return agent.Settled{}, errors.Join(ctx.Err(), last)
		case <-t.C:
		}
	}
}

// Apply asks the application to follow a plan, or what that would do.
func (c *Client) Apply(ctx context.Context, q Apply) (Applied, error) {
	var out Applied
	_, err := c.call(ctx, http.MethodPost, "/v1/plan", q, &out)
	return out, err
}

// Stop says that the whole application is being stopped.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPut, "/v1/stopping", nil, nil)
	return err
}

// Start takes a stop of the whole application back, and reports whether one stood. An agent of before this answer says
// yes in either case.
func (c *Client) Start(ctx context.Context) (stood bool, err error) {
	_, err = c.call(ctx, http.MethodDelete, "/v1/stopping", nil, &stood)
	return stood, err
}

// call tries each agent in turn. A refusal is an answer and ends it.
func (c *Client) call(ctx context.Context, method, path string, body, out any) (int, error) {
	var errs []error
	for _, u := range c.urls {
		status, err := c.one(ctx, u, method, path, body, out)
		if p := (*problem.Problem)(nil); err == nil || errors.As(err, &p) && p.Code != "cluster.unreachable" {
			return status, err
		}
		errs = append(errs, err)
	}
	return 0, unreachable(errors.Join(errs...))
}

func unreachable(cause error) error {
	return &problem.Problem{
		Code: "api.no-agent", Severity: problem.Critical, Title: "no agent of the application answers: " + cause.Error(),
		Meaning: "What runs goes on with its last orders; nothing can be said about it from here.",
		Remedy:  "see that the agents run (holdfast up PLAN, or holdfast agent on each host), and that --root names their data",
	}
}

func (c *Client) one(ctx context.Context, base, method, path string, body, out any) (int, error) {
	var send io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		send = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, send)
	if err != nil {
		return 0, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode >= 300 {
		var p problem.Problem
		if json.Unmarshal(data, &p) == nil && p.Code != "" {
			return resp.StatusCode, &p
		}
		return resp.StatusCode, fmt.Errorf("ask %s%s: %s", base, path, resp.Status)
	}
	if out == nil {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.Unmarshal(data, out)
}
