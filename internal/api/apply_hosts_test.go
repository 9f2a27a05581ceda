package api

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/database"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

// votes is a cluster whose members serve or do not.
type votes struct {
	Cluster
	serve map[string]bool
}

func (s votes) Describe(context.Context) ClusterStatus {
	out := ClusterStatus{Reachable: true}
	for host, serves := range s.serve {
		out.Seats = append(out.Seats, SeatStatus{Host: host, Role: "voter", Serves: serves})
	}
	return out
}

// hostsPlan has these hosts; "*" gives one a member of etcd. Its database lies on the first two, its one reminder on any of them.
func hostsPlan(hosts ...string) *plan.Plan {
	p := &plan.Plan{Application: "clinic", Sites: []plan.Site{{Name: "here"}}}
	for _, h := range hosts {
		name, seated := h, false
		if h[len(h)-1] == '*' {
			name, seated = h[:len(h)-1], true
		}
		p.Sites[0].Hosts = append(p.Sites[0].Hosts, plan.Host{Name: name, Site: "here", Address: "10.9.0." + name[1:], Etcd: seated})
	}
	p.Databases = []plan.Database{{Name: "records", Standbys: 1, Hosts: []string{"h1", "h2"}}}
	p.Services = []plan.Service{{Name: "web", Instances: 2}, {Name: "reminders", Instances: 1, Hosts: []string{"h1", "h2", "h5"}}}
	return p
}

// What the list of hosts may not become is refused, by name, before anything changes.
func TestWhichChangesOfHostsAreRefused(t *testing.T) {
	now := hostsPlan("h1*", "h2*", "h3*", "h4", "h5")
	all := map[string]bool{"h1": true, "h2": true, "h3": true}
	is := plan.HostsDigest(now)
	record := database.Record{Epoch: 3, Phase: database.Steady, Primary: "h1", Members: []string{"h1", "h2"}}
	for name, c := range map[string]struct {
		next   *plan.Plan
		record func(database.Record) database.Record
		serve  map[string]bool
		lists  map[string]string // what hosts say that they follow
		placed string            // where the singleton runs
		says   string            // code of a problem that h4 tells
		code   string
	}{
		"nothing changes":                        {next: hostsPlan("h1*", "h2*", "h3*", "h4", "h5")},
		"one more":                               {next: hostsPlan("h1*", "h2*", "h3*", "h4", "h5", "h6")},
		"two more, with members":                 {next: hostsPlan("h1*", "h2*", "h3*", "h4*", "h5*", "h6", "h7")},
		"one less, that does nothing":            {next: hostsPlan("h1*", "h2*", "h3*", "h5")},
		"one less, whose member goes to another": {next: hostsPlan("h1*", "h2*", "h4*", "h5")},
		"a member goes to another host":          {next: hostsPlan("h1*", "h2*", "h3", "h4*", "h5")},
		"one more and one less at once":          {next: hostsPlan("h1*", "h2*", "h3*", "h5", "h6"), code: "plan.hosts-one-step"},
		"the last change is not taken over yet":  {next: hostsPlan("h1*", "h2*", "h3*", "h5"), lists: map[string]string{"h2": "another"}, code: "plan.hosts-one-step"},
		"a host of an earlier version cannot":    {next: hostsPlan("h1*", "h2*", "h3*", "h5"), lists: map[string]string{"h2": ""}, code: "plan.hosts-one-step"},
		"the primary's host":                     {next: hostsPlan("h2*", "h3*", "h4*", "h5"), code: "plan.host-in-use"},
		"a standby's host":                       {next: hostsPlan("h1*", "h3*", "h4*", "h5"), code: "plan.host-in-use"},
		"a host whose copy still counts": {
			next:   hostsPlan("h1*", "h2*", "h3*", "h5"),
			record: func(r database.Record) database.Record { r.Members = append(r.Members, "h4"); return r }, code: "plan.host-in-use",
		},
		"a host that still votes": {
			next: hostsPlan("h1*", "h2*", "h3*", "h5"),
			record: func(r database.Record) database.Record {
				r.Voters = append(r.Voters, database.Voter{Host: "h4"})
				return r
			}, code: "plan.host-in-use",
		},
		"a host that shall become the primary": {
			next:   hostsPlan("h1*", "h2*", "h3*", "h5"),
			record: func(r database.Record) database.Record { r.SwitchTo = "h4"; return r }, code: "plan.host-in-use",
		},
		"a host that may run the singleton":           {next: hostsPlan("h1*", "h2*", "h3*", "h4"), code: "plan.host-in-use"},
		"a host that runs it still":                   {next: hostsPlan("h1*", "h2*", "h3*", "h5"), placed: "h4", code: "plan.host-in-use"},
		"a host that alone has log":                   {next: hostsPlan("h1*", "h2*", "h3*", "h5"), says: "backup.log-spilled", code: "plan.host-in-use"},
		"a host with commits that nobody decided of":  {next: hostsPlan("h1*", "h2*", "h3*", "h5"), says: "database.salvage-waits", code: "plan.host-in-use"},
		"a host with other troubles":                  {next: hostsPlan("h1*", "h2*", "h3*", "h5"), says: "host.disk-full"},
		"one beside a host that alone has log":        {next: hostsPlan("h1*", "h2*", "h4", "h5"), says: "backup.log-spilled"},
		"two of three members at once":                {next: hostsPlan("h1*", "h2", "h3", "h4*", "h5*"), code: "plan.hosts-majority"},
		"too few would serve without it":              {next: hostsPlan("h1*", "h2*", "h4*", "h5"), serve: map[string]bool{"h1": true, "h2": false, "h3": true}, code: "plan.hosts-majority"},
		"the member that is dead is the one to leave": {next: hostsPlan("h1*", "h2*", "h4*", "h5"), serve: map[string]bool{"h1": true, "h2": true, "h3": false}},
	} {
		t.Run(name, func(t *testing.T) {
			r := record
			if c.record != nil {
				r = c.record(r)
			}
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			store := memory.New().Open("h1")
			if _, err := store.Set(t.Context(), agent.RecordKey("records"), text); err != nil {
				t.Fatal(err)
			}
			if c.serve == nil {
				c.serve = all
			}
			var snap agent.Snapshot
			snap.Outcome.Report.Hosts = is
			for _, h := range []string{"h2", "h3", "h4", "h5"} {
				said, odd := c.lists[h]
				if !odd {
					said = is
				}
				r := &agent.Report{Host: h, Hosts: said}
				if h == "h4" && c.says != "" {
					r.Problems = []problem.Problem{{Code: c.says, Subject: "records"}}
				}
				snap.Facts.Peers = append(snap.Facts.Peers, agent.PeerFacts{Host: h, Report: r})
			}
			if c.placed != "" {
				snap.Facts.Services.Agreed = []service.Placed{{Service: "reminders", Assignments: []service.Assignment{{Service: "reminders", Host: c.placed}}}}
			}
			s := Source{Plan: now, Self: "h1", Store: store, Cluster: votes{serve: c.serve}, Snapshot: func() agent.Snapshot { return snap }}
			p := s.hostsRefused(t.Context(), now, c.next)
			if (p == nil) != (c.code == "") || p != nil && p.Code != c.code {
				t.Errorf("it says %v, want %q", p, c.code)
			}
		})
	}
	t.Run("a majority that does not answer refuses, and is not taken for nothing", func(t *testing.T) {
		var snap agent.Snapshot
		snap.Outcome.Report.Hosts = is
		s := Source{Plan: now, Self: "h1", Store: silent{}, Cluster: votes{serve: all}, Snapshot: func() agent.Snapshot { return snap }}
		if p := s.hostsRefused(t.Context(), now, hostsPlan("h1*", "h2*", "h3*", "h5")); p == nil || p.Code != "plan.host-in-use" {
			t.Errorf("it says %v", p)
		}
	})
}

// silent is a store that nobody reaches.
type silent struct{ *memory.Store }

func (silent) Get(context.Context, string) (cluster.Entry, error) {
	return cluster.Entry{}, fmt.Errorf("read: %w", cluster.ErrUnavailable)
}
