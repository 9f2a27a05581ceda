package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
	"holdfast/internal/service"
)

func TestCoarse(t *testing.T) {
	for _, c := range []struct {
		name string
		age  time.Duration
		want time.Duration
	}{
		{"a young silence is none", 499 * time.Millisecond, 0},
		{"an age is rounded down, never up", 1999 * time.Millisecond, 1500 * time.Millisecond},
		{"a whole step stays", 2 * time.Second, 2 * time.Second},
		{"what never happened is an hour, so that it never changes", database.Never, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := coarse(c.age); got != c.want {
				t.Errorf("coarse(%v) = %v, want %v", c.age, got, c.want)
			}
		})
	}
}

func policyOf(hosts ...string) database.Policy {
	return database.Policy{Name: "records", Hosts: hosts, Standbys: len(hosts) - 1, AcknowledgedBy: min(1, len(hosts)-1), Times: database.DefaultTimes()}
}

// absent is a host on which nothing of the database lies yet.
func absent() database.Local {
	return database.Local{Known: true, Data: database.DataAbsent, TreeGone: true}
}

// serving is a primary that serves alone in an epoch.
func serving(epoch int64) (database.Record, database.Local) {
	r := database.Record{
		Epoch: epoch, Generation: 7, Members: []string{"b1"}, SystemID: 5, Primary: "b1", Incarnation: "inc1", E: 1,
		Phase: database.Steady, Timeline: 1, Opened: true,
	}
	l := database.Local{
		Known: true, Data: database.DataPresent, SystemID: 5, Incarnation: "inc1", PromiseOK: true, Running: true, Role: database.Primary,
		Promise: database.Promise{Epoch: epoch, Generation: 7, Incarnation: "inc1"},
		Ready:   true, Admits: true, Timeline: 1, Flushed: 100, NamesOK: true, RolesReady: true, Writable: "ok",
	}
	return r, l
}

func TestARoundStartsWhatIsDecided(t *testing.T) {
	aloneRecord, aloneLocal := serving(3)
	foreign := aloneLocal
	foreign.Promise.Epoch = 2
	for _, c := range []struct {
		name  string
		facts Facts
		check func(t *testing.T, n *noted, out Outcome)
	}{
		{
			"the first host makes the record of a database that does not exist",
			Facts{Known: true, Databases: []DatabaseFacts{{Name: "records", Local: absent()}}},
			func(t *testing.T, n *noted, _ Outcome) {
				if len(n.acts) != 1 || n.acts[0].Kind != database.KindSwap || n.acts[0].Record.Primary != "b1" {
					t.Errorf("it did %v", n.acts)
				}
				if len(n.gates) != 0 || len(n.leases) != 0 {
					t.Errorf("gates %v, leases %v: nothing is agreed yet", n.gates, n.leases)
				}
			},
		},
		{
			"a primary gets its lease and the listener leads to it",
			Facts{Known: true, ContactAge: 200 * time.Millisecond, Databases: []DatabaseFacts{{Name: "records", Record: aloneRecord, Revision: 9, Local: aloneLocal}}},
			func(t *testing.T, n *noted, _ Outcome) {
				if len(n.leases) != 1 || n.leases[0] != database.DefaultTimes().Fence || n.leaseOf[0] != 3 {
					t.Errorf("leases %v of epochs %v", n.leases, n.leaseOf)
				}
				if len(n.gates) != 1 || n.gates[0].State != database.GateOpen || n.gates[0].Target.Host != "b1" || n.gates[0].Epoch != 3 {
					t.Errorf("gates %v", n.gates)
				}
			},
		},
		{
			"a primary of a former epoch is killed, what it was doing is interrupted, and it gets no lease",
			Facts{Known: true, Databases: []DatabaseFacts{{
				Name: "records", Record: aloneRecord, Revision: 9, Local: foreign, Busy: []database.Kind{database.KindCheckpoint},
			}}},
			func(t *testing.T, n *noted, _ Outcome) {
				if len(n.acts) != 1 || n.acts[0].Kind != database.KindKill || n.interrupts != 1 || len(n.leases) != 0 {
					t.Errorf("acts %v, %d interrupts, leases %v", n.acts, n.interrupts, n.leases)
				}
			},
		},
		{
			"an impossible switchover is answered",
			Facts{Known: true, Databases: []DatabaseFacts{{
				Name: "records", Record: aloneRecord, Revision: 9, Local: aloneLocal,
				Requests: []database.Request{{ID: "q1", Kind: "switchover", To: "b2", By: "operator"}},
			}}},
			func(t *testing.T, n *noted, _ Outcome) {
				if len(n.answers) != 1 || n.answers[0].ID != "q1" || n.answers[0].OK {
					t.Errorf("answers %v", n.answers)
				}
			},
		},
		{
			"nothing is started before the agreed state has been read",
			Facts{ContactAge: database.Never, Databases: []DatabaseFacts{{Name: "records", Local: absent()}}},
			func(t *testing.T, n *noted, out Outcome) {
				if len(n.acts)+len(n.gates)+len(n.services) != 0 {
					t.Errorf("it did %v, %v, %v", n.acts, n.gates, n.services)
				}
				if len(out.Problems) != 1 || out.Problems[0].Code != "cluster.unreachable" {
					t.Errorf("problems %v", out.Problems)
				}
			},
		},
		{
			"a stop of the whole application is told as a problem, and the primary stops",
			Facts{Known: true, Stopping: true, Databases: []DatabaseFacts{{Name: "records", Record: aloneRecord, Revision: 9, Local: aloneLocal}}},
			func(t *testing.T, n *noted, out Outcome) {
				if len(n.acts) != 1 || n.acts[0].Kind != database.KindStop {
					t.Errorf("it did %v", n.acts)
				}
				if len(out.Problems) != 1 || out.Problems[0].Code != "cluster.stopping" {
					t.Errorf("problems %v", out.Problems)
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, n := policyOf("b1"), &noted{}
			out := NewLoop("b1", "v1", "plan1", []database.Policy{p}, nil).Round(c.facts, n)
			c.check(t, n, out)
			if diff := cmp.Diff(out.Problems, out.Report.Problems); diff != "" {
				t.Errorf("peers are told other problems:\n%s", diff)
			}
			d, _ := database.Decide(p, ViewOf("b1", c.facts, c.facts.Databases[0]), database.Memory{})
			if diff := cmp.Diff(d, out.Decisions["records"]); diff != "" {
				t.Errorf("not what was decided:\n%s", diff)
			}
			if diff := cmp.Diff(d.Actions, n.acts); diff != "" {
				t.Errorf("other actions were started than decided:\n%s", diff)
			}
		})
	}
}

// Beats are sent at once when a report changes, and wake the peers: were an age in it, hosts would wake each
// other without end.
func TestAReportDoesNotChangeWhileOnlyTimePasses(t *testing.T) {
	record, local := serving(3)
	record.Members = []string{"b1", "b2"}
	l := NewLoop("b1", "v1", "plan1", []database.Policy{policyOf("b1", "b2")}, []ServicePolicy{{Name: "web"}})
	facts := func(at time.Duration) Facts {
		local := local
		local.Age, local.ReplayLag = at, 1200*time.Millisecond+at
		return Facts{
			Now: 10*time.Second + at, Known: true, ContactAge: 100*time.Millisecond + at,
			Databases: []DatabaseFacts{{Name: "records", Record: record, Revision: 9, Local: local, Advanced: 3100*time.Millisecond + at}},
			Services: ServiceFacts{
				Known: true, Agreed: []service.Placed{{Service: "web", Assignments: []service.Assignment{{ID: "web.1", Service: "web", Host: "b1"}}}},
				Observed: []service.Observed{{ID: "web.1", Service: "web", State: service.Running, Age: time.Minute + at}},
			},
			Peers: []PeerFacts{{Host: "b2", AgentAge: 20*time.Millisecond + at, Contact: 30*time.Millisecond + at, GateAge: map[string]time.Duration{"records": database.Never}}},
		}
	}
	written := func(at time.Duration) string {
		data, err := json.Marshal(l.Round(facts(at), &noted{}).Report)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := written(0)
	for _, at := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond} {
		if diff := cmp.Diff(first, written(at)); diff != "" {
			t.Errorf("%v later the report is another:\n%s", at, diff)
		}
	}
	if first == written(800*time.Millisecond) {
		t.Error("a silence that grows is never told")
	}
}
