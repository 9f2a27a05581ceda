package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/edge"
	"holdfast/internal/event"
)

func TestAKilledBackendCostsNoRequest(t *testing.T) {
	a, b := startChild(t, freeAddr(t)), startChild(t, freeAddr(t))
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{webRoute(at, a.addr, b.addr)}})
	e.waitUp(t)
	l := startLoad(t, 16, "http://"+at+"/")
	l.more(t, 500)
	a.kill()
	l.more(t, 500)
	waitFor(t, "the killed one is down", func() bool { return e.status(t).Routes[0].Backends[0].State == edge.Down })
	l.more(t, 500)
	startChild(t, a.addr)
	waitFor(t, "it is back", func() bool { return e.status(t).Routes[0].Backends[0].State == edge.Up })
	l.more(t, 500)
	l.stop()
	if l.bad.Load() != 0 {
		t.Errorf("%d of %d requests failed", l.bad.Load(), l.ok.Load())
	}
}

func TestAFrozenBackendCostsNoRequest(t *testing.T) {
	a, b := startChild(t, freeAddr(t)), startChild(t, freeAddr(t))
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	r := webRoute(at, a.addr, b.addr)
	r.SecondTryAfter = event.Duration(200 * time.Millisecond)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{r}})
	e.waitUp(t)
	l := startLoad(t, 16, "http://"+at+"/")
	l.more(t, 500)
	a.freeze(t)
	waitFor(t, "a second try was needed", func() bool { return e.status(t).Routes[0].Seconds > 0 })
	l.more(t, 500)
	waitFor(t, "the frozen one is silent", func() bool { return e.status(t).Routes[0].Backends[0].State == edge.Silent })
	l.more(t, 500)
	l.stop()
	if l.bad.Load() != 0 {
		t.Errorf("%d of %d requests failed", l.bad.Load(), l.ok.Load())
	}
	if s := e.status(t).Routes[0].Backends[0]; !strings.HasPrefix(s.Reason, "checks fail") || len(s.Last) == 0 || s.Last[len(s.Last)-1].Result != edge.NoAnswer {
		t.Errorf("status explains the frozen one as %+v", s)
	}
}

func TestSwappingSnapshotsUnderLoad(t *testing.T) {
	var addrs []string
	for range 3 {
		s := httptest.NewServer(application("x"))
		t.Cleanup(s.Close)
		addrs = append(addrs, s.Listener.Addr().String())
	}
	e, at, other := startEdge(t, testSpec(t)), freeAddr(t), freeAddr(t)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{webRoute(at, addrs[0])}})
	e.waitUp(t)
	_, ping := openEcho(t, at)
	l := startLoad(t, 8, "http://"+at+"/")
	l.more(t, 100)
	for rev := uint64(2); rev < 40; rev++ { // the first is always there; the others come and go, so does a second listener
		r := webRoute(at, addrs[0], addrs[1+rev%2])
		s := Snapshot{Revision: rev, Routes: []Route{r}}
		if rev%3 == 0 {
			second := webRoute(other, addrs[0])
			second.Service = "second"
			s.Routes = append(s.Routes, second)
		}
		e.apply(t, s)
		l.more(t, 20)
		if err := ping(); err != nil {
			t.Fatalf("the open WebSocket broke at revision %d: %v", rev, err)
		}
	}
	l.stop()
	if l.bad.Load() != 0 {
		t.Errorf("%d of %d requests failed", l.bad.Load(), l.ok.Load())
	}
	if s := e.status(t); s.Revision != 39 || s.Routes[0].Requests < l.ok.Load() {
		t.Errorf("counts did not go on through the swaps: %+v", s)
	}
}

func TestADrainingBackendFinishesWhatItHas(t *testing.T) {
	goOn := make(chan struct{})
	end := sync.OnceFunc(func() { close(goOn) })
	a, b := httptest.NewServer(slowly("a", goOn)), httptest.NewServer(application("b"))
	t.Cleanup(a.Close)
	t.Cleanup(b.Close)
	t.Cleanup(end) // before a is closed, which waits for its requests
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	r := webRoute(at, a.Listener.Addr().String())
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{r}})
	e.waitUp(t)
	_, ping := openEcho(t, at)
	slow := make(chan string, 1)
	go func() {
		_, text := get(t, "GET", "http://"+at+"/slow", nil)
		slow <- text
	}()
	waitFor(t, "both run through a", func() bool { return e.status(t).Routes[0].Backends[0].InFlight == 2 })

	r = webRoute(at, a.Listener.Addr().String(), b.Listener.Addr().String())
	r.Backends[0].Draining = true
	e.apply(t, Snapshot{Revision: 2, Routes: []Route{r}})
	for range 20 {
		if resp, _ := get(t, "GET", "http://"+at+"/", nil); resp.Header.Get("X-Name") != "b" {
			t.Fatalf("a new request went to %q", resp.Header.Get("X-Name"))
		}
	}
	e.apply(t, Snapshot{Revision: 3, Routes: []Route{webRoute(at, b.Listener.Addr().String())}})
	end()
	if got := <-slow; got != "a" {
		t.Errorf("the request that was under way ended with %q", got)
	}
	if err := ping(); err != nil {
		t.Errorf("the WebSocket of a removed backend broke: %v", err)
	}
}

func TestNobodyAvailable(t *testing.T) {
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{webRoute(at, freeAddr(t), freeAddr(t))}})
	resp, text := get(t, "GET", "http://"+at+"/", nil)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(text, "<h1>") {
		t.Errorf("answered %d %v %q", resp.StatusCode, resp.Header, text)
	}
	resp, text = get(t, "POST", "http://"+at+"/", strings.NewReader("x"), "Accept", "application/json")
	if resp.StatusCode != 503 || !strings.Contains(text, `"status":503`) {
		t.Errorf("answered %d %q", resp.StatusCode, text)
	}
	s := e.status(t).Routes[0]
	if s.Refused != 2 || s.Backends[0].State != edge.Starting || s.Backends[0].Reason == "" {
		t.Errorf("status: %+v", s)
	}
}

func TestRequestsArriveAsTheClientSentThem(t *testing.T) {
	b := httptest.NewServer(application("b"))
	t.Cleanup(b.Close)
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	named := webRoute(at, b.Listener.Addr().String())
	named.Host = "clinic.example"
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{named}})
	e.waitUp(t)
	_, text := get(t, "PUT", "http://"+at+"/a%20b?x=1&y=%2F", strings.NewReader("small"), "Host", "Clinic.Example:8080", "X-Forwarded-For", "6.6.6.6")
	if want := "PUT Clinic.Example:8080 /a%20b?x=1&y=%2F for=127.0.0.1 proto=http fhost=Clinic.Example:8080 body=small"; text != want {
		t.Errorf("the backend saw\n%q, want\n%q", text, want)
	}
	big := strings.Repeat("x", 3*replayMax)
	for _, method := range []string{"PUT", "POST"} {
		if _, text := get(t, method, "http://"+at+"/", strings.NewReader(big), "Host", "clinic.example"); !strings.HasSuffix(text, "body="+big) {
			t.Errorf("a big %s body came as %d bytes", method, len(text))
		}
	}
	if resp, _ := get(t, "GET", "http://"+at+"/", nil, "Host", "elsewhere.example"); resp.StatusCode != 404 {
		t.Errorf("an unknown name was answered %d", resp.StatusCode)
	}
}

// A POST goes on when it was never sent, and is never sent twice.
func TestPostsAreNeverDoubled(t *testing.T) {
	var got atomic.Int64
	breaks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		got.Add(1)
		panic(http.ErrAbortHandler) // breaks off without an answer
	}))
	t.Cleanup(breaks.Close)
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{webRoute(at, breaks.Listener.Addr().String())}})
	e.waitUp(t)
	if resp, _ := get(t, "POST", "http://"+at+"/", strings.NewReader("x")); resp.StatusCode != 502 || got.Load() != 1 {
		t.Errorf("answered %d, the backend got it %d times", resp.StatusCode, got.Load())
	}

	a, b := startChild(t, freeAddr(t)), startChild(t, freeAddr(t))
	r := webRoute(at, a.addr, b.addr)
	r.Ready.Every, r.Service = event.Duration(time.Hour), "posts" // checks shall not find out first
	e.apply(t, Snapshot{Revision: 2, Routes: []Route{r}})
	e.waitUp(t)
	a.kill()
	for i := range 40 {
		body := fmt.Sprint(i, strings.Repeat("y", 100<<10)) // too big to keep
		if resp, text := get(t, "POST", "http://"+at+"/", strings.NewReader(body)); resp.StatusCode != 200 || !strings.HasSuffix(text, "body="+body) {
			t.Fatalf("post %d: %d %.80q", i, resp.StatusCode, text)
		}
		if e.status(t).Routes[0].Unsent > 0 {
			return
		}
	}
	t.Error("no POST met the killed backend")
}

func TestABackendThatFailsRequestsIsSetAside(t *testing.T) {
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	good := httptest.NewServer(application("good"))
	t.Cleanup(bad.Close)
	t.Cleanup(good.Close)
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{webRoute(at, bad.Listener.Addr().String(), good.Listener.Addr().String())}})
	e.waitUp(t)
	waitFor(t, "the bad one is set aside", func() bool {
		get(t, "GET", "http://"+at+"/", nil)
		return e.status(t).Routes[0].Backends[0].Ejected > 0
	})
	for range 30 {
		if resp, _ := get(t, "GET", "http://"+at+"/", nil); resp.StatusCode != 200 {
			t.Fatalf("answered %d after the ejection", resp.StatusCode)
		}
	}
}

func TestARestartedEdgeServesAtOnce(t *testing.T) {
	b := httptest.NewServer(application("b"))
	t.Cleanup(b.Close)
	spec, at := testSpec(t), freeAddr(t)
	e := startEdge(t, spec)
	e.apply(t, Snapshot{Cluster: "c1", Revision: 9, Routes: []Route{webRoute(at, b.Listener.Addr().String())}})
	e.stop()

	e = startEdge(t, spec)
	if resp, _ := get(t, "GET", "http://"+at+"/", nil); resp.StatusCode != 200 { // without waiting for its first check
		t.Errorf("answered %d after a restart", resp.StatusCode)
	}
	_, err := e.Apply(t.Context(), Snapshot{Cluster: "c1", Revision: 8})
	if stale, ok := errors.AsType[*StaleError](err); !ok || stale.Served != 9 {
		t.Errorf("a restarted edge took a lower revision: %v", err)
	}
	e.apply(t, Snapshot{Cluster: "c2", Revision: 1}) // a rebuilt cluster counts anew
	if s := e.status(t); s.Revision != 1 || len(s.Routes) != 0 {
		t.Errorf("serves %+v", s)
	}
}

func TestWrongSnapshotsAreRefusedWhole(t *testing.T) {
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	ok := webRoute(at, freeAddr(t))
	for _, c := range []struct {
		name string
		spec func(r *Route)
		want string
	}{
		{"an unknown scheme", func(r *Route) { r.Scheme = "gopher" }, "gopher"},
		{"https without a certificate", func(r *Route) { r.Scheme = "https" }, "cert_file"},
		{"a backend without a port", func(r *Route) { r.Backends[0].Address = "127.43.0.1" }, "missing port"},
		{"two backends of one name", func(r *Route) { r.Backends = append(r.Backends, r.Backends[0]) }, "twice"},
		{"a check that no edge can do", func(r *Route) { r.Ready.Kind = "exec" }, "exec"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := ok
			bad.Backends = append([]Backend{}, ok.Backends...)
			c.spec(&bad)
			_, err := e.Apply(t.Context(), Snapshot{Revision: 5, Routes: []Route{bad}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
	clash := ok
	clash.Service = "other"
	if _, err := e.Apply(t.Context(), Snapshot{Revision: 5, Routes: []Route{ok, clash}}); err == nil {
		t.Error("two services got the same name on the same listener")
	}
	if s := e.status(t); s.Revision != 0 || len(s.Routes) != 0 {
		t.Errorf("a refused snapshot left traces: %+v", s)
	}
}

func TestAPortInUseIsToldAndTriedAgain(t *testing.T) {
	b := httptest.NewServer(application("b"))
	t.Cleanup(b.Close)
	e, at, taken := startEdge(t, testSpec(t)), freeAddr(t), freeAddr(t)
	l, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	second := webRoute(taken, b.Listener.Addr().String())
	second.Service = "second"
	s, err := e.Apply(t.Context(), Snapshot{Revision: 1, Routes: []Route{webRoute(at, b.Listener.Addr().String()), second}})
	if err != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], taken) {
		t.Fatalf("applied with %v, problems %q", err, s.Problems)
	}
	if resp, _ := get(t, "GET", "http://"+at+"/", nil); resp.StatusCode != 200 {
		t.Errorf("the other listener answered %d", resp.StatusCode)
	}
	l.Close()
	waitFor(t, "the listener opens", func() bool { return len(e.status(t).Problems) == 0 })
	if resp, _ := get(t, "GET", "http://"+taken+"/", nil); resp.StatusCode != 200 {
		t.Errorf("the freed listener answered %d", resp.StatusCode)
	}
}

func TestTCPRoutes(t *testing.T) {
	echo := func(name string) (string, func()) {
		l, err := net.Listen("tcp", "127.43.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					text, _ := io.ReadAll(c) // until the client has half-closed
					if len(text) > 0 {
						fmt.Fprintf(c, "%s:%s", name, text)
					}
				})
			}
		})
		stop := sync.OnceFunc(func() { l.Close(); wg.Wait() })
		t.Cleanup(stop)
		return l.Addr().String(), stop
	}
	a, stopA := echo("a")
	b, _ := echo("b")
	e, at := startEdge(t, testSpec(t)), freeAddr(t)
	r := webRoute(at, a, b)
	r.Scheme, r.Ready = "tcp", Check{Kind: "tcp"}
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{r}})
	e.waitUp(t)
	ask := func() string {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(c, "hi")
		c.(*net.TCPConn).CloseWrite()
		text, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	seen := map[string]bool{}
	waitFor(t, "both serve", func() bool { seen[ask()] = true; return seen["a:hi"] && seen["b:hi"] })
	stopA()
	for range 30 {
		if got := ask(); got != "b:hi" {
			t.Fatalf("after a went away: %q", got)
		}
	}
}

func TestASecondEdgeOnTheSameSocketIsRefused(t *testing.T) {
	spec := testSpec(t)
	e := startEdge(t, spec)
	file := t.TempDir() + "/spec.json"
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"host":"a1","control":%q,"state_file":%q}`, spec.Control, spec.StateFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Main(t.Context(), file, discard()); err == nil || !strings.Contains(err.Error(), "answers on it") {
		t.Errorf("the second ended with %v", err)
	}
	e.status(t)
}

// An edge that is told to end lets requests finish, and ends what would never end by itself.
func TestEndingCleanly(t *testing.T) {
	goOn := make(chan struct{})
	end := sync.OnceFunc(func() { close(goOn) })
	b := httptest.NewServer(slowly("b", goOn))
	t.Cleanup(b.Close)
	t.Cleanup(end) // before b is closed, which waits for its requests
	spec, at := testSpec(t), freeAddr(t)
	e := startEdge(t, spec)
	e.apply(t, Snapshot{Revision: 1, Routes: []Route{webRoute(at, b.Listener.Addr().String())}})
	e.waitUp(t)
	c, _ := openEcho(t, at)
	slow := make(chan string, 1)
	go func() {
		_, text := get(t, "GET", "http://"+at+"/slow", nil)
		slow <- text
	}()
	waitFor(t, "both are under way", func() bool { return e.status(t).Routes[0].Backends[0].InFlight == 2 })
	var ended sync.WaitGroup
	ended.Go(e.stop)
	waitFor(t, "the edge takes nothing new", func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	end()
	ended.Wait()
	if got := <-slow; got != "b" {
		t.Errorf("the request under way ended with %q", got)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the WebSocket outlived the edge: %v", err)
	}
}
