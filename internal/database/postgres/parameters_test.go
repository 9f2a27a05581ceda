package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/durable"
)

// want changes the plan's settings on a node, and has the server read them.
func want(t *testing.T, n *pgtest.Node, p ...postgres.Parameter) database.Local {
	t.Helper()
	name := fmt.Sprint(p)
	must(t, n.SetParameters(p))
	n.TookSettings(name)
	n.Await(t, "the difference is seen", func(l database.Local) bool { return l.Settings == name && l.Unapplied })
	must(t, n.Reload(t.Context()))
	return n.Await(t, "the file is as the plan", func(l database.Local) bool { return l.Settings == name && !l.Unapplied })
}

// whileUnread changes a setting while the postmaster stands still, so that the server hears of its file later: until then the
// file is right and nothing is known of what waits. A look that was too slow says nothing, and all is done once more.
func whileUnread(t *testing.T, n *pgtest.Node, others ...postgres.Parameter) {
	t.Helper()
	for try := range 5 {
		name := fmt.Sprint("unread ", try)
		must(t, n.SetParameters(append(slices.Clone(others), postgres.Parameter{Name: "max_worker_processes", Value: strconv.Itoa(20 + try)})))
		n.TookSettings(name)
		n.Await(t, "the difference is seen", func(l database.Local) bool { return l.Settings == name && l.Unapplied })
		pid := postmaster(t, n)
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		err := n.Reload(t.Context())
		unread := n.Observe(t.Context())
		must(t, syscall.Kill(pid, syscall.SIGCONT))
		must(t, err)
		l := n.Await(t, "it has read it", func(l database.Local) bool { return l.Settings == name && !l.Unapplied })
		if len(l.Pending) != 1+len(others) {
			t.Errorf("%+v", l.Pending)
		}
		if unread.Settings == name {
			if !unread.Unapplied {
				t.Errorf("a server that has not read its file: %+v", unread.Pending)
			}
			return
		}
	}
	t.Error("five looks were too slow")
}

func TestSettingsComeInByReloadAndByRestart(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.9.1", "127.46.9.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	shows := func(n *pgtest.Node, name string) string {
		t.Helper()
		var value string
		must(t, local(t, n).QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value))
		return value
	}
	first := a.Answers(t)
	if first.Unapplied || len(first.Pending) > 0 || first.Version == "" || first.Life == "" {
		t.Fatalf("before any change: %+v", first)
	}

	t.Run("what needs no restart is there at once", func(t *testing.T) {
		if l := want(t, a, postgres.Parameter{Name: "work_mem", Value: "7MB"}); len(l.Pending) > 0 || l.Life != first.Life {
			t.Errorf("%+v", l)
		}
		a.Await(t, "a new session shows it", func(database.Local) bool { return shows(a, "work_mem") == "7MB" })
	})
	t.Run("what the server does not know is refused by name, and nothing changes", func(t *testing.T) {
		for _, bad := range []postgres.Parameter{{Name: "no_such_thing", Value: "1"}, {Name: "maintenance_work_mem", Value: "lots"}} {
			l := want(t, a, postgres.Parameter{Name: "work_mem", Value: "8MB"}, bad)
			if !strings.Contains(l.Refused, bad.Name) || shows(a, "work_mem") != "7MB" {
				t.Errorf("refused %q, work_mem %s", l.Refused, shows(a, "work_mem"))
			}
		}
	})
	t.Run("what is being tried stands nowhere yet where a start would find it", func(t *testing.T) {
		real, watched, seen := a.BinDir(), t.TempDir(), filepath.Join(t.TempDir(), "seen")
		openToAll(t, watched, filepath.Dir(seen))
		programs, err := os.ReadDir(real)
		must(t, err)
		for _, p := range programs {
			if p.Name() != "postgres" {
				must(t, os.Symlink(filepath.Join(real, p.Name()), filepath.Join(watched, p.Name())))
			}
		}
		must(t, durable.WriteProgram(filepath.Join(watched, "postgres"), strings.NewReader(fmt.Sprintf(
			"#!/bin/sh\nif [ \"$1\" = -C ]; then cp %q %q; fi\nexec %q \"$@\"\n", filepath.Join(a.DataDir(), "postgresql.conf"), seen, filepath.Join(real, "postgres")))))
		must(t, a.SetBinDir(watched))
		bad := postgres.Parameter{Name: "neither_this", Value: "1"}
		if l := want(t, a, postgres.Parameter{Name: "work_mem", Value: "7MB"}, bad); !strings.Contains(l.Refused, bad.Name) {
			t.Errorf("refused %q", l.Refused)
		}
		must(t, a.SetBinDir(""))
		stood, err := os.ReadFile(seen)
		must(t, err)
		if len(stood) == 0 || strings.Contains(string(stood), bad.Name) {
			t.Errorf("while they were tried, a start would have found\n%s", stood)
		}
		want(t, a, postgres.Parameter{Name: "work_mem", Value: "6MB"})
	})
	t.Run("a setting that comes up waits for a restart, on the standby first", func(t *testing.T) {
		up := postgres.Parameter{Name: "max_connections", Value: "140"}
		pending := []database.Pending{{Name: "max_connections", From: "100", To: "140"}}
		for _, n := range nodes {
			l := want(t, n, up) // the first look that finds the file right knows what waits
			if diff := cmp.Diff(pending, l.Pending); diff != "" || l.Refused != "" {
				t.Errorf("%s: %s %s", n.Endpoint.Host, l.Refused, diff)
			}
		}
		whileUnread(t, b, up)
		want(t, b, up)
		restart(t, b, a, 1)
		if l := b.Answers(t); len(l.Pending) > 0 || shows(b, "max_connections") != "140" {
			t.Errorf("%+v", l.Pending)
		}
	})
	t.Run("a server starts with what it had when the plan asks for nonsense", func(t *testing.T) {
		must(t, b.SetParameters([]postgres.Parameter{{Name: "max_connections", Value: "140"}, {Name: "no_such_thing", Value: "1"}}))
		restart(t, b, a, 1)
		if l := b.Answers(t); !strings.Contains(l.Refused, "no_such_thing") || l.Unapplied || shows(b, "max_connections") != "140" {
			t.Errorf("refused %q", l.Refused)
		}
	})
	t.Run("a setting that comes down waits for the primary, and a standby starts all the same", func(t *testing.T) {
		down := postgres.Parameter{Name: "max_connections", Value: "60"}
		want(t, b, down)
		restart(t, b, a, 1)
		l := b.Await(t, "it is told", func(l database.Local) bool { return len(l.Pending) > 0 })
		if diff := cmp.Diff([]database.Pending{{Name: "max_connections", From: "100", To: "60", Lower: true}}, l.Pending); diff != "" {
			t.Errorf("standby: %s", diff)
		}
		l = want(t, a, down)
		if l = a.Await(t, "it is told", func(l database.Local) bool { return len(l.Pending) > 0 }); !l.Pending[0].Lower {
			t.Errorf("primary: %+v", l.Pending)
		}
		// The primary restarts in place: as a standby that answers nothing, then promoted.
		must(t, a.StopFast(ctx))
		_, err := a.Recruit(ctx, 2, 0)
		must(t, err)
		must(t, a.Start(ctx, false))
		must(t, a.Promote(ctx, 2, 3, []database.Fork{}))
		l = a.Answers(t)
		if len(l.Pending) > 0 || shows(a, "max_connections") != "60" {
			t.Fatalf("primary after its restart: %+v", l.Pending)
		}
		must(t, a.SetNames(ctx, database.Names{}))
		_, err = b.Recruit(ctx, 2, 0)
		must(t, err)
		must(t, b.Follow(ctx, a.Endpoint, 2))
		b.Await(t, "the standby hears of it", func(l database.Local) bool { return l.Unapplied })
		must(t, b.Reload(ctx))
		b.Await(t, "its turn has come", func(l database.Local) bool { return len(l.Pending) > 0 && !l.Pending[0].Lower })
		restart(t, b, a, 2)
		if l := b.Answers(t); len(l.Pending) > 0 || shows(b, "max_connections") != "60" {
			t.Errorf("standby after its restart: %+v", l.Pending)
		}
	})
}

// openToAll lets the server's own user into temporary directories.
func openToAll(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		must(t, os.Chmod(dir, 0o777))
		must(t, os.Chmod(filepath.Dir(dir), 0o755))
	}
}

// restart stops a standby and lets it follow again.
func restart(t *testing.T, n, primary *pgtest.Node, epoch int64) {
	t.Helper()
	before := n.Answers(t).Life
	must(t, n.StopFast(t.Context()))
	_, err := n.Recruit(t.Context(), epoch, 0)
	must(t, err)
	must(t, n.Follow(t.Context(), primary.Endpoint, epoch))
	n.Await(t, "it streams again", func(l database.Local) bool { return l.Ready && l.Receiving && l.Life != before })
}
