package postgres_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/keeper"
)

// The first look after the keeper's word tells the end. The keeper is on its way out at that moment, and its
// refusal to answer any more must not look like a keeper that hangs.
func TestACrashIsSeenByTheFirstLookAfterIt(t *testing.T) {
	t.Parallel()
	a := pgtest.New(t, pgtest.Options{}, "127.46.9.1")[0]
	pgtest.Primary(t, a)
	for range 3 {
		a.Observe(t.Context()) // the driver knows its keeper now, as in a running agent
		client, state, err := keeper.Find(filepath.Join(a.Config.Dir, "keep"))
		if err != nil || state.Condition != keeper.Alive {
			t.Fatalf("keeper: %v, %v", state.Condition, err)
		}
		exits := client.Watch(t.Context())
		pid, err := os.ReadFile(filepath.Join(a.DataDir(), "postmaster.pid"))
		must(t, err)
		line, _, _ := strings.Cut(string(pid), "\n")
		n, err := strconv.Atoi(line)
		must(t, err)
		must(t, syscall.Kill(n, syscall.SIGKILL))
		for exit := range exits {
			if !exit.TreeGone {
				continue
			}
			if l := a.Observe(t.Context()); l.Running || !l.TreeGone || l.Exit == "" {
				t.Errorf("after %q: running %t, gone %t, exit %q, why %q", exit.Reason, l.Running, l.TreeGone, l.Exit, l.Why)
			}
		}
		must(t, a.Start(t.Context(), true))
	}
}

// Each standby holds one slot on the primary, and a second connection through it is refused while the first lives.
func TestAStandbyStreamsThroughASlotOfItsOwn(t *testing.T) {
	t.Parallel()
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.9.2", "127.46.9.3")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	incarnation := b.Observe(t.Context()).Incarnation
	slot := func(where *pgtest.Node) (name string, active bool) {
		c, err := pgx.ParseConfig("sslmode=disable user=" + postgres.Superuser + " dbname=postgres host=" + where.SocketDir() + " port=" + strconv.Itoa(where.Endpoint.Port))
		must(t, err)
		conn, err := pgx.ConnectConfig(t.Context(), c)
		must(t, err)
		defer func() { must(t, conn.Close(t.Context())) }()
		err = conn.QueryRow(t.Context(), "SELECT coalesce(max(slot_name), ''), coalesce(bool_and(active), false) FROM pg_replication_slots").Scan(&name, &active)
		must(t, err)
		return name, active
	}
	if name, active := slot(a); name != "holdfast_standby_"+incarnation || !active {
		t.Errorf("slot %q, active %t, of incarnation %s", name, active, incarnation)
	}
	must(t, b.Kill(t.Context(), "its slot shall be given up"))
	must(t, a.SetNames(t.Context(), a.Observe(t.Context()).Names))
	if name, _ := slot(a); name == "" {
		t.Error("a change of names dropped the slot of a standby that may come back")
	}
	a.Await(t, "the slot is free", func(l database.Local) bool { return len(l.Slots) == 1 && !l.Slots[0].Active })
	must(t, a.KeepSlots(t.Context(), database.SlotOrder{Drop: []string{incarnation}}))
	if name, _ := slot(a); name != "" {
		t.Errorf("slot %q stands although it was dropped", name)
	}
	if _, err := b.Recruit(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}
	must(t, b.Follow(t.Context(), a.Endpoint, 1))
	b.Await(t, "streams again", func(l database.Local) bool { return l.Receiving })
}
