package postgres_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/redact"
)

func TestTheStateOfServersIsComparedOnRealServers(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{{Name: "app", Password: redact.Secret("pass"), Owns: []string{"shop"}}}},
		"127.46.31.1", "127.46.31.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	state := func(n *pgtest.Node) database.ServerState {
		t.Helper()
		n.Answers(t)
		got, err := n.State(ctx)
		must(t, err)
		return got
	}
	caughtUp := func() {
		t.Helper()
		b.Await(t, "the standby has all", func(l database.Local) bool { return l.Replayed >= a.Answers(t).Flushed })
	}
	caughtUp()
	first, second := state(a), state(b)
	if d := slices.Concat(first.Faults(), second.Faults(), database.CompareServers(first, second)); len(d) > 0 {
		t.Fatalf("servers that are alike differ: %+v", d)
	}
	if first.Version/10000 != a.Config.Major || first.TimeZones == "" || len(first.Settings) == 0 || len(first.Extensions) == 0 ||
		!slices.ContainsFunc(first.Databases, func(x string) bool { return strings.HasPrefix(x, "shop of app") }) {
		t.Fatalf("seen: %+v", first)
	}

	for _, statement := range []string{
		"ALTER SYSTEM SET work_mem = '17MB'", "ALTER ROLE app NOLOGIN", "ALTER DATABASE shop OWNER TO " + postgres.Superuser,
		"UPDATE pg_database SET datcollversion = 'older' WHERE datname = 'shop'",
	} {
		exec(t, a, statement)
	}
	rules := filepath.Join(b.Config.Dir, "pgdata", "pg_hba.conf")
	text, err := os.ReadFile(rules)
	must(t, err)
	must(t, os.WriteFile(rules, append(text, "local all all trust\n"...), 0o644))
	exec(t, a, "SELECT pg_reload_conf()")
	a.Await(t, "the setting is there", func(database.Local) bool { return state(a).Settings["work_mem"] == "17408" })
	caughtUp()
	first, second = state(a), state(b)
	objects := func(all []database.Difference) (out []string) {
		for _, d := range all {
			out = append(out, d.Object)
		}
		return slices.Compact(out)
	}
	// This machine's own C library may have no version for the database's collation: then a recorded one differs from nothing.
	if got, want := objects(first.Faults()), []string{"collation of database shop", "roles", "settings"}; !slices.Equal(got, want) {
		t.Errorf("the primary's faults: %v, want %v: %+v", got, want, first.Faults())
	}
	if got := objects(second.Faults()); !slices.Contains(got, "access rules") {
		t.Errorf("the standby's faults: %v", got)
	}
	if got, want := objects(database.CompareServers(first, second)), []string{"setting work_mem"}; !slices.Equal(got, want) {
		t.Errorf("between them: %v, want %v", got, want)
	}
}
