package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"holdfast/internal/problem"
)

// hedgeAfter is how long an agent has for itself to answer a look; then the next one is asked beside it. A host that is
// frozen takes connections and says nothing, and would cost every call its whole limit.
const hedgeAfter = 300 * time.Millisecond

// answered remembers which agent answered last.
type answered struct {
	mu  sync.Mutex // guards url
	url string     // "" = none yet
}

func (a *answered) note(url string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.url = url
}

// order is all agents, the one that answered last first.
func (c *Client) order() []string {
	c.answered.mu.Lock()
	defer c.answered.mu.Unlock()
	if i := slices.Index(c.urls, c.answered.url); i > 0 {
		return slices.Concat(c.urls[i:i+1], c.urls[:i], c.urls[i+1:])
	}
	return c.urls
}

// reply is what one agent said.
type reply struct {
	url    string
	status int    // of HTTP; 0 = it did not answer
	body   []byte // of a good answer
	err    error  // a [problem.Problem] where it refused
}

// into reads a good answer; nil = what it says is not asked for.
func (r reply) into(out any) error {
	if r.err != nil || out == nil {
		return r.err
	}
	return json.Unmarshal(r.body, out)
}

// ends reports whether an answer stands for all agents: a good one, or a refusal. An agent that does not reach the agreed
// state speaks for itself alone.
func (r reply) ends() bool {
	var p *problem.Problem
	return r.err == nil || errors.As(r.err, &p) && p.Code != "cluster.unreachable"
}

func (r reply) refused(code string) bool {
	var p *problem.Problem
	return errors.As(r.err, &p) && p.Code == code
}

// failures are the errors of all replies.
func failures(all []reply) error {
	var errs []error
	for _, r := range all {
		errs = append(errs, r.err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.New("no answer can be read")
}

// look asks agents for the same thing until ends takes a reply: the next one as soon as one failed or was not taken, or has
// said nothing for [hedgeAfter]. It gives the reply that was taken, or else all of them. It changes nothing, so that it may be
// asked of several.
func (c *Client) look(ctx context.Context, path string, ends func(reply) bool) (taken reply, found bool, others []reply) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	urls := c.order()
	replies, asked := make(chan reply, len(urls)), 0
	next := func() {
		if asked < len(urls) {
			u := urls[asked]
			asked++
			asking.Go(func() { replies <- c.fetch(ctx, u, http.MethodGet, path, nil) })
		}
	}
	next()
	patience := time.NewTicker(hedgeAfter)
	defer patience.Stop()
	for len(others) < len(urls) {
		select {
		case <-patience.C:
			next()
		case r := <-replies:
			if ends(r) {
				c.answered.note(r.url)
				return r, true, others
			}
			others = append(others, r)
			next()
		}
	}
	return reply{}, false, others
}

// everyone asks all agents at once. Once one has answered, the others have that much time more; 0 = each has its whole limit.
// The replies are in the agents' order.
func (c *Client) everyone(ctx context.Context, path string, more time.Duration) []reply {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make([]reply, len(c.urls))
	var asking sync.WaitGroup
	for i, u := range c.urls {
		asking.Go(func() {
			replies[i] = c.fetch(ctx, u, http.MethodGet, path, nil)
			if replies[i].err == nil && more > 0 {
				time.AfterFunc(more, cancel) // calling it once more later does nothing
			}
		})
	}
	asking.Wait()
	return replies
}

// fetch asks one agent.
func (c *Client) fetch(ctx context.Context, base, method, path string, body any) reply {
	out := reply{url: base}
	var send io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			out.err = err
			return out
		}
		send = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, send)
	if err != nil {
		out.err = err
		return out
	}
	resp, err := c.http.Do(req)
	if err != nil {
		out.err = err
		return out
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	out.status = resp.StatusCode
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	var p problem.Problem
	switch {
	case err != nil:
		out.err = err
	case resp.StatusCode < 300:
		out.body = data
	case json.Unmarshal(data, &p) == nil && p.Code != "":
		out.err = &p
	default:
		out.err = fmt.Errorf("ask %s%s: %s", base, path, resp.Status)
	}
	return out
}
