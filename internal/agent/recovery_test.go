package agent

import (
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

func TestAHostThatHearsOfARebuildingWithoutItRunsNothing(t *testing.T) {
	record, local := serving(3)
	task := service.Placed{Service: "web", Assignments: []service.Assignment{{ID: "web-1", Service: "web", Host: "b1"}}}
	facts := Facts{
		Known: true, Databases: []DatabaseFacts{{Name: "records", Record: record, Revision: 9, Local: local}},
		Services: ServiceFacts{Known: true, Agreed: []service.Placed{task}},
	}
	for _, c := range []struct {
		name                string
		recovery, overruled int64
		off                 bool
	}{
		{"nothing was ever rebuilt", 0, 0, false},
		{"it reads the rebuilt state", 1, 1, false},
		{"it reads one that was rebuilt after what it heard of", 2, 1, false},
		{"the others rebuilt theirs", 0, 1, true},
		{"the others rebuilt theirs once more", 1, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &noted{}
			f := facts
			f.Recovery, f.Overruled = c.recovery, c.overruled
			out := NewLoop("b1", "v", "p", []database.Policy{policyOf("b1")}, []ServicePolicy{{Name: "web"}}).Round(f, n)
			killed := len(n.acts) == 1 && n.acts[0].Kind == database.KindKill
			if killed != c.off || (len(n.leases) == 0) != c.off || (len(n.services) == 0) != c.off {
				t.Errorf("acts %v, leases %v, services %v", n.acts, n.leases, n.services)
			}
			if said := has(out.Problems, "cluster.written-off"); said != c.off {
				t.Errorf("problems %v", out.Problems)
			}
			if out.Report.Recovery != c.recovery {
				t.Errorf("it tells the others %d", out.Report.Recovery)
			}
		})
	}
}

func has(all []problem.Problem, code string) bool {
	for _, p := range all {
		if p.Code == code {
			return true
		}
	}
	return false
}
