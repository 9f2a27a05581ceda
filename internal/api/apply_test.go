package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/plan"
)

const applicable = `application: clinic
sites: { b: { hosts: { b1: { address: 127.61.1.1 }, b2: { address: 127.61.1.2 }, b3: { address: 127.61.1.3 }, b4: { address: 127.61.1.4 } } } }
databases: { records: { postgres: 15, standbys: 2, acknowledged_by: 1 } }
`

// A plan is refused before anything changes, shown before it is written, and written only over what it was shown
// against.
func TestAPlanIsApplied(t *testing.T) {
	start, mistakes := plan.Parse("/plan/holdfast.yaml", []byte(applicable))
	if start == nil {
		t.Fatal(mistakes)
	}
	s := serveWith(t, "b1", func(src *Source) { src.Plan = start })
	post := func(q Apply) (int, Applied, string) {
		t.Helper()
		body, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		status, data := s.do(t, s.operator, "POST", "/v1/plan", string(body))
		var out Applied
		var refused struct{ Code string }
		if json.Unmarshal(data, &out) != nil || json.Unmarshal(data, &refused) != nil {
			t.Fatalf("%d: %s", status, data)
		}
		return status, out, refused.Code
	}
	change := func(from, to string) string { return strings.Replace(applicable, from, to, 1) }
	more := change("acknowledged_by: 1", "acknowledged_by: 2")
	for _, c := range []struct{ name, text, code string }{
		{"no plan", "application: [", "plan.mistakes"},
		{"another major version and a standby", change("postgres: 15, standbys: 2,", "postgres: 16, standbys: 1,"), "plan.not-at-run-time"},
		{"an address", change("127.61.1.2", "127.61.1.9"), "plan.not-at-run-time"},
		{"a copy on a host that does not answer", change("standbys: 2,", "standbys: 3,"), "plan.host-not-ready"},
	} {
		if status, _, code := post(Apply{Text: c.text}); status != 422 || code != c.code {
			t.Errorf("%s: %d %s, want %s", c.name, status, code, c.code)
		}
	}
	if status, _ := s.do(t, s.host, "POST", "/v1/plan", `{"text":"x"}`); status != 403 {
		t.Errorf("a host may apply: %d", status)
	}
	status, out, _ := post(Apply{Text: more, DryRun: true})
	if status != 200 || out.Done || len(out.Changes) != 1 || out.Revision != 0 {
		t.Fatalf("dry run: %d %+v", status, out)
	}
	if e, err := s.store.Get(t.Context(), agent.KeyPlan); err != nil || e.Revision != 0 {
		t.Fatalf("something was written: %v %v", e, err)
	}
	if status, out, _ = post(Apply{Text: more}); status != 200 || !out.Done || out.Revision == 0 {
		t.Fatalf("apply: %d %+v", status, out)
	}
	if status, _, code := post(Apply{Text: applicable}); status != 409 || code != "plan.changed-meanwhile" {
		t.Errorf("over a plan that was not shown: %d %s", status, code)
	}
	if status, back, _ := post(Apply{Text: applicable, DryRun: true}); status != 200 || len(back.Changes) != 1 || back.Revision != out.Revision {
		t.Errorf("the difference is not against the applied plan: %d %+v", status, back)
	}
}

// An instance that is one of several has no deadline: none may be out of hearing when the plan wants one alone.
func TestASingletonIsNotMadeWhereNobodyAnswers(t *testing.T) {
	with := func(instances int, hosts ...string) *plan.Plan {
		return &plan.Plan{
			Sites:    []plan.Site{{Name: "b", Hosts: []plan.Host{{Name: "b1"}, {Name: "b2"}, {Name: "b3"}}}},
			Services: []plan.Service{{Name: "web", Instances: instances, Hosts: hosts}},
		}
	}
	var snap agent.Snapshot // b3 is silent
	snap.Facts.Peers = []agent.PeerFacts{{Host: "b2", Report: &agent.Report{Host: "b2"}}, {Host: "b3", AgentAge: heardMax, Report: &agent.Report{Host: "b3"}}}
	for _, c := range []struct {
		name      string
		now, next *plan.Plan
		refused   bool
	}{
		{"a host that may run one is silent", with(2), with(1), true},
		{"it may run one no more only by the new plan", with(2), with(1, "b1", "b2"), true},
		{"it ran none by the plan of before", with(2, "b1", "b2"), with(1), false},
		{"it was a singleton before", with(1), with(1), false},
		{"it stays several", with(3), with(2), false},
		{"it is taken out of the plan", with(2), &plan.Plan{}, false},
		{"it is new", &plan.Plan{}, with(1), false},
	} {
		if p := (Source{Self: "b1"}).unfenced(c.now, c.next, snap); (p != nil) != c.refused {
			t.Errorf("%s: %v", c.name, p)
		}
	}
}

// Who answers must be true when the plan is written: a look from before is aged, and an old one is not believed at all.
func TestAPlanIsNotAppliedByALookFromBefore(t *testing.T) {
	next := &plan.Plan{
		Sites:     []plan.Site{{Name: "b", Hosts: []plan.Host{{Name: "b1"}, {Name: "b2"}}}},
		Databases: []plan.Database{{Name: "records", Standbys: 1, Postgres: 15}},
	}
	looked := time.Now()
	snap := agent.Snapshot{At: looked}
	local := map[string]*database.Report{"records": {Local: database.Local{Known: true}}}
	snap.Outcome.Report = agent.Report{Host: "b1", Databases: local}
	snap.Facts.Peers = []agent.PeerFacts{{Host: "b2", AgentAge: time.Second, Report: &agent.Report{Host: "b2", Databases: local}}}
	s := Source{Self: "b1", Snapshot: func() agent.Snapshot { return snap }}
	for _, c := range []struct {
		name, of string
		later    time.Duration
	}{
		{"at once", "", 0},
		{"while what was heard of b2 is young enough", "", heardMax - time.Second - time.Millisecond},
		{"when b2 has been silent for too long", "records", heardMax - time.Second},
		{"when this host has looked at nobody for too long", "b1", heardMax},
	} {
		p := s.unready(&plan.Plan{}, next, looked.Add(c.later))
		if got := p; (got == nil) != (c.of == "") || got != nil && (got.Code != "plan.host-not-ready" || got.Subject != c.of) {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
	if snap.Facts.Peers[0].AgentAge != time.Second {
		t.Error("the snapshot itself was changed")
	}
}
