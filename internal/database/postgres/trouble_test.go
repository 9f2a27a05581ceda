package postgres_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/problem"
)

// postmaster is the process of a server that runs.
func postmaster(t *testing.T, n *pgtest.Node) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.DataDir(), "postmaster.pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.SplitN(string(b), "\n", 2)[0])
	must(t, err)
	return pid
}

func TestAHungServerIsToldAndCanBeKilled(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.7.1")[0]
	pgtest.Primary(t, a)
	a.Await(t, "writable", func(l database.Local) bool { return l.Writable == "ok" })
	stopProcess(t, postmaster(t, a))
	a.Reopen(t) // an open session would still answer
	l := a.Observe(ctx)
	if !l.Known || !l.Running || l.Ready || l.Role != database.Primary || l.Writable != "hung" || l.Why == "" {
		t.Fatalf("hung: %+v", l)
	}
	must(t, a.Kill(ctx, "hung"))
	if l := a.Observe(ctx); l.Running || !l.TreeGone {
		t.Fatalf("killed: %+v", l)
	}
}

func TestAServerWhoseKeeperIsSilentIsToldAndCanBeKilled(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.20.1")[0]
	pgtest.Primary(t, a)
	if l := a.Observe(ctx); l.KeeperSilent != 0 {
		t.Fatalf("a keeper that answers is silent for %s", l.KeeperSilent)
	}
	b, err := os.ReadFile(filepath.Join(a.DataDir(), "postmaster.pid"))
	must(t, err)
	stat, err := os.ReadFile(filepath.Join("/proc", strings.SplitN(string(b), "\n", 2)[0], "stat"))
	must(t, err)
	keeper, err := strconv.Atoi(strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[1]) // its parent
	must(t, err)
	stopProcess(t, keeper)
	a.Await(t, "its keeper is silent", func(l database.Local) bool { return l.Running && l.KeeperSilent > time.Second })
	must(t, a.Kill(ctx, "its keeper is silent"))
	if l := a.Observe(ctx); l.Running || !l.TreeGone || l.KeeperSilent != 0 {
		t.Fatalf("killed: %+v", l)
	}
}

func TestAPrimaryWithoutExtensionIsFencedAndAStandbyIsNot(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.8.1")[0]
	must(t, a.Init(ctx, 1))
	must(t, a.Start(ctx, true))
	if err := a.Extend(ctx, 1, 100); !errors.Is(err, database.ErrStale) {
		t.Fatalf("a standby was armed: %v", err)
	}
	must(t, a.Promote(ctx, 1, 2, nil))
	must(t, a.Extend(ctx, 1, 60000))
	if err := a.Extend(ctx, 0, 60000); err == nil {
		t.Fatal("an older epoch extended the deadline")
	}
	must(t, a.Kill(ctx, "again"))
	must(t, a.Start(ctx, true))
	must(t, a.Promote(ctx, 1, 3, a.Answers(t).History))
	must(t, a.Extend(ctx, 1, 300))
	l := a.Await(t, "fenced", func(l database.Local) bool { return !l.Running && l.TreeGone })
	if l.Exit == "" || l.ShutDown {
		t.Fatalf("fenced: %+v", l)
	}
}

func TestAnInterruptedCloneIsPartialAndCanBeMadeAnew(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.9.1", "127.46.9.2")
	a, b := nodes[0], nodes[1]
	if err := b.Clone(ctx, a.Endpoint, a.Endpoint, 1); err == nil {
		t.Fatal("cloned a server that does not run")
	}
	if l := b.Observe(ctx); l.Data != database.DataAbsent || l.Failed == "" {
		t.Fatalf("a primary that cannot be reached left: %+v", l)
	}
	pgtest.Primary(t, a)
	exec(t, a, "CREATE TABLE big AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 60000) g")
	limited, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- b.Clone(limited, a.Endpoint, a.Endpoint, 1) }()
	b.Await(t, "a clone on its way", func(l database.Local) bool { return l.Data == database.DataPartial && l.Progress != "" })
	cancel()
	if err := <-ended; err == nil {
		t.Skip("the clone was faster than its interruption")
	}
	l := b.Observe(ctx)
	if l.Data != database.DataPartial || l.FailedKind != database.KindClone || l.Progress != "" {
		t.Fatalf("interrupted: %+v", l)
	}
	for what, err := range map[string]error{"start": b.Start(ctx, true), "init": b.Init(ctx, 1)} {
		if err == nil {
			t.Errorf("%s took partial data", what)
		}
	}
	pgtest.Join(t, b, a, 1)
	if l := b.Observe(ctx); l.Data != database.DataPresent || l.Failed != "" || !l.PromiseOK {
		t.Fatalf("cloned: %+v", l)
	}
	// A standby that was told to show nothing still follows.
	must(t, b.StopFast(ctx))
	must(t, b.Start(ctx, false))
	if l := b.Observe(ctx); !l.Running || l.Role != database.Standby || l.Ready {
		t.Fatalf("hidden standby: %+v", l)
	}
	if _, err := b.Recruit(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	must(t, b.Follow(ctx, a.Endpoint, 2))
	b.Await(t, "streaming", func(l database.Local) bool { return l.Receiving && l.Ready })
}

func TestASilentClientDoesNotHoldUpARecruit(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.10.1", "127.46.10.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	silent, err := net.Dial("tcp", net.JoinHostPort(b.Endpoint.Address, strconv.Itoa(b.Endpoint.Port)))
	must(t, err)
	defer func() { _ = silent.Close() }()                       // the server has ended it
	limited, cancel := context.WithTimeout(ctx, 40*time.Second) // a server waits 60 s for who does not log in
	defer cancel()
	if _, err := b.Recruit(limited, 2, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recruit(limited, 2, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recruit(limited, 2, 2); !errors.Is(err, database.ErrPromised) {
		t.Fatalf("an older generation was not refused: %v", err)
	}
	must(t, b.Remember(ctx, 2, 4))
	if l := b.Observe(ctx); l.Promise.Generation != 4 || l.Promise.Told == 0 {
		t.Fatalf("promise: %+v", l.Promise)
	}
	if err := b.Follow(ctx, a.Endpoint, 1); !errors.Is(err, database.ErrPromised) {
		t.Fatalf("followed an epoch below the promise: %v", err)
	}
}

func TestOpenTellsWhatIsWrongWithTheHost(t *testing.T) {
	a := pgtest.New(t, pgtest.Options{}, "127.46.11.1")[0]
	code := func(err error) string {
		var p *problem.Problem
		if !errors.As(err, &p) {
			t.Fatalf("no problem: %v", err)
		}
		if p.Remedy == "" || p.Meaning == "" {
			t.Errorf("no remedy: %s", p.Text())
		}
		return p.Code
	}
	t.Run("programs that are not there", func(t *testing.T) {
		cfg := a.Config
		cfg.BinDir = "/nonexistent"
		_, err := postgres.Open(cfg)
		if code(err) != "database.no-postgres" || !strings.Contains(err.Error(), "/nonexistent") {
			t.Error(err)
		}
	})
	t.Run("a folder that PostgreSQL's user may not enter", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("PostgreSQL runs as ourselves")
		}
		closed := filepath.Join(pgtest.Dir(t), "closed")
		must(t, os.Mkdir(closed, 0o700))
		cfg := a.Config
		cfg.Dir = filepath.Join(closed, "db")
		_, err := postgres.Open(cfg)
		if code(err) != "database.directory-closed" || !strings.Contains(err.Error(), "chmod a+x "+closed) {
			t.Error(err)
		}
	})
	t.Run("a path too long for a socket", func(t *testing.T) {
		cfg := a.Config
		cfg.Dir = "/" + strings.Repeat("x", 100)
		if _, err := postgres.Open(cfg); code(err) != "database.path-too-long" {
			t.Error(err)
		}
	})
	t.Run("every bad field at once", func(t *testing.T) {
		cfg := a.Config
		cfg.Address, cfg.Port, cfg.Parameters = "here", 0, []postgres.Parameter{{Name: "fsync", Value: "off"}}
		_, err := postgres.Open(cfg)
		for _, part := range []string{"here", "port 0", "fsync"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("no word of %s: %v", part, err)
			}
		}
	})
	t.Run("a port that somebody has", func(t *testing.T) {
		must(t, a.Init(t.Context(), 1))
		l, err := net.Listen("tcp", net.JoinHostPort(a.Endpoint.Address, strconv.Itoa(a.Endpoint.Port)))
		must(t, err)
		err = a.Start(t.Context(), true)
		if code(err) != "database.port-in-use" || !strings.Contains(err.Error(), "by process") {
			t.Error(err)
		}
		must(t, l.Close())
		must(t, a.Start(t.Context(), true))
	})
}
