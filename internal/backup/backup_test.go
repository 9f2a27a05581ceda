package backup_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// vaultKeys are those of all tests' vaults: stretching each again takes a quarter of a second.
var vaultKeys vault.Keyring

func newVault(t *testing.T) *vault.Vault {
	t.Helper()
	v, err := vault.Create(t.Context(), vault.Config{URL: "file://" + filepath.Join(t.TempDir(), "vault"), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return v
}

// archive runs a receiver against a server, again and again as its caller does, until the returned function is
// called: the server may still be letting go of the connection before.
func archive(t *testing.T, r *backup.Receiver, s *pgtest.Server) (stop func() error) {
	t.Helper()
	cfg, err := pgconn.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		for {
			err := r.Run(ctx, cfg)
			_, gap := errors.AsType[*backup.GapError](err)
			if ctx.Err() != nil || gap {
				done <- err
				return
			}
			t.Logf("receiver ended, trying again: %v", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() {
			cancel()
			result = <-done
		})
		return result
	}
	t.Cleanup(func() { _ = stop() }) // tests that care look at it
	return stop
}

func receiver(t *testing.T, v *vault.Vault) *backup.Receiver {
	t.Helper()
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool"), PartialEvery: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// load inserts rows with increasing keys, one commit each.
type load struct {
	t    *testing.T
	s    *pgtest.Server
	mu   sync.Mutex // held during each insert: who holds it sees a quiet moment
	next int
	stop chan struct{}
	wg   sync.WaitGroup
}

func startLoad(t *testing.T, s *pgtest.Server) *load {
	l := &load{t: t, s: s, next: 1, stop: make(chan struct{})}
	s.Exec("postgres", "create table rows (id int primary key, body text not null)")
	conn := s.Conn("postgres")
	l.wg.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			default:
			}
			l.mu.Lock()
			_, err := conn.Exec(context.Background(), "insert into rows values ($1::int, repeat(md5($1::int::text), 20))", l.next)
			if err == nil {
				l.next++
			}
			l.mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	return l
}

// mark is what was true at a moment.
type mark struct {
	at    time.Time
	count int
	lsn   wal.LSN
}

func (l *load) mark() mark {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	m := mark{count: l.next - 1}
	conn := l.s.Conn("postgres")
	defer func() { _ = conn.Close(context.Background()) }()
	var lsn string
	if err := conn.QueryRow(context.Background(), "select clock_timestamp(), pg_current_wal_lsn()::text").Scan(&m.at, &lsn); err != nil {
		l.t.Fatal(err)
	}
	var err error
	if m.lsn, err = wal.ParseLSN(lsn); err != nil {
		l.t.Fatal(err)
	}
	return m
}

func (l *load) end() mark {
	close(l.stop)
	l.wg.Wait()
	return l.mark()
}

func base(t *testing.T, v *vault.Vault, s *pgtest.Server) vault.Backup {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	res, err := backup.Base(ctx, backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	return res.Backup
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within five minutes", what)
		}
	}
}

// restored counts the rows of a restore to target.
func restored(t *testing.T, v *vault.Vault, target restore.Target) (count, highest int) {
	t.Helper()
	ctx := t.Context()
	c, err := restore.Load(ctx, v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	choice, err := restore.Choose(c, target)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(pgtest.Dir(t), "restored")
	if _, err := restore.Run(ctx, restore.Options{Vault: v, Choice: choice, Dir: dir, Owner: owner, Throwaway: true}); err != nil {
		t.Fatal(err)
	}
	rec, err := restore.Recover(ctx, choice, restore.Promote, restore.ScratchOptions{Dir: dir, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rec.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	conn, err := pgx.Connect(ctx, rec.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, "select count(*), coalesce(max(id), 0) from rows").Scan(&count, &highest); err != nil {
		t.Fatal(err)
	}
	return count, highest
}

func wantRows(t *testing.T, v *vault.Vault, target restore.Target, want int) {
	t.Helper()
	count, highest := restored(t, v, target)
	if count != want || highest != want {
		t.Errorf("restored to %s: %d rows, highest %d, recorded were %d", target, count, highest, want)
	}
}

func TestARestoreHoldsExactlyWhatWasThereAtThatMoment(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	l := startLoad(t, s)
	until(t, "some rows", func() bool { return l.mark().count > 200 })
	b := base(t, v, s)
	at := l.mark()
	until(t, "more rows", func() bool { return l.mark().count > at.count+200 })
	last := l.end()
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= last.lsn && r.Status().CoveredUntil.After(at.at) })
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("receiver ended with %v", err)
	}
	if b.Stop <= b.Start || b.Files == 0 || !b.Checksums || len(b.BadPages) > 0 {
		t.Errorf("backup says of itself %+v", b)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, last.count)
	wantRows(t, v, restore.Target{Kind: restore.AtTime, Time: at.at}, at.count)
	wantRows(t, v, restore.Target{Kind: restore.AtLSN, LSN: at.lsn}, at.count)
	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []time.Time{b.Started.Add(-time.Hour), time.Now().Add(time.Hour)} {
		_, err := restore.Choose(c, restore.Target{Kind: restore.AtTime, Time: when})
		if err == nil || !strings.Contains(err.Error(), "Possible is") {
			t.Errorf("restore to %s: %v", when, err)
		}
	}
}

func TestAReceiverThatIsKilledAgainAndAgainLeavesNoHole(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	l := startLoad(t, s)
	r := receiver(t, v)
	var first wal.LSN
	for i := range 6 {
		stop := archive(t, r, s)
		until(t, "connected", func() bool { return r.Status().Connected && r.Status().Received > 0 })
		if i == 0 {
			first = r.Status().Archived
		}
		from := l.mark().count
		wait := 20 + rand.IntN(150)
		until(t, "rows between kills", func() bool { return l.mark().count > from+wait })
		if i%2 == 1 {
			s.Exec("postgres", "select pg_switch_wal()")
		}
		if err := stop(); err == nil {
			t.Error("a cancelled receiver returned nil")
		}
	}
	last := l.end()
	stop := archive(t, r, s)
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= last.lsn })
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("receiver ended with %v", err)
	}
	log := v.Log(r.Status().SystemID, 0)
	held, err := log.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if holes := wal.Holes(wal.History{{Timeline: 1}}, held, first, last.lsn, log.SegmentSize()); len(holes) > 0 {
		t.Errorf("missing %v of %v", holes, held)
	}
	for _, h := range held {
		if _, err := log.Fetch(t.Context(), h); err != nil {
			t.Error(err)
		}
	}
}

func TestALostSegmentIsReportedAsAGap(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	// Without a whole segment a receiver begins where the server is, and misses nothing; so it does if it begins late here.
	until(t, "connected", func() bool { return r.Status().Connected && r.Status().Received > 0 })
	s.Exec("postgres", "create table x as select generate_series(1, 1000)", "select pg_switch_wal()")
	until(t, "a whole segment in the vault", func() bool {
		held, err := v.Log(r.Status().SystemID, 0).Held(t.Context())
		return err == nil && slices.ContainsFunc(held, func(h wal.Held) bool { return !h.Partial })
	})
	_ = stop()
	s.Kill()
	s.StartWith("wal_keep_size=0", "min_wal_size=32MB", "max_wal_size=32MB", "max_slot_wal_keep_size=1MB")
	for range 6 {
		s.Exec("postgres", "insert into x select generate_series(1, 1000)", "select pg_switch_wal()", "checkpoint")
	}
	err := <-runOnce(t, r, s)
	if g, ok := errors.AsType[*backup.GapError](err); !ok || g.From == 0 {
		t.Fatalf("got %v, want a *GapError", err)
	}
}

// Behind lost log the archive goes on, the hole is seen, and a base backup made then leads to the end again.
func TestTheArchiveGoesOnBehindLostLog(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool"), PartialEvery: 200 * time.Millisecond, SkipGap: true})
	if err != nil {
		t.Fatal(err)
	}
	stop := archive(t, r, s)
	s.Exec("postgres", "create table rows (id int primary key)", "insert into rows select generate_series(1, 1000)")
	base(t, v, s)
	s.Exec("postgres", "select pg_switch_wal()")
	until(t, "a whole segment in the vault", func() bool {
		held, err := v.Log(r.Status().SystemID, 0).Held(t.Context())
		return err == nil && slices.ContainsFunc(held, func(h wal.Held) bool { return !h.Partial })
	})
	_ = stop()
	s.Kill()
	s.StartWith("wal_keep_size=0", "min_wal_size=32MB", "max_wal_size=32MB", "max_slot_wal_keep_size=1MB")
	for i := range 6 {
		s.Exec("postgres", fmt.Sprintf("insert into rows select generate_series(%d, %d)", 1001+i*1000, 2000+i*1000), "select pg_switch_wal()", "checkpoint")
	}
	if _, ok := errors.AsType[*backup.GapError](<-runOnce(t, r, s)); !ok {
		t.Fatal("no gap was told")
	}
	s.Kill()
	s.StartWith("max_slot_wal_keep_size=-1") // with a megabyte it would give the slot up again at each checkpoint
	stop = archive(t, r, s)
	s.Exec("postgres", "insert into rows select generate_series(7001, 8000)", "select pg_switch_wal()")
	until(t, "log behind the gap in the vault, and the gap to be seen", func() bool {
		c, err := restore.Load(t.Context(), v, "orders")
		if err != nil {
			t.Fatal(err)
		}
		hole, ok := restore.Beyond(c)
		return ok && hole.From > 0 && hole.To > hole.From
	})
	wantRows(t, v, restore.Target{Kind: restore.Latest}, 1000) // nothing is made up
	base(t, v, s)
	s.Exec("postgres", "insert into rows select generate_series(8001, 9000)")
	end := (&load{t: t, s: s}).mark()
	until(t, "the new base backup to lead to the end", func() bool {
		c, err := restore.Load(t.Context(), v, "orders")
		if err != nil {
			t.Fatal(err)
		}
		_, hole := restore.Beyond(c)
		ch, err := restore.Choose(c, restore.Target{Kind: restore.Latest})
		return err == nil && !hole && ch.End >= end.lsn
	})
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("receiver ended with %v", err)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, 9000)
}

func runOnce(t *testing.T, r *backup.Receiver, s *pgtest.Server) <-chan error {
	t.Helper()
	cfg, err := pgconn.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, cfg) }()
	return done
}

func TestTheLogGoesOnThroughAFailover(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	n := s.Standby()
	r := receiver(t, v)
	stop := archive(t, r, s)
	l := startLoad(t, s)
	until(t, "some rows", func() bool { return l.mark().count > 100 })
	base(t, v, s)
	before := l.end()
	replayed := n.Conn("postgres")
	until(t, "the standby has it", func() bool {
		var ok bool
		if err := replayed.QueryRow(t.Context(), "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", before.lsn.String()).Scan(&ok); err != nil {
			t.Fatal(err)
		}
		return ok
	})
	until(t, "the vault has it", func() bool { return r.Status().Archived >= before.lsn })
	s.Kill()
	if err := stop(); err == nil {
		t.Error("the receiver of a dead server returned nil")
	}
	n.Exec("postgres", "select pg_promote()", fmt.Sprintf("insert into rows select g, 'after' from generate_series(%d, %d) g", before.count+1, before.count+500))
	stop = archive(t, r, n)
	after := &load{t: t, s: n, next: before.count + 501}
	end := after.mark()
	until(t, "the new timeline in the vault", func() bool { return r.Status().Timeline == 2 && r.Status().Archived >= end.lsn })
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("receiver ended with %v", err)
	}
	wantRows(t, v, restore.Target{Kind: restore.Latest}, end.count)
	wantRows(t, v, restore.Target{Kind: restore.AtTime, Time: before.at}, before.count)
}

func TestADamagedPageIsNamed(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	stop := archive(t, receiver(t, v), s)
	s.Exec("postgres", "create table rows (id int primary key, body text)", "insert into rows select g, repeat('x', 500) from generate_series(1, 500) g", "create unlogged table fleeting as select 1", "checkpoint")
	var rel, unlogged string
	if err := s.Conn("postgres").QueryRow(t.Context(), "select pg_relation_filepath('rows'), pg_relation_filepath('fleeting')").Scan(&rel, &unlogged); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, rel), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), 3*8192+4000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b := base(t, v, s)
	if want := rel + " block 3"; len(b.BadPages) != 1 || b.BadPages[0] != want {
		t.Errorf("bad pages %v, want %s", b.BadPages, want)
	}
	read, err := v.OpenBackup(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range read.Entries() {
		p := strings.TrimPrefix(e.Path, "pgdata/")
		if p == unlogged || p == "postmaster.pid" || strings.HasPrefix(p, "pg_wal/0") || strings.HasPrefix(filepath.Base(p), "holdfast.") {
			t.Errorf("%s is in the backup", p)
		}
	}
	_ = stop()
}

// An idle server sends nothing by itself. It is asked, so that the vault hears of each moment without a commit.
func TestAnIdleDatabaseIsCoveredAllTheSame(t *testing.T) {
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	archive(t, r, s)
	s.Exec("postgres", "create table rows (id int)")
	for range 3 {
		began := time.Now()
		until(t, "the moment to be covered", func() bool {
			st := r.Status()
			return st.CoveredUntil.After(began) && st.Behind >= 0 && time.Since(began) > st.Behind
		})
	}
	held, err := v.Log(r.Status().SystemID, wal.DefaultSegmentSize).Held(t.Context())
	if err != nil || len(held) != 1 {
		t.Errorf("the vault holds %+v, %v", held, err)
	}
}
