package database_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/database"
)

func serverState(host string) database.ServerState {
	return database.ServerState{
		Host: host, Version: 150018, TimeZones: "a1", Rules: true, Settings: map[string]string{"work_mem": "4MB"},
		Collations: []database.Collation{{Database: "shop", Name: "en_GB.UTF-8", Recorded: "2.36", Actual: "2.36"}},
		Extensions: []database.Extension{{Database: "shop", Name: "pg_trgm", Version: "1.6", Here: true}},
		Roles:      []string{"app login"}, Databases: []string{"shop of app"},
	}
}

func TestCompareServers(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *database.ServerState)
		object string // "" = no difference
		grave  bool
	}{
		{"equal servers", func(*database.ServerState) {}, "", false},
		{"another minor release", func(s *database.ServerState) { s.Version = 150017 }, "PostgreSQL", false},
		{"another major release", func(s *database.ServerState) { s.Version = 160001 }, "PostgreSQL", true},
		{"other time zone data", func(s *database.ServerState) { s.TimeZones = "b2" }, "time zones", false},
		{"another libc, whose order of text is another", func(s *database.ServerState) { s.Collations[0].Actual = "2.39" }, "collation of database shop", true},
		{"a setting with another value", func(s *database.ServerState) { s.Settings["work_mem"] = "8MB" }, "setting work_mem", false},
		{"a setting that the primary does not have", func(s *database.ServerState) { s.Settings["jit"] = "off" }, "setting jit", false},
		{"a setting that is missing", func(s *database.ServerState) { delete(s.Settings, "work_mem") }, "setting work_mem", false},
		{"a role that is missing", func(s *database.ServerState) { s.Roles = nil }, "roles", false},
		{"a role more is no difference: the primary has not sent its drop yet", func(s *database.ServerState) { s.Roles = append(s.Roles, "old") }, "", false},
		{"a database with another owner", func(s *database.ServerState) { s.Databases = []string{"shop of postgres"} }, "databases", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := serverState("b2")
			other.Settings = maps.Clone(other.Settings)
			other.Collations = slices.Clone(other.Collations)
			c.change(&other)
			got := database.CompareServers(serverState("b1"), other)
			wantDifference(t, got, "b2", c.object, c.grave)
		})
	}
}

func TestFaultsOfOneServer(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *database.ServerState)
		object string
		grave  bool
	}{
		{"a server that is well", func(*database.ServerState) {}, "", false},
		{"indexes of another libc version", func(s *database.ServerState) { s.Collations[0].Actual = "2.39" }, "collation of database shop", true},
		{"a collation without a version has none to differ", func(s *database.ServerState) {
			s.Collations[0] = database.Collation{Database: "shop", Name: "C"}
		}, "", false},
		{"an extension whose files are not here", func(s *database.ServerState) { s.Extensions[0].Here = false }, "extension pg_trgm of database shop", true},
		{"a setting by hand", func(s *database.ServerState) { s.ByHand = []string{"work_mem"} }, "settings", false},
		{"access rules by hand", func(s *database.ServerState) { s.Rules = false }, "access rules", false},
		{"a role that is not as planned", func(s *database.ServerState) { s.Unplanned = []string{"app may not log in"} }, "roles", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serverState("b1")
			c.change(&s)
			wantDifference(t, s.Faults(), "b1", c.object, c.grave)
		})
	}
}

func wantDifference(t *testing.T, got []database.Difference, host, object string, grave bool) {
	t.Helper()
	switch {
	case object == "" && len(got) > 0, object != "" && len(got) != 1:
		t.Fatalf("differences: %+v", got)
	case object == "":
	case got[0].Object != object || got[0].Grave != grave || got[0].Host != host || got[0].Remedy == "" || strings.TrimSpace(got[0].Text) == "":
		t.Errorf("difference: %+v", got[0])
	}
}
