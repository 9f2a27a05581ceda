package postgres_test

import (
	"strings"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/redact"
)

// logins lists which of some roles may log in.
func logins(t *testing.T, n *pgtest.Node) string {
	t.Helper()
	conn := local(t, n)
	var s string
	must(t, conn.QueryRow(t.Context(), "SELECT coalesce(string_agg(rolname, ' ' ORDER BY rolname) FILTER (WHERE rolcanlogin), '') FROM pg_roles WHERE rolname IN ('app', 'web', 'job', 'byhand')").Scan(&s))
	must(t, conn.Close(t.Context()))
	return s
}

func TestRolesFollowThePlanWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	app := postgres.Role{Name: "app", Password: redact.Secret("one"), Owns: []string{"shop"}}
	web := postgres.Role{Name: "web", Password: redact.Secret("two"), Owns: []string{"site"}}
	job := postgres.Role{Name: "job", Password: redact.Secret("three"), Owns: []string{"site"}}
	a := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{app, web}}, "127.46.38.1")[0]
	pgtest.Primary(t, a)
	exec(t, a, "CREATE ROLE byhand LOGIN")

	verifier := func(name string) string {
		conn := local(t, a)
		var s string
		must(t, conn.QueryRow(ctx, "SELECT rolpassword FROM pg_authid WHERE rolname = $1", name).Scan(&s))
		must(t, conn.Close(ctx))
		return s
	}
	follow := func(what, want string, roles ...postgres.Role) {
		t.Helper()
		must(t, a.SetRoles(roles))
		a.Await(t, what+": it is told", func(l database.Local) bool { return !l.RolesReady })
		must(t, a.EnsureRoles(ctx))
		if l := a.Answers(t); !l.RolesReady {
			t.Errorf("%s: not ready behind it", what)
		}
		if got := logins(t, a); got != want {
			t.Errorf("%s: %q may log in, not %q", what, got, want)
		}
	}
	was := verifier("app")
	follow("one less, one more that owns what the other did", "app byhand job", app, job)
	if verifier("app") != was {
		t.Error("a password that is as it was was written again")
	}
	if n := count(t, a, "SELECT count(*) FROM pg_database WHERE datname = 'site' AND pg_get_userbyid(datdba) = 'job'"); n != 1 {
		t.Error("the database has not changed hands")
	}
	app.Password = redact.Secret("another")
	follow("another password", "app byhand job", app, job)
	if verifier("app") == was {
		t.Error("the former password is still in force")
	}
	// Who may log in is a person's to say for a role that is in no plan any more.
	exec(t, a, "ALTER ROLE web LOGIN")
	follow("one that comes back is planned again", "app byhand job web", app, job, web)
	follow("and may go once more", "app byhand job", app, job)
	exec(t, a, "ALTER ROLE web LOGIN")

	// A server whose agent has seen no earlier plan knows its former roles all the same.
	a.Reopen(t) // with app, of its first password, and web
	a.Await(t, "it sees that they are not as planned", func(l database.Local) bool { return !l.RolesReady })
	must(t, a.EnsureRoles(ctx))
	if got := logins(t, a); got != "app byhand web" {
		t.Errorf("by the plan of a new agent %q may log in", got)
	}
	if err := a.SetRoles([]postgres.Role{{Name: postgres.Superuser}}); err == nil {
		t.Error("Holdfast's own role was taken for one of the plan")
	}
}

// A role that somebody's transaction holds is waited for briefly: other orders must get through.
func TestARoleThatIsHeldHoldsNothingUp(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	app, job := postgres.Role{Name: "app", Password: redact.Secret("one")}, postgres.Role{Name: "job", Password: redact.Secret("three")}
	a := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{app}}, "127.46.41.1")[0]
	pgtest.Primary(t, a)
	conn := local(t, a)
	_, err := conn.Exec(ctx, "BEGIN; ALTER ROLE app CONNECTION LIMIT 5")
	must(t, err)
	app.Password = redact.Secret("two")
	must(t, a.SetRoles([]postgres.Role{app, job}))
	if err := a.EnsureRoles(ctx); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Fatalf("it did not give up: %v", err)
	}
	if got := logins(t, a); got != "app job" {
		t.Errorf("meanwhile %q may log in: the other role has waited for it", got)
	}
	if l := a.Answers(t); l.RolesReady {
		t.Error("and is told to be ready")
	}
	_, err = conn.Exec(ctx, "ROLLBACK")
	must(t, err)
	must(t, a.EnsureRoles(ctx))
	if l := a.Answers(t); !l.RolesReady {
		t.Error("it is not ready")
	}
}

func TestRolesThatAreNotKnownYetAreNotTouched(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	app := postgres.Role{Name: "app", Password: redact.Secret("one")}
	a := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{app}}, "127.46.39.1")[0]
	pgtest.Primary(t, a)
	a.Config.Roles, a.Config.RolesLater = nil, true
	a.Reopen(t)
	if l := a.Answers(t); !l.RolesReady {
		t.Error("a server waits for roles that nobody can give it")
	}
	must(t, a.EnsureRoles(ctx))
	if got := logins(t, a); got != "app" {
		t.Fatalf("%q may log in", got)
	}
	// What another host has made while it was the primary is not undone by the roles of before.
	job := postgres.Role{Name: "job", Password: redact.Secret("two")}
	must(t, a.SetRoles([]postgres.Role{app, job}))
	must(t, a.EnsureRoles(ctx))
	a.Config.Roles, a.Config.RolesLater = []postgres.Role{app}, false
	a.Reopen(t)
	a.RolesLater()
	if l := a.Answers(t); !l.RolesReady || a.KnowsRoles() {
		t.Error("it goes by the roles of before")
	}
	must(t, a.EnsureRoles(ctx))
	if got := logins(t, a); got != "app job" {
		t.Fatalf("%q may log in", got)
	}
	// One that a person has renamed is that person's.
	exec(t, a, "ALTER ROLE job RENAME TO byhand")
	must(t, a.SetRoles(nil))
	must(t, a.EnsureRoles(ctx))
	if got := logins(t, a); got != "byhand" {
		t.Errorf("%q may log in by an empty plan, not byhand", got)
	}
}
