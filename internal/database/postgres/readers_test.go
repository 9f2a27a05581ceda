package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
	"holdfast/internal/redact"
)

// A standby that clients read from is promoted only when none of them is left: a session goes on through a
// promotion, and could write before the listener leads there.
func TestReadersAreGoneBeforeAStandbyIsPromoted(t *testing.T) {
	t.Parallel()
	ctx := pgtest.Context(t)
	nodes := pgtest.New(t, pgtest.Options{Roles: []postgres.Role{{Name: "app", Password: redact.Secret("pass"), Owns: []string{"shop"}}}},
		"127.46.9.1", "127.46.9.2")
	a, b := nodes[0], nodes[1]
	pgtest.Primary(t, a)
	pgtest.Join(t, b, a, 1)
	quorum(t, a, 1, 1, b)
	must(t, b.Admit(ctx, true))
	if l := b.Answers(t); !l.Admits || l.Role != database.Standby {
		t.Fatalf("admitted: %+v", l)
	}
	reader := func() (*pgx.Conn, error) {
		c, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d dbname=postgres user=app password=pass sslmode=require", b.Endpoint.Address, b.Endpoint.Port))
		must(t, err)
		return pgx.ConnectConfig(ctx, c)
	}
	idle, err := reader()
	must(t, err)
	busy, err := reader()
	must(t, err)
	if _, err := busy.Exec(ctx, "CREATE TABLE never (n int)"); err == nil {
		t.Fatal("a standby took a write")
	}
	sleeping := make(chan error, 1)
	go func() {
		_, err := busy.Exec(ctx, "SELECT pg_sleep(600)")
		sleeping <- err
	}()
	b.Await(t, "the reader sleeps", func(database.Local) bool {
		return count(t, b, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'PgSleep'") == 1
	})

	must(t, a.Kill(ctx, "test"))
	if _, err := b.Recruit(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	if count(t, b, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'") != 2 {
		t.Error("readers were ended by an election that may choose another")
	}
	must(t, b.Promote(ctx, 2, 3, b.Answers(t).History))
	if n := count(t, b, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"); n != 0 {
		t.Errorf("%d sessions of before are on the new primary", n)
	}
	if err := <-sleeping; err == nil {
		t.Error("the reader slept on")
	}
	if _, err := idle.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("the idle session goes on")
	}
	if conn, err := reader(); err == nil {
		_ = conn.Close(ctx) // it should not be there
		t.Error("a client came in before the new primary was opened")
	}
	if l := b.Answers(t); l.Admits || l.Role != database.Primary {
		t.Errorf("promoted: %+v", l)
	}
	closeTest, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = idle.Close(closeTest), busy.Close(closeTest) // both are broken
}
