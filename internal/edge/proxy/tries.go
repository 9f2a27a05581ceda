package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"holdfast/internal/edge"
)

// race is one request and the backends it was sent to. Usually there is one. A second is asked too when the
// first does not begin to answer in time, and the first answer wins; one after another are asked while
// connections are refused.
type race struct {
	route *route
	req   *http.Request
	x     *exchange

	mu    sync.Mutex // guards what follows, and every heat
	tried []*backend
}

// heat is one try of a race and the second try beside it.
type heat struct {
	settled bool               // an answer was taken or the try is over: a second try comes too late
	stop    context.CancelFunc // of the second try
	second  chan struct{}      // closed when the second try has ended; nil = there is none
	won     *http.Response     // the second try's answer
}

// RoundTrip gets one request answered by one of the route's backends.
func (r *route) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errors.New("forward a request: it did not come through a listener")
	}
	r.meter.earn(r.policy)
	c := &race{route: r, req: req, x: x}
	last := error(errNoBackend)
	for {
		b := c.pick()
		if b == nil {
			return nil, last
		}
		resp, err := c.try(b)
		if err == nil {
			return resp, nil
		}
		if req.Context().Err() != nil {
			return nil, err // the client left
		}
		last = err
		failure := edge.Broken
		if _, unsent := errors.AsType[*dialError](err); unsent {
			failure = edge.NeverSent
		}
		v := edge.Retry(x.ask, failure)
		if !v.Again || (v.Paid && !r.meter.spend(r.policy, r.edge.cfg.Clock.Now())) {
			return nil, last
		}
		if failure == edge.NeverSent {
			r.meter.unsent.Add(1)
		} else {
			r.meter.repeats.Add(1)
		}
	}
}

// pick chooses a backend that did not have the request yet.
func (c *race) pick() *backend {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.route.pick(c.tried)
	if b != nil {
		c.tried = append(c.tried, b)
	}
	return b
}

// try asks b, and another one too when b hangs and the request may be repeated.
func (c *race) try(b *backend) (*http.Response, error) {
	r := c.route
	ctx, cancel := context.WithCancel(c.req.Context())
	h := &heat{}
	var late *time.Timer
	if edge.Retry(c.x.ask, edge.Hanging).Again {
		r.edge.work.Add(1)
		late = time.AfterFunc(time.Duration(r.SecondTryAfter), func() {
			defer r.edge.work.Done()
			c.secondTry(h, b, cancel)
		})
	}
	resp, err := r.send(ctx, cancel, c, b)
	if late != nil && late.Stop() {
		r.edge.work.Done() // it will not run
	}

	c.mu.Lock()
	if err != nil && h.second != nil && h.won == nil { // the other may still answer
		second := h.second
		c.mu.Unlock()
		<-second // ends at the latest with the client's patience or the answer timeout
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	h.settled = true
	if h.won != nil {
		if err == nil {
			_ = resp.Body.Close() // both answered: this one is not needed
		}
		return h.won, nil
	}
	if err == nil && h.stop != nil {
		h.stop()
	}
	return resp, err
}

// secondTry asks another backend while hanging has not answered.
func (c *race) secondTry(h *heat, hanging *backend, stopFirst context.CancelFunc) {
	r := c.route
	for {
		c.mu.Lock()
		if h.settled || c.req.Context().Err() != nil {
			h.end()
			c.mu.Unlock()
			return
		}
		b := r.pick(c.tried)
		if b == nil || (h.second == nil && !r.meter.spend(r.policy, r.edge.cfg.Clock.Now())) {
			h.end()
			c.mu.Unlock()
			return
		}
		c.tried = append(c.tried, b)
		ctx, cancel := context.WithCancel(c.req.Context())
		if h.second == nil {
			h.second = make(chan struct{})
		}
		h.stop = cancel
		c.mu.Unlock()
		r.meter.seconds.Add(1)

		resp, err := r.send(ctx, cancel, c, b)

		c.mu.Lock()
		if err != nil && !h.settled {
			if _, unsent := errors.AsType[*dialError](err); unsent {
				c.mu.Unlock()
				continue // this one knows nothing of the request: yet another
			}
		}
		switch {
		case err == nil && (h.settled || unwell(resp)):
			_ = resp.Body.Close() // the first answered meanwhile, or still may do better
		case err == nil:
			h.won = resp
			r.failed(hanging) // another could answer, so the fault was its own
			stopFirst()
		}
		h.end()
		c.mu.Unlock()
		return
	}
}

// end lets go whoever waits for the second try. Callers hold the race's mu, and call it once.
func (h *heat) end() {
	if h.second != nil {
		close(h.second)
	}
}

// send asks one backend. cancel ends the try, and is called when its answer has been read or there is none.
func (r *route) send(ctx context.Context, cancel context.CancelFunc, c *race, b *backend) (*http.Response, error) {
	out := c.req.WithContext(ctx)
	url := *c.req.URL
	url.Host = b.address
	out.URL = &url
	switch {
	case c.x.ask.Repeatable():
		out.Body = replay(c.x.body)
		out.GetBody = func() (io.ReadCloser, error) { return replay(c.x.body), nil }
	case c.req.Body != nil && c.req.Body != http.NoBody:
		// The transport closes the body when it cannot connect, but then it is still whole, for the next
		// backend. The server closes it in the end.
		out.Body = io.NopCloser(c.req.Body)
	}
	b.requests.Add(1)
	b.inFlight.Add(1)
	resp, err := b.transport.RoundTrip(out)
	if err != nil {
		b.inFlight.Add(-1)
		if ctx.Err() == nil { // else somebody ended the try, and nothing is known
			r.failed(b)
		}
		cancel()
		return nil, err
	}
	if unwell(resp) {
		r.failed(b)
	} else {
		b.succeeded()
	}
	resp.Body = answerBody(resp.Body, func() {
		b.inFlight.Add(-1)
		cancel()
	})
	return resp, nil
}

// unwell reports whether an answer says that the instance cannot answer. Of other statuses only the
// application knows whose fault they are.
func unwell(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// answerBody calls end once, when the body is closed. A body that can be written to (an upgraded
// connection) stays one.
func answerBody(body io.ReadCloser, end func()) io.ReadCloser {
	a := &answer{ReadCloser: body, end: end}
	if w, ok := body.(io.Writer); ok {
		return &duplex{a, w}
	}
	return a
}

type answer struct {
	io.ReadCloser
	once sync.Once
	end  func()
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	a.once.Do(a.end)
	return err
}

type duplex struct {
	*answer
	io.Writer
}
