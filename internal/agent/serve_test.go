package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
	"holdfast/internal/service"
)

func TestSingletonContact(t *testing.T) {
	peer := func(host string, contact time.Duration) PeerFacts { return PeerFacts{Host: host, Contact: contact} }
	// seen are earlier rounds: when, and which revision the controller's office had.
	type seen struct {
		at       time.Duration
		revision int64
	}
	for _, c := range []struct {
		name   string
		before []seen
		now    seen
		holder string
		peers  []PeerFacts
		want   time.Duration
	}{
		{"nobody is the controller: a read is proof", nil, seen{0, 0}, "", nil, 400 * time.Millisecond},
		{"we are the controller: a read is proof", nil, seen{0, 5}, "b1", []PeerFacts{peer("b2", database.Never)}, 400 * time.Millisecond},
		{"the controller confirmed a beat before the read: the older counts", nil, seen{0, 5}, "b2", []PeerFacts{peer("b2", 900*time.Millisecond)}, 900 * time.Millisecond},
		{"the controller confirmed a beat after the read: the older counts", nil, seen{0, 5}, "b2", []PeerFacts{peer("b2", time.Millisecond)}, 400 * time.Millisecond},
		{"another host's confirmation is none of the controller's", nil, seen{0, 5}, "b2", []PeerFacts{peer("b2", database.Never), peer("b3", 0)}, database.Never},
		{"a controller of which nothing is known confirms nothing", nil, seen{0, 5}, "b9", []PeerFacts{peer("b2", 0)}, database.Never},
		{"an office that stood for just its time may still place", []seen{{0, 5}}, seen{controllerTTL, 5}, "b2", []PeerFacts{peer("b2", database.Never)}, database.Never},
		{"an office that stood for longer has no holder that could place", []seen{{0, 5}}, seen{controllerTTL + 1, 5}, "b2", []PeerFacts{peer("b2", database.Never)}, 400 * time.Millisecond},
		{"a renewal of the office counts from when it was seen", []seen{{0, 5}, {5 * time.Second, 6}}, seen{controllerTTL + 1, 6}, "b2", []PeerFacts{peer("b2", database.Never)}, database.Never},
		{"an office that moves again may place again", []seen{{0, 5}, {time.Minute, 5}}, seen{time.Minute + 1, 6}, "b2", []PeerFacts{peer("b2", database.Never)}, database.Never},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLoop("b1", "", "", nil, nil)
			at := func(s seen) Facts {
				return Facts{
					Now: s.at, ContactAge: 400 * time.Millisecond, Peers: c.peers,
					Services: ServiceFacts{Controller: Controller{Host: c.holder, Revision: s.revision}},
				}
			}
			for _, s := range c.before {
				l.singletonContact(at(s))
			}
			if got := l.singletonContact(at(c.now)); got != c.want {
				t.Errorf("the proof is %v old, want %v", got, c.want)
			}
		})
	}
}

// mail is a singleton and web a service of several; both are placed here and run.
func placedHere(leave bool) Facts {
	return Facts{
		Known: true, ContactAge: time.Second,
		Services: ServiceFacts{
			Known: true, Revision: 4,
			Agreed: []service.Placed{
				{Service: "mail", Assignments: []service.Assignment{{ID: "mail.1", Service: "mail", Host: "b1", Leave: leave}}},
				{Service: "web", Assignments: []service.Assignment{{ID: "web.1", Service: "web", Host: "b1"}, {ID: "web.1.2", Service: "web", Host: "b2"}}},
			},
			Observed: []service.Observed{
				{ID: "mail.1", Service: "mail", State: service.Running, Age: time.Hour},
				{ID: "web.1", Service: "web", State: service.Running, Age: time.Hour},
			},
		},
	}
}

func TestServe(t *testing.T) {
	stops := func(n *noted) []string {
		var out []string
		for _, a := range n.services {
			out = append(out, string(a.Verb)+" "+a.ID)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		name   string
		change func(f *Facts)
		held   []string
		orders []string
	}{
		{"a singleton is held while the proof is young, and nothing else is", func(*Facts) {}, []string{"mail.1"}, nil},
		{"a proof a moment below the deadline still holds", func(f *Facts) { f.ContactAge = SingletonDeadline - 1 }, []string{"mail.1"}, nil},
		{"a proof as old as the deadline holds nothing", func(f *Facts) { f.ContactAge = SingletonDeadline }, nil, nil},
		{"a singleton that leaves is never held", func(f *Facts) { f.Services.Agreed = placedHere(true).Services.Agreed }, nil, []string{"stop mail.1"}},
		{"a singleton that does not run is started and not held", func(f *Facts) { f.Services.Observed = f.Services.Observed[1:] }, nil, []string{"start mail.1"}},
		{"a singleton is not started on a proof older than two seconds", func(f *Facts) {
			f.ContactAge, f.Services.Observed = 2001*time.Millisecond, f.Services.Observed[1:]
		}, nil, nil},
		{"what another host shall run is not started here", func(f *Facts) { f.Services.Agreed[1].Assignments[0].Host = "b2" }, []string{"mail.1"}, []string{"stop web.1"}},
		{"stopping ends every instance and holds none", func(f *Facts) { f.Stopping = true }, nil, []string{"stop mail.1", "stop web.1"}},
		{"before the agreed state was read nothing is stopped", func(f *Facts) { f.Known, f.Services.Agreed = false, nil }, nil, nil},
		{"without a look at what runs nothing is started", func(f *Facts) { f.Services.Known, f.Services.Observed = false, nil }, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, n := placedHere(false), &noted{}
			c.change(&f)
			l := NewLoop("b1", "", "", nil, []ServicePolicy{{Name: "mail", Singleton: true, StopGrace: time.Second}, {Name: "web"}})
			out := l.Round(f, n)
			if diff := cmp.Diff(c.held, n.held); diff != "" {
				t.Errorf("held:\n%s", diff)
			}
			if diff := cmp.Diff(c.orders, stops(n)); diff != "" {
				t.Errorf("orders:\n%s", diff)
			}
			if out.Singletons != f.ContactAge {
				t.Errorf("the proof is %v old, want %v", out.Singletons, f.ContactAge)
			}
			for _, d := range n.heldFor {
				if d != f.ContactAge {
					t.Errorf("held on a proof of %v, want %v", d, f.ContactAge)
				}
			}
		})
	}
}
