package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/bench/machine"
)

// server is the PostgreSQL that is backed up. Nothing writes to it while a backup is measured.
type server struct {
	bin, data, home string
	archive         string // where its log goes, the same for every system
	port            string
	cred            *syscall.Credential // nil = ours
	pid             int
}

// startServer makes a cluster with the data of the run and starts it with its log archived.
func startServer(ctx context.Context, b *bench) (*server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &server{bin: bin, home: filepath.Join(b.dir, "server")}
	s.data, s.archive = filepath.Join(s.home, "data"), filepath.Join(s.home, "archive")
	if os.Geteuid() == 0 {
		if s.cred, err = machine.User("postgres"); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.home, s.archive} {
		if err := s.freshDir(dir); err != nil {
			return nil, err
		}
	}
	if s.port, err = machine.FreePort("127.0.0.1"); err != nil {
		return nil, err
	}
	if err := s.do(ctx, filepath.Join(bin, "initdb"), "-D", s.data, "-A", "trust", "-U", "postgres", "-k", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf(`listen_addresses = ''
port = %s
unix_socket_directories = '%s'
shared_buffers = 256MB
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
synchronous_commit = off
archive_command = 'cp %%p %s/%%f'
`, s.port, s.home, s.archive)
	if err := machine.Append(filepath.Join(s.data, "postgresql.conf"), settings); err != nil {
		return nil, err
	}
	if err := s.start(ctx, "-c archive_mode=off -c wal_level=minimal -c max_wal_senders=0"); err != nil {
		return nil, err
	}
	began := time.Now()
	err = s.fill(ctx, b.mb)
	if err = errors.Join(err, s.stop()); err != nil {
		return nil, err
	}
	if err := s.start(ctx, "-c archive_mode=on"); err != nil {
		return nil, err
	}
	size, err := s.size()
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	_, _ = fmt.Fprintf(b.out, "%d MB in 5 tables with text, JSON and indexes, made in %s\n", size/1_000_000, time.Since(began).Round(time.Second)) // standard output
	return s, nil
}

func (s *server) start(ctx context.Context, options string) error {
	err := s.do(ctx, filepath.Join(s.bin, "pg_ctl"), "-D", s.data, "-w", "-t", "120", "-l", filepath.Join(s.home, "log"), "-o", options, "start")
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	s.pid, err = strconv.Atoi(first)
	return err
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return s.do(ctx, filepath.Join(s.bin, "pg_ctl"), "-D", s.data, "-w", "-t", "300", "-m", "fast", "stop")
}

func (s *server) dsn() string {
	return fmt.Sprintf("host=%s port=%s user=postgres dbname=bench", s.home, s.port)
}

// fetch is the restore_command with which every restored copy finds its log.
func (s *server) fetch() string { return "cp " + s.archive + "/%f %p" }

func (s *server) size() (int64, error) { return sizeOf(s.data) }

func (s *server) cpu() (time.Duration, error) { return endedChildren(s.pid) }

// fill makes about so many megabytes: words as frequent as in a language, JSON, numbers and times, and indexes over them.
func (s *server) fill(ctx context.Context, mb int) error {
	conn, err := pgx.Connect(ctx, strings.Replace(s.dsn(), "dbname=bench", "dbname=postgres", 1))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "create database bench")
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	if conn, err = pgx.Connect(ctx, s.dsn()); err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // each statement has told its own error
	for _, q := range []string{
		`create table words (id bigint, word text not null)`,
		`create table documents (id bigint, customer int not null, kind text not null, created timestamptz not null, about jsonb not null, body text not null)`,
		`create table orders (id bigint, customer int not null, state text not null, placed timestamptz not null, total numeric(10, 2) not null, remark text)`,
		`create table accounts (id bigint, branch int not null, balance bigint not null, filler text not null)`,
		`create table events (id uuid not null, at timestamptz not null, host int not null, value double precision not null)`,
	} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("fill the source: %w", err)
		}
	}
	if err := copyRows(ctx, conn, mb); err != nil {
		return fmt.Errorf("fill the source: %w", err)
	}
	for _, q := range []string{
		"alter table documents add primary key (id)", "create index on documents (customer, created)",
		"alter table orders add primary key (id)", "create index on orders (customer)", "create index on orders (placed)",
		"alter table accounts add primary key (id)",
		"create index on events (id)", "create index on events (at)",
		"vacuum (analyze, freeze)", "checkpoint",
	} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("fill the source: %w", err)
		}
	}
	return nil
}

// change is what happens to the data between two backups: statements that are given how far through each table, in
// percent, their stretch of it begins.
type change struct {
	what       string // what the backup behind it is called
	statements []string
}

// clustered updates as many rows of one table as hold one percent of the data, neighbours in the table and in its index: what
// the peers' scripts call clustered (../shared/peers/backup), where a changed row takes few others with it.
var clustered = change{"clustered", []string{
	`update accounts set balance = balance + 1 where id > (select max(id) from accounts) * $1 / 100
	  and id <= (select max(id) from accounts) * $1 / 100 + (select max(id) / 100.0 * pg_database_size(current_database()) / pg_table_size('accounts') from accounts)`,
}}

// scattered updates one percent of the rows of the two largest tables, each a stretch, as an application does that works on
// what is recent; their indexes by customer are touched everywhere.
var scattered = change{"scattered", []string{
	`update documents set about = about || '{"seen": true}' where id between (select max(id) from documents) * $1 / 100 and (select max(id) from documents) * ($1 + 1) / 100`,
	`update orders set state = 'changed', total = total + 1 where id between (select max(id) from orders) * $1 / 100 and (select max(id) from orders) * ($1 + 1) / 100`,
}}

// change makes the change, another stretch in each round, and returns which share of all pages of tables and indexes it
// wrote to.
func (s *server) change(ctx context.Context, round int, c change) (share float64, err error) {
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }() // each statement has told its own error
	var before uint64
	if err := conn.QueryRow(ctx, "select (pg_current_wal_insert_lsn() - '0/0')::bigint").Scan(&before); err != nil {
		return 0, fmt.Errorf("change one percent: %w", err)
	}
	part := round*7%85 + 5 // percent of the way through
	for _, q := range c.statements {
		if _, err := conn.Exec(ctx, q, part); err != nil {
			return 0, fmt.Errorf("change one percent: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, "checkpoint"); err != nil {
		return 0, fmt.Errorf("change one percent: %w", err)
	}
	return writtenSince(filepath.Join(s.data, "base"), before)
}

// writtenSince is the share of the pages of relations below dir whose own position in the log is behind the given one.
func writtenSince(dir string, lsn uint64) (float64, error) {
	const page = 8192
	var pages, written float64
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.ContainsAny(d.Name(), "_P") { // other forks, PG_VERSION
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		head := make([]byte, 8)
		for at := int64(0); ; at += page {
			if _, err := f.ReadAt(head, at); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			pages++
			if uint64(binary.NativeEndian.Uint32(head))<<32|uint64(binary.NativeEndian.Uint32(head[4:])) > lsn {
				written++
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("count the pages that changed: %w", err)
	}
	return written / pages, nil
}

// sums tells of every table how many rows it has and what they are.
func (s *server) sums(ctx context.Context) (map[string]string, error) { return sums(ctx, s.dsn()) }

func sums(ctx context.Context, dsn string) (map[string]string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	out := map[string]string{}
	for _, table := range []string{"words", "documents", "orders", "accounts", "events"} {
		var rows int64
		var sum string
		if err := conn.QueryRow(ctx, "select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text from "+table+" t").Scan(&rows, &sum); err != nil {
			return nil, fmt.Errorf("add up %s: %w", table, err)
		}
		out[table] = fmt.Sprintf("%d rows, %s", rows, sum)
	}
	return out, nil
}

func differences(want, got map[string]string) string {
	var out []string
	for table, w := range want {
		if got[table] != w {
			out = append(out, fmt.Sprintf("%s has %s, not %s", table, got[table], w))
		}
	}
	return strings.Join(out, "; ")
}

// backupStart and backupStop stand around programs that copy files and know nothing of PostgreSQL.
func (s *server) backupStart(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return nil, err
	}
	call := "pg_backup_start('bench', true)"
	if conn.PgConn().ParameterStatus("server_version") < "15" {
		call = "pg_start_backup('bench', true, false)"
	}
	if _, err := conn.Exec(ctx, "select "+call); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

func (s *server) backupStop(ctx context.Context, conn *pgx.Conn, label string) error {
	call := "pg_backup_stop(false)"
	if conn.PgConn().ParameterStatus("server_version") < "15" {
		call = "pg_stop_backup(false, false)"
	}
	var text string
	if err := conn.QueryRow(ctx, "select labelfile from "+call).Scan(&text); err != nil {
		return fmt.Errorf("end the backup: %w", err)
	}
	return os.WriteFile(label, []byte(text), 0o644)
}

// look starts a server on a restored copy, lets it recover, and adds up its tables. label is a backup_label to put there first; led says that
// the copy knows itself where its log is and where recovery ends.
func (s *server) look(ctx context.Context, data, label string, led bool) (got map[string]string, err error) {
	if _, err := s.ask(ctx); err != nil { // the log up to here is in the archive
		return nil, err
	}
	if label != "" {
		text, err := os.ReadFile(label)
		if err != nil {
			return nil, err
		}
		if err := s.write(filepath.Join(data, "backup_label"), string(text)); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := s.write(filepath.Join(data, "recovery.signal"), ""); err != nil {
		return nil, err
	}
	port, err := machine.FreePort("127.0.0.1")
	if err != nil {
		return nil, err
	}
	options := fmt.Sprintf(`-p %s -c archive_mode=off -c listen_addresses= -c unix_socket_directories=%s -c fsync=off`, port, s.home)
	if !led {
		options += fmt.Sprintf(` -c recovery_target=immediate -c recovery_target_action=promote -c "restore_command=%s"`, s.fetch())
	}
	if err := s.do(ctx, filepath.Join(s.bin, "pg_ctl"), "-D", data, "-w", "-t", "300", "-l", filepath.Join(s.home, "restored.log"), "-o", options, "start"); err != nil {
		said, _ := os.ReadFile(filepath.Join(s.home, "restored.log")) // only for the message
		return nil, fmt.Errorf("%w: %s", err, tail(said))
	}
	defer func() {
		err = errors.Join(err, s.do(context.WithoutCancel(ctx), filepath.Join(s.bin, "pg_ctl"), "-D", data, "-w", "-m", "immediate", "stop"))
	}()
	return sums(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=bench", s.home, port))
}

// ask makes the server close its segment and waits until the archive has it.
func (s *server) ask(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	var segment string
	if err := conn.QueryRow(ctx, "select pg_walfile_name(pg_switch_wal())").Scan(&segment); err != nil {
		return "", err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var last *string
		if err := conn.QueryRow(ctx, "select last_archived_wal from pg_stat_archiver").Scan(&last); err != nil {
			return "", err
		}
		if last != nil && *last >= segment {
			return segment, nil
		}
		if _, err := os.Stat(filepath.Join(s.archive, segment)); err == nil {
			return segment, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("segment %s is not in the archive after a minute", segment)
		}
	}
}

// do runs a program as the server's user.
func (s *server) do(ctx context.Context, argv ...string) error {
	log, err := os.CreateTemp("", "bench-backup-*.log") // a file: a server that it starts keeps it open
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(log.Close(), os.Remove(log.Name())) }() // the program has its own copy
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "KOPIA_PASSWORD=bench", "RESTIC_PASSWORD=bench", "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+s.home)
	cmd.SysProcAttr, cmd.Dir = s.attr(), s.home
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log.Name()) // only for the message
		return fmt.Errorf("run %s: %w: %s", filepath.Base(argv[0]), err, tail(said))
	}
	return nil
}

// freshDir makes an empty directory of the server's user.
func (s *server) freshDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return s.give(dir)
}

func (s *server) give(path string) error {
	if s.cred == nil {
		return nil
	}
	return os.Chown(path, int(s.cred.Uid), int(s.cred.Gid))
}

func (s *server) write(path, text string) error {
	return errors.Join(os.WriteFile(path, []byte(text), 0o600), s.give(path))
}

// programs finds the newest PostgreSQL that has pg_basebackup beside its server.
func programs() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_basebackup")
	if err == nil && len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	out, err := exec.Command("pg_config", "--bindir").Output()
	if err != nil {
		return "", errors.New("find PostgreSQL's programs: neither in /usr/lib/postgresql nor by pg_config (scripts/setup installs them)")
	}
	return strings.TrimSpace(string(out)), nil
}
