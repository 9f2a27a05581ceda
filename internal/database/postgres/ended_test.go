package postgres_test

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/pgtest"
)

// A server that crashes by itself says so, once for each life; one that somebody killed says nothing, and neither does
// one that runs again.
func TestAServerThatCrashesLeavesItsLastWords(t *testing.T) {
	t.Parallel()
	a := pgtest.New(t, pgtest.Options{}, "127.46.31.1")[0]
	pgtest.Primary(t, a)
	crash := func(sig syscall.Signal) database.Local {
		t.Helper()
		c, err := pgx.ParseConfig("sslmode=disable user=" + postgres.Superuser + " dbname=postgres host=" + a.SocketDir() + " port=" + strconv.Itoa(a.Endpoint.Port))
		must(t, err)
		conn, err := pgx.ConnectConfig(t.Context(), c)
		must(t, err)
		defer func() { _ = conn.Close(t.Context()) }() // the server is gone
		pid := 0
		must(t, conn.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").Scan(&pid))
		must(t, syscall.Kill(pid, sig))
		return a.Await(t, "it is gone", func(l database.Local) bool { return !l.Running && l.TreeGone && l.Exit != "" })
	}
	first := crash(syscall.SIGSEGV).Ended
	if first == nil || first.Sign != "checkpointer process was terminated by signal 11: Segmentation fault" || first.Life == "" || first.At == "" {
		t.Fatalf("a crash: %+v", first)
	}
	must(t, a.Start(t.Context(), true))
	if l := a.Observe(t.Context()); l.Ended != nil {
		t.Errorf("it runs again and still says %+v", l.Ended)
	}
	second := crash(syscall.SIGSEGV).Ended
	if second == nil || second.Sign != first.Sign || second.Life == first.Life {
		t.Errorf("the second crash %+v is not told from the first %+v", second, first)
	}
	must(t, a.Start(t.Context(), true))
	if l := crash(syscall.SIGKILL); l.Ended != nil {
		t.Errorf("a process that somebody killed: %+v", l.Ended)
	}
	must(t, a.Start(t.Context(), true))
	must(t, a.Kill(t.Context(), "fenced"))
	if l := a.Observe(t.Context()); l.Ended != nil {
		t.Errorf("a server that was ended: %+v", l.Ended)
	}
}
