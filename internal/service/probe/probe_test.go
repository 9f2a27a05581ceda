package probe_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/clock"
	"holdfast/internal/plan"
	"holdfast/internal/service"
	"holdfast/internal/service/probe"
)

func await(t *testing.T, p *probe.Prober, what string, ok func(r probe.Result) bool) probe.Result {
	t.Helper()
	var last probe.Result
	for until := time.Now().Add(5 * time.Minute); time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
		if last = p.Results()["web.1"]; ok(last) {
			return last
		}
	}
	t.Fatalf("in vain: %s; last %+v", what, last)
	return last
}

// serverOn gives a server on a loopback address of this package's own.
func serverOn(t *testing.T, h http.HandlerFunc) (address string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.42.7.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	if err := srv.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	host, ps, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err = strconv.Atoi(ps)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

func TestChecks(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("kinds", func(t *testing.T) {
		addr, port := serverOn(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/good":
			case "/moved":
				http.Redirect(w, r, "/bad", http.StatusFound)
			case "/hangs":
				<-r.Context().Done()
			default:
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		closed, err := net.Listen("tcp", "127.42.7.2:0")
		if err != nil {
			t.Fatal(err)
		}
		free := closed.Addr().(*net.TCPAddr).Port
		if err := closed.Close(); err != nil {
			t.Fatal(err)
		}
		for name, tc := range map[string]struct {
			check  plan.Check
			port   int
			addr   string
			want   service.HealthState
			reason string
		}{
			"a good answer passes":                  {plan.Check{Kind: "http", Path: "/good"}, port, addr, service.Passing, ""},
			"a redirect passes and is not followed": {plan.Check{Kind: "http", Path: "/moved"}, port, addr, service.Passing, ""},
			"a bad answer fails":                    {plan.Check{Kind: "http", Path: "/bad"}, port, addr, service.Failing, "503"},
			"a server that hangs fails":             {plan.Check{Kind: "http", Path: "/hangs", Timeout: 20 * time.Millisecond}, port, addr, service.Failing, "no answer within"},
			"an open port passes":                   {plan.Check{Kind: "tcp"}, port, addr, service.Passing, ""},
			"a closed port fails":                   {plan.Check{Kind: "tcp"}, free, "127.42.7.2", service.Failing, "refused"},
			"a command that succeeds passes":        {plan.Check{Kind: "exec", Argv: []string{"/bin/sh", "-c", `[ "$X" = 1 ]`}}, port, addr, service.Passing, ""},
			"a command that fails fails":            {plan.Check{Kind: "exec", Argv: []string{"/bin/sh", "-c", "echo token >&2; exit 3"}}, port, addr, service.Failing, "exit status 3"},
			"a command that hangs is killed":        {plan.Check{Kind: "exec", Argv: []string{"/bin/sh", "-c", "sleep 1000; :"}, Timeout: 20 * time.Millisecond}, port, addr, service.Failing, "no answer within"},
			"an unknown kind fails":                 {plan.Check{Kind: "pigeon"}, port, addr, service.Failing, "not known"},
		} {
			t.Run(name, func(t *testing.T) {
				p := probe.New(clock.Real())
				defer p.Close()
				c := tc.check
				c.Every = 4 * time.Millisecond
				if c.Timeout == 0 {
					c.Timeout = 20 * time.Second
				}
				p.Set([]probe.Target{{ID: "web.1", Life: "l", Address: tc.addr, Port: tc.port, Live: &c, Env: []string{"X=1"}, WorkDir: "/"}})
				r := await(t, p, "a verdict", func(r probe.Result) bool { return r.Live.State == tc.want })
				if !strings.Contains(r.Live.Reason, tc.reason) || (tc.want == service.Failing && strings.Contains(r.Live.Reason, "token")) || r.Ready.State != "" {
					t.Errorf("%+v, want reason %q", r, tc.reason)
				}
			})
		}
	})
}

func TestVerdictsFollowTheInstance(t *testing.T) {
	var good atomic.Bool
	addr, port := serverOn(t, func(w http.ResponseWriter, _ *http.Request) {
		if !good.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p := probe.New(clock.Real())
	defer p.Close()
	c := plan.Check{Kind: "http", Path: "/", Every: 4 * time.Millisecond, Timeout: 20 * time.Second}
	target := probe.Target{ID: "web.1", Life: "one", Address: addr, Port: port, Ready: &c}
	p.Set([]probe.Target{target})
	await(t, p, "failing", func(r probe.Result) bool { return r.Ready.State == service.Failing })
	good.Store(true)
	await(t, p, "passing", func(r probe.Result) bool { return r.Ready.State == service.Passing })
	before := p.Results()["web.1"].Ready.Since
	same := c // an equal target by another pointer goes on undisturbed
	target.Ready = &same
	p.Set([]probe.Target{target})
	if r := p.Results()["web.1"]; r.Ready.State != service.Passing || r.Ready.Since < before {
		t.Errorf("setting the same target again began anew: %+v", r)
	}
	good.Store(false)
	target.Life = "two"
	p.Set([]probe.Target{target})
	if r := p.Results()["web.1"]; r.Life != "two" || r.Ready.State == service.Passing {
		t.Errorf("a new life inherited a verdict: %+v", r)
	}
	p.Set(nil)
	if n := len(p.Results()); n != 0 {
		t.Errorf("%d results without targets", n)
	}
}
