package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/service"
)

// govern gives a controller on b1 of three hosts, and its world. snapshot reads the store unless frozen is set.
type governed struct {
	*world
	*Govern
	peers  []PeerFacts
	change func(s *Snapshot)
	frozen *Snapshot
}

func newGoverned(t *testing.T, leading bool, services ...PlacedService) *governed {
	t.Helper()
	w := &governed{world: newWorld(t), change: func(*Snapshot) {}}
	w.heard("b2", 100*time.Millisecond)
	w.heard("b3", 100*time.Millisecond)
	w.Govern = NewGovern(ControllerConfig{
		Self: "b1", Life: "1", Hosts: func() []service.HostView {
			return []service.HostView{{Name: "b1", FaultDomain: "b1"}, {Name: "b2", FaultDomain: "b2"}, {Name: "b3", FaultDomain: "b3"}}
		},
		Services: func() []PlacedService { return services }, Archives: []string{"records"}, Plan: []byte("the plan"), PlanHash: "hash",
		Store: w.store, Snapshot: w.snapshot, Clock: w.clock, Log: w.logger(), Diary: w.diary,
	})
	if leading {
		w.election.Step(t.Context())
		if !w.election.Leading() {
			t.Fatal("nobody else is there, and it does not lead")
		}
	}
	w.log.Reset()
	return w
}

// heard sets how long ago a peer's beat came.
func (g *governed) heard(host string, age time.Duration) {
	p := PeerFacts{Host: host, AgentAge: age, Report: &Report{Host: host, Plan: "hash"}}
	for i := range g.peers {
		if g.peers[i].Host == host {
			p.Report = g.peers[i].Report
			g.peers[i] = p
			return
		}
	}
	g.peers = append(g.peers, p)
}

func (g *governed) snapshot() Snapshot {
	if g.frozen != nil {
		return *g.frozen
	}
	s := Snapshot{At: g.clock.Now(), Agreed: g.agreed()}
	s.Facts = Facts{Known: true, Peers: append([]PeerFacts(nil), g.peers...), Services: agreedServices(s.Agreed)}
	r, rev := recordOf(s.Agreed, "records")
	s.Facts.Databases = []DatabaseFacts{{Name: "records", Record: r, Revision: rev}}
	g.change(&s)
	return s
}

// pass lets time go by in which the office is kept.
func (g *governed) pass(d time.Duration) {
	for range d / (500 * time.Millisecond) {
		g.clock.now = g.clock.now.Add(500 * time.Millisecond)
		g.election.Step(context.Background())
	}
}

func (g *governed) placed() map[string]string {
	out := map[string]string{}
	p, _ := read[placement](g.world, KeyAssignments)
	for _, s := range p.Services {
		for _, a := range s.Assignments {
			out[a.ID] = a.Host
		}
	}
	return out
}

func (g *governed) quiet(t *testing.T) {
	t.Helper()
	if g.log.Len() > 0 && strings.Contains(g.log.String(), "WARN") {
		t.Errorf("it complained: %s", g.log)
	}
}

func web() PlacedService {
	return PlacedService{Name: "web", Instances: 2, Hosts: []string{"b1", "b2", "b3"}, Version: "v1", Port: 8080}
}

func mail() PlacedService {
	return PlacedService{Name: "mail", Instances: 1, Hosts: []string{"b2", "b3"}, Version: "v1"}
}

func TestOnlyAControllerThatKnowsEnoughPlaces(t *testing.T) {
	for _, c := range []struct {
		name    string
		leading bool
		change  func(s *Snapshot)
		want    bool
	}{
		{"the controller places", true, func(*Snapshot) {}, true},
		{"another host does not", false, func(*Snapshot) {}, false},
		{"nothing is placed before the agreed state is known", true, func(s *Snapshot) { s.Facts.Known = false }, false},
		{"nothing is placed while everything is being stopped", true, func(s *Snapshot) { s.Facts.Stopping = true }, false},
		{"nothing is placed on an agreed state that is too old", true, func(s *Snapshot) { s.Facts.ContactAge = contactMax + 1 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoverned(t, c.leading, web())
			g.change = c.change
			before := g.shared.Revision()
			g.round(t.Context())
			if got := g.shared.Revision() != before; got != c.want {
				t.Errorf("something was written: %v", got)
			}
			if got := len(g.placed()) > 0; got != c.want {
				t.Errorf("placed %v", g.placed())
			}
			g.quiet(t)
		})
	}
}

func TestPlacingTwiceFromOneSnapshotIsHarmless(t *testing.T) {
	g := newGoverned(t, true, web())
	old := g.snapshot()
	g.frozen = &old
	g.round(t.Context())
	first := g.placed()
	if len(first) != 1 {
		t.Fatalf("placed %v", first)
	}
	notes := len(g.diary.diary)
	g.round(t.Context())
	if diff := cmp.Diff(first, g.placed()); diff != "" {
		t.Errorf("an old snapshot changed the placement:\n%s", diff)
	}
	if len(g.diary.diary) != notes {
		t.Errorf("the diary has what did not happen: %v", g.diary.diary[notes:])
	}
	g.quiet(t)
}

func TestAStoreThatFailsIsComplainedOf(t *testing.T) {
	g := newGoverned(t, true, web())
	old := g.snapshot()
	g.frozen = &old
	g.shared.Unavailable(true)
	g.round(t.Context())
	g.shared.Unavailable(false)
	if !strings.Contains(g.log.String(), "services not placed") {
		t.Errorf("nothing was said: %s", g.log)
	}
}

func TestPlacementFollowsTheHosts(t *testing.T) {
	t.Run("a host that was never heard gets nothing", func(t *testing.T) {
		g := newGoverned(t, true, web())
		g.heard("b2", database.Never)
		g.round(t.Context())
		g.change = func(s *Snapshot) { // a second one is placed when the first is ready
			s.Outcome.Report.Instances = []service.Report{{ID: "web.1", State: service.Ready}}
		}
		g.round(t.Context())
		for id, host := range g.placed() {
			if host == "b2" {
				t.Errorf("%s was given to it", id)
			}
		}
		if len(g.placed()) != 2 {
			t.Errorf("placed %v", g.placed())
		}
	})
	t.Run("a new controller gives nobody up for a silence that it did not watch", func(t *testing.T) {
		g := newGoverned(t, true, mail())
		g.put(KeyAssignments, placement{Generation: 1, Services: []service.Placed{{
			Service: "mail", Assignments: []service.Assignment{{ID: "mail.1", Service: "mail", Host: "b2", Version: "v1", Since: 1}},
		}}})
		g.heard("b2", time.Hour)
		g.round(t.Context())
		g.pass(15 * time.Second)
		g.round(t.Context())
		if diff := cmp.Diff(map[string]string{"mail.1": "b2"}, g.placed()); diff != "" {
			t.Errorf("the singleton was moved before its deadline had surely passed:\n%s", diff)
		}
		g.pass(2 * time.Second)
		g.round(t.Context())
		for id, host := range g.placed() {
			if host != "b3" || id == "mail.1" {
				t.Errorf("%s on %s after %v of silence", id, host, 17*time.Second)
			}
		}
		g.quiet(t)
	})
	t.Run("a host that said its instance is gone is believed after it fell silent", func(t *testing.T) {
		g := newGoverned(t, true, mail())
		g.put(KeyAssignments, placement{Generation: 1, Services: []service.Placed{{
			Service: "mail", Assignments: []service.Assignment{{ID: "mail.1", Service: "mail", Host: "b2", Version: "v1", Since: 1, Leave: true}},
		}}})
		g.peers[0].Report.Instances = []service.Report{{ID: "mail.1", State: service.Starting}}
		g.round(t.Context())
		if len(g.placed()) != 1 || g.placed()["mail.1"] != "b2" {
			t.Fatalf("it was dropped before its host said so: %v", g.placed())
		}
		g.peers[0].Report.Instances[0].State = service.Gone
		cut := g.snapshot()
		g.reports(cut, placement{Services: []service.Placed{{Service: "mail", Assignments: []service.Assignment{{ID: "mail.1"}}}}})
		g.heard("b2", 3*time.Second)
		g.peers[0].Report = nil
		g.round(t.Context())
		if _, still := g.placed()["mail.1"]; still {
			t.Errorf("its last word was forgotten: %v", g.placed())
		}
	})
	t.Run("a version that a host gave up on goes elsewhere", func(t *testing.T) {
		g := newGoverned(t, true, mail())
		g.round(t.Context())
		var id, host string
		for id, host = range g.placed() {
		}
		for i := range g.peers {
			if g.peers[i].Host == host {
				g.peers[i].Report.Instances = []service.Report{{ID: id, State: service.Failed, Why: "ended 3 times"}}
			}
		}
		g.round(t.Context())
		for next, on := range g.placed() {
			if on == host || next == id {
				t.Errorf("%s stays on %s, which gave up", next, on)
			}
		}
		if len(g.placed()) != 1 {
			t.Errorf("placed %v", g.placed())
		}
	})
}

func TestThePlanIsPublishedWhenEveryHostHasIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(g *governed)
		want   bool
	}{
		{"all have it", func(*governed) {}, true},
		{"one that is heard has another", func(g *governed) { g.peers[1].Report.Plan = "other" }, false},
		{"one that is silent had another", func(g *governed) { g.peers[1].Report.Plan = "other"; g.heard("b3", heardMax) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoverned(t, true)
			c.change(g)
			g.round(t.Context())
			if got := string(g.agreed()[KeyPlan].Value) == "the plan"; got != c.want {
				t.Errorf("published: %v", got)
			}
			before := g.shared.Revision()
			g.round(t.Context())
			if c.want && g.shared.Revision() != before {
				t.Error("it is written again and again")
			}
		})
	}
}

func TestPrune(t *testing.T) {
	ask := func(g *governed, i int) {
		id := fmt.Sprintf("%03d", 999-i) // ids fall while revisions rise: only revisions tell the age
		g.put(KeyRequests+id, Asked{ID: id, Room: "database", Subject: "records", Kind: "switchover"})
		g.put(KeyAnswers+id, Settled{ID: id, OK: true})
	}
	count := func(g *governed, prefix string) int {
		n := 0
		for key := range g.agreed() {
			if strings.HasPrefix(key, prefix) {
				n++
			}
		}
		return n
	}
	t.Run("fifty stay", func(t *testing.T) {
		g := newGoverned(t, true)
		for i := range answersKept {
			ask(g, i)
		}
		g.prune(t.Context(), g.snapshot())
		if n := count(g, KeyAnswers); n != answersKept {
			t.Errorf("%d answers are left", n)
		}
	})
	t.Run("the oldest go, the request before its answer, and what is open stays", func(t *testing.T) {
		g := newGoverned(t, true)
		g.put(KeyRequests+"open", Asked{ID: "open"})
		for i := range answersKept + 2 {
			ask(g, i)
		}
		before := g.shared.Revision()
		g.prune(t.Context(), g.snapshot())
		var went []string
		for _, c := range g.store.Since(keyRoot, before) {
			if !c.Deleted {
				t.Errorf("%s was written", c.Key)
			}
			went = append(went, c.Key)
		}
		want := []string{KeyRequests + "999", KeyAnswers + "999", KeyRequests + "998", KeyAnswers + "998"}
		if diff := cmp.Diff(want, went); diff != "" {
			t.Errorf("what went, in order:\n%s", diff)
		}
		if open := Open(g.agreed()); len(open) != 1 || open[0].ID != "open" {
			t.Errorf("open requests: %v", open)
		}
		g.quiet(t)
	})
	t.Run("a request that changed meanwhile keeps its answer", func(t *testing.T) {
		g := newGoverned(t, true)
		for i := range answersKept + 1 {
			ask(g, i)
		}
		old := g.snapshot()
		g.put(KeyRequests+"999", Asked{ID: "999", Progress: "half"})
		g.prune(t.Context(), old)
		if n := count(g, KeyAnswers); n != answersKept+1 {
			t.Errorf("%d answers are left", n)
		}
		if open := Open(g.agreed()); len(open) != 0 {
			t.Errorf("a settled request looks open: %v", open)
		}
		g.quiet(t)
	})
	t.Run("an answer whose request is gone already goes too", func(t *testing.T) {
		g := newGoverned(t, true)
		for i := range answersKept + 1 {
			ask(g, i)
		}
		if err := g.store.Delete(t.Context(), KeyRequests+"999", g.agreed()[KeyRequests+"999"].Revision); err != nil {
			t.Fatal(err)
		}
		g.prune(t.Context(), g.snapshot())
		if n := count(g, KeyAnswers); n != answersKept {
			t.Errorf("%d answers are left", n)
		}
	})
}

func TestChooseArchiver(t *testing.T) {
	three := database.Record{Primary: "b1", W: 1, Members: []string{"b1", "b2", "b3"}, Voters: []database.Voter{{Host: "b2"}, {Host: "b3"}}}
	unacknowledged := database.Record{Primary: "b1", Members: []string{"b1", "b2"}}
	mixed := database.Record{Primary: "b1", W: 1, Members: []string{"b1", "b2", "b3", "b4"}, Voters: []database.Voter{{Host: "b3"}}, Standings: []database.Standing{{Host: "b4", Async: true}}}
	for _, c := range []struct {
		name   string
		record database.Record
		now    string
		heard  string
		want   string
	}{
		{"a standby is preferred", three, "", "b1 b2 b3", "b2"},
		{"the present one stays though another comes first", three, "b3", "b1 b2 b3", "b3"},
		{"the present one stays when it has become the primary", three, "b1", "b1 b2 b3", "b1"},
		{"a silent one is replaced", three, "b2", "b1 b3", "b3"},
		{"one that holds no copy any more is replaced", three, "b4", "b1 b2 b3 b4", "b2"},
		{"no silent host is ever named", three, "b2", "b1", ""},
		{"the primary is not named while others hold copies", three, "", "b1", ""},
		{"a standby that no commit waits for", unacknowledged, "", "b1 b2", "b2"},
		{"a voter comes before one that no commit waits for", mixed, "", "b1 b2 b3 b4", "b3"},
		{"an asynchronous standby when no voter is heard, and not one that joins", mixed, "b3", "b1 b2 b4", "b4"},
		{"one that joins holds nothing yet", mixed, "", "b1 b2", ""},
		{"a primary that is the only member does it itself", database.Record{Primary: "b1", Members: []string{"b1"}}, "", "b1", "b1"},
		{"a silent primary does not, alone or not", database.Record{Primary: "b1", Members: []string{"b1"}}, "", "", ""},
		{"a former self of the primary among the voters is no standby", database.Record{Primary: "b1", W: 1, Members: []string{"b1", "b2"}, Voters: []database.Voter{{Host: "b1"}}}, "", "b1 b2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			heard := func(host string) bool { return host != "" && strings.Contains(c.heard, host) }
			if got := ChooseArchiver(c.record, c.now, heard); got != c.want {
				t.Errorf("%q shall archive, want %q", got, c.want)
			}
		})
	}
}

// Writes that go on while every standby is silent are archived all the same, by the primary, though not at once.
func TestThePrimaryArchivesWhileNoStandbyCan(t *testing.T) {
	record := database.Record{
		Epoch: 3, W: 1, Primary: "b1", Members: []string{"b1", "b2", "b3"}, Voters: []database.Voter{{Host: "b2"}, {Host: "b3"}}, Phase: database.Steady,
	}
	g := newGoverned(t, true)
	named := func() string { name, _ := read[string](g.world, KeyArchivers+"records"); return name }
	g.put(RecordKey("records"), record)
	g.heard("b2", database.Never)
	g.heard("b3", database.Never)
	g.round(t.Context())
	g.pass(vacantMax - time.Second)
	g.round(t.Context())
	if named() != "" {
		t.Fatalf("%s was named though a standby may come", named())
	}
	for _, phase := range []database.Phase{database.Recruiting, database.Steady} { // a failover takes long
		record.Phase = phase
		g.put(RecordKey("records"), record)
		g.round(t.Context())
		if named() != "" {
			t.Fatalf("%s was named though a standby of the new primary may come", named())
		}
		g.pass(vacantMax)
	}
	g.heard("b3", 0)
	g.round(t.Context())
	if named() != "b3" {
		t.Fatalf("%q was named", named())
	}
	g.heard("b3", database.Never)
	g.round(t.Context())
	g.pass(vacantMax)
	g.round(t.Context())
	if named() != "b1" {
		t.Errorf("%q archives though only b1 is heard for long", named())
	}
	g.heard("b2", 0)
	g.round(t.Context())
	if named() != "b1" {
		t.Errorf("the archive went from b1 to %q for nothing", named())
	}
	g.quiet(t)
}

func TestTheArchiverIsNamedAndReplaced(t *testing.T) {
	record := database.Record{
		Epoch: 3, Primary: "b1", Members: []string{"b1", "b2", "b3"}, Voters: []database.Voter{{Host: "b2"}, {Host: "b3"}}, Phase: database.Recruiting,
	}
	g := newGoverned(t, true)
	named := func() string { name, _ := read[string](g.world, KeyArchivers+"records"); return name }
	g.put(RecordKey("records"), record)
	g.round(t.Context())
	if named() != "" {
		t.Errorf("%s was named while nobody is the primary", named())
	}
	record.Phase = database.Steady
	g.put(RecordKey("records"), record)
	old := g.snapshot()
	g.round(t.Context())
	if named() != "b2" {
		t.Fatalf("%q was named", named())
	}
	before := g.shared.Revision()
	g.round(t.Context())
	if g.shared.Revision() != before {
		t.Error("the same name is written again and again")
	}
	g.heard("b2", 2*heardMax-1)
	g.round(t.Context())
	if named() != "b2" {
		t.Errorf("a short silence made %s the archiver", named())
	}
	g.heard("b2", 2*heardMax)
	g.round(t.Context())
	if named() != "b3" {
		t.Errorf("%s archives though it is silent", named())
	}
	if err := g.archiver(t.Context(), old, "records"); !errors.Is(err, cluster.ErrConflict) {
		t.Errorf("an old snapshot overwrote the archiver: %v", err)
	}
	g.quiet(t)
}
