package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/auth"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var must = pgtest.Must

// local opens a session of our own over the private socket; it commits under synchronous_commit=on.
func local(t *testing.T, n *pgtest.Node) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig("sslmode=disable user=" + postgres.Superuser + " dbname=postgres host=" + n.SocketDir() + " port=" + strconv.Itoa(n.Endpoint.Port))
	must(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone by then
	return conn
}

func exec(t *testing.T, n *pgtest.Node, sql string) {
	t.Helper()
	conn := local(t, n)
	if _, err := conn.Exec(pgtest.Context(t), sql); err != nil {
		t.Fatalf("%s: %v\n%s", sql, err, whoWaits(n))
	}
	must(t, conn.Close(t.Context()))
}

// whoWaits says what a server's sessions do, for a test in which something never returned.
func whoWaits(n *pgtest.Node) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, "sslmode=disable user="+postgres.Superuser+" dbname=postgres host="+n.SocketDir()+" port="+strconv.Itoa(n.Endpoint.Port))
	if err != nil {
		return "its sessions cannot be looked at: " + err.Error()
	}
	defer func() { _ = conn.Close(ctx) }() // the test has failed already
	var s string
	err = conn.QueryRow(ctx, `SELECT 'names: ' || current_setting('synchronous_standby_names') || E'\n' ||
		(SELECT string_agg(concat_ws(' ', pid, application_name, backend_type, state, wait_event_type, wait_event, left(query, 80)), E'\n') FROM pg_stat_activity) || E'\n' ||
		coalesce((SELECT string_agg(concat_ws(' ', pid, application_name, state, flush_lsn, sync_state), E'\n') FROM pg_stat_replication), 'nobody streams')`).Scan(&s)
	if err != nil {
		return "its sessions cannot be looked at: " + err.Error()
	}
	return s
}

func count(t *testing.T, n *pgtest.Node, sql string) int {
	t.Helper()
	conn := local(t, n)
	var x int
	must(t, conn.QueryRow(pgtest.Context(t), sql).Scan(&x))
	must(t, conn.Close(t.Context()))
	return x
}

// quorum opens the primary with W of these voters and proves it by a barrier.
func quorum(t *testing.T, primary *pgtest.Node, epoch int64, w int, voters ...*pgtest.Node) {
	t.Helper()
	names := database.Names{W: w}
	for _, v := range voters {
		names.List = append(names.List, database.StandbyName(v.Observe(t.Context()).Incarnation, epoch))
	}
	slices.Sort(names.List)
	must(t, primary.SetNames(t.Context(), names))
	must(t, primary.Barrier(t.Context(), epoch))
	primary.Await(t, "voters past the barrier", func(l database.Local) bool {
		passed := 0
		for _, x := range l.Senders {
			if slices.Contains(names.List, x.Name) && x.State == "streaming" && x.Sync == "quorum" && x.Fresh && x.Flushed >= l.Force.Mark {
				passed++
			}
		}
		return l.Force.Mark > 0 && l.Force.Epoch == epoch && l.Force.Names.Equal(names) && passed >= w
	})
}

func TestFailoverKeepsEveryAcknowledgedCommitAndTheFormerPrimaryRewinds(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{{Name: "app", Password: redact.Secret("pa'ss"), Owns: []string{"shop"}}}},
		"127.46.0.1", "127.46.0.2", "127.46.0.3")
	a, b, c := nodes[0], nodes[1], nodes[2]

	if l := a.Observe(ctx); l.Data != database.DataAbsent || l.Running || !l.TreeGone || l.Exit != "" {
		t.Fatalf("before anything: %+v", l)
	}
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	pgtest.Join(t, c, a, 1)
	must(t, a.SetNames(ctx, database.Closed()))
	quorum(t, a, 1, 1, b, c)
	l := a.Await(t, "ok", func(l database.Local) bool { return l.Writable == "ok" })
	if !l.RolesReady || !l.Admits || !l.NamesOK || l.Role != database.Primary || !l.Ready || l.Timeline != 2 || !l.PromiseOK {
		t.Fatalf("primary: %+v", l)
	}

	// An agent that restarts finds the same.
	a.Reopen(t)
	if l := a.Answers(t); l.Role != database.Primary || !l.RolesReady || !l.NamesOK || l.Exit != "" {
		t.Fatalf("after the agent's restart: %+v", l)
	}

	exec(t, a, "CREATE TABLE bill (n int)")
	for i := range 20 {
		exec(t, a, fmt.Sprintf("INSERT INTO bill VALUES (%d)", i))
	}
	// What only c holds, because b's stream is cut, is acknowledged all the same.
	if _, err := b.Recruit(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	if l := b.Answers(t); l.Following != 0 || l.Receiving || l.Position.Epoch != 2 {
		t.Fatalf("recruited: %+v", l)
	}
	for i := range 20 {
		exec(t, a, fmt.Sprintf("INSERT INTO bill VALUES (%d)", 100+i))
	}
	// And one that waited for nobody, after the last standby was cut: it is lost.
	if _, err := c.Recruit(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	exec(t, a, "SET synchronous_commit = local; INSERT INTO bill VALUES (-1)")
	must(t, a.Kill(ctx, "test"))
	if l := a.Observe(ctx); l.Running || !l.TreeGone || l.Exit == "" || l.ShutDown {
		t.Fatalf("killed: %+v", l)
	}

	pb, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	pc, err := c.Recruit(ctx, 2, 0)
	must(t, err)
	if pc.LSN <= pb.LSN || pc.Timeline != 2 {
		t.Fatalf("positions: b %+v, c %+v", pb, pc)
	}
	if _, err := c.Recruit(ctx, 1, 5); !errors.Is(err, database.ErrPromised) {
		t.Fatalf("a lower epoch was not refused: %v", err)
	}
	forks := c.Answers(t).History
	must(t, c.Promote(ctx, 2, 5, forks)) // 3 and 4 were taken by elections that ended otherwise
	must(t, c.Promote(ctx, 2, 5, forks))
	l = c.Answers(t)
	if l.Timeline != 5 || l.History[len(l.History)-1] != (database.Fork{Timeline: 5, Parent: 2, LSN: l.History[len(l.History)-1].LSN}) || !l.Names.IsClosed() || l.Admits {
		t.Fatalf("promoted: %+v", l)
	}
	if f := l.History[len(l.History)-1].LSN; f < pc.LSN {
		t.Fatalf("forked at %s, behind the position %s", f, pc.LSN)
	}
	must(t, b.Follow(ctx, c.Endpoint, 2))
	quorum(t, c, 2, 1, b)
	if n := count(t, c, "SELECT count(*) FROM bill"); n != 40 {
		t.Fatalf("%d of 40 acknowledged rows are there", n)
	}
	exec(t, c, "INSERT INTO bill VALUES (1000)")

	// The former primary crashed with a commit that nobody else has.
	pa, err := a.Recruit(ctx, 2, 0)
	must(t, err)
	if pa.LSN <= pc.LSN {
		t.Fatalf("the former primary is at %s, not past the fork %s", pa.LSN, pc.LSN)
	}
	before := a.Observe(ctx)
	a.Config.Free = func(string) (int64, error) { return 64 << 20, nil }
	a.Reopen(t)
	parted := database.Parting{Timeline: 1, LSN: pc.LSN}
	p := (*problem.Problem)(nil)
	if err := a.Preserve(ctx, parted); !errors.As(err, &p) || p.Code != "database.no-space-to-preserve" {
		t.Fatalf("its log was put aside on a disk that is full: %v", err)
	}
	if there, err := filepath.Glob(filepath.Join(a.Config.Dir, "preserved", "*")); err != nil || len(there) > 0 {
		t.Fatalf("the disk was touched: %v, %v", there, err)
	}
	if l := a.Observe(ctx); l.Kept != nil || l.FailedProblem == nil || l.Incarnation != before.Incarnation {
		t.Fatalf("after a refusal: %+v", l)
	}
	a.Config.Free = nil
	a.Reopen(t)
	must(t, a.Preserve(ctx, parted))
	kept := a.Observe(ctx).Kept
	if kept == nil || kept.Commits == 0 || kept.Salvaged != "" {
		t.Fatalf("kept: %+v", kept)
	}
	must(t, a.NoteSalvaged(*kept, "exported"))
	if k := a.Observe(ctx).Kept; k.Salvaged != "exported" {
		t.Fatalf("salvaged: %+v", k)
	}
	parted.LSN -= 8 // a list from further back is another one
	must(t, a.Preserve(ctx, parted))
	if k := a.Observe(ctx).Kept; k.Salvaged != "" || k.Parted != parted {
		t.Fatalf("a longer list counts as salvaged: %+v", k)
	}
	if err := a.NoteSalvaged(*kept, "exported"); !errors.Is(err, database.ErrStale) {
		t.Fatalf("an older list was noted: %v", err)
	}
	err = a.Rewind(ctx, c.Endpoint, 2)
	if _, missing := os.Stat(filepath.Join(a.BinDir(), "pg_rewind")); missing != nil { // as in the npm package of 18
		if !errors.Is(err, database.ErrNeedsClone) {
			t.Fatalf("without pg_rewind: %v", err)
		}
		err = a.Clone(ctx, c.Endpoint, c.Endpoint, 2)
	}
	must(t, err)
	after := a.Observe(ctx)
	if after.Incarnation == before.Incarnation || after.Promise.Incarnation != after.Incarnation || !after.PromiseOK || after.Data != database.DataPresent {
		t.Fatalf("rewound: %+v", after)
	}
	if kept, err := filepath.Glob(filepath.Join(a.Config.Dir, "preserved", "*", "0*")); err != nil || len(kept) == 0 {
		t.Fatalf("nothing was preserved (%v)", err)
	}
	if noted, err := filepath.Glob(filepath.Join(a.Config.Dir, "preserved", "*", "replaced.json")); err != nil || len(noted) != 1 {
		t.Fatalf("that its data were made a copy again is noted in %v (%v)", noted, err)
	}
	if _, err := a.Recruit(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	must(t, a.Follow(ctx, c.Endpoint, 2))
	a.Await(t, "streaming", func(l database.Local) bool { return l.Receiving && l.Timeline == 5 })
	quorum(t, c, 2, 2, a, b)
	exec(t, c, "INSERT INTO bill VALUES (1001)")
	flushed := c.Answers(t).Flushed
	a.Await(t, "replayed", func(l database.Local) bool { return l.Replayed >= flushed })
	if n := count(t, a, "SELECT count(*) FROM bill"); n != 42 || count(t, a, "SELECT count(*) FROM bill WHERE n = -1") != 0 {
		t.Fatalf("the rewound copy has %d rows of 42, or the lost one", n)
	}
}

func TestSwitchoverNeedsNoRewind(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.1.1", "127.46.1.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	must(t, a.SetNames(ctx, database.Closed()))
	quorum(t, a, 1, 1, b)
	exec(t, a, "CREATE TABLE bill AS SELECT 1 AS n")
	must(t, a.Checkpoint(ctx))
	must(t, b.Checkpoint(ctx))
	must(t, a.StopFast(ctx))
	pos, err := a.Recruit(ctx, 2, 0)
	must(t, err)
	l := a.Observe(ctx)
	if !l.ShutDown || l.Running || !l.TreeGone || pos.LSN <= l.Checkpoint || l.Position != pos {
		t.Fatalf("stopped: %+v, position %+v", l, pos)
	}
	b.Await(t, "everything", func(l database.Local) bool { return l.Flushed >= pos.LSN })
	pb, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	if pb != pos {
		t.Fatalf("the target is at %+v, the stopped primary at %+v", pb, pos)
	}
	must(t, b.Promote(ctx, 2, 3, l.History))
	if _, err := a.Recruit(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	incarnation := a.Observe(ctx).Incarnation
	must(t, a.Follow(ctx, b.Endpoint, 2))
	quorum(t, b, 2, 1, a)
	exec(t, b, "INSERT INTO bill VALUES (2)")
	a.Await(t, "replayed", func(l database.Local) bool { return l.Timeline == 3 && l.Receiving })
	if got := a.Observe(ctx).Incarnation; got != incarnation {
		t.Fatalf("incarnation %s became %s", incarnation, got)
	}
	if b.Answers(t).Position.Epoch != 0 {
		t.Fatal("a primary tells a position")
	}
}

func TestClosedServerPromotedByHandAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.2.1")[0]
	must(t, a.Init(ctx, 1))
	must(t, a.Start(ctx, true))
	if err, failed := a.Init(ctx, 1), a.Observe(ctx).Failed; !errors.Is(err, database.ErrStale) || failed != "" {
		t.Errorf("data were made anew over data that are there, or status tells of it for good: %v, %q", err, failed)
	}
	if l := a.Answers(t); l.Role != database.Standby || !l.Names.IsClosed() || l.Admits {
		t.Fatalf("started: %+v", l)
	}
	exec(t, a, "SELECT pg_promote()")
	conn := local(t, a)
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := conn.Exec(limited, "CREATE TABLE bill (n int)"); err == nil {
		t.Fatal("a commit was acknowledged")
	}
	a.Await(t, "the waiting commit is seen", func(l database.Local) bool { return l.Role == database.Primary && l.Writable == "waiting" })
	// W = 0 and back: the probe commit is seen waiting before names count.
	must(t, a.SetNames(ctx, database.Names{}))
	exec(t, a, "CREATE TABLE free (n int)")
	must(t, a.SetNames(ctx, database.Names{W: 1, List: []string{"nobody@1"}}))
	exec(t, a, "ALTER SYSTEM SET synchronous_standby_names = ''")
	exec(t, a, "SELECT pg_reload_conf()")
	a.Await(t, "the hand is seen", func(l database.Local) bool { return !l.NamesOK })
	must(t, a.SetNames(ctx, database.Closed()))
	a.Await(t, "undone", func(l database.Local) bool { return l.NamesOK && l.Names.IsClosed() })
}

func TestClientsComeInOnlyWhenAdmittedAndPeersOnlyByCertificate(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{{Name: "app", Password: redact.Secret("pa'ss"), Owns: []string{"shop"}}}},
		"127.46.3.1", "127.46.3.2")
	a := nodes[0]
	try := func(user, sslmode string) error {
		c, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d dbname=postgres sslmode=%s", a.Endpoint.Address, a.Endpoint.Port, sslmode))
		must(t, err)
		c.User, c.Password = user, "pa'ss"
		conn, err := pgx.ConnectConfig(ctx, c)
		if err == nil {
			must(t, conn.Close(ctx))
		}
		return err
	}
	pgtest.Primary(t, a)
	must(t, try("app", "require"))
	for _, bad := range [][2]string{{"app", "disable"}, {postgres.Superuser, "require"}, {postgres.Superuser, "disable"}} {
		if err := try(bad[0], bad[1]); err == nil {
			t.Errorf("%s came in with sslmode %s", bad[0], bad[1])
		}
	}
	must(t, a.Admit(ctx, false))
	if err := try("app", "require"); err == nil {
		t.Error("a client came in that is not admitted")
	}
	if a.Observe(ctx).Admits {
		t.Error("admits")
	}

	// A certificate of another authority is none.
	stranger := pgtest.New(t, pgtest.Options{}, "127.46.3.3")[0]
	if err := stranger.Clone(ctx, a.Endpoint, a.Endpoint, 1); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a stranger trusted the server: %v", err)
	}
	ca, err := os.ReadFile(filepath.Join(a.Config.CertDir, "ca.crt"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(stranger.Config.CertDir, "ca.crt"), ca, 0o644))
	if err := stranger.Clone(ctx, a.Endpoint, a.Endpoint, 1); err == nil {
		t.Error("the server trusted a stranger")
	}
	// Nor is one of the same authority for a host that is no peer.
	authority, err := auth.LoadAuthority(filepath.Join(filepath.Dir(a.Config.CertDir), "..", "ca"))
	must(t, err)
	must(t, authority.WriteHost(stranger.Config.CertDir, auth.HostCert{Name: "b9"}))
	if err := stranger.Clone(ctx, a.Endpoint, a.Endpoint, 1); err == nil {
		t.Error("a host that is no peer cloned the database")
	}
	must(t, authority.WriteHost(stranger.Config.CertDir, auth.HostCert{Name: "b2"}))
	must(t, stranger.Clone(ctx, a.Endpoint, a.Endpoint, 1)) // so it was the name
	log, err := os.ReadFile(filepath.Join(a.Config.Dir, "postgres.log"))
	must(t, err)
	if strings.Contains(string(log), "pa'ss") {
		t.Error("the log holds a password")
	}
}

func TestPositionIsReadFromTheLogWhateverTheServerIsDoing(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.4.1", "127.46.4.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	must(t, a.SetNames(ctx, database.Closed()))
	quorum(t, a, 1, 1, b)
	exec(t, a, "CREATE TABLE bill (n int)")

	startup := title(t, b, "startup")
	stopProcess(t, startup) // replay stands still; the receiver goes on acknowledging
	exec(t, a, "INSERT INTO bill SELECT generate_series(1, 20000)")
	flushed := a.Answers(t).Flushed
	pos, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	if pos.LSN < flushed {
		t.Fatalf("with replay stopped: position %s, acknowledged %s", pos.LSN, flushed)
	}
	if l := b.Answers(t); l.Replayed >= pos.LSN {
		t.Fatalf("replay did not stand still: %+v", l)
	}
	must(t, b.Kill(ctx, "test"))
	again, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	if again.LSN != pos.LSN {
		t.Fatalf("stopped: %s, running: %s", again.LSN, pos.LSN)
	}
	must(t, b.Start(ctx, true))
	if again, err = b.Recruit(ctx, 3, 0); err != nil || again.LSN != pos.LSN {
		t.Fatalf("started again: %s, before: %s (%v)", again.LSN, pos.LSN, err)
	}

	// A log that was taken back behind what was told is no voter any more: it becomes a new incarnation.
	must(t, b.StopFast(ctx))
	path := filepath.Join(b.Config.Dir, "promise.json")
	promise, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(promise), `"told": `, `"told": 9`, 1)), 0o644))
	b.Reopen(t)
	l := b.Observe(ctx)
	if l.PromiseOK {
		t.Fatalf("a promise above the log holds: %+v", l.Promise)
	}
	if _, err := b.Recruit(ctx, 3, 0); err != nil {
		t.Fatal(err)
	}
	if now := b.Observe(ctx); now.Incarnation == l.Incarnation || !now.PromiseOK {
		t.Fatalf("the incarnation stayed: %+v", now)
	}
}

func TestKillEndsABackendThatOutlivedItsPostmaster(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.5.1")[0]
	pgtest.Primary(t, a)
	conn := local(t, a)
	busy := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "DO $$ BEGIN LOOP END LOOP; END $$")
		busy <- err
	}()
	a.Await(t, "a busy backend", func(database.Local) bool {
		return count(t, a, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'") > 0
	})
	pm, err := os.ReadFile(filepath.Join(a.DataDir(), "postmaster.pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.SplitN(string(pm), "\n", 2)[0])
	must(t, err)
	killProcess(t, pid)
	a.Await(t, "the postmaster is gone", func(l database.Local) bool { return !l.Ready })
	must(t, a.Kill(ctx, "test"))
	if err := <-busy; err == nil {
		t.Error("the busy backend ended by itself")
	}
	if l := a.Observe(ctx); l.Running || !l.TreeGone || l.Exit == "" {
		t.Fatalf("killed: %+v", l)
	}
	must(t, a.Kill(ctx, "again"))
	must(t, a.Start(ctx, true))
	if l := a.Answers(t); l.Role != database.Standby || !l.Names.IsClosed() || l.Admits {
		t.Fatalf("started after a crash: %+v", l)
	}
}

func TestForeignDataAreNeverTouched(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.6.1", "127.46.6.2")
	a := nodes[0]
	must(t, os.MkdirAll(a.DataDir(), 0o755))
	must(t, os.WriteFile(filepath.Join(a.DataDir(), "letter.txt"), []byte("mine"), 0o644))
	if l := a.Observe(ctx); l.Data != database.DataForeign || l.Why == "" {
		t.Fatalf("observed: %+v", l)
	}
	for what, err := range map[string]error{
		"init": a.Init(ctx, 1), "clone": a.Clone(ctx, nodes[1].Endpoint, nodes[1].Endpoint, 1), "start": a.Start(ctx, true), "rewind": a.Rewind(ctx, nodes[1].Endpoint, 1),
	} {
		if err == nil {
			t.Errorf("%s did not refuse", what)
		}
	}
	if got, err := os.ReadFile(filepath.Join(a.DataDir(), "letter.txt")); err != nil || string(got) != "mine" {
		t.Errorf("the letter is gone: %v", err)
	}
}
