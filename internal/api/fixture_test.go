package api

import (
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

// clinic is three hosts with a database of two standbys, a backup of it, a service of two and a singleton.
func clinic() *plan.Plan {
	host := func(name, address string) plan.Host {
		return plan.Host{Name: name, Site: "b", Address: address, FaultDomain: name, Etcd: true}
	}
	return &plan.Plan{
		Application: "clinic",
		Sites:       []plan.Site{{Name: "b", Hosts: []plan.Host{host("b1", "127.61.1.1"), host("b2", "127.61.1.2"), host("b3", "127.61.1.3")}}},
		Ports:       plan.Ports{Agent: 7400},
		Databases:   []plan.Database{{Name: "records", Standbys: 2, AcknowledgedBy: 1, WritePort: 5432}},
		Services:    []plan.Service{{Name: "web", Instances: 2, Route: &plan.Route{Scheme: "http", Port: 80}}, {Name: "mail", Instances: 1}},
		Backups:     []plan.Backup{{Of: "records", Vault: "main"}},
	}
}

// well is a snapshot on b1 in which nothing is wrong.
type well struct {
	record  database.Record
	reports map[string]*agent.Report // by host; b1's is our own
	silent  map[string]bool
	placed  []service.Placed
}

func allWell() *well {
	w := &well{
		record: database.Record{
			Epoch: 3, Generation: 8, Members: []string{"b1", "b2", "b3"}, Primary: "b1", Incarnation: "i1", Phase: database.Steady, Opened: true,
			Timeline: 2, W: 1, E: 2, Voters: []database.Voter{{Host: "b2", Incarnation: "i2"}, {Host: "b3", Incarnation: "i3"}},
		},
		reports: map[string]*agent.Report{}, silent: map[string]bool{},
		placed: []service.Placed{
			{Service: "web", Assignments: []service.Assignment{{ID: "web.1", Host: "b1"}, {ID: "web.2", Host: "b2"}}},
			{Service: "mail", Assignments: []service.Assignment{{ID: "mail.1", Host: "b3"}}},
		},
	}
	local := func(incarnation string, role database.Role) database.Local {
		return database.Local{
			Known: true, Data: database.DataPresent, Incarnation: incarnation, Running: true, Role: role, Ready: true, Flushed: 1000, Receiving: role == database.Standby,
		}
	}
	for host, l := range map[string]database.Local{
		"b1": local("i1", database.Primary), "b2": local("i2", database.Standby), "b3": local("i3", database.Standby),
	} {
		w.reports[host] = &agent.Report{Host: host, Version: "v1", Plan: "hash", Databases: map[string]*database.Report{"records": {Local: l}}}
	}
	w.reports["b1"].Instances = []service.Report{{ID: "web.1", State: service.Ready}}
	w.reports["b2"].Instances = []service.Report{{ID: "web.2", State: service.Ready}}
	w.reports["b3"].Instances = []service.Report{{ID: "mail.1", State: service.Ready}}
	w.reports["b2"].Archive = map[string]agent.Archive{"records": {Vault: "main", Archived: 990, Last: &agent.BaseBackup{ID: "x", Proven: true}}}
	return w
}

// local changes what a host says of its server.
func (w *well) local(host string, change func(l *database.Local)) {
	change(&w.reports[host].Databases["records"].Local)
}

func (w *well) archive(change func(a *agent.Archive)) {
	a := w.reports["b2"].Archive["records"]
	change(&a)
	w.reports["b2"].Archive["records"] = a
}

func (w *well) complain(host string, p ...problem.Problem) {
	w.reports[host].Problems = append(w.reports[host].Problems, p...)
}

func (w *well) snapshot() agent.Snapshot {
	s := agent.Snapshot{At: time.Now(), Facts: agent.Facts{
		Known: true, Databases: []agent.DatabaseFacts{{Name: "records", Record: w.record, Revision: 5}}, Services: agent.ServiceFacts{Agreed: w.placed},
	}}
	s.Outcome.Report = *w.reports["b1"]
	for _, host := range []string{"b2", "b3"} {
		p := agent.PeerFacts{Host: host, AgentAge: 100 * time.Millisecond, Report: w.reports[host]}
		if w.silent[host] {
			p.AgentAge = heardMax // its last report is still remembered
		}
		s.Facts.Peers = append(s.Facts.Peers, p)
	}
	return s
}

func codes(all []problem.Problem) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Code+" "+p.Subject)
	}
	return out
}

func died(t *testing.T, st Status, host string) IfDied {
	t.Helper()
	for _, x := range st.IfDied {
		if x.Host == host {
			return x
		}
	}
	t.Fatalf("nothing is said of %s's death", host)
	return IfDied{}
}
