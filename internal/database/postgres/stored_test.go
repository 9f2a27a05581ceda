package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/database/stored"
)

// votesOf stand in a server's quorum for a vault, and come back when they are ended. While has is true it takes all that comes;
// else they say nothing new.
func votesOf(t *testing.T, n *pgtest.Node, votes int) (has *atomic.Bool) {
	t.Helper()
	has = &atomic.Bool{}
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	t.Cleanup(func() { cancel(); g.Wait() })
	for i := range votes {
		g.Go(func() {
			for ctx.Err() == nil {
				err := voteOnce(ctx, n, i+1, has)
				if ctx.Err() == nil && testing.Verbose() {
					t.Logf("vote %d ended: %v", i+1, err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return has
}

func voteOnce(ctx context.Context, n *pgtest.Node, i int, has *atomic.Bool) error {
	conn, err := pgconn.Connect(ctx, "sslmode=disable replication=true user="+postgres.Superuser+" host="+n.SocketDir()+" port="+strconv.Itoa(n.Endpoint.Port)+" application_name="+stored.VoteName(i))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }() // the server notices either way
	slot := fmt.Sprintf("vote_%d", i)
	if _, err := conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+slot+" TEMPORARY PHYSICAL").ReadAll(); err != nil {
		return err
	}
	id, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return err
	}
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION SLOT %s PHYSICAL %s TIMELINE %s", slot, id[0].Rows[0][2], id[0].Rows[0][1])})
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	begin, err := database.ParseLSN(string(id[0].Rows[0][2]))
	if err != nil {
		return err
	}
	came, told := uint64(begin), uint64(0)
	for ctx.Err() == nil { // asked under a context that has ended, the connection says that nothing came in time, for ever
		if has.Load() {
			told = came
		}
		b := binary.BigEndian.AppendUint64([]byte{'r'}, told)
		b = binary.BigEndian.AppendUint64(b, told)
		b = binary.BigEndian.AppendUint64(b, told)
		conn.Frontend().Send(&pgproto3.CopyData{Data: append(b, make([]byte, 9)...)})
		if err := conn.Frontend().Flush(); err != nil {
			return err
		}
		round, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		msg, err := conn.ReceiveMessage(round)
		cancel()
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyData:
			at := binary.BigEndian.Uint64(m.Data[1:]) // of log the beginning, of a keepalive the end
			if m.Data[0] == 'w' {
				at += uint64(len(m.Data) - 25)
			}
			came = max(came, at)
		}
		if err != nil && !pgconn.Timeout(err) {
			return err
		}
	}
	return ctx.Err()
}

// commits reports how a commit of a client ended, or that it waits for somebody.
func commits(t *testing.T, n *pgtest.Node, sql string) (waits bool, end func() error) {
	t.Helper()
	conn := local(t, n)
	pid := conn.PgConn().PID()
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), sql)
		done <- err
	}()
	end = func() error {
		select {
		case err := <-done:
			return err
		case <-pgtest.Context(t).Done():
			return fmt.Errorf("%s waits for ever:\n%s", sql, whoWaits(n))
		}
	}
	for until := time.Now().Add(5 * time.Minute); time.Now().Before(until); {
		select {
		case err := <-done:
			done <- err
			return false, end
		case <-time.After(10 * time.Millisecond):
		}
		if count(t, n, fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND wait_event = 'SyncRep' AND state_change < clock_timestamp() - interval '300 milliseconds'", pid)) == 1 {
			return true, end
		}
	}
	t.Fatal("a commit neither returns nor waits")
	return false, nil
}

func vaultOf(t *testing.T, n *pgtest.Node, what string, ok func(stored.Server) bool) stored.Server {
	t.Helper()
	var last stored.Server
	var err error
	for until := time.Now().Add(5 * time.Minute); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if last, err = n.Stored(t.Context()); err == nil && ok(last) { // on a busy machine one answer alone may come too late
			return last
		}
	}
	t.Fatalf("%s: not within five minutes; last seen: %+v, %v", what, last, err)
	return last
}

// whileObserved does something while rounds look at the server: none may see names of somebody else, for then clients are cut.
func whileObserved(t *testing.T, n *pgtest.Node, names database.Names, do func()) {
	t.Helper()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for seen := 0; ; {
			l := n.Observe(context.WithoutCancel(t.Context()))
			if l.Ready {
				seen++
			}
			if l.Ready && (!l.NamesOK || !l.Names.Equal(names)) {
				t.Errorf("a round sees the names %+v (%v)", l.Names, l.NamesOK)
			}
			select {
			case <-stop:
				if seen > 0 {
					return
				}
			default:
			}
		}
	}()
	do()
	close(stop)
	<-ended
}

// A commit needs the vault and standbys: neither stands for the other, through changes of the names, a barrier and a restart
// of the agent; and what the room sees of the names is as if there were no vault.
func TestACommitNeedsTheVaultAndStandbys(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.61.1", "127.46.61.2", "127.46.61.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	pgtest.Join(t, c, a, 1)
	must(t, a.SetNames(ctx, database.Closed()))
	quorum(t, a, 1, 1, b, c)
	exec(t, a, "CREATE TABLE bill (n int)")
	a.SetStoredWish(postgres.StoredWish{Standbys: 2})

	before := a.Answers(t)
	whileObserved(t, a, before.Names, func() { askVault(t, a, true) })
	if l := a.Answers(t); !l.NamesOK || !l.Names.Equal(before.Names) {
		t.Fatalf("the room sees %+v (%v), before %+v", l.Names, l.NamesOK, before.Names)
	}
	a.Await(t, "both standbys again", func(l database.Local) bool { return len(l.Senders) == 2 })
	if got := vaultOf(t, a, "asked", func(x stored.Server) bool { return x.Asks }); !got.InForce || got.Held != 0 || got.Mark == 0 {
		t.Fatalf("the vault: %+v", got)
	}
	waits, end := commits(t, a, "INSERT INTO bill VALUES (1)")
	if !waits {
		t.Fatalf("both standbys without the vault sufficed: %v", end())
	}
	has := votesOf(t, a, 2)
	vaultOf(t, a, "votes that say nothing do not count", func(x stored.Server) bool { return x.Held == 0 })
	has.Store(true)
	must(t, end())
	vaultOf(t, a, "both votes", func(x stored.Server) bool { return x.Held > 0 && x.Held >= x.Flushed })

	// The vault alone is no standby, however often it votes.
	for _, n := range []*pgtest.Node{b, c} {
		if _, err := n.Recruit(ctx, 2, 0); err != nil {
			t.Fatal(err)
		}
	}
	if waits, end = commits(t, a, "INSERT INTO bill VALUES (2)"); !waits {
		t.Fatalf("the vault sufficed without a standby: %v", end())
	}
	must(t, c.Follow(ctx, a.Endpoint, 2))
	name := database.StandbyName(c.Observe(ctx).Incarnation, 2)
	must(t, a.SetNames(ctx, database.Names{W: 1, List: []string{name}}))
	must(t, end())
	if got := count(t, a, `SELECT CASE current_setting('synchronous_standby_names') WHEN 'ANY 3 ("`+name+`", "holdfast-vault-1", "holdfast-vault-2")' THEN 1 ELSE 0 END`); got != 1 {
		t.Fatal("the names hold something else than one standby and two votes, three of which are needed")
	}
	must(t, a.Barrier(ctx, 2))
	a.Await(t, "a barrier passed", func(l database.Local) bool {
		for _, x := range l.Senders {
			if x.Name == name && x.Fresh && x.Sync == "quorum" && x.Flushed >= l.Force.Mark {
				return l.Force.Mark > 0
			}
		}
		return false
	})

	// An agent that restarts goes on with what the server has, and proves it once more.
	a.Reopen(t)
	a.SetStoredWish(postgres.StoredWish{Standbys: 2})
	if got := vaultOf(t, a, "asked", func(x stored.Server) bool { return x.Asks }); got.InForce {
		t.Fatalf("a new agent knows what nobody told it: %+v", got)
	}
	askVault(t, a, true)
	vaultOf(t, a, "in force again", func(x stored.Server) bool { return x.Asks && x.InForce && x.Held >= x.Mark })

	// The plan has one standby less, and the dead one has left: with two votes asked for, one would stop every write.
	if got := vaultOf(t, a, "asked", func(x stored.Server) bool { return x.Asks }); got.More || got.Less {
		t.Fatalf("counted out for another number than the plan has: %+v", got)
	}
	a.SetStoredWish(postgres.StoredWish{Standbys: 1})
	vaultOf(t, a, "votes for more than the plan has", func(x stored.Server) bool { return x.Asks && x.More })
	whileObserved(t, a, database.Names{W: 1, List: []string{name}}, func() { askVault(t, a, true) })
	vaultOf(t, a, "as many votes as the plan has", func(x stored.Server) bool { return x.Asks && x.InForce && !x.More && !x.Less && x.Held >= x.Mark })
	if got := count(t, a, `SELECT CASE current_setting('synchronous_standby_names') WHEN 'ANY 2 ("`+name+`", "holdfast-vault-1")' THEN 1 ELSE 0 END`); got != 1 {
		t.Fatal("the names hold something else than one standby and one vote, two of which are needed")
	}
	exec(t, a, "INSERT INTO bill VALUES (4)")

	whileObserved(t, a, database.Names{W: 1, List: []string{name}}, func() { askVault(t, a, false) })
	has.Store(false)
	exec(t, a, "INSERT INTO bill VALUES (3)")
	if a.AsksVault() {
		t.Error("its settings ask the vault")
	}
	if got := vaultOf(t, a, "not asked", func(x stored.Server) bool { return !x.Asks }); got.InForce {
		t.Fatalf("the vault: %+v", got)
	}
}

// A server whose plan wants the vault is closed to it from its first moment, with standbys or none; and a room that takes its
// names down to nothing leaves the vault.
func TestAServerOpensToTheVaultWhenThePlanWantsIt(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.62.1")[0]
	a.SetStoredWish(postgres.StoredWish{Vault: true})
	must(t, a.Init(ctx, 1))
	must(t, a.Start(ctx, false))
	must(t, a.Promote(ctx, 1, 2, nil))
	must(t, a.SetNames(ctx, database.Names{}))
	if l := a.Answers(t); !l.NamesOK || !l.Names.Equal(database.Names{}) {
		t.Fatalf("the room sees %+v", l.Names)
	}
	must(t, a.EnsureRoles(ctx)) // Holdfast's own work waits for nobody
	must(t, a.Admit(ctx, true))
	waits, end := commits(t, a, "CREATE TABLE bill (n int)")
	if got := vaultOf(t, a, "asked", func(x stored.Server) bool { return x.Asks }); !waits || !got.InForce {
		t.Fatalf("a commit waits: %v; the vault: %+v", waits, got)
	}
	has := votesOf(t, a, 1)
	has.Store(true)
	must(t, end())
	askVault(t, a, false)
	has.Store(false)
	exec(t, a, "INSERT INTO bill VALUES (1)")
	must(t, a.SetNames(ctx, database.Names{})) // it was left, and stays so
	exec(t, a, "INSERT INTO bill VALUES (2)")
	askVault(t, a, true) // from no names at all: a commit is seen to wait first
	has.Store(true)
	exec(t, a, "INSERT INTO bill VALUES (3)")
	if got := vaultOf(t, a, "asked", func(x stored.Server) bool { return x.Asks }); !got.InForce {
		t.Fatalf("the vault: %+v", got)
	}
}

// askVault is told for the epoch that the server has promised.
func askVault(t *testing.T, n *pgtest.Node, vault bool) {
	t.Helper()
	must(t, n.AskVault(context.WithoutCancel(t.Context()), n.Answers(t).Promise.Epoch, vault))
}

// sender is the walsender that serves a standby, as long as it is the same one.
func sender(t *testing.T, n *pgtest.Node, name string) int {
	t.Helper()
	n.Await(t, "the standby streams", func(l database.Local) bool {
		return slices.ContainsFunc(l.Senders, func(x database.Sender) bool { return x.Name == name && x.State == "streaming" })
	})
	return count(t, n, "SELECT pid FROM pg_stat_replication WHERE application_name = '"+name+"' AND state = 'streaming'")
}

// What a hand wrote is told until the vault is asked for anew, also by an agent that has just begun; and nothing is done that was
// agreed for another epoch. Once names held votes, an agent that did not see it ends whoever may count them.
func TestWhatAHandWroteIsToldUntilTheVaultIsAskedAnew(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.63.1", "127.46.63.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	name := database.StandbyName(b.Observe(ctx).Incarnation, 1)
	one := database.Names{W: 1, List: []string{name}}
	a.Reopen(t)
	must(t, a.SetNames(ctx, one))
	a.Reopen(t)
	exec(t, a, `ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ("`+name+`")'`)
	must(t, a.SetNames(ctx, one))
	if got := vaultOf(t, a, "what a hand wrote is told", func(x stored.Server) bool { return x.Foreign }); got.Asks {
		t.Errorf("the vault: %+v", got)
	}

	if err := a.AskVault(ctx, 7, true); !errors.Is(err, database.ErrStale) {
		t.Errorf("told for another epoch: %v", err)
	}
	a.SetStoredWish(postgres.StoredWish{Standbys: 1})
	askVault(t, a, true)
	if got := vaultOf(t, a, "asked", func(x stored.Server) bool { return x.Asks }); got.Foreign || !got.InForce {
		t.Errorf("it was asked for anew: %+v", got)
	}
	askVault(t, a, false)

	// From here on a walsender may count votes, also when the agent that knew is gone.
	a.Reopen(t)
	was := sender(t, a, name)
	exec(t, a, `ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ("`+name+`")'`)
	must(t, a.SetNames(ctx, one))
	if is := sender(t, a, name); is == was {
		t.Error("a walsender that may act on votes goes on")
	}
}
