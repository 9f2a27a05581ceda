package postgres_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/problem"
)

// fill makes a table of about 30 MiB with an index.
func fill(t *testing.T, n *pgtest.Node) {
	t.Helper()
	exec(t, n, "CREATE TABLE big AS SELECT g AS id, repeat(md5(g::text), 30) AS text FROM generate_series(1, 25000) g")
	exec(t, n, "CREATE INDEX ON big (id)")
	exec(t, n, "CREATE UNLOGGED TABLE fleeting AS SELECT g FROM generate_series(1, 1000) g")
	exec(t, n, "CHECKPOINT")
}

// sound proves that n streams from the primary, holds what it holds, and that every page carries its checksum.
func sound(t *testing.T, n, primary *pgtest.Node) {
	t.Helper()
	exec(t, primary, "INSERT INTO big VALUES (-1, 'last')")
	const sum = "SELECT count(*)::int + sum(hashtext(id || text))::bigint % 1000000 FROM big"
	want := count(t, primary, sum)
	at := primary.Answers(t).Flushed
	n.Await(t, "it replayed all", func(l database.Local) bool { return l.Receiving && l.Replayed >= at })
	if got := count(t, n, sum); got != want {
		t.Errorf("%s: its rows sum up to %d, the primary's to %d", n.Endpoint.Host, got, want)
	}
	must(t, n.StopFast(t.Context()))
	bad, read, err := backup.VerifyPages(t.Context(), n.DataDir())
	if err != nil || len(bad) > 0 || read == "0 pages" {
		t.Errorf("%s: of %s these are damaged: %v, %v", n.Endpoint.Host, read, bad, err)
	}
	must(t, n.Start(t.Context(), true))
	exec(t, primary, "DELETE FROM big WHERE id = -1")
}

func TestAStandbyIsCopiedFromAStandbyAndOnlyChangesTravel(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.31.1", "127.46.31.2", "127.46.31.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	pgtest.Primary(t, a)
	fill(t, a)
	pgtest.Join(t, b, a, 1)
	// While rows change, c is made a copy of b.
	changing := make(chan error, 1)
	stop := make(chan struct{})
	conn := local(t, a)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				changing <- conn.Close(ctx)
				return
			default:
			}
			if _, err := conn.Exec(ctx, fmt.Sprintf("UPDATE big SET text = text || 'x' WHERE id %% 50 = %d", i%50)); err != nil {
				changing <- err
				return
			}
		}
	}()
	must(t, c.Clone(ctx, b.Endpoint, a.Endpoint, 1))
	close(stop)
	must(t, <-changing)
	must(t, c.Follow(ctx, a.Endpoint, 1))
	sound(t, c, a)
	if c.Answers(t).Incarnation == b.Answers(t).Incarnation {
		t.Error("the copy kept the incarnation of what it was copied from")
	}
	// A second copy onto what lies there moves next to nothing.
	must(t, c.StopFast(ctx))
	var last string
	done := make(chan error, 1)
	go func() { done <- c.Clone(ctx, b.Endpoint, a.Endpoint, 1) }()
	for ended := false; !ended; {
		select {
		case err := <-done:
			must(t, err)
			ended = true
		case <-time.After(2 * time.Millisecond):
			if p := c.Observe(ctx).Progress; strings.Contains(p, "moved") {
				last = p
			}
		}
	}
	if !strings.Contains(last, "copying from b2") {
		t.Errorf("its progress said: %q", last)
	}
	must(t, c.Follow(ctx, a.Endpoint, 1))
	sound(t, c, a)
}

// TestCopierChild is the copier of the test below, as a process of its own.
func TestCopierChild(t *testing.T) {
	text := os.Getenv("HOLDFAST_COPIER")
	if text == "" {
		t.Skip("started by TestACopierThatIsKilledGoesOn alone")
	}
	var order struct {
		Config        postgres.Config
		From, Primary database.Endpoint
	}
	must(t, json.Unmarshal([]byte(text), &order))
	s, err := postgres.Open(order.Config)
	must(t, err)
	must(t, s.Clone(t.Context(), order.From, order.Primary, 1))
	must(t, s.Close())
}

func TestACopierThatIsKilledGoesOn(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.32.1", "127.46.32.2", "127.46.32.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	pgtest.Primary(t, a)
	fill(t, a)
	pgtest.Join(t, b, a, 1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	config := c.Config
	config.Log, config.CopyLimit = nil, 20<<20
	order, err := json.Marshal(map[string]any{"Config": config, "From": b.Endpoint, "Primary": a.Endpoint})
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	seen := map[string]bool{}
	for range 4 { // the copier's own side
		child := osexec.Command(self, "-test.run=^TestCopierChild$")
		child.Env = append(os.Environ(), "HOLDFAST_COPIER="+string(order))
		must(t, child.Start())
		time.Sleep(time.Duration(200+dice.IntN(2500)) * time.Millisecond) // when it dies is the dice's business
		_ = child.Process.Kill()                                          // it may have ended
		_ = child.Wait()
		l := c.Observe(ctx)
		seen[l.Promise.Incarnation] = true
		switch l.Data {
		case database.DataPartial:
			if err := c.Start(ctx, true); err == nil {
				t.Fatal("a half-made copy was started")
			}
		case database.DataAbsent, database.DataPresent:
		default:
			t.Fatalf("after a kill: %+v", l)
		}
	}
	// The source's side: its sessions are killed, then the whole server.
	for _, blow := range []func(){
		func() {
			exec(t, b, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast-copy%'")
		},
		func() { must(t, b.Kill(ctx, "a fault of the test")) },
	} {
		c.Config.CopyLimit = 5 << 20
		c.Reopen(t)
		must(t, os.RemoveAll(filepath.Join(c.DataDir(), "base")))
		ended := make(chan error, 1)
		go func() { ended <- c.Clone(ctx, b.Endpoint, a.Endpoint, 1) }()
		c.Await(t, "a copy on its way", func(l database.Local) bool { return strings.Contains(l.Progress, "copying") })
		blow()
		if err := <-ended; err == nil {
			t.Fatal("the copy outlived its source")
		}
		if l := c.Observe(ctx); l.Data != database.DataPartial || l.FailedKind != database.KindClone || l.FailedFrom != "b2" {
			t.Fatalf("after the source failed: %+v", l)
		}
	}
	c.Config.CopyLimit = 0
	c.Reopen(t)
	must(t, c.Clone(ctx, a.Endpoint, a.Endpoint, 1)) // the next source
	must(t, c.Follow(ctx, a.Endpoint, 1))
	sound(t, c, a)
	if seen[c.Answers(t).Incarnation] {
		t.Error("an incarnation of a copy that failed came back")
	}
}

func TestWhatMayNotBeCopiedIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.33.1", "127.46.33.2", "127.46.33.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	pgtest.Primary(t, a)
	pgtest.Primary(t, c) // another system
	pgtest.Join(t, b, a, 1)
	before := b.Answers(t)
	refused := func(code string, err error) {
		t.Helper()
		var p *problem.Problem
		if !errors.As(err, &p) || p.Code != code || p.Remedy == "" {
			t.Errorf("want %s: %v", code, err)
		}
		l := b.Answers(t)
		if !l.Receiving || l.Incarnation != before.Incarnation || l.FailedProblem == nil || l.FailedProblem.Code != code {
			t.Errorf("%s: what was there was touched: %+v", code, l)
		}
	}
	refused("database.foreign-system", b.Clone(ctx, c.Endpoint, a.Endpoint, 1))
	if err := b.Clone(ctx, a.Endpoint, b.Endpoint, 1); err == nil {
		t.Error("a standby passed for the primary")
	}
	place := filepath.Join(filepath.Dir(filepath.Dir(a.Config.Dir)), "outside")
	must(t, os.Mkdir(place, 0o755))
	must(t, os.MkdirAll(filepath.Join(place, "space"), 0o777))
	must(t, os.Chmod(filepath.Join(place, "space"), 0o777))
	if os.Geteuid() == 0 {
		info, err := os.Stat(a.DataDir())
		must(t, err)
		chownLike(t, filepath.Join(place, "space"), info)
	}
	must(t, b.StopFast(ctx)) // it would make the tablespace in the same place
	exec(t, a, "CREATE TABLESPACE elsewhere LOCATION '"+filepath.Join(place, "space")+"'")
	var p *problem.Problem
	if err := b.Clone(ctx, a.Endpoint, a.Endpoint, 1); !errors.As(err, &p) || p.Code != "database.tablespace-shared" {
		t.Errorf("the primary's own tablespace was taken: %v", err)
	}
	exec(t, a, "DROP TABLESPACE elsewhere")
}
