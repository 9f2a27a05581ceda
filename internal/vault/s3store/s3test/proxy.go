package s3test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

// Faults say what a [Proxy] does to requests, each with a chance from 0 to 1 and drawn anew for each request. What the
// server was asked for and did is done all the same with LoseAnswer and Forget.
type Faults struct {
	Busy       float64 // 503 SlowDown, the server is not asked
	Broken     float64 // 500, the server is not asked
	Reset      float64 // the connection ends before the server is asked
	LoseAnswer float64 // the server is asked, and the connection ends before its answer
	CutBody    float64 // the connection ends in the middle of what the server answers
	Damage     float64 // a byte of what is uploaded is flipped
	Deny       float64 // 404 to a HEAD or GET of an object, as a store does whose lists lag behind
	Stall      time.Duration
	Trickle    int  // bytes a second of an answer's body; 0 = as fast as it comes
	Unasked    bool // a store that takes conditions and does not heed them
	Heeds      bool // a store that heeds "only if there is none" in buckets of versions, as Amazon's does (user guide, "Conditional writes")
	NoRange    bool // a store that gives the whole object whatever part is asked for
	Lookups    int  // so many requests for an object right behind its first upload are answered with 404
	Unlisted   int  // so many lists do not show an object that was just stored
	Listed     int  // so many lists still show an object that was just deleted
}

// Proxy stands between a client and a [Server], and makes it worse.
type Proxy struct {
	Address string
	own     *minio.Client // for what a signed request cannot be changed to

	heeding sync.Mutex // one upload under a condition at a time; taken before mu

	mu     sync.Mutex
	faults Faults
	dice   *rand.Rand
	count  map[string]int
	asked  int // requests
	there  map[string]known
	lags   map[string]*lag
}

// Worse starts a proxy before the server that ends with the test.
func (s *Server) Worse(t *testing.T, seed uint64) *Proxy {
	t.Helper()
	own, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	return between(t, s.Address, seed, own)
}

// Between starts a proxy before any server that speaks HTTP. Deny, Unasked, Heeds, NoRange, Lookups, Unlisted and Listed are not for it: they know S3.
func Between(t *testing.T, server string, seed uint64) *Proxy { return between(t, server, seed, nil) }

func between(t *testing.T, server string, seed uint64, own *minio.Client) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.84.3.2:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: l.Addr().String(), own: own, dice: rand.New(rand.NewPCG(seed, 1)), count: map[string]int{}, there: map[string]known{}, lags: map[string]*lag{}}
	to := &url.URL{Scheme: "http", Host: server}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}}
	pass.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) } // the server is gone: so is the connection
	front := &http.Server{Handler: p.handler(pass)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = front.Serve(l) // ends by Close
	}()
	t.Cleanup(func() {
		_ = front.Close()
		<-done
	})
	return p
}

// Set changes the faults from the next request on.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Count says how often each fault struck.
func (p *Proxy) Count() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(p.count)
}

// Asked is how many requests have come.
func (p *Proxy) Asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// next counts a request, and gives what is done to it.
func (p *Proxy) next() Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	return p.faults
}

// strikes draws whether a fault happens now.
func (p *Proxy) strikes(what string, chance float64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dice.Float64() >= chance {
		return false
	}
	p.count[what]++
	return true
}

func (p *Proxy) handler(pass http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := p.next()
		switch {
		case p.strikes("busy", f.Busy):
			answer(w, http.StatusServiceUnavailable, "SlowDown")
			return
		case p.strikes("broken", f.Broken):
			answer(w, http.StatusInternalServerError, "InternalError")
			return
		case p.strikes("reset", f.Reset):
			panic(http.ErrAbortHandler)
		case r.Method != http.MethodPut && r.URL.RawQuery == "" && p.strikes("deny", f.Deny):
			answer(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		if f.Stall > 0 {
			select {
			case <-time.After(f.Stall):
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		}
		p.spoil(f, r)
		if f.Heeds && r.Header.Get("If-None-Match") != "" {
			p.heeding.Lock()
			defer p.heeding.Unlock()
			if p.taken(r) {
				answer(w, http.StatusPreconditionFailed, minio.PreconditionFailed)
				return
			}
		}
		switch {
		case f.NoRange && r.Header.Get("Range") != "":
			p.whole(w, r)
			return
		case p.strikes("lost answer", f.LoseAnswer):
			pass.ServeHTTP(&nowhere{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		case p.strikes("cut body", f.CutBody):
			w = &cutting{ResponseWriter: w}
		case f.Trickle > 0:
			w = &trickling{ResponseWriter: w, rate: f.Trickle, gone: r}
		}
		if !p.late(f, w, r, pass) {
			pass.ServeHTTP(w, r)
		}
	})
}

// spoil changes a request on its way.
func (p *Proxy) spoil(f Faults, r *http.Request) {
	if bucket, key, ok := object(r); ok && f.Unasked && r.Header.Get("If-None-Match") != "" {
		if err := p.own.RemoveObject(r.Context(), bucket, key, minio.RemoveObjectOptions{}); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if r.Method == http.MethodPut && r.ContentLength > 0 && p.strikes("damage", f.Damage) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) == 0 {
			panic(http.ErrAbortHandler)
		}
		body[len(body)/2] ^= 1
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
}

// taken reports whether there is an object already where a request stores one. Without a clear answer the connection ends.
func (p *Proxy) taken(r *http.Request) bool {
	bucket, key, _ := object(r)
	_, err := p.own.StatObject(r.Context(), bucket, key, minio.StatObjectOptions{})
	if err != nil && minio.ToErrorResponse(err).StatusCode != http.StatusNotFound {
		panic(http.ErrAbortHandler)
	}
	return err == nil
}

func object(r *http.Request) (bucket, key string, ok bool) {
	return strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
}

// whole answers with all of an object.
func (p *Proxy) whole(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := object(r)
	o, err := p.own.GetObject(r.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer func() { _ = o.Close() }() // only read
	info, err := o.Stat()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
	w.Header().Set("Last-Modified", info.LastModified.UTC().Format(http.TimeFormat))
	_, _ = io.Copy(w, o) // the client may have heard enough
}

func answer(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>planted by the test</Message></Error>", code) // nobody is left to tell
}

// nowhere takes an answer that never arrives.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}

// cutting ends the connection half-way through the body, or when cutAfter bytes have gone.
type cutting struct {
	http.ResponseWriter
	left int // 0 = nothing was written yet
}

const cutAfter = 700_000

func (c *cutting) Write(b []byte) (int, error) {
	if c.left == 0 {
		n, err := strconv.Atoi(c.Header().Get("Content-Length"))
		if err != nil {
			n = len(b)
		}
		c.left = max(1, min(n/2, cutAfter))
	}
	if len(b) < c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	_, _ = c.ResponseWriter.Write(b[:c.left]) // cut in any case
	if f, ok := c.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}

// trickling passes a body on slowly.
type trickling struct {
	http.ResponseWriter
	rate int
	gone *http.Request
}

func (s *trickling) Write(b []byte) (int, error) {
	const piece = 100 * time.Millisecond
	n := max(1, s.rate/int(time.Second/piece))
	for sent := 0; sent < len(b); {
		end := min(sent+n, len(b))
		if _, err := s.ResponseWriter.Write(b[sent:end]); err != nil {
			return sent, err
		}
		if f, ok := s.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		sent = end
		select {
		case <-time.After(piece):
		case <-s.gone.Context().Done():
			return sent, s.gone.Context().Err()
		}
	}
	return len(b), nil
}
