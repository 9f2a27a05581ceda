package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/api"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

func clinicPlan(t *testing.T, network string) *plan.Plan {
	t.Helper()
	file, err := filepath.Abs("../holdfast.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text, err = onNetwork(text, file, network); err != nil {
		t.Fatal(err)
	}
	p, err := readPlan(file, text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// healthy is the clinic with all its margin.
func healthy() api.Status {
	return api.Status{
		Hosts: []api.HostStatus{{Name: "east-1", Heard: true}, {Name: "east-2", Heard: true}, {Name: "east-3", Heard: true}},
		Databases: []api.DatabaseStatus{{Name: "records", Open: true, Primary: "east-2", Archive: &api.ArchiveStatus{Host: "east-1"}, Servers: []api.ServerStatus{
			{Host: "east-1", Role: "standby", State: "streams", Counts: true},
			{Host: "east-2", Role: "primary", State: "serves"},
			{Host: "east-3", Role: "standby", State: "streams", Counts: true},
		}}},
		Services: []api.ServiceStatus{{Name: "web", Wanted: 2, Ready: 2}, {Name: "reminders", Wanted: 1, Ready: 1}},
	}
}

func TestWhatIsLackingToFullRedundancy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.Status)
		want   []string
	}{
		"nothing is lacking when all is as planned": {func(*api.Status) {}, nil},
		"a note is no lack":                         {func(s *api.Status) { s.Problems = []problem.Problem{{Code: "x.y", Severity: problem.Note}} }, nil},
		"a silent host":                             {func(s *api.Status) { s.Hosts[1].Heard = false }, []string{"host east-2 is silent"}},
		"a host that is not told of":                {func(s *api.Status) { s.Hosts = s.Hosts[:2] }, []string{"host east-3 is silent"}},
		"a database that lets nobody in":            {func(s *api.Status) { s.Databases[0].Open = false }, []string{"records is not open"}},
		"a standby that does not stream": {func(s *api.Status) { s.Databases[0].Servers[0].State = "does not stream" },
			[]string{"records: 1 of 2 standbys stream and count"}},
		"a standby that streams and does not count yet": {func(s *api.Status) { s.Databases[0].Servers[2].Counts = false },
			[]string{"records: 1 of 2 standbys stream and count"}},
		"a log that does not reach the vault": {func(s *api.Status) { s.Databases[0].Archive.Trouble = "no stream" },
			[]string{"the log of records does not reach the vault"}},
		"an instance that is not ready": {func(s *api.Status) { s.Services[0].Ready = 1 }, []string{"web: 1 of 2 instances ready"}},
		"a service that is not told of": {func(s *api.Status) { s.Services = s.Services[:1] }, []string{"reminders: 0 of 1 instances ready"}},
		"a problem that somebody reports": {func(s *api.Status) {
			s.Problems = []problem.Problem{{Code: "a.b", Subject: "c", Severity: problem.Degraded}}
		}, []string{"a.b c"}},
		"a host whose death would not be survived": {func(s *api.Status) { s.IfDied = []api.IfDied{{Host: "east-1", Safe: true}, {Host: "east-2"}} },
			[]string{"the death of east-2 would not be survived in full"}},
		"everything, when nothing is told": {func(s *api.Status) { *s = api.Status{} }, []string{
			"host east-1 is silent", "host east-2 is silent", "host east-3 is silent", "records is not open", "records has 0 primaries",
			"records: 0 of 2 standbys stream and count", "the log of records does not reach the vault",
			"web: 0 of 2 instances ready", "reminders: 0 of 1 instances ready"}},
	} {
		t.Run(name, func(t *testing.T) {
			st := healthy()
			c.change(&st)
			if diff := cmp.Diff(c.want, lacking(clinicPlan(t, ""), st)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheHostsCanHaveOtherAddresses(t *testing.T) {
	var got []string
	for _, h := range clinicPlan(t, "127.47.3").AllHosts() {
		got = append(got, h.Address)
	}
	if diff := cmp.Diff([]string{"127.47.3.1", "127.47.3.2", "127.47.3.3"}, got); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]bool{"127.47.0": true, "10.0.0": false, "127.47": false, "127.47.0.1": false, "": false} {
		if isNetwork(text) != want {
			t.Errorf("%q is a network: %v", text, !want)
		}
	}
}

func TestEveryHostHasItsDoors(t *testing.T) {
	var got []string
	for _, d := range doors(clinicPlan(t, "")) {
		if strings.HasSuffix(d.what, "on east-2") {
			got = append(got, d.what+" "+d.address)
		}
	}
	want := []string{"agent on east-2 127.20.0.2:7400", "etcd on east-2 127.20.0.2:7402", "listener of records on east-2 127.20.0.2:5432", "edge on east-2 127.20.0.2:8443"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
