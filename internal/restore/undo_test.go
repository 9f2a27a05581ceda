package restore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/vault"
)

// world is a server with a vault that follows it.
type world struct {
	t        *testing.T
	server   *pgtest.Server
	vault    *vault.Vault
	vaultDir string
	receiver *backup.Receiver
	live     *pgx.ConnConfig
	owner    restore.Owner
}

func newWorld(t *testing.T, setup ...string) *world {
	t.Helper()
	w := &world{t: t, server: pgtest.New(t), vaultDir: filepath.Join(t.TempDir(), "vault")}
	var err error
	if w.vault, err = vault.Create(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.vault.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if w.owner, err = restore.DefaultOwner(); err != nil {
		t.Fatal(err)
	}
	w.receiver, err = backup.NewReceiver(backup.ReceiverOptions{Vault: w.vault, Database: "orders", Spool: filepath.Join(t.TempDir(), "spool"), PartialEvery: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgconn.ParseConfig(w.server.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.receiver.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("receiver ended with %v", err)
		}
	})
	w.server.Exec("postgres", setup...)
	if w.live, err = pgx.ParseConfig(w.server.ConnString("postgres")); err != nil {
		t.Fatal(err)
	}
	return w
}

// vaultKeys are those of all tests' vaults: stretching each again takes a quarter of a second.
var vaultKeys vault.Keyring

func (w *world) config() vault.Config {
	return vault.Config{URL: "file://" + w.vaultDir, Key: redact.Secret("k"), Keys: &vaultKeys, Application: "clinic"}
}

func (w *world) base() vault.Backup {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	res, err := backup.Base(ctx, backup.BaseOptions{Conn: w.live, DataDir: w.server.Dir, Vault: w.vault, Database: "orders"})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Backup
}

// archived waits until the vault holds all that the server has written.
func (w *world) archived() {
	w.t.Helper()
	conn := w.server.Conn("postgres")
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var behind bool
		if err := conn.QueryRow(w.t.Context(), "select pg_current_wal_lsn() > $1::text::pg_lsn", w.receiver.Status().Archived.String()).Scan(&behind); err != nil {
			w.t.Fatal(err)
		}
		if !behind {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the vault does not follow: %+v", w.receiver.Status())
		}
	}
}

func (w *world) choose(target restore.Target) restore.Choice {
	w.t.Helper()
	c, err := restore.Load(w.t.Context(), w.vault, "orders")
	if err != nil {
		w.t.Fatal(err)
	}
	ch, err := restore.Choose(c, target)
	if err != nil {
		w.t.Fatal(err)
	}
	return ch
}

func count(t *testing.T, conn *pgx.Conn, query string) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestADeletedPracticeIsFoundComparedAndPutBack(t *testing.T) {
	w := newWorld(t,
		"create table practices (id int primary key, name text)",
		"create table appointments (id int generated always as identity primary key, practice int references practices, what text, at timestamptz default now(), fee numeric(8,2), mark bytea, total int generated always as (id * 2) stored)",
		"insert into practices select g, 'practice ' || g from generate_series(1, 5) g",
		`insert into appointments (practice, what, fee, mark) select 1 + g % 5, 'it''s a \ check' || chr(10) || g, g * 1.25, decode(md5(g::text), 'hex') from generate_series(1, 1000) g`)
	w.base()
	conn := w.server.Conn("postgres")
	before := count(t, conn, "select sum(hashtext(a::text))::bigint % 2147483647 from appointments a where practice = 3")
	w.server.Exec("postgres",
		"delete from appointments where id = 8",                     // a small, wanted delete
		"delete from appointments where practice = 3",               // the mistake
		"update appointments set what = 'moved' where id in (1, 6)", // work that goes on
		"insert into appointments (practice, what) values (1, 'new')")
	w.archived()

	found, err := restore.FindDeletes(t.Context(), restore.DeleteOptions{Vault: w.vault, Database: "orders", Catalog: w.live, AtLeast: 100})
	if _, missing := os.Stat(filepath.Join(pgtest.Bin(t), "pg_waldump")); missing != nil { // as in the npm package of 18
		if p := (*problem.Problem)(nil); !errors.As(err, &p) || p.Code != "restore.no-waldump" {
			t.Fatalf("without pg_waldump: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Rows != 200 || found[0].Table != "public.appointments" {
		t.Fatalf("found %+v", found)
	}
	if age := time.Since(found[0].Committed); age < 0 || age > 5*time.Minute {
		t.Errorf("committed %s ago", age)
	}

	o := restore.RecordsOptions{Vault: w.vault, Database: "orders", At: found[0].Before(), Live: w.live, Table: "appointments", Dir: pgtest.Dir(t), Owner: w.owner, PutBack: true, DryRun: true}
	rep, err := restore.Records(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if d := rep.Diff; d.Missing != 200 || d.Changed != 2 || d.New != 1 || d.Same != 797 {
		t.Errorf("difference: %d missing, %d changed, %d new, %d same", d.Missing, d.Changed, d.New, d.Same)
	}
	if p := rep.PutBack; p == nil || !p.DryRun || p.Inserted != 200 {
		t.Errorf("dry run: %+v", p)
	}
	if n := count(t, conn, "select count(*) from appointments where practice = 3"); n != 0 {
		t.Fatalf("a dry run left %d rows", n)
	}
	o.DryRun = false
	if rep, err = restore.Records(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if p := rep.PutBack; p == nil || p.DryRun || p.Inserted != 200 || p.Already != 0 {
		t.Errorf("put back: %+v", p)
	}
	after := count(t, conn, "select sum(hashtext(a::text))::bigint % 2147483647 from appointments a where practice = 3")
	if after != before {
		t.Errorf("the rows came back differently: %d, were %d", after, before)
	}
	if n := count(t, conn, "select count(*) from appointments where id = 8 or what = 'moved' or what = 'new'"); n != 3 {
		t.Errorf("what was right in the live table is not: %d rows, want 3", n)
	}
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAValidationTellsGoodFromBad(t *testing.T) {
	w := newWorld(t, "create table rows (id int primary key, body text)", "insert into rows select g, md5(g::text) from generate_series(1, 20000) g", "vacuum rows", "checkpoint",
		// An index whose collation was made with another version of its library, and which is in order all the same.
		"create table named (name text collate \"en-x-icu\" primary key)", "insert into named select md5(g::text) from generate_series(1, 100) g",
		"update pg_collation set collversion = '1.0' where collname = 'en-x-icu'")
	good := w.base()
	dir := pgtest.Dir(t)
	o := backup.ValidateOptions{Vault: w.vault, Database: "orders", Dir: dir, Owner: w.owner}
	b, mark, err := backup.Validate(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if b.ID != good.ID || !mark.Passed {
		t.Errorf("a good backup: %+v", mark)
	}
	var names []string
	for _, c := range mark.Checks {
		names = append(names, c.Name+" "+c.Outcome)
		if told := `postgres: collation pg_catalog."en-x-icu", made with version 1.0, is sorted by version `; strings.Contains(c.Detail, told) != (c.Name == "indexes") {
			t.Errorf("the look at %s says %q of a collation of another version", c.Name, c.Detail)
		}
	}
	want := []string{"pages passed", "restore passed", "recovery passed", "databases passed", "indexes passed", "heap passed", "visibility passed", "counts passed", "files passed", "checksums passed"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d, mark.Checks)
	}
	if _, _, err := backup.Validate(t.Context(), o); !errors.Is(err, backup.ErrNothingToValidate) {
		t.Errorf("again: %v", err)
	}

	// A row that its index does not know: the page is whole, its checksum right, and reading the table shows nothing.
	w.server.Exec("postgres", "set allow_system_table_mods = on",
		"update pg_index set indisready = false, indisvalid = false where indexrelid = 'rows_pkey'::regclass",
		"insert into rows values (999999, 'unknown to the index')",
		"update pg_index set indisready = true, indisvalid = true where indexrelid = 'rows_pkey'::regclass", "checkpoint")
	bad := w.base()
	o.Backup = bad.ID
	_, mark, err = backup.Validate(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if mark.Passed {
		t.Errorf("a bad backup passed: %+v", mark.Checks)
	}
	blamed := ""
	for _, c := range mark.Checks {
		if c.Outcome == "failed" {
			blamed += c.Name + ": " + strings.Join(c.Objects, "; ") + c.Detail + "\n"
		}
	}
	if !strings.Contains(blamed, "index public.rows_pkey") {
		t.Errorf("blamed is %q", blamed)
	}
	// What was found bad is not restored from.
	if ch := w.choose(restore.Target{Kind: restore.Latest}); ch.Backup.ID != good.ID {
		t.Errorf("chose %s, of which a restore failed", ch.Backup.ID)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestARestoreRefusesAndNeverStartsHalfDone(t *testing.T) {
	w := newWorld(t, "create table rows (id int primary key)", "insert into rows select generate_series(1, 1000)")
	w.base()
	ch := w.choose(restore.Target{Kind: restore.Latest})
	t.Run("a directory with something in it is left alone", func(t *testing.T) {
		dir := pgtest.Dir(t)
		if err := os.WriteFile(filepath.Join(dir, "letter"), []byte("dear"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := restore.Run(t.Context(), restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner})
		if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "restore.not-empty" {
			t.Errorf("got %v", err)
		}
		if l, err := os.ReadDir(dir); err != nil || len(l) != 1 {
			t.Errorf("holds %v now, %v", l, err)
		}
	})
	t.Run("an interrupted restore does not start, and is taken up again", func(t *testing.T) {
		dir := filepath.Join(pgtest.Dir(t), "data")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := restore.Run(ctx, restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner, Workers: 1, Progress: func(p restore.Progress) {
			if p.Phase == "log" {
				cancel()
			}
		}})
		cancel()
		if err == nil {
			t.Fatal("the restore ended well though it was cut off")
		}
		if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("pg_control is there before the rest")
		}
		if s, err := restore.StartScratch(t.Context(), restore.ScratchOptions{Dir: dir, BinDir: w.server.BinDir, Owner: w.owner}); err == nil {
			t.Error("a half restored directory was started", s.Stop(t.Context()))
		}
		o := restore.Options{Vault: w.vault, Choice: ch, Dir: dir, Owner: w.owner}
		if _, err := restore.Database(t.Context(), o, restore.ScratchOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := restore.Release(dir); err != nil {
			t.Error(err)
		}
		conf, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
		if err != nil || bytes.Contains(conf, []byte("listen_addresses")) {
			t.Errorf("after release it still keeps to itself: %s, %v", conf, err)
		}
		at := bytes.LastIndex(conf, []byte("synchronous_standby_names"))
		if at < 0 || !bytes.HasPrefix(conf[at:], []byte("synchronous_standby_names = ''")) {
			t.Errorf("after release its commits would wait for standbys: %s", conf)
		}
	})
	t.Run("a damaged chunk stops it", func(t *testing.T) {
		n := 0
		err := filepath.WalkDir(filepath.Join(w.vaultDir, "repository"), func(p string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(filepath.Join(w.vaultDir, "repository"), p) // both are absolute
			if err != nil || d.IsDir() || !strings.HasPrefix(rel, "p") {
				return err
			}
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			raw[len(raw)/3] ^= 1
			n++
			return os.WriteFile(p, raw, 0o600)
		})
		if err != nil || n == 0 {
			t.Fatal("nothing damaged", err)
		}
		fresh, err := vault.Open(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := fresh.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		dir := filepath.Join(pgtest.Dir(t), "data")
		if _, err := restore.Run(t.Context(), restore.Options{Vault: fresh, Choice: ch, Dir: dir, Owner: w.owner}); err == nil {
			t.Fatal("restored from a damaged vault")
		}
		if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("pg_control is there although the rest is not")
		}
	})
}
