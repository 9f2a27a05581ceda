package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/problem"
)

// Client asks the agents of one application. Any of them can answer; the first that does, does, and is asked first from then on.
type Client struct {
	urls     []string
	http     *http.Client
	answered *answered
}

// NewClient is for agents at addr:port each, with an operator's certificate.
func NewClient(agents []string, conf *tls.Config) *Client {
	c := &Client{answered: &answered{}, http: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: conf, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
	}}}
	for _, a := range agents {
		c.urls = append(c.urls, "https://"+a)
	}
	return c
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status is the application as the first agent that answers sees it; a host that was written off counts only if no other answers.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	_, found, others := c.look(ctx, "/v1/status", func(r reply) bool {
		st = Status{}
		return r.into(&st) == nil && !st.writtenOff()
	})
	if found {
		return st, nil
	}
	for _, r := range others {
		if st = (Status{}); r.into(&st) == nil {
			return st, nil
		}
	}
	return Status{}, unreachable(failures(others))
}

// writtenOff reports whether the host whose view this is takes no part: what it knows is of before.
func (s Status) writtenOff() bool {
	return slices.ContainsFunc(s.Problems, func(p problem.Problem) bool { return p.Code == "cluster.written-off" && p.Subject == s.From })
}

// eventsMore is how long the other hosts are waited for once one has told what happened. They tell it from memory, 2 MiB at most.
const eventsMore = 2 * time.Second

// Events are what happened on every host that answers, oldest first within each, and the agents that did not tell.
func (c *Client) Events(ctx context.Context) (all []event.Event, silent []string, err error) {
	replies := c.everyone(ctx, "/v1/events", eventsMore)
	for _, r := range replies {
		var some []event.Event
		if r.into(&some) != nil {
			silent = append(silent, r.url)
			continue
		}
		all = append(all, some...)
	}
	if len(silent) == len(replies) {
		return nil, silent, unreachable(failures(replies))
	}
	return all, silent, nil
}

// Candidates says who could take over a database, as the primary's own agent sees it.
func (c *Client) Candidates(ctx context.Context, name string) (Candidates, error) {
	var out Candidates
	r, found, others := c.look(ctx, "/v1/databases/"+url.PathEscape(name)+"/candidates", func(r reply) bool {
		return r.refused("api.unknown") || r.into(&out) == nil
	})
	if !found {
		return Candidates{}, c.unanswered(ctx, name, others)
	}
	return out, r.err
}

// unanswered says why nobody could say who may take over: agents that answered only know whom to ask.
func (c *Client) unanswered(ctx context.Context, name string, others []reply) error {
	i := slices.IndexFunc(others, func(r reply) bool { return r.refused("api.not-the-primary") })
	switch {
	case i < 0:
		return unreachable(failures(others))
	case !slices.ContainsFunc(others, func(r reply) bool { return r.status == 0 }):
		return others[i].err // all answered: the primary changes just now
	}
	title := "the agent of the primary's host does not answer"
	if st, err := c.Status(ctx); err == nil {
		for _, d := range st.Databases {
			if d.Name == name && d.Primary != "" {
				title = "the agent of the primary's host " + d.Primary + " does not answer"
			}
		}
	}
	return &problem.Problem{
		Code: "api.primary-silent", Subject: name, Severity: problem.Degraded, Title: title,
		Meaning: "It alone sees which standbys follow, so nobody can say who may take over in a switchover. Nothing was changed.",
		Remedy:  "holdfast database explain " + name + " says who would be elected without it; else bring that agent back and ask again",
	}
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

// aRequest is a question that only an agent can answer which reaches the agreed state: of a request that nobody ever made.
const aRequest = "/v1/requests/-"

// call puts a question to one agent after the other, and looks at them as [Client.look] does. A refusal is an answer and ends it.
// What changes something is put to one agent at a time, for it could be done twice; so the first one is looked for beforehand.
func (c *Client) call(ctx context.Context, method, path string, body, out any) (int, error) {
	if method == http.MethodGet {
		r, found, others := c.look(ctx, path, reply.ends)
		if !found {
			return 0, unreachable(failures(others))
		}
		return r.status, r.into(out)
	}
	if len(c.urls) > 1 {
		c.look(ctx, aRequest, reply.ends) // whoever answers is asked first; where nobody does, each is asked all the same
	}
	var others []reply
	for _, u := range c.order() {
		if r := c.fetch(ctx, u, method, path, body); r.ends() {
			c.answered.note(u)
			return r.status, r.into(out)
		} else {
			others = append(others, r)
		}
	}
	return 0, unreachable(failures(others))
}

func unreachable(cause error) error {
	return &problem.Problem{
		Code: "api.no-agent", Severity: problem.Critical, Title: "no agent of the application answers: " + cause.Error(),
		Meaning: "What runs goes on with its last orders; nothing can be said about it from here.",
		Remedy:  "see that the agents run (holdfast up PLAN, or holdfast agent on each host), and that --root names their data",
	}
}
