package postgres_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/auth"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
)

// A host that the plan got while a server runs is let in by that server, as it runs, and whether clients are let in stays
// as it was.
func TestAServerThatRunsLearnsOfAnotherPeer(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.40.1", "127.46.40.2")[0]
	pgtest.Primary(t, a)
	newcomer := pgtest.New(t, pgtest.Options{}, "127.46.40.3")[0]
	ca, err := os.ReadFile(filepath.Join(a.Config.CertDir, "ca.crt"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(newcomer.Config.CertDir, "ca.crt"), ca, 0o644))
	authority, err := auth.LoadAuthority(filepath.Join(filepath.Dir(a.Config.CertDir), "..", "ca"))
	must(t, err)
	must(t, authority.WriteHost(newcomer.Config.CertDir, auth.HostCert{Name: "b7"}))
	if err := newcomer.Clone(ctx, a.Endpoint, a.Endpoint, 1); err == nil {
		t.Fatal("a host that is no peer cloned the database")
	}
	process := func() string {
		pid, err := os.ReadFile(filepath.Join(a.Config.Dir, "pgdata", "postmaster.pid"))
		must(t, err)
		first, _, _ := strings.Cut(string(pid), "\n")
		return first
	}
	pid := process()
	for _, clients := range []bool{true, false} {
		must(t, a.Admit(ctx, clients))
		cfg := a.Config
		cfg.Peers = append(slices.Clone(cfg.Peers), database.Endpoint{Host: "b7", Address: "127.46.40.3", Port: 1}, database.Endpoint{Host: "b8", Address: "10.231.9.9", Port: 1})
		again, err := postgres.Open(cfg)
		must(t, err)
		must(t, again.KeepRules())
		rules := filepath.Join(cfg.Dir, "pgdata", "pg_hba.conf")
		written, err := os.ReadFile(rules)
		must(t, err)
		if !strings.Contains(string(written), "10.231.9.9/32") {
			t.Errorf("the rules do not have the new peer:\n%s", written)
		}
		if l := again.Observe(ctx); l.Admits != clients {
			t.Errorf("clients are let in: %t, were: %t", l.Admits, clients)
		}
		before, err := os.Stat(rules)
		must(t, err)
		must(t, again.KeepRules())
		if after, err := os.Stat(rules); err != nil || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("rules that are right were written again: %v", err)
		}
		must(t, again.Close())
	}
	if now := process(); now != pid {
		t.Errorf("the server was restarted: process %s after %s", now, pid)
	}
	must(t, newcomer.Clone(ctx, a.Endpoint, a.Endpoint, 1))
}
