package postgres_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/problem"
)

// ownedLike makes a directory that belongs to whoever a server's data belong to.
func ownedLike(t *testing.T, n *pgtest.Node, dir string) string {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	if os.Geteuid() == 0 {
		info, err := os.Stat(n.DataDir())
		must(t, err)
		chownLike(t, dir, info)
	}
	return dir
}

// besides is a directory for tablespaces, outside of all hosts' own.
func besides(t *testing.T, n *pgtest.Node, name string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(filepath.Dir(n.Config.Dir)), name)
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

func code(err error) string {
	var p *problem.Problem
	if errors.As(err, &p) && p.Remedy != "" {
		return p.Code
	}
	return ""
}

// Hosts of this machine share its paths, so a tablespace's directory carries the host's name here.
func TestACopyHoldsTablespaces(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.81.1", "127.46.81.2", "127.46.81.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	place := besides(t, a, "spaces")
	for _, n := range []*pgtest.Node{b, c} {
		n.Config.SpaceDir = func(at string) string {
			return strings.TrimSuffix(strings.TrimSuffix(at, ".b2"), ".b3") + "." + n.Endpoint.Host
		}
		n.Reopen(t)
	}
	pgtest.Primary(t, a)
	fast := ownedLike(t, a, filepath.Join(place, "fast"))
	exec(t, a, "CREATE TABLESPACE fast LOCATION '"+fast+"'")
	exec(t, a, "CREATE TABLE there TABLESPACE fast AS SELECT g AS n, repeat('x', 500) AS filler FROM generate_series(1, 20000) g")
	exec(t, a, "CREATE TABLE last (n int)")
	exec(t, a, "CREATE UNLOGGED TABLE gone TABLESPACE fast AS SELECT 1 AS n")
	must(t, a.TendSpaces())
	must(t, os.Mkdir(fast+".b2", 0o755)) // as an operator makes it, with something of his own
	must(t, os.WriteFile(filepath.Join(fast+".b2", "letter"), []byte("mine"), 0o600))

	holds := func(n *pgtest.Node, rows int) {
		t.Helper()
		exec(t, a, "INSERT INTO last VALUES (1)")
		at := a.Answers(t).Flushed
		n.Await(t, "it replayed all", func(l database.Local) bool { return l.Receiving && l.Replayed >= at })
		if got := count(t, n, "SELECT count(*) FROM there WHERE filler = repeat('x', 500)"); got != rows {
			t.Errorf("%s holds %d rows, not %d", n.Endpoint.Host, got, rows)
		}
		links, err := filepath.Glob(filepath.Join(n.DataDir(), "pg_tblspc", "*"))
		must(t, err)
		if len(links) != 1 {
			t.Fatalf("links: %v", links)
		}
		to, err := os.Readlink(links[0])
		must(t, err)
		if to != n.Config.SpaceDir(fast) {
			t.Errorf("the tablespace of %s lies in %s", n.Endpoint.Host, to)
		}
	}
	pgtest.Join(t, b, a, 1)
	holds(b, 20000)
	exec(t, a, "INSERT INTO there SELECT g, repeat('x', 500) FROM generate_series(1, 100) g")
	must(t, c.Clone(ctx, b.Endpoint, a.Endpoint, 1)) // of a standby
	must(t, c.Follow(ctx, a.Endpoint, 1))
	holds(c, 20100)

	// Made anew onto what lies there, of which some is another's and some is wrong.
	must(t, b.StopFast(ctx))
	exec(t, a, "UPDATE there SET n = -n WHERE n % 100 = 0")
	tables, err := filepath.Glob(filepath.Join(fast+".b2", "PG_*", "*", "*"))
	must(t, err)
	if len(tables) == 0 {
		t.Fatal("the tablespace's directory holds nothing")
	}
	for _, file := range tables {
		must(t, os.Truncate(file, 0))
	}
	must(t, os.WriteFile(filepath.Join(filepath.Dir(tables[0]), "99999"), []byte("left over"), 0o600))
	must(t, b.Clone(ctx, a.Endpoint, a.Endpoint, 1))
	must(t, b.Follow(ctx, a.Endpoint, 1))
	holds(b, 20100)
	if _, err := os.Stat(filepath.Join(filepath.Dir(tables[0]), "99999")); err == nil {
		t.Error("what the source does not have stays")
	}
	if text, err := os.ReadFile(filepath.Join(fast+".b2", "letter")); err != nil || string(text) != "mine" {
		t.Errorf("what is not PostgreSQL's was touched: %q, %v", text, err)
	}

	// The primary's own directory is no place for another server's.
	before := c.Answers(t)
	must(t, c.StopFast(ctx))
	c.Config.SpaceDir = nil
	c.Reopen(t)
	if err := c.Clone(ctx, a.Endpoint, a.Endpoint, 1); code(err) != "database.tablespace-shared" || !strings.Contains(err.Error(), "on host b1") {
		t.Errorf("two servers on one directory: %v", err)
	}
	if now := c.Observe(ctx); now.Promise.Incarnation != before.Promise.Incarnation {
		t.Error("what was there was touched")
	}
	link := func(to string) {
		links, err := filepath.Glob(filepath.Join(c.DataDir(), "pg_tblspc", "*"))
		must(t, err)
		must(t, os.Remove(links[0]))
		must(t, os.Symlink(to, links[0]))
	}
	link(fast)
	if err := c.Start(ctx, true); code(err) != "database.tablespace-shared" {
		t.Errorf("a server was started on another's tablespace: %v", err)
	}
	must(t, c.TendSpaces())
	if p := c.SpaceProblem(); p == nil || p.Code != "database.tablespace-shared" {
		t.Errorf("it is not told: %v", p)
	}
	link(fast + ".none")
	if err := c.Start(ctx, true); code(err) != "database.tablespace-missing" {
		t.Errorf("a server was started without its tablespace: %v", err)
	}
	link(fast + ".b3")
	must(t, c.Start(ctx, true))
	must(t, c.TendSpaces())
	if p := c.SpaceProblem(); p != nil {
		t.Errorf("it is over, and still told: %v", p)
	}
}

// The log that makes a tablespace ends every standby that has no directory for it.
func TestAStandbyMakesTheDirectoryOfANewTablespace(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.82.1", "127.46.82.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	place := besides(t, a, "spaces")
	disk := filepath.Join(place, "disk")
	for _, dir := range []string{filepath.Join(place, "near"), filepath.Join(disk, "far")} {
		must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
		// While the standby is away, or both would use one directory; nothing of it is left but in the log.
		must(t, b.StopFast(ctx))
		ownedLike(t, a, dir)
		exec(t, a, "CREATE TABLESPACE fresh LOCATION '"+dir+"'")
		exec(t, a, "DROP TABLESPACE fresh")
		must(t, os.RemoveAll(dir))
		if filepath.Dir(dir) == disk {
			must(t, os.Remove(disk))
		}
		at := a.Answers(t).Flushed
		for went := false; !went; time.Sleep(100 * time.Millisecond) { // it ends some time after it has begun
			err := b.Follow(ctx, a.Endpoint, 1)
			if l := b.Observe(ctx); err == nil && l.Receiving && l.Replayed >= at {
				went = true
			}
			if code(err) == "database.tablespace-missing" && filepath.Dir(dir) == disk {
				if !strings.Contains(err.Error(), dir) {
					t.Errorf("it does not say where: %v", err)
				}
				must(t, os.Mkdir(disk, 0o755)) // the operator mounts it
				disk = ""
			}
			if ctx.Err() != nil {
				t.Fatalf("the standby does not go on: %v; %v", err, context.Cause(ctx))
			}
		}
	}
	if disk != "" {
		t.Error("a directory was made where a disk is missing, and it was not told")
	}
}

// pg_rewind brings over what lies in tablespaces, and leaves alone whose they are.
func TestARewoundServerHasItsTablespaces(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.83.1", "127.46.83.2")
	a, b := nodes[0], nodes[1]
	place := besides(t, a, "spaces")
	a.Config.SpaceDir = func(at string) string { return strings.TrimSuffix(at, ".b2") }
	b.Config.SpaceDir = func(at string) string { return a.Config.SpaceDir(at) + ".b2" }
	a.Reopen(t)
	b.Reopen(t)
	pgtest.Primary(t, a)
	fast := ownedLike(t, a, filepath.Join(place, "fast"))
	exec(t, a, "CREATE TABLESPACE fast LOCATION '"+fast+"'")
	exec(t, a, "CREATE TABLE there TABLESPACE fast AS SELECT g AS n, repeat('x', 500) AS filler FROM generate_series(1, 20000) g")
	must(t, a.TendSpaces())
	pgtest.Join(t, b, a, 1)
	flushed := a.Answers(t).Flushed
	b.Await(t, "it replayed all", func(l database.Local) bool { return l.Replayed >= flushed })
	_, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	exec(t, a, "SET synchronous_commit = local; UPDATE there SET filler = 'lost' WHERE n < 500; CHECKPOINT")
	must(t, a.Kill(ctx, "a fault of the test"))
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
	must(t, b.SetNames(ctx, database.Names{}))
	exec(t, b, "UPDATE there SET filler = 'kept' WHERE n > 19900")
	exec(t, b, "CREATE TABLE later TABLESPACE fast AS SELECT generate_series(1, 1000) AS n")
	_, err = a.Recruit(ctx, 2, 0)
	must(t, err)
	err = a.Rewind(ctx, b.Endpoint, 2)
	if _, missing := os.Stat(filepath.Join(a.BinDir(), "pg_rewind")); missing != nil && errors.Is(err, database.ErrNeedsClone) {
		t.Skip("there is no pg_rewind here: such a server gets a new copy")
	}
	must(t, err)
	must(t, a.Follow(ctx, b.Endpoint, 2)) // its claim stands, or it would not start
	at := b.Answers(t).Flushed
	a.Await(t, "it replayed all", func(l database.Local) bool { return l.Receiving && l.Replayed >= at })
	for sql, want := range map[string]int{
		"SELECT count(*) FROM there WHERE filler = repeat('x', 500)": 19900, "SELECT count(*) FROM there WHERE filler = 'kept'": 100, "SELECT count(*) FROM later": 1000,
	} {
		if got := count(t, a, sql); got != want {
			t.Errorf("%s: %d, want %d", sql, got, want)
		}
	}
}
