package postgres_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/disktest"
	"holdfast/internal/redact"
)

// churn writes log, and lets go of what nobody keeps.
func churn(t *testing.T, primary *pgtest.Node, others ...*pgtest.Node) {
	t.Helper()
	for range 3 {
		exec(t, primary, "INSERT INTO churn SELECT repeat('x', 500) FROM generate_series(1, 40000)")
		exec(t, primary, "SELECT pg_switch_wal()")
		must(t, primary.Checkpoint(t.Context()))
		at := primary.Answers(t).Flushed
		for _, n := range others {
			n.Await(t, "it replayed all", func(l database.Local) bool { return l.Replayed >= at })
			must(t, n.Checkpoint(t.Context()))
		}
	}
}

func TestANewPrimaryHasTheLogThatAnAbsentStandbyLacks(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	small := pgtest.Options{Parameters: []postgres.Parameter{{Name: "wal_keep_size", Value: "0"}, {Name: "max_wal_size", Value: "32MB"}, {Name: "min_wal_size", Value: "32MB"}}}
	nodes := pgtest.New(t, small, "127.46.34.1", "127.46.34.2", "127.46.34.3")
	a, b, c := nodes[0], nodes[1], nodes[2]
	pgtest.Primary(t, a)
	exec(t, a, "CREATE TABLE churn (x text)")
	pgtest.Join(t, b, a, 1)
	pgtest.Join(t, c, a, 1)
	of := c.Answers(t)
	must(t, b.KeepSlots(ctx, database.SlotOrder{Keep: []database.SlotAt{{Incarnation: of.Incarnation, At: of.Flushed}}}))
	must(t, c.StopFast(ctx))
	churn(t, a, b)
	l := b.Answers(t)
	if len(l.Slots) != 1 || l.Slots[0].Incarnation != of.Incarnation || l.Slots[0].Kept < 16<<20 || l.Slots[0].Active || l.Oldest > of.Flushed {
		t.Fatalf("what b keeps for c: %+v, its log begins at %s, c is at %s", l.Slots, l.Oldest, of.Flushed)
	}
	must(t, a.Kill(ctx, "a fault of the test"))
	_, err := b.Recruit(ctx, 2, 0)
	must(t, err)
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
	must(t, b.SetNames(ctx, database.Names{}))
	_, err = c.Recruit(ctx, 2, 0)
	must(t, err)
	must(t, c.Follow(ctx, b.Endpoint, 2))
	at := b.Answers(t).Flushed
	l = c.Await(t, "it streams what it lacked", func(l database.Local) bool { return l.Receiving && l.Replayed >= at })
	if l.Incarnation != of.Incarnation {
		t.Error("it was copied anew")
	}
	l = b.Await(t, "the slot is in use", func(l database.Local) bool { return len(l.Slots) == 1 && l.Slots[0].Active })
	must(t, b.KeepSlots(ctx, database.SlotOrder{Drop: []string{of.Incarnation}}))
	if l = b.Answers(t); len(l.Slots) != 1 {
		t.Fatal("a slot in use was dropped")
	}
	// Dropped while it is away, the log goes, and that can be seen.
	at = c.Answers(t).Flushed
	must(t, c.StopFast(ctx))
	b.Await(t, "the slot is free", func(l database.Local) bool { return len(l.Slots) == 1 && !l.Slots[0].Active })
	must(t, b.KeepSlots(ctx, database.SlotOrder{Drop: []string{of.Incarnation}}))
	churn(t, b)
	if l := b.Answers(t); len(l.Slots) != 0 || l.Oldest <= at {
		t.Errorf("slots %+v; the log begins at %s, c is at %s", l.Slots, l.Oldest, at)
	}
}

func TestASlotThatWasGivenUpIsMadeAnew(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	small := pgtest.Options{Parameters: []postgres.Parameter{
		{Name: "wal_keep_size", Value: "0"}, {Name: "max_wal_size", Value: "32MB"}, {Name: "min_wal_size", Value: "32MB"}, {Name: "max_slot_wal_keep_size", Value: "48MB"},
	}}
	nodes := pgtest.New(t, small, "127.46.35.1", "127.46.35.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	exec(t, a, "CREATE TABLE churn (x text)")
	pgtest.Join(t, b, a, 1)
	of := b.Answers(t)
	must(t, b.StopFast(ctx))
	churn(t, a)
	l := a.Answers(t)
	if len(l.Slots) != 1 || !l.Slots[0].Lost || l.Slots[0].At != 0 || l.Oldest <= of.Flushed {
		t.Fatalf("slots %+v, the log begins at %s", l.Slots, l.Oldest)
	}
	// It cannot stream, but its slot is a sound one again, until the standby itself says what it has: a server believes
	// that position, which lies before what it keeps.
	must(t, b.Follow(ctx, a.Endpoint, 1))
	l = a.Answers(t)
	if len(l.Slots) != 1 || l.Slots[0].At == 0 || l.Slots[0].Lost && (l.Slots[0].At < of.Flushed || l.Slots[0].At >= l.Oldest) {
		t.Fatalf("after its standby at %s came back: %+v", of.Flushed, l.Slots)
	}
	pgtest.Join(t, b, a, 1)
	copied := b.Answers(t)
	l = a.Answers(t)
	if i := slices.IndexFunc(l.Slots, func(s database.Slot) bool { return s.Incarnation == copied.Incarnation }); i < 0 || l.Slots[i].Lost || l.Slots[i].At <= of.Flushed {
		t.Fatalf("after it was copied: %+v", l.Slots)
	}
	exec(t, a, "INSERT INTO churn VALUES ('last')")
}

func TestAReadOnlyPrimaryRefusesClientsWritesAndTakesThemAgain(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	role := postgres.Role{Name: "app", Password: redact.Secret("secret"), Owns: []string{"app"}}
	a := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{role}}, "127.46.36.1")[0]
	pgtest.Primary(t, a)
	exec(t, a, "CREATE TABLE x (a int); GRANT ALL ON x TO app")
	must(t, a.ReadOnly(ctx, true))
	must(t, a.ReadOnly(ctx, true))
	conn := local(t, a)
	_, err := conn.Exec(ctx, "INSERT INTO x VALUES (1)")
	if err == nil || !strings.Contains(err.Error(), "read-only transaction") {
		t.Fatalf("a write went through: %v", err)
	}
	var n int
	must(t, conn.QueryRow(ctx, "SELECT count(*) FROM x").Scan(&n))
	must(t, a.EnsureRoles(ctx)) // Holdfast's own sessions may
	if l := a.Answers(t); !l.ReadOnly || l.Names.IsClosed() {
		t.Errorf("observed: %+v", l)
	}
	must(t, a.SetNames(ctx, database.Names{})) // another change leaves it as it is
	if l := a.Answers(t); !l.ReadOnly {
		t.Error("a change of the names made it writable")
	}
	must(t, a.ReadOnly(ctx, false))
	exec(t, a, "INSERT INTO x VALUES (2)")
	if l := a.Answers(t); l.ReadOnly {
		t.Error("it still says that it is read-only")
	}
	must(t, conn.Close(ctx))
}

// smallDisk puts the directory of a node on a file system of its own, for which the test is root.
func smallDisk(t *testing.T, n *pgtest.Node, size string) {
	t.Helper()
	must(t, os.MkdirAll(n.Config.Dir, 0o755))
	disktest.Small(t, n.Config.Dir, size, 0o755)
	t.Cleanup(func() {
		if err := n.Kill(context.Background(), "the test has ended"); err != nil {
			t.Log(err)
		}
	})
}

func TestAFullDiskEndsInOneStartFromTheReserve(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	a := pgtest.New(t, pgtest.Options{}, "127.46.37.1")[0]
	smallDisk(t, a, "420m")
	pgtest.Primary(t, a)
	l := a.Await(t, "a reserve", func(l database.Local) bool { return l.Disk.Reserve > 0 })
	if l.Disk.Size != 420<<20 || l.Disk.Reserve != 32<<20 || l.Disk.Free < 200<<20 {
		t.Errorf("disk: %+v", l.Disk)
	}
	exec(t, a, "CREATE TABLE big (x text)")
	// Somebody else fills the disk; the server ends in the middle of a write.
	full, err := os.Create(filepath.Join(a.Config.Dir, "somebody-elses"))
	must(t, err)
	for piece := make([]byte, 1<<20); err == nil; {
		_, err = full.Write(piece)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, full.Close())
	conn := local(t, a)
	for range 200 { // the segments that lie there already are used up, then it must end
		if _, err = conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'x', repeat('y', 1000000))"); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("200 MB of log found room on a full disk")
	}
	var refused interface{ SQLState() string }
	if errors.As(err, &refused) && refused.SQLState() == "53100" {
		must(t, a.Kill(ctx, "it lived on"))
	}
	l = a.Await(t, "its end", func(l database.Local) bool { return !l.Running && l.TreeGone })
	if l.Disk.Free >= 32<<20 || l.Disk.Reserve == 0 {
		t.Fatalf("a full disk looks like %+v", l.Disk)
	}
	must(t, a.Start(ctx, true))
	l = a.Answers(t)
	if l.Disk.Reserve != 0 || l.Disk.Free == 0 {
		t.Errorf("after the start: %+v", l.Disk)
	}
	must(t, os.Remove(filepath.Join(a.Config.Dir, "somebody-elses")))
	a.Await(t, "the reserve is back", func(l database.Local) bool { return l.Disk.Reserve > 0 })
}

// A primary may die between a standby's question and its answer, so that nothing comes any more, not even an end. Who waits for it
// for ever cannot vote.
func TestAPrimaryThatFallsSilentHoldsUpNobodyWhoWouldFollowIt(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{}, "127.46.52.1", "127.46.52.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	whole, answered := silentBehind(t, a.Endpoint, 1<<40)
	must(t, b.Follow(ctx, whole, 1))
	all := answered()
	held := 0
	for _, less := range []int64{40, 100} {
		near, _ := silentBehind(t, a.Endpoint, all-less)
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		err := b.Follow(limited, near, 1)
		cancel()
		switch {
		case limited.Err() == context.DeadlineExceeded:
			t.Fatalf("it still waits after a minute for the last %d of %d bytes", less, all)
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			t.Fatalf("without the last %d bytes: %v", less, err)
		case err != nil:
			held++
		}
	}
	if held == 0 {
		t.Error("nothing was asked of a primary that does not answer")
	}
	must(t, b.Follow(ctx, a.Endpoint, 1))
	b.Await(t, "it streams", func(l database.Local) bool { return l.Receiving })
}

// silentBehind is a way to a server on which the first connection brings so many bytes of answers and then nothing more; the function
// waits for its end and says how many came.
func silentBehind(t *testing.T, to database.Endpoint, most int64) (database.Endpoint, func() int64) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort("127.46.52.9", "0"))
	must(t, err)
	t.Cleanup(func() { _ = l.Close() }) // ends the acceptance
	first := make(chan int64, 1)
	var accepted atomic.Int64
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			limit := int64(1 << 40)
			number := accepted.Add(1)
			if number == 1 {
				limit = most
			}
			go func() {
				n := relay(t, near, to, limit)
				if number == 1 {
					first <- n
				}
			}()
		}
	}()
	near := to
	near.Address, near.Port = "127.46.52.9", l.Addr().(*net.TCPAddr).Port
	return near, func() int64 { return <-first }
}

// relay joins a connection with a server's until the near end closes it, and says how many bytes of answers it let through.
func relay(t *testing.T, near net.Conn, to database.Endpoint, limit int64) int64 {
	far, err := net.Dial("tcp", net.JoinHostPort(to.Address, strconv.Itoa(to.Port)))
	if err != nil {
		t.Error(err)
		_ = near.Close() // nobody answers there
		return 0
	}
	answers := make(chan int64, 1)
	go func() {
		n, _ := io.CopyN(near, far, limit) // either end may end it
		if n < limit {
			_ = near.Close()
		}
		answers <- n
	}()
	_, _ = io.Copy(far, near) // likewise
	_, _ = near.Close(), far.Close()
	return <-answers
}
