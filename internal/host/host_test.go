package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/edge/proxy"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

func TestDiskProblem(t *testing.T) {
	dir := t.TempDir()
	free, err := diskFree(dir)
	if err != nil || free <= 0 {
		t.Fatalf("%d bytes are free: %v", free, err)
	}
	if p := diskProblem("b1", dir, 0); p != nil {
		t.Errorf("there is enough: %v", p)
	}
	p := diskProblem("b1", dir, math.MaxInt64)
	if p == nil || p.Code != "host.disk-low" || p.Subject != "b1" || !strings.Contains(p.Title, dir) {
		t.Fatalf("it says %v", p)
	}
	want := problem.Degraded
	if free < diskStart {
		want = problem.Critical
	}
	if p.Severity != want {
		t.Errorf("with %d bytes free it is %s, want %s", free, p.Severity, want)
	}
	t.Run("a directory that does not exist yet is judged by where it will lie", func(t *testing.T) {
		if p := diskProblem("b1", filepath.Join(dir, "not", "yet"), math.MaxInt64); p == nil {
			t.Error("nothing is said")
		}
	})
	t.Run("a host is told what its disk says, and nothing when it is well", func(t *testing.T) {
		d := &disk{}
		if got := d.problems(); len(got) != 0 {
			t.Errorf("before the first look: %v", got)
		}
		d.now.Store(p)
		if got := d.problems(); len(got) != 1 || got[0] != *p {
			t.Errorf("%v", got)
		}
	})
}

func TestPortFree(t *testing.T) {
	l, err := net.Listen("tcp", "127.63.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	err = portFree(t.Context(), "the agent", "127.63.1.1", port)
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != "host.port-in-use" || p.Subject != "the agent" {
		t.Fatalf("it says %v", err)
	}
	if !strings.Contains(p.Title, "127.63.1.1:"+strconv.Itoa(port)) || !strings.Contains(p.Remedy, fmt.Sprintf(":%d'", port)) {
		t.Errorf("the port is not named: %s / %s", p.Title, p.Remedy)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := portFree(t.Context(), "the agent", "127.63.1.1", port); err != nil {
		t.Errorf("a free port is refused: %v", err)
	}
	if err := portFree(t.Context(), "the agent", "192.0.2.1", 7400); !errors.As(err, &p) || p.Code != "host.address" || !strings.Contains(p.Title, "192.0.2.1:7400") {
		t.Errorf("an address that is not this machine's: %v", err)
	}
}

func TestOneAgentAloneWorksOnAHost(t *testing.T) {
	dir := t.TempDir()
	held, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	var p *problem.Problem
	if _, err := lock(dir); !errors.As(err, &p) || p.Code != "host.in-use" {
		t.Errorf("the second is told %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if _, err := lock(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func clinic() *plan.Plan {
	return &plan.Plan{
		Application: "clinic",
		Sites:       []plan.Site{{Name: "b", Hosts: []plan.Host{{Name: "b1", Address: "127.63.2.1"}, {Name: "b2", Address: "127.63.2.2"}}}},
		Ports:       plan.Ports{Agent: 7400, Server: 7430},
		Services: []plan.Service{
			{Name: "web", Instances: 2, Port: 8080, Route: &plan.Route{Scheme: "https", Host: "clinic.test", Port: 443}, Ready: &plan.Check{
				Kind: "http", Path: "/ready", Every: 2 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2,
			}},
			{Name: "own", Instances: 1, Port: 9090, Route: &plan.Route{Scheme: "https", Host: "own.test", Port: 443},
				TLS: &plan.TLSFiles{Cert: "file:/own/crt", Key: "file:/own/key"}, Ready: &plan.Check{Kind: "exec", Argv: []string{"/bin/true"}}},
			{Name: "mail", Instances: 1, Port: 2525},
		},
		Databases: []plan.Database{{Name: "records", WritePort: 5432, ReadPort: 5433, ReadFallback: plan.FallbackRefuse, Roles: []plan.Role{{Name: "app", Password: "env:CLINIC_APP", Owns: []string{"patients"}}}}},
	}
}

func TestTheBalancersSnapshot(t *testing.T) {
	p := clinic()
	self, _ := p.Host("b2")
	b := newBalancer(&Host{cfg: Config{Plan: p, Self: "b2", Dir: "/data/b2"}, self: self, applied: &applied{now: p}})
	now := agent.Snapshot{}
	b.tend(now)
	if len(b.wake) != 0 || b.want.Revision != 0 {
		t.Error("the edge is told of a placement that there is not")
	}
	now.Facts.Services = agent.ServiceFacts{Revision: 12, Agreed: []service.Placed{
		{Service: "web", Assignments: []service.Assignment{
			{ID: "web.2", Host: "b2", Leave: true}, {ID: "web.1", Host: "b1"}, {ID: "web.3", Host: "b9"},
		}},
		{Service: "mail", Assignments: []service.Assignment{{ID: "mail.1", Host: "b1"}}},
	}}
	b.tend(now)
	want := proxy.Snapshot{Cluster: "clinic", Revision: 12, Routes: []proxy.Route{
		{
			Service: "web", Scheme: "https", Host: "clinic.test", Listen: "127.63.2.2:443", CertFile: "/data/b2/tls/host.crt", KeyFile: "/data/b2/tls/host.key",
			Ready: proxy.Check{Kind: "http", Path: "/ready", Every: event.Duration(2 * time.Second), Timeout: event.Duration(time.Second), Fall: 3, Rise: 2},
			Backends: []proxy.Backend{
				{ID: "web.1", Address: "127.63.2.1:8080"}, {ID: "web.2", Address: "127.63.2.2:8080", Draining: true},
			},
		},
		{Service: "own", Scheme: "https", Host: "own.test", Listen: "127.63.2.2:443", CertFile: "/own/crt", KeyFile: "/own/key", Ready: proxy.Check{Kind: "tcp"}},
	}}
	if diff := cmp.Diff(want, b.want); diff != "" {
		t.Error(diff)
	}
	if len(b.wake) != 1 {
		t.Error("the edge is not told at once")
	}
	<-b.wake
	b.tend(now)
	if len(b.wake) != 0 {
		t.Error("the edge is told at once though nothing changed")
	}
	now.Facts.Services.Revision = 13
	b.tend(now)
	if len(b.wake) != 1 || b.want.Revision != 13 {
		t.Error("the edge is not told of a new placement")
	}
	<-b.wake
	// A plan that was agreed after the round had begun is not adopted yet: the edge takes a revision once.
	now.Agreed = map[string]cluster.Entry{agent.KeyPlan: {Key: agent.KeyPlan, Revision: 14}}
	b.tend(now)
	if len(b.wake) != 0 || b.want.Revision != 13 {
		t.Errorf("routes of the plan before are called revision %d", b.want.Revision)
	}
	now.Facts.Adopted = &agent.Adopted{Revision: 14}
	b.tend(now)
	if len(b.wake) != 1 || b.want.Revision != 14 {
		t.Errorf("the edge is not told of a new plan: revision %d", b.want.Revision)
	}
}

// The routes were taken out of the plan while the agent was away: its edge goes on with them until it is told.
func TestAnEdgeOfBeforeIsToldThatThereAreNoRoutes(t *testing.T) {
	p := clinic()
	p.Services = nil
	self, _ := p.Host("b2")
	for _, before := range []bool{false, true} {
		dir := t.TempDir()
		if before {
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, "keep"), 0o700), os.WriteFile(edgeState(dir), []byte("{}"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		b := newBalancer(&Host{cfg: Config{Plan: p, Self: "b2", Dir: dir}, self: self, applied: &applied{now: p}})
		b.tend(agent.Snapshot{Facts: agent.Facts{Services: agent.ServiceFacts{Revision: 12}}})
		if told := len(b.wake) == 1; told != before || len(b.want.Routes) != 0 {
			t.Errorf("an edge of before: %t; told: %t, routes %v", before, told, b.want.Routes)
		}
	}
}

func TestAnInstanceGetsItsEnvironmentAlone(t *testing.T) {
	const password = "p@ss:word/1"
	t.Setenv("CLINIC_APP", password)
	t.Setenv("CLINIC_UNRELATED", "the agent's own")
	p := clinic()
	p.Services[0].Run = []string{"bin/web", "--fast"}
	p.Services[0].Env = []plan.EnvVar{
		{Name: "DATABASE_URL", Value: "${databases.records.write_url}"}, {Name: "READ_URL", Value: "${databases.records.read_url}"}, {Name: "KEY", Value: "env:CLINIC_APP"}, {Name: "ME", Value: "${instance.id} on ${host.address}:${instance.port}"},
	}
	self, _ := p.Host("b1")
	s := &services{cfg: Config{Plan: p, Dir: "/data/b1"}, plan: func() *plan.Plan { return p }, self: self, release: release{dir: "/data/b1/releases/x", hash: "x"}, ctx: t.Context()}
	in, err := s.instance(service.Assignment{ID: "web.1", Service: "web", Host: "b1", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range in.Env {
		name, value, _ := strings.Cut(v, "=")
		got[name] = value
	}
	for name, want := range map[string]string{
		"DATABASE_URL": "postgres://app:p%40ss%3Aword%2F1@127.63.2.1:5432/patients?sslmode=verify-ca&sslrootcert=%2Fdata%2Fb1%2Fca.crt",
		"READ_URL":     "postgres://app:p%40ss%3Aword%2F1@127.63.2.1:5433/patients?sslmode=verify-ca&sslrootcert=%2Fdata%2Fb1%2Fca.crt&options=-c%20default_transaction_read_only%3Don",
		"KEY":          password, "ME": "web.1 on 127.63.2.1:8080", "PORT": "8080", "HOLDFAST_INSTANCE": "web.1", "HOLDFAST_VERSION": "v1",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if _, leaked := got["CLINIC_UNRELATED"]; leaked {
		t.Error("the agent's own variables are handed on")
	}
	if diff := cmp.Diff([]string{"/data/b1/releases/x/bin/web", "--fast"}, in.Argv); diff != "" {
		t.Error(diff)
	}
	if p.Services[0].Run[0] != "bin/web" {
		t.Error("the plan was changed")
	}
	if in.Deadline != 0 {
		t.Error("a service of several is fenced as a singleton")
	}
}
