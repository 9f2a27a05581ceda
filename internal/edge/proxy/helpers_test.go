package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/edge"
	"holdfast/internal/event"
)

// backendEnv makes this test binary a backend at that address, so that tests can kill and freeze one.
const backendEnv = "HOLDFAST_TEST_BACKEND"

func TestMain(m *testing.M) {
	if addr := os.Getenv(backendEnv); addr != "" {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, application(addr)))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// application is what stands behind the edge: it tells its name and what it was asked.
func application(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {})
	mux.HandleFunc("/unwell", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Name", name)
		fmt.Fprintf(w, "%s %s %s for=%s proto=%s fhost=%s body=%s", r.Method, r.Host, r.URL,
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host"), body)
	})
	return mux
}

// slowly is the application with an answer to /slow that begins at once and does not end before goOn is closed.
func slowly(name string, goOn <-chan struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-goOn
		fmt.Fprint(w, name)
	})
	mux.Handle("/", application(name))
	return mux
}

var nextAddress atomic.Int32

// freeAddr is a loopback address and port that nobody else has.
func freeAddr(t testing.TB) string {
	t.Helper()
	n := nextAddress.Add(1)
	l, err := net.Listen("tcp", fmt.Sprintf("127.43.%d.%d:0", os.Getpid()%200+1, n%250+1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// child is a backend in a process of its own.
type child struct {
	addr string
	cmd  *exec.Cmd
}

func startChild(t testing.TB, addr string) *child {
	t.Helper()
	c := &child{addr: addr, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), backendEnv+"="+addr)
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	waitFor(t, "the backend listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c
}

func (c *child) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // killed: the error says only that
		c.cmd = nil
	}
}

func (c *child) freeze(t testing.TB) {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// patience bounds what must happen, however busy the machine; nothing is asserted about speed.
const patience = 2 * time.Minute

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func testSpec(t testing.TB) Spec {
	dir := t.TempDir()
	return Spec{Host: "a1", Control: filepath.Join(dir, "edge.sock"), StateFile: filepath.Join(dir, "edge.json"),
		Grace: event.Duration(5 * time.Second)}
}

// running is an edge of this process, and its client.
type running struct {
	*Client
	stop func()
}

func startEdge(t testing.TB, spec Spec) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{Spec: spec, Log: slog.New(slog.DiscardHandler), Seed: 7}) }()
	r := &running{Client: Dial(spec.Control)}
	r.stop = sync.OnceFunc(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("edge ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("edge did not end")
		}
	})
	t.Cleanup(r.stop)
	waitFor(t, "the edge answers", func() bool { _, err := r.Status(t.Context()); return err == nil })
	return r
}

func (r *running) apply(t testing.TB, s Snapshot) {
	t.Helper()
	got, err := r.Apply(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Problems) > 0 {
		t.Fatalf("applied with problems: %q", got.Problems)
	}
}

func (r *running) status(t testing.TB) Status {
	t.Helper()
	s, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// waitUp waits until every backend of every route is up.
func (r *running) waitUp(t testing.TB) {
	t.Helper()
	waitFor(t, "all backends are up", func() bool {
		for _, route := range r.status(t).Routes {
			for _, b := range route.Backends {
				if b.State != edge.Up {
					return false
				}
			}
		}
		return true
	})
}

func webRoute(listen string, backends ...string) Route {
	r := Route{Service: "web", Scheme: "http", Listen: listen, Ready: Check{Kind: "http", Path: "/ready"}}
	for _, b := range backends {
		r.Backends = append(r.Backends, Backend{ID: b, Address: b})
	}
	return r
}

// load asks url with many clients until stop, and counts what did not go well.
type load struct {
	ok, bad atomic.Int64
	end     context.CancelFunc
	wg      sync.WaitGroup
}

func startLoad(t testing.TB, clients int, url string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{end: cancel}
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	client := &http.Client{Transport: transport, Timeout: patience}
	for range clients {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					if l.bad.Add(1) < 5 {
						t.Errorf("request failed: %v, %+v", err, resp)
					}
					continue
				}
				l.ok.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		l.stop()
		transport.CloseIdleConnections()
	})
	return l
}

func (l *load) stop() {
	l.end()
	l.wg.Wait()
}

// more waits until n more requests have ended well.
func (l *load) more(t testing.TB, n int64) {
	t.Helper()
	want := l.ok.Load() + n
	waitFor(t, fmt.Sprintf("%d more requests are answered", n), func() bool { return l.ok.Load() >= want })
}

// get asks once, on a connection of its own.
func get(t testing.TB, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// openEcho upgrades a connection through the edge, and gives one that comes back line by line.
func openEcho(t testing.TB, addr string) (c net.Conn, ping func() error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %+v", err, resp)
	}
	return c, func() error {
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err == nil && line != "hello\n" {
			err = fmt.Errorf("got %q", line)
		}
		return err
	}
}
