package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// asOwner runs one of PostgreSQL's programs as the server's user.
func asOwner(t *testing.T, s *pgtest.Server, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.BinDir, name), args...)
	cmd.Dir = filepath.Dir(s.Dir)
	if s.Owner.Set {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.Owner.UID, Gid: s.Owner.GID, Groups: []uint32{s.Owner.GID}}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// tablesHold says of every table how many rows it has, and a sum over them.
const tablesHold = `select coalesce(string_agg(relname || query_to_xml(format('select count(*) as n, sum(hashtext(t::text)::bigint) as sum from %I t', relname), false, true, '')::text, E'\n' order by relname), '')
	from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace`

// Scenario 9: while a real server's files are copied, tables are dropped, emptied, cut short, rewritten and grown, and new ones
// get the file numbers of those that went. What is restored is every table as it was, and the trial finds nothing wrong.
func TestTablesThatComeAndGoWhileTheyAreCopiedAreRestoredWhole(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	const old = 40
	s, v := pgtest.New(t), newVault(t)
	for i := range old {
		s.Exec("postgres", fmt.Sprintf("create table old_%d as select g as id, 'old' as body from generate_series(1, 3000) g", i))
	}
	s.Exec("postgres", "create table grows (id int, body text)", "create table shrinks (id int, body text)", "create table moves as select generate_series(1, 3000) as id", "checkpoint")
	conn := s.Conn("postgres")
	var lowest, highest int64 // the numbers of files that go
	if err := conn.QueryRow(t.Context(), "select min(relfilenode)::bigint, max(relfilenode)::bigint from pg_class where relname like 'old%'").Scan(&lowest, &highest); err != nil {
		t.Fatal(err)
	}
	// So that numbers come round again while the backup is made.
	asOwner(t, s, "pg_ctl", "-D", s.Dir, "-m", "fast", "-w", "stop")
	asOwner(t, s, "pg_resetwal", "-D", s.Dir, "-o", "4294967196")
	s.Start()
	r := receiver(t, v)
	_ = archive(t, r, s)
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	reading, ended := make(chan struct{}), make(chan struct{})
	told := false
	var made backup.Result
	var g errgroup.Group
	g.Go(func() (err error) {
		defer close(ended)
		made, err = backup.Base(t.Context(), backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders", Workers: 2, Limit: 3 << 20, Progress: func(p backup.Progress) {
			if p.Phase == "copy" && !told {
				told = true
				close(reading)
			}
		}})
		return err
	})
	select {
	case <-reading:
	case <-ended:
		t.Fatalf("the backup ended before it read anything: %v", g.Wait())
	}
	for i := range old {
		s.Exec("postgres", fmt.Sprintf("drop table old_%d", i))
	}
	conn = s.Conn("postgres")
	do := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	do("checkpoint") // only then are the files gone
	rounds := 0
	for going := true; going; rounds++ {
		do(fmt.Sprintf("create table new_%d as select g as id, 'of round %d' as body from generate_series(1, 1000 + 10 * %d) g", rounds, rounds, rounds))
		if rounds >= 25 {
			do(fmt.Sprintf("drop table new_%d", rounds-25))
		}
		do(fmt.Sprintf("insert into grows select g, repeat('x', 100) from generate_series(1, 500 + %d) g", rounds))
		do("insert into shrinks select g, repeat('y', 100) from generate_series(1, 2000) g")
		do("delete from shrinks where id > 100")
		do("vacuum shrinks")
		do("vacuum full moves")
		if rounds%3 == 2 {
			do("truncate grows")
			do("checkpoint")
		}
		select {
		case <-ended:
			going = false
		default:
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var again int
	if err := conn.QueryRow(t.Context(), "select count(*) from pg_class where relfilenode between $1::bigint and $2::bigint", lowest, highest).Scan(&again); err != nil || again == 0 {
		t.Fatalf("%d tables have numbers of those that went, %d to %d, after %d rounds: %v", again, lowest, highest, rounds, err)
	}
	var want string
	if err := conn.QueryRow(t.Context(), tablesHold).Scan(&want); err != nil {
		t.Fatal(err)
	}
	var end string
	if err := conn.QueryRow(t.Context(), "select pg_current_wal_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	last, err := wal.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= last })
	if got, err := restoredTo(t, v, restore.Target{Kind: restore.Latest}, tablesHold); err != nil || got != want {
		t.Errorf("restored is\n%s\nwant\n%s\n%v", got, want, err)
	}
	wantProven(t, v, made.Backup.ID)
	t.Logf("%d rounds, %d tables with numbers that were used before", rounds, again)
}

// Scenario 16: two agents back one database up at the same time into one vault. Both backups are whole.
func TestTwoBackupsOfOneDatabaseAtTheSameTimeAreBothWhole(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	s, v := pgtest.New(t), newVault(t)
	other, err := vault.Open(t.Context(), vault.Config{URL: v.Address(), Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic", Host: "h2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	r := receiver(t, v)
	_ = archive(t, r, s)
	l := startLoad(t, s)
	until(t, "some rows", func() bool { return l.mark().count > 50 })
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	var made [2]backup.Result
	var g errgroup.Group
	for i, to := range []*vault.Vault{v, other} {
		g.Go(func() (err error) {
			made[i], err = backup.Base(t.Context(), backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: to, Database: "orders", Limit: 8 << 20})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if a, b := made[0].Backup, made[1].Backup; a.ID == b.ID || a.Stop < b.Start || b.Stop < a.Start {
		t.Fatalf("they were not made at the same time: %s to %s, %s to %s", a.Start, a.Stop, b.Start, b.Stop)
	}
	end := l.end()
	until(t, "the log in the vault", func() bool { return r.Status().Archived >= end.lsn })
	wantRows(t, other, restore.Target{Kind: restore.Latest}, end.count)
	for _, m := range made {
		wantProven(t, v, m.Backup.ID)
	}
}

// wantProven restores a backup on trial.
func wantProven(t *testing.T, v *vault.Vault, id string) {
	t.Helper()
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Backup: id, Dir: filepath.Join(pgtest.Dir(t), "scratch"), Owner: owner})
	if err != nil || !b.Validated() {
		t.Errorf("%s: %s, %v", id, backup.FirstBad(b), err)
	}
}

// Scenario 30: the clock of a real server jumps within a backup. Nothing is listed, and the next backup stands.
func TestAServerWhoseClockJumpsWithinABackup(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	_ = archive(t, r, s)
	// A clock of the backup's own session: the machine's is not a test's to change.
	s.Exec("postgres", "create schema odd", "create table odd.jump (by interval)", "insert into odd.jump values ('0')",
		"create function odd.clock_timestamp() returns timestamptz language sql as 'select pg_catalog.clock_timestamp() + by from odd.jump'")
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["search_path"] = "odd, pg_catalog"
	for _, by := range []string{"2 hours", "-2 hours", "400 days", "0"} {
		jumped := false
		made, err := backup.Base(t.Context(), backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders", Progress: func(p backup.Progress) {
			if p.Phase == "copy" && !jumped {
				jumped = true
				s.Exec("postgres", "update odd.jump set by = '"+by+"'")
			}
		}})
		s.Exec("postgres", "update odd.jump set by = '0'")
		p, refused := errors.AsType[*problem.Problem](err)
		if stands := by == "0"; stands != (err == nil) || !stands && (!refused || p.Code != "backup.clock-jumped") {
			t.Errorf("by %s: %+v, %v", by, made.Backup, err)
		}
	}
	if list, err := v.Backups(t.Context(), "orders"); err != nil || len(list) != 1 {
		t.Errorf("listed are %+v, %v", list, err)
	}
}

// Scenario 17: a server runs with minimal log for a while, in which tables are filled that no log tells of. Its slot keeps it
// from that; without the slot no backup is made meanwhile, an older one does not lead over it, and a fast one made behind it holds
// every page.
func TestAFastBackupBehindMinimalLogHoldsEveryPage(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	s.Exec("postgres", "create table calm as select g as id, repeat(md5(g::text), 8) as body from generate_series(1, 40000) g", "create table filled (id int, body text)",
		"insert into filled select g, 'before' from generate_series(1, 5000) g", "vacuum calm, filled")
	first := base(t, v, s)
	_ = stop() // its context has ended
	end := func() { asOwner(t, s, "pg_ctl", "-D", s.Dir, "-m", "fast", "-w", "stop") }
	end()
	brief, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ctl := exec.CommandContext(brief, filepath.Join(s.BinDir, "postgres"), "-D", s.Dir, "-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "unix_socket_directories=",
		"-c", "listen_addresses="+s.Addr, "-c", fmt.Sprintf("port=%d", s.Port))
	if s.Owner.Set {
		ctl.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.Owner.UID, Gid: s.Owner.GID, Groups: []uint32{s.Owner.GID}}}
	}
	if said, err := ctl.CombinedOutput(); err == nil || !strings.Contains(string(said), "slot") {
		t.Fatalf("with the archive's slot it runs with minimal log: %v\n%s", err, said)
	}
	s.Start()
	s.Exec("postgres", "select pg_drop_replication_slot('holdfast_archive')")
	end()
	s.StartWith("wal_level=minimal", "max_wal_senders=0")
	s.Exec("postgres", "begin; truncate filled; insert into filled select g, 'without log' from generate_series(1, 9000) g; commit",
		"create table made as select g as id, 'without log' as body from generate_series(1, 9000) g", "update calm set body = body || 'x' where id between 100 and 140", "checkpoint")
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Base(t.Context(), backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders"}); err == nil || !strings.Contains(err.Error(), "WAL level") {
		t.Errorf("a backup of a server with minimal log: %v", err)
	}
	end()
	s.Start()
	r = receiver(t, v)
	stop = archive(t, r, s)
	fast := baseBy(t, v, s, backup.Fast)
	if !fast.Took || fast.Earlier != first.ID {
		t.Errorf("it took over %v from %q", fast.Took, fast.Earlier)
	}
	var want string
	if err := s.Conn("postgres").QueryRow(t.Context(), tablesHold).Scan(&want); err != nil {
		t.Fatal(err)
	}
	if got, err := restoredTo(t, v, restore.Target{Kind: restore.Latest}, tablesHold); err != nil || got != want {
		t.Errorf("restored is\n%s\nwant\n%s\n%v", got, want, err)
	}
	wantProven(t, v, fast.ID)
	if all := baseBy(t, v, s, ""); len(all.Differs) > 0 || all.Earlier != fast.ID {
		t.Errorf("a reading of everything finds %v, compared with %s", all.Differs, all.Earlier)
	}
	_ = stop() // its context has ended

	c, err := restore.Load(t.Context(), v, "orders")
	if err != nil {
		t.Fatal(err)
	}
	c.Backups = c.Backups[:1]
	choice, err := restore.Choose(c, restore.Target{Kind: restore.Latest})
	if err != nil {
		t.Logf("the backup before it leads nowhere behind it: %v", err)
		return
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(pgtest.Dir(t), "restored")
	if _, err := restore.Run(t.Context(), restore.Options{Vault: v, Choice: choice, Dir: dir, Owner: owner, Throwaway: true}); err != nil {
		t.Fatal(err)
	}
	rec, err := restore.Recover(t.Context(), choice, restore.Promote, restore.ScratchOptions{Dir: dir, Owner: owner})
	if err == nil {
		t.Errorf("%s was brought over minimal log: %v", choice.Backup.ID, rec.Stop(context.Background()))
	}
	t.Logf("the backup before it: %v", err)
}

// Scenario 8: full and incremental backups beside pgbench, one after another. No page is called damaged, none is said to have
// changed behind the log. HOLDFAST_LAB_PGBENCH says for how long; an hour else.
func TestBackupsBesideAnHourOfPgbenchRaiseNoFalseAlarm(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	long := time.Hour
	if text := os.Getenv("HOLDFAST_LAB_PGBENCH"); text != "" {
		var err error
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	_ = archive(t, r, s)
	bench := func(args ...string) {
		t.Helper()
		asOwner(t, s, "pgbench", append([]string{"-h", s.Addr, "-p", fmt.Sprint(s.Port), "-U", "postgres", "-q"}, append(args, "postgres")...)...)
	}
	bench("-i", "-s", "10")
	var g errgroup.Group
	ended := make(chan struct{})
	g.Go(func() error {
		defer close(ended)
		cmd := exec.CommandContext(t.Context(), filepath.Join(s.BinDir, "pgbench"), "-h", s.Addr, "-p", fmt.Sprint(s.Port), "-U", "postgres", "-c", "4", "-j", "2", "-n", "-T", fmt.Sprint(int(long.Seconds())), "postgres")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("pgbench: %w\n%s", err, out)
		}
		return nil
	})
	cfg, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	made, took, pages, last := 0, 0, int64(0), ""
	for going := true; going; {
		mode := []backup.Mode{"", backup.Fast, backup.Proven}[made%3]
		res, err := backup.Base(t.Context(), backup.BaseOptions{Conn: cfg, DataDir: s.Dir, Vault: v, Database: "orders", Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		b := res.Backup
		if len(b.BadPages) > 0 || len(b.Differs) > 0 || !b.Checksums {
			t.Fatalf("backup %d (%q) says of pages: bad %v, changed behind the log %v", made, mode, b.BadPages, b.Differs)
		}
		made, pages, last = made+1, pages+b.Bytes/8192, b.ID
		if b.Took {
			took++
		}
		select {
		case <-ended:
			going = false
		default:
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	wantProven(t, v, last)
	t.Logf("%d backups in %s, %d of them fast, %d pages, no alarm", made, long, took, pages)
}
