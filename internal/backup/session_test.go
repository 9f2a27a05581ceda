package backup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/pgdata"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// slowly begins a base backup that takes minutes at its rate, and returns once files are being read.
func slowly(t *testing.T, v *vault.Vault, s *pgtest.Server) (goOn func(), ended <-chan error) {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	reading, free, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	told := false
	o := backup.BaseOptions{
		Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders", Workers: 1, Limit: 64 << 10,
		// The log is not what ends these.
		WaitLog: func(context.Context, uint64, uint64, uint32, wal.LSN) error { return nil },
		Progress: func(p backup.Progress) {
			if p.Phase == "copy" && !told {
				told = true
				close(reading)
				<-free
			}
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := backup.Base(ctx, o)
		done <- err
	}()
	opened := false
	goOn = func() {
		if !opened {
			opened = true
			close(free)
		}
	}
	t.Cleanup(func() { cancel(); goOn() })
	select {
	case <-reading:
	case err := <-done:
		t.Fatalf("the backup ended before it read anything: %v", err)
	}
	return goOn, done
}

// wantVoid waits for a backup to end, with why in its error, and looks that none is listed.
func wantVoid(t *testing.T, v *vault.Vault, ended <-chan error, why string) {
	t.Helper()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), why) || !backup.Interrupted(err) {
			t.Errorf("ended with %v, want %q", err, why)
		}
	case <-time.After(5 * time.Minute):
		t.Errorf("the backup goes on for minutes, though %q", why)
	}
	if list, err := v.Backups(t.Context(), "orders"); err != nil || len(list) > 0 {
		t.Errorf("listed are %+v, %v", list, err)
	}
}

// Scenarios 2 and 3: a server that crashes, is promoted, or follows another primary while its files are read ends the
// backup within seconds, however long the rest would take, and nothing is listed.
func TestABackupEndsWhenItsServerIsNotTheSameAnyMore(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	next, follower := s.Standby(), s.Standby()
	goOnNext, next1 := slowly(t, v, next)
	goOnFollower, follower1 := slowly(t, v, follower)

	until(t, "the standbys have the same log", func() bool {
		var ends [2]string
		for i, n := range []*pgtest.Server{next, follower} {
			conn := n.Conn("postgres")
			if err := conn.QueryRow(t.Context(), "select coalesce(pg_last_wal_receive_lsn()::text, '')").Scan(&ends[i]); err != nil {
				t.Fatal(err)
			}
			_ = conn.Close(t.Context()) // only asked
		}
		return ends[0] != "" && ends[0] == ends[1]
	})
	s.Kill()
	next.Exec("postgres", "select pg_promote()")
	goOnNext()
	wantVoid(t, v, next1, "promoted")

	follower.Follow(next)
	next.Exec("postgres", "create table rows as select generate_series(1, 1000) as id", "checkpoint")
	conn := follower.Conn("postgres")
	until(t, "the other standby has written pages of the new timeline", func() bool {
		if _, err := conn.Exec(t.Context(), "checkpoint"); err != nil {
			t.Fatal(err)
		}
		var timeline int
		if err := conn.QueryRow(t.Context(), "select min_recovery_end_timeline from pg_control_recovery()").Scan(&timeline); err != nil {
			t.Fatal(err)
		}
		return timeline == 2
	})
	goOnFollower()
	wantVoid(t, v, follower1, "it followed timeline 1, and follows 2")

	goOn, ended := slowly(t, v, next)
	next.Kill()
	goOn()
	wantVoid(t, v, ended, "session has ended")
}

// What begins a base backup again is what its server has done, and nothing else.
func TestWhatBeginsABaseBackupAgain(t *testing.T) {
	cfg, err := pgx.ParseConfig("host=" + t.TempDir() + " port=5432 user=nobody dbname=none connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	o := backup.BaseOptions{Conn: cfg, DataDir: directoryOf(t, pgdata.PageSize), Database: "orders"}
	result, gone := backup.Base(t.Context(), o)
	if result.Begun {
		t.Error("a server that does not answer is said to have begun a backup")
	}
	takenBack := errors.New("taken back")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(takenBack)
	_, cancelled := backup.Base(ctx, o)
	if !errors.Is(cancelled, takenBack) {
		t.Errorf("what was taken back ended with %v", cancelled)
	}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"a server that does not answer": {gone, true},
		"one that is shut down":         {fmt.Errorf("start the backup: %w", &pgconn.PgError{Code: "57P01"}), true},
		"one that is starting":          {fmt.Errorf("ask: %w", &pgconn.PgError{Code: "57P03"}), true},
		"one that refuses whoever asks": {refused(t), false},
		"a request that is taken back":  {cancelled, false},
		"a right that is missing":       {fmt.Errorf("start the backup: %w", &pgconn.PgError{Code: "42501"}), false},
		"a vault that is away":          {errors.New("store a pack: no route to host"), false},
		"nothing":                       {nil, false},
	} {
		if got := backup.Interrupted(c.err); got != c.want {
			t.Errorf("%s (%v): %v", name, c.err, got)
		}
	}
}
