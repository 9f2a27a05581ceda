package host

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/plan"
)

func TestWhenAHostIsCutOff(t *testing.T) {
	alone := func() agent.Facts {
		return agent.Facts{Now: time.Minute, ContactAge: 6 * time.Second, Peers: []agent.PeerFacts{
			{Host: "b2", AgentAge: 7 * time.Second, GateAge: map[string]time.Duration{"records": 7 * time.Second}},
			{Host: "b3", AgentAge: database.Never, GateAge: map[string]time.Duration{"records": database.Never}},
		}}
	}
	for _, c := range []struct {
		name   string
		change func(f *agent.Facts)
		want   bool
	}{
		{"it hears nobody and does not reach the agreed state", func(*agent.Facts) {}, true},
		{"it reaches the agreed state", func(f *agent.Facts) { f.ContactAge = time.Second }, false},
		{"it hears one agent", func(f *agent.Facts) { f.Peers[1].AgentAge = time.Second }, false},
		{"it hears one listener", func(f *agent.Facts) { f.Peers[0].GateAge["records"] = time.Second }, false},
		{"it has just started and heard nobody yet", func(f *agent.Facts) { f.Now = 2 * time.Second }, false},
		{"its own timers ran late, so that its silences mean nothing", func(f *agent.Facts) { f.Late = true }, false},
		{"it is the only host of the plan", func(f *agent.Facts) { f.Peers = nil }, false},
	} {
		f := alone()
		c.change(&f)
		if got := cutOff(f); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestWhichServicesAHostAloneCannotServe(t *testing.T) {
	p := &plan.Plan{Services: []plan.Service{
		{Name: "web", Route: &plan.Route{}, Env: []plan.EnvVar{{Name: "D", Value: "${databases.records.write_url}"}}},
		{Name: "list", Route: &plan.Route{}, Env: []plan.EnvVar{{Name: "D", Value: "x ${databases.records.read_url}"}}},
		{Name: "pages", Route: &plan.Route{}, Env: []plan.EnvVar{{Name: "ME", Value: "${host.address}"}}},
		{Name: "own", Route: &plan.Route{}, Env: []plan.EnvVar{{Name: "D", Value: "${databases.local.write_url}"}}},
		{Name: "worker", Env: []plan.EnvVar{{Name: "D", Value: "${databases.records.write_url}"}}},
	}}
	snapshot := func(lease time.Duration) agent.Snapshot {
		return agent.Snapshot{
			Facts: agent.Facts{Databases: []agent.DatabaseFacts{
				{Name: "records", Record: database.Record{Primary: "b2"}},
				{Name: "local", Record: database.Record{Primary: "b1"}, Local: database.Local{Role: database.Primary}},
			}},
			Outcome: agent.Outcome{Decisions: map[string]database.Decision{"local": {Lease: lease}}},
		}
	}
	if got := strings.Join(needsOthers(p, "b1", snapshot(time.Second)), " "); got != "web list" {
		t.Errorf("refused are %q: a database that this host alone holds still serves", got)
	}
	if got := strings.Join(needsOthers(p, "b1", snapshot(0)), " "); got != "web list own" {
		t.Errorf("refused are %q: a primary without a lease is being fenced", got)
	}
}
