package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"holdfast/internal/edge"
)

// replayMax is the largest body that is kept to be sent again.
const replayMax = 64 << 10

// firstCheckMax is how long a request waits for the first check of backends that nobody has asked yet: an
// edge that has just been restarted should not answer 503 for the milliseconds that takes.
const firstCheckMax = 2 * time.Second

// errNoBackend becomes 503.
var errNoBackend = edge.ErrNoBackend

// exchange is what the tries of one request share.
type exchange struct {
	ask  edge.Request
	body []byte // kept whole when ask.Replayable and there is one
}

type exchangeKey struct{}

// handler leads what comes in on addr to its route.
func (e *Edge) handler(addr string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		e.work.Add(1) // a hijacked connection is not the server's any more, but still work
		defer e.work.Done()
		r := e.table.Load().doors[addr].route(req.Host)
		if r == nil {
			refuse(w, req, http.StatusNotFound, "no service has this name here")
			return
		}
		r.serve(w, req)
	})
}

func (r *route) serve(w http.ResponseWriter, req *http.Request) {
	r.meter.requests.Add(1)
	if why := r.edge.refusesAlone(r.Service); why != "" {
		r.meter.errors.Add(1)
		r.meter.refused.Add(1)
		refuse(w, req, http.StatusServiceUnavailable, why)
		return
	}
	x := &exchange{ask: edge.Request{
		Method: req.Method, Key: req.Header.Get("Idempotency-Key") != "",
		Upgrade:    upgrades(req.Header),
		Replayable: req.ContentLength >= 0 && req.ContentLength <= replayMax,
	}}
	if x.ask.Repeatable() && req.ContentLength > 0 {
		x.body = make([]byte, req.ContentLength)
		if _, err := io.ReadFull(req.Body, x.body); err != nil {
			refuse(w, req, http.StatusBadRequest, "the request's body ended too early")
			return
		}
	}
	r.waitFirst(req.Context())
	r.forward.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), exchangeKey{}, x)))
}

// upgrades reports whether a request asks for another protocol.
func upgrades(h http.Header) bool {
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// waitFirst waits until a backend may be picked, while there are some that were never checked.
func (r *route) waitFirst(ctx context.Context) {
	var limit <-chan time.Time
	for _, b := range r.backends {
		select {
		case <-b.first:
			continue
		default:
		}
		if r.pick(nil) != nil {
			return
		}
		if limit == nil {
			t := r.edge.cfg.Clock.NewTimer(firstCheckMax)
			defer t.Stop()
			limit = t.C()
		}
		select {
		case <-b.first:
		case <-b.watched.Done(): // taken away meanwhile
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// newForward is the part that the standard library does: hop-by-hop headers, copying, upgrades.
func (e *Edge) newForward(r *route) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme = "http"
			p.Out.URL.Host = r.Service // a backend's address takes its place in each try
			p.Out.Host = p.In.Host
			p.SetXForwarded() // what clients claim of themselves is dropped: the edge is the first hop
		},
		Transport:    r,
		BufferPool:   &e.buffers,
		ErrorHandler: r.fail,
		ErrorLog:     slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
}

// fail answers a request that no backend answered.
func (r *route) fail(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil && r.edge.requests.Err() == nil {
		w.WriteHeader(499) // the client left, and will not read it
		return
	}
	r.meter.errors.Add(1)
	var timeout net.Error
	switch {
	case errors.Is(err, errNoBackend), r.edge.requests.Err() != nil:
		r.meter.refused.Add(1)
		refuse(w, req, http.StatusServiceUnavailable, "no instance of the service is available at the moment")
	case errors.As(err, &timeout) && timeout.Timeout():
		refuse(w, req, http.StatusGatewayTimeout, "the service took too long to answer")
	default:
		refuse(w, req, http.StatusBadGateway, "the service broke off before it answered")
	}
	r.edge.log.DebugContext(req.Context(), "request not answered", "service", r.Service, "method", req.Method, "err", err)
}

// refuse answers in the client's language. Clients may try again after a second where that may help.
func refuse(w http.ResponseWriter, req *http.Request, status int, why string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable || status == http.StatusBadGateway || status == http.StatusGatewayTimeout {
		h.Set("Retry-After", "1")
	}
	if strings.Contains(req.Header.Get("Accept"), "json") {
		h.Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "error": why}) // the client may have left
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<!doctype html><title>%d %s</title><h1>%s</h1><p>%s.</p>\n",
		status, http.StatusText(status), http.StatusText(status), html.EscapeString(why)) // likewise
}

// bufferPool lends copy buffers. The zero value is ready.
type bufferPool struct{ pool sync.Pool }

const copyBuffer = 32 << 10

func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return buf[:]
	}
	return make([]byte, copyBuffer)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put((*[copyBuffer]byte)(buf)) }

// replay is a kept body, for one try.
func replay(body []byte) io.ReadCloser {
	if len(body) == 0 {
		return http.NoBody
	}
	return io.NopCloser(bytes.NewReader(body))
}
