package backup_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// While somebody commits all the time, a little: the window of what can be restored goes on, and never back. Then nobody commits any more,
// and it goes on all the same.
func TestTheWindowGoesOnUnderLoadAndWithoutAny(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool")}) // as agents do
	if err != nil {
		t.Fatal(err)
	}
	stop := archive(t, r, s)
	s.Exec("postgres", "create table ticks (id serial)")
	b := base(t, v, s)
	end := func() (to time.Time) {
		t.Helper()
		c, err := restore.Load(t.Context(), v, "orders")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range restore.Windows(c) {
			if w.Backup == b.ID {
				to = w.To
			}
		}
		return to
	}
	quiet := tick(t, s)
	reached, began := end(), time.Now()
	for moves := 0; moves < 3; time.Sleep(50 * time.Millisecond) {
		to := end()
		if to.Before(reached) {
			t.Fatalf("the window ended at %s, and now at %s", reached, to)
		}
		if to.After(reached) {
			moves++
		}
		if reached = to; time.Since(began) > 5*time.Minute {
			t.Fatalf("the window ends at %s, and moved %d times in five minutes", reached, moves)
		}
	}
	t.Logf("it moved three times in %s", time.Since(began))
	quiet()
	idle := time.Now() // this machine's, as the server's
	until(t, "the window to reach what nobody wrote in", func() bool { return end().After(idle.Add(time.Second)) })
	_ = stop()
	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Choose(c, restore.Target{Kind: restore.AtTime, Time: reached}); err != nil {
		t.Errorf("what the window held can not be restored: %v", err)
	}
}

// tick commits some twenty times a second until it is told to be quiet.
func tick(t *testing.T, s *pgtest.Server) (quiet func()) {
	t.Helper()
	conn := s.Conn("postgres")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := conn.Exec(ctx, "do $$ begin loop insert into ticks default values; commit; perform pg_sleep(0.05); end loop; end $$")
		if ctx.Err() == nil {
			t.Errorf("no load: %v", err)
		}
	})
	quiet = func() { cancel(); wg.Wait() }
	t.Cleanup(quiet)
	return quiet
}
