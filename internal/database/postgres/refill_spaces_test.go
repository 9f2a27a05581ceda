package postgres_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
)

// A vault's tablespaces come to where the primary has them; the log makes and drops others on the way. Hosts of this machine share
// its paths, so a directory carries the host's name here, and what the log makes is gone from the primary again.
func TestAStandbyWithTablespacesIsMadeOfWhatTheVaultHolds(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	v, err := vault.Create(ctx, vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Application: "clinic", Host: "h1"})
	must(t, err)
	t.Cleanup(func() { must(t, v.Close(context.Background())) })
	held := &archive{vault: v, major: pgtest.Major(t)}
	nodes := pgtest.New(t, pgtest.Options{Vault: held}, "127.46.86.1", "127.46.86.2")
	a, b := nodes[0], nodes[1]
	place, suffix := besides(t, a, "spaces"), "."+b.Endpoint.Host
	nowhere := filepath.Join(place, "none", "old")
	b.Config.SpaceDir = func(at string) string {
		if filepath.Base(at) == "old" && nowhere != "" {
			return nowhere
		}
		return at + suffix
	}
	b.Reopen(t)
	pgtest.Primary(t, a)
	fill(t, a)
	at := func(name string) string { return filepath.Join(place, name) }
	make := func(name string) {
		exec(t, a, "CREATE TABLESPACE "+name+" LOCATION '"+ownedLike(t, a, at(name))+"'")
		must(t, a.TendSpaces())
	}
	make("fast")
	make("old")
	exec(t, a, "ALTER TABLE big SET TABLESPACE fast")
	exec(t, a, "CREATE UNLOGGED TABLE brief TABLESPACE fast AS SELECT 1 AS n")
	exec(t, a, "CREATE TABLE past TABLESPACE old AS SELECT generate_series(1, 5000) AS n")
	held.keep(t, a)
	exec(t, a, "UPDATE big SET text = repeat(md5((id + 1)::text), 30) WHERE id % 7 = 0")
	exec(t, a, "DROP TABLE past")
	exec(t, a, "DROP TABLESPACE old")
	make("short") // only the log tells of it
	exec(t, a, "CREATE TABLE passing TABLESPACE short AS SELECT generate_series(1, 5000) AS n")
	exec(t, a, "DROP TABLE passing")
	exec(t, a, "DROP TABLESPACE short")
	must(t, os.RemoveAll(at("short")))
	past := func() { // the slot of a copy begins behind it, and so the log that is placed holds all of it
		exec(t, a, "SELECT pg_switch_wal()")
		exec(t, a, "CHECKPOINT")
	}
	past()

	chain := a.Answers(t).History
	refill := func() error { return b.Refill(ctx, a.Endpoint, a.Answers(t).Timeline, chain, 1) }
	refused := func(code, what string) {
		t.Helper()
		if p, ok := errors.AsType[*problem.Problem](refill()); !ok || p.Code != code || !strings.Contains(p.Title, what) {
			t.Fatalf("want %s that says %q, got %v", code, what, p)
		}
		if l := b.Observe(ctx); l.Data != database.DataAbsent || l.FailedFrom != database.FromVault {
			t.Fatalf("it left %s, failed from %q", l.Data, l.FailedFrom)
		}
	}
	refused("database.no-copy-in-vault", "dropped since")
	nowhere = ""
	suffix = "" // another's
	refused("database.tablespace-shared", "on host "+a.Endpoint.Host)
	suffix = "." + b.Endpoint.Host

	must(t, os.WriteFile(at("fast")+suffix+"/letter", []byte("mine"), 0o600))
	follows := func() {
		t.Helper()
		_, err := b.Recruit(ctx, 1, 1)
		must(t, err)
		must(t, b.Follow(ctx, a.Endpoint, 1))
		sound(t, b, a)
		links, err := filepath.Glob(filepath.Join(b.DataDir(), "pg_tblspc", "*"))
		must(t, err)
		if len(links) != 1 {
			t.Fatalf("links: %v", links)
		}
		if to, err := os.Readlink(links[0]); err != nil || to != at("fast")+suffix {
			t.Errorf("the tablespace lies in %s, %v", to, err)
		}
		for _, dropped := range []string{at("old") + suffix, at("short")} {
			if left, err := filepath.Glob(dropped + "/PG_*"); err != nil || len(left) > 0 {
				t.Errorf("of what was dropped, %v is left, %v", left, err)
			}
		}
		must(t, b.TendSpaces())
		if p := b.SpaceProblem(); p != nil {
			t.Errorf("it is told: %v", p)
		}
	}
	must(t, refill())
	follows()

	// Onto what lies there, some of it wrong, and some where the log makes a tablespace from nothing.
	must(t, b.Kill(ctx, "the test wants it made anew"))
	tables, err := filepath.Glob(at("fast") + suffix + "/PG_*/*/*")
	must(t, err)
	if len(tables) == 0 {
		t.Fatal("the tablespace's directory holds nothing")
	}
	for _, file := range tables {
		must(t, os.Truncate(file, 8192))
	}
	version := strings.Split(strings.TrimPrefix(tables[0], at("fast")+suffix+"/"), "/")[0]
	must(t, os.MkdirAll(filepath.Join(at("short"), version, "5"), 0o700))
	for _, file := range []string{filepath.Join(at("short"), version, "5", "99999"), filepath.Join(at("short"), "letter")} {
		must(t, os.WriteFile(file, []byte("left over"), 0o600))
	}
	must(t, refill())
	follows()
	for _, file := range []string{at("fast") + suffix + "/letter", filepath.Join(at("short"), "letter")} {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("what is not PostgreSQL's was touched: %v", err)
		}
	}

	// What the log makes in another's directory is not replayed: nothing can start, and nothing there is touched.
	must(t, b.Kill(ctx, "the test wants it made anew"))
	make("late")
	exec(t, a, "CREATE TABLE late TABLESPACE late AS SELECT generate_series(1, 5000) AS n")
	past()
	err = refill()
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "database.tablespace-shared" || !strings.Contains(p.Title, at("late")+" ") {
		t.Errorf("the log leads into the primary's tablespace: %v", err)
	}
	if l := b.Observe(ctx); l.Data != database.DataPartial {
		t.Errorf("it left %s", l.Data)
	}
	if n := count(t, a, "SELECT count(*) FROM late"); n != 5000 {
		t.Errorf("the primary's own has %d rows", n)
	}
}
