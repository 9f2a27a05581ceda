package backup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// promoteAgain makes the server crash and come back on a timeline of its own, as a standby that is promoted does.
func promoteAgain(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.Kill()
	signal := filepath.Join(s.Dir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.Owner.Set {
		if err := os.Chown(signal, int(s.Owner.UID), int(s.Owner.GID)); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
	s.Exec("postgres", "select pg_promote()")
}

// Scenario 21: through three promotions the log follows, and each timeline's moments are reached.
func TestThreePromotionsAreFollowedAndEachTimelineIsReached(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	s.Exec("postgres", "create table rows (id int primary key, body text)")
	base(t, v, s)
	var marks []mark
	count := 0
	for timeline := uint32(1); timeline <= 4; timeline++ {
		if timeline > 1 {
			promoteAgain(t, s)
		}
		s.Exec("postgres", fmt.Sprintf("insert into rows select g, 'x' from generate_series(%d, %d) g", count+1, count+100))
		count += 100
		m := (&load{t: t, s: s, next: count + 1}).mark()
		s.Exec("postgres", fmt.Sprintf("insert into rows select g, 'x' from generate_series(%d, %d) g", count+1, count+10)) // what a target must leave out
		count += 10
		marks = append(marks, m)
		end := (&load{t: t, s: s, next: count + 1}).mark()
		until(t, fmt.Sprintf("timeline %d in the vault", timeline), func() bool {
			st := r.Status()
			return st.Timeline == timeline && st.Archived >= end.lsn && st.CoveredUntil.After(end.at)
		})
	}
	if err := stop(); err == nil {
		t.Error("a cancelled receiver returned nil")
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, count)
	for i, m := range marks {
		wantRows(t, v, restore.Target{Kind: restore.AtTime, Time: m.at}, m.count)
		wantRows(t, v, restore.Target{Kind: restore.AtLSN, LSN: m.lsn, Timeline: uint32(i + 1)}, m.count)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest, Timeline: 2}, 220)
}

// Scenario 17: a fast backup behind whatever shortens, empties and fills files again stores what lies there, page by page.
func TestAFastBackupBehindTruncationHoldsEveryPage(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	s, v := pgtest.New(t), newVault(t)
	stop := archive(t, receiver(t, v), s)
	for _, name := range []string{"calm", "shortened", "regrown", "emptied", "rebuilt", "gone"} {
		s.Exec("postgres", "create table "+name+" (id int primary key, body text)", "insert into "+name+" select g, repeat(md5(g::text), 8) from generate_series(1, 20000) g")
	}
	s.Exec("postgres", "create sequence numbers", "select nextval('numbers') from generate_series(1, 50)", "vacuum", "checkpoint")
	baseBy(t, v, s, "")
	for round := range 3 {
		s.Exec("postgres",
			"delete from shortened where id > 5000", "vacuum shortened", // its end goes
			"delete from regrown where id > 5000", "vacuum regrown", "insert into regrown select g, repeat(md5(g::text), 8) from generate_series(5001, 20000) g",
			"truncate emptied", "insert into emptied select g, repeat('y', 200) from generate_series(1, 20000) g", "cluster rebuilt using rebuilt_pkey",
			"select nextval('numbers') from generate_series(1, 7)", "update calm set body = body || 'x' where id between 100 and 140")
		if round == 1 {
			s.Exec("postgres", "drop table gone", "create table gone as select g as id from generate_series(1, 30000) g")
		}
		fast := baseBy(t, v, s, backup.Fast)
		if !fast.Took || fast.Reused == 0 || len(fast.BadPages)+len(fast.Differs) > 0 {
			t.Errorf("round %d: %+v", round, fast)
		}
		// What reads everything compares each page that no log changed since.
		proven := baseBy(t, v, s, backup.Proven)
		if len(proven.Differs)+len(proven.BadPages) > 0 || proven.Earlier != fast.ID {
			t.Errorf("round %d: compared with %s, it differs in %v", round, proven.Earlier, proven.Differs)
		}
		if val := proof(t, v, fast.ID); !val.Passed {
			t.Errorf("round %d: the trial says %+v", round, val)
		}
		s.Exec("postgres", "insert into shortened select g, 'z' from generate_series(5001, 20000) g")
	}
	promoteAgain(t, s) // another timeline: nothing is taken over, and everything is there
	until(t, "the archive follows", func() bool {
		held, err := v.Log(fastSystem(t, v), 0).Held(t.Context())
		return err == nil && len(held) > 0 && held[len(held)-1].Timeline == 2
	})
	behind := baseBy(t, v, s, backup.Fast)
	if behind.Took {
		t.Errorf("behind a promotion it took chunks of %s over", behind.Earlier)
	}
	if val := proof(t, v, behind.ID); !val.Passed {
		t.Errorf("behind a promotion the trial says %+v", val)
	}
	_ = stop()
}

func fastSystem(t *testing.T, v *vault.Vault) uint64 {
	t.Helper()
	all, err := v.Systems(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	return all[0]
}

// Scenario 20: the log of another cluster is refused, and nothing of it is stored.
func TestLogOfAnotherClusterIsRefused(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", SystemID: 7, Spool: filepath.Join(t.TempDir(), "spool"), PartialEvery: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgconn.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "its log does not belong here") {
		t.Errorf("ended with %v", err)
	}
	if all, err := v.Systems(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("the vault holds log of %v, %v", all, err)
	}
	var slots int
	if err := s.Conn("postgres").QueryRow(t.Context(), "select count(*) from pg_replication_slots").Scan(&slots); err != nil || slots != 0 {
		t.Errorf("%d slots were made there, %v", slots, err)
	}
}
