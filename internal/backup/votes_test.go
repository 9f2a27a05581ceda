package backup_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/database/stored"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// voter is a receiver that votes once it is told from which base backup the log leads on, by a plan with so many standbys.
func voter(t *testing.T, v *vault.Vault, standbys int) (r *backup.Receiver, from *atomic.Pointer[vault.Backup]) {
	t.Helper()
	from = &atomic.Pointer[vault.Backup]{}
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool"),
		Votes: func() backup.Vote {
			vote := backup.Vote{Asked: true, Standbys: standbys}
			if b := from.Load(); b != nil {
				vote.Timeline, vote.Base = b.Timeline, b.Start
			}
			return vote
		}})
	if err != nil {
		t.Fatal(err)
	}
	return r, from
}

// heldTo is where the log in a vault ends, by what lies in its directory at one moment: nothing is written or removed while it
// is looked at.
func heldTo(t *testing.T, dir string, segment uint64) (end wal.LSN) {
	t.Helper()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir+".away", func(path string, d fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || d.IsDir() || len(name) < 25 {
			return err
		}
		_, start, err := wal.ParseSegmentName(name[:24], segment)
		if err != nil {
			return nil // something else
		}
		length := segment
		if rest, partial := strings.CutPrefix(name[24:], ".partial-"); partial {
			if length, err = strconv.ParseUint(rest[:8], 16, 64); err != nil {
				return err
			}
		}
		end = max(end, start+wal.LSN(length))
		return nil
	})
	if back := os.Rename(dir+".away", dir); err != nil || back != nil {
		t.Fatal(err, back)
	}
	return end
}

// With the vault in the quorum a commit that returns is in the vault, and one that the vault cannot take does not return.
func TestACommitReturnsOnceTheVaultHasIt(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	dir := strings.TrimPrefix(v.Address(), "file://")
	r, from := voter(t, v, 1)
	stop := archive(t, r, s)
	until(t, "the log to come", func() bool { return r.Status().Streaming })
	if n := r.Status().Votes; n != 0 {
		t.Fatalf("%d votes before there is a base backup", n)
	}
	s.Exec("postgres", "create table orders (n int)")
	b := base(t, v, s)
	from.Store(&b)
	until(t, "the vote", func() bool { return r.Status().Votes == 1 })
	s.Exec("postgres", `alter system set synchronous_standby_names = '`+stored.Setting{Vault: true}.String()+`'`, "select pg_reload_conf()")
	conn := s.Conn("postgres")
	until(t, "commits to wait", func() bool {
		var names string
		if err := conn.QueryRow(t.Context(), "select current_setting('synchronous_standby_names')").Scan(&names); err != nil {
			t.Fatal(err)
		}
		return names != ""
	})

	var segment uint64
	if err := conn.QueryRow(t.Context(), "select setting::bigint from pg_settings where name = 'wal_segment_size'").Scan(&segment); err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range 100 {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var before string
		if err := tx.QueryRow(t.Context(), "insert into orders values ($1) returning pg_current_wal_insert_lsn()::text", i).Scan(&before); err != nil {
			t.Fatal(err)
		}
		at, err := wal.ParseLSN(before) // what commits follows it
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		if i%20 > 0 {
			continue
		}
		if end := heldTo(t, dir, segment); end <= at {
			t.Fatalf("commit %d behind %s returned, and the vault ends at %s", i, at, end)
		}
	}
	slices.Sort(took)
	t.Logf("a commit took %s at p50, %s at p99", took[50], took[99])

	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	writer := s.Conn("postgres")
	go func() {
		_, err := writer.Exec(context.WithoutCancel(t.Context()), "insert into orders values (100)")
		done <- err
	}()
	until(t, "the vault to be missed", func() bool { return r.Status().VaultError != "" })
	var waits bool
	until(t, "the commit to wait", func() bool {
		if err := conn.QueryRow(t.Context(), "select exists (select from pg_stat_activity where wait_event = 'SyncRep')").Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits
	})
	select {
	case err := <-done:
		t.Fatalf("a commit returned while the vault was away (%v)", err)
	default:
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_ = stop() // its context has ended
	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if hole, ok := restore.Beyond(c); ok {
		t.Errorf("the log has a hole: %+v", hole)
	}
}

// Votes that stand in for the same vault are never counted twice: the server gives each one's slot to one connection.
func TestTwoArchivistsDoNotVoteTwice(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	first, from := voter(t, v, 1)
	stop := archive(t, first, s)
	until(t, "the log to come", func() bool { return first.Status().Streaming })
	b := base(t, v, s)
	from.Store(&b)
	until(t, "a vote", func() bool { return first.Status().Votes == 1 })
	// The server was told of two standbys, of which one is dead and gone: that the plan has one now is not told yet.
	asked := stored.Setting{Names: database.Names{W: 1, List: []string{"a@1"}}, Vault: true, Standbys: 2}
	s.Exec("postgres", `alter system set synchronous_standby_names = '`+asked.String()+`'`, "select pg_reload_conf()")
	until(t, "as many votes as the server waits for", func() bool { return first.Status().Votes == asked.Votes() })
	_ = stop // it goes on while another one is there that believes to be the archivist

	conn := s.Conn("postgres")
	count := func() (n int) {
		if err := conn.QueryRow(t.Context(), "select count(*) from pg_stat_replication where application_name like 'holdfast-vault-%'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	second, other := voter(t, v, 1)
	other.Store(&b)
	_ = archive(t, second, s) // the archive's own slot keeps its stream out, and so its votes
	for range 20 {
		if n := count(); n > 2 {
			t.Fatalf("%d votes", n)
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = stop()
	until(t, "the other one to vote", func() bool { return second.Status().Votes == 2 && count() == 2 })
}

// Clients that wait for the vault take all connections there are. An archivist that begins then votes nevertheless.
func TestVotesComeToAServerThatHasNoConnectionLeft(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	first, _ := voter(t, v, 1)
	stop := archive(t, first, s)
	until(t, "the log to come", func() bool { return first.Status().Streaming })
	b := base(t, v, s)
	_ = stop() // its context has ended

	var held []*pgx.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close(context.WithoutCancel(t.Context()))
		}
	}()
	until(t, "the last connection to be taken", func() bool {
		c, err := pgx.Connect(t.Context(), s.ConnString("postgres"))
		if err == nil {
			held = append(held, c)
		}
		if says, refused := errors.AsType[*pgconn.PgError](err); err != nil && (!refused || says.Code != "53300") {
			t.Fatal(err)
		}
		return err != nil
	})
	second, from := voter(t, v, 1)
	from.Store(&b)
	_ = archive(t, second, s)
	until(t, "the vote", func() bool { return second.Status().Votes == 1 })
	until(t, "the number of votes to be asked for beside the stream", func() bool { // not in the clients' connections: none is left
		var n int
		if err := held[0].QueryRow(t.Context(), "select count(*) from pg_stat_activity where application_name = 'holdfast-archive' and backend_type = 'walsender'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 2
	})
}
