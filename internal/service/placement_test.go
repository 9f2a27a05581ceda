package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/service"
)

func hosts(spec ...string) []service.HostView { // "name/domain"
	var hs []service.HostView
	for _, s := range spec {
		name, domain, _ := strings.Cut(s, "/")
		hs = append(hs, service.HostView{Name: name, FaultDomain: domain})
	}
	return hs
}

// site is a dumb world that carries out placements: what is on a host runs, and is stopped when unassigned.
type site struct {
	view    service.PlacementView
	policy  service.PlacementPolicy
	running map[string]service.Assignment // really running, whether assigned or not
	broken  map[string]bool               // host: every start fails there
}

func newSite(hs []service.HostView, ss ...service.ServiceView) *site {
	return &site{
		view:    service.PlacementView{Generation: 1, Hosts: hs, Services: ss},
		running: make(map[string]service.Assignment), broken: make(map[string]bool),
	}
}

func (s *site) decide() service.PlacementDecision {
	d := service.Place(s.policy, s.view)
	for i := range d.Services {
		s.view.Services[i].Placed = d.Services[i]
	}
	if d.Changed {
		s.view.Generation++
	}
	return d
}

func (s *site) assigned() []service.Assignment {
	var as []service.Assignment
	for _, sv := range s.view.Services {
		as = append(as, sv.Placed.Assignments...)
	}
	return as
}

func (s *site) host(name string) *service.HostView {
	return &s.view.Hosts[slices.IndexFunc(s.view.Hosts, func(h service.HostView) bool { return h.Name == name })]
}

// act lets one host that answers carry out its orders and report.
func (s *site) act(name string, ready bool) {
	if s.host(name).Silence != 0 {
		return
	}
	for id, a := range s.running {
		if a.Host == name && !slices.ContainsFunc(s.assigned(), func(b service.Assignment) bool { return b.ID == id && !b.Leave }) {
			delete(s.running, id)
		}
	}
	s.view.Reports = slices.DeleteFunc(s.view.Reports, func(r service.Report) bool {
		return !slices.ContainsFunc(s.assigned(), func(a service.Assignment) bool { return a.ID == r.ID && a.Host != name })
	})
	for _, a := range s.assigned() {
		if a.Host != name {
			continue
		}
		state := service.Starting
		switch {
		case a.Leave:
			state = service.Gone
		case s.broken[name]:
			state = service.Failed // which says that nothing of it runs there
			delete(s.running, a.ID)
			s.view.Failures = append(s.view.Failures, service.Failure{Service: a.Service, Host: name, Version: a.Version})
		default:
			s.running[a.ID] = a
			if ready {
				state = service.Ready
			}
		}
		s.view.Reports = append(s.view.Reports, service.Report{ID: a.ID, State: state})
	}
}

func (s *site) settle(rounds int) {
	for range rounds {
		s.decide()
		for _, h := range s.view.Hosts {
			s.act(h.Name, true)
		}
	}
}

// givenUp: its host said that nothing of it runs there. It stays assigned while no other host could take it.
func (s *site) givenUp(id string) bool {
	return slices.ContainsFunc(s.view.Reports, func(r service.Report) bool { return r.ID == id && r.State == service.Failed })
}

func (s *site) where(name string) []string {
	var at []string
	for _, a := range s.assigned() {
		if a.Service == name {
			at = append(at, a.Host)
		}
	}
	slices.Sort(at)
	return at
}

func web(n int) service.ServiceView {
	return service.ServiceView{Name: "web", Instances: n, Version: "v1", Port: 8080}
}

func TestPlacement(t *testing.T) {
	three := []string{"a/r1", "b/r2", "c/r3"}
	for name, tc := range map[string]struct {
		hosts []string
		s     service.ServiceView
		do    func(t *testing.T, s *site)
		want  []string
	}{
		"two instances go to different fault domains": {[]string{"a/r1", "b/r1", "c/r2"}, web(2), nil, []string{"a", "c"}},
		"only allowed hosts are used": {three, func() service.ServiceView { w := web(2); w.Hosts = []string{"b", "c"}; return w }(),
			nil, []string{"b", "c"}},
		"a lost host's instance is replaced": {three, web(2), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Silence = 7 * time.Second
		}, []string{"b", "c"}},
		"a short silence moves nothing": {three, web(2), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Silence = 5 * time.Second
		}, []string{"a", "b"}},
		"with nowhere to go a lost instance keeps its place": {[]string{"a/r1", "b/r2"}, web(2), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Silence = time.Hour
		}, []string{"a", "b"}},
		"it spreads again after a recovery": {[]string{"a/r1", "b/r2", "c/r2"}, web(2), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Silence = time.Hour
			s.settle(6)
			s.host("a").Silence = 0
		}, []string{"a", "b"}},
		"a host that gave up is replaced elsewhere": {three, web(2), func(_ *testing.T, s *site) {
			s.broken["a"] = true
		}, []string{"b", "c"}},
		"a draining host is left": {three, web(2), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("b").Draining = true
		}, []string{"a", "c"}},
		"a singleton leaves a draining host": {three, web(1), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Draining = true
		}, []string{"b"}},
		"a singleton stays on a silent host until its deadline has surely passed": {three, web(1), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Silence = 29 * time.Second
		}, []string{"a"}},
		"then it goes elsewhere": {three, web(1), func(_ *testing.T, s *site) {
			s.settle(6)
			s.host("a").Silence = 31 * time.Second
		}, []string{"b"}},
		"a new version replaces every instance": {three, web(3), func(t *testing.T, s *site) {
			s.settle(8)
			s.view.Services[0].Version = "v2"
			s.settle(12)
			for _, a := range s.assigned() {
				if a.Version != "v2" {
					t.Errorf("%s still runs %s", a.ID, a.Version)
				}
			}
		}, []string{"a", "b", "c"}},
		"a service without a port shares hosts": {[]string{"a/r1", "b/r2"}, service.ServiceView{Name: "web", Instances: 4, Version: "v1"},
			nil, []string{"a", "a", "b", "b"}},
		"a service taken out ends": {three, web(2), func(_ *testing.T, s *site) {
			s.settle(6)
			s.view.Services[0].Instances = 0
		}, nil},
		"a service made a singleton keeps one": {three, web(3), func(_ *testing.T, s *site) {
			s.settle(8)
			s.view.Services[0].Instances = 1
		}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(hosts(tc.hosts...), tc.s)
			if tc.do != nil {
				tc.do(t, s)
			}
			s.settle(10)
			if d := cmp.Diff(tc.want, s.where("web")); d != "" {
				t.Error(d, s.decide().Because)
			}
		})
	}
}

func TestANewVersionStartsAlone(t *testing.T) {
	s := newSite(hosts("a/r1", "b/r2", "c/r3"), web(3))
	for range 3 {
		s.decide()
		s.act("a", false)
		s.act("b", false)
		if n := len(s.assigned()); n != 1 {
			t.Fatalf("%d instances of a version that was never ready", n)
		}
	}
	s.act("a", true)
	s.decide()
	if n := len(s.assigned()); n != 3 {
		t.Errorf("%d instances after the first was ready, want 3", n)
	}
}

// Whatever happens to hosts, versions and numbers: no two of a singleton ever run where both may serve, never more than one
// above the wanted number, a decision is stable, and in calm the spread is as wide as it can be.
func TestPlacementHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nh := rapid.IntRange(1, 5).Draw(t, "hosts")
		var hs []service.HostView
		for i := range nh {
			hs = append(hs, service.HostView{Name: string(rune('a' + i)), FaultDomain: fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "domain"))})
		}
		n := rapid.IntRange(2, 4).Draw(t, "instances")
		multi := service.ServiceView{Name: "web", Instances: n, Version: "v1", Port: rapid.SampledFrom([]int{0, 8080}).Draw(t, "port")}
		single := service.ServiceView{Name: "one", Instances: 1, Version: "v1"}
		s := newSite(hs, multi, single)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			h := &s.view.Hosts[rapid.IntRange(0, nh-1).Draw(t, "host")]
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0:
				h.Silence = rapid.SampledFrom([]time.Duration{0, 3 * time.Second, 10 * time.Second, 40 * time.Second}).Draw(t, "silence")
				if h.Silence > 30*time.Second { // its keeper's deadline has passed
					for id, a := range s.running {
						if a.Host == h.Name && a.Service == "one" {
							delete(s.running, id)
						}
					}
				}
			case 1:
				h.Draining = !h.Draining
			case 2:
				s.broken[h.Name] = !s.broken[h.Name]
			case 3:
				s.view.Services[rapid.IntRange(0, 1).Draw(t, "service")].Version = rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "version")
			case 4:
				s.view.Failures = nil
			default:
				s.act(h.Name, rapid.Bool().Draw(t, "ready"))
			}
			s.decide()
			check(t, s, n)
		}
		calm(t, s, n)
	})
}

func check(t *rapid.T, s *site, n int) {
	ones := 0
	for _, a := range s.running {
		if a.Service == "one" {
			ones++
		}
	}
	if ones > 1 {
		t.Fatalf("%d of a singleton run: %v", ones, s.running)
	}
	if len(s.where("one")) > 1 {
		t.Fatalf("a singleton is assigned twice: %v", s.where("one"))
	}
	live := 0
	for _, a := range s.assigned() {
		if a.Service == "web" && s.host(a.Host).Silence <= 6*time.Second && !s.givenUp(a.ID) {
			live++
		}
	}
	if live > n+1 {
		t.Fatalf("%d live assignments, wanted %d", live, n)
	}
	ids := map[string]bool{}
	for _, a := range s.assigned() {
		if ids[a.ID] {
			t.Fatalf("id %s given twice", a.ID)
		}
		ids[a.ID] = true
	}
	before := service.Place(s.policy, s.view)
	if d := cmp.Diff(before, service.Place(s.policy, s.view)); d != "" {
		t.Fatal("two answers to one question", d)
	}
	s2 := s.view
	s2.Services = slices.Clone(s.view.Services)
	for i := range s2.Services {
		s2.Services[i].Placed = before.Services[i]
	}
	s2.Generation++
	if d := service.Place(s.policy, s2); d.Changed {
		t.Fatalf("deciding again without news changes more: first %v, then %v", before.Because, d.Because)
	}
}

func calm(t *rapid.T, s *site, n int) {
	for i := range s.view.Hosts {
		s.view.Hosts[i].Silence, s.view.Hosts[i].Draining = 0, false
	}
	clear(s.broken)
	s.view.Failures = nil
	s.settle(40)
	d := s.decide()
	if d.Changed {
		t.Fatalf("still changing in calm: %v", d.Because)
	}
	want := n
	if s.view.Services[0].Port != 0 {
		want = min(n, len(s.view.Hosts))
	}
	at := s.where("web")
	if len(at) != want || len(s.where("one")) != 1 {
		t.Fatalf("in calm web on %v (want %d), one on %v: %v", at, want, s.where("one"), d.Because)
	}
	perDomain := map[string]int{}
	room := map[string]int{}
	for _, h := range s.view.Hosts {
		room[h.FaultDomain]++
	}
	for _, h := range at {
		perDomain[s.host(h).FaultDomain]++
	}
	for full := range room {
		for other := range room {
			hasRoom := s.view.Services[0].Port == 0 || perDomain[other] < room[other]
			if hasRoom && perDomain[full]-perDomain[other] > 1 {
				t.Fatalf("spread %v over %v is not the widest", perDomain, room)
			}
		}
	}
}
