// Package pgtest runs a real PostgreSQL server for tests. Every process it starts ends with the test.
package pgtest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/disktest"
	"holdfast/internal/restore"
)

// Server is one server on a loopback address.
type Server struct {
	T      testing.TB
	Dir    string // data directory
	BinDir string
	Addr   string
	Port   int
	Owner  restore.Owner
	cmd    *exec.Cmd
	exited chan struct{}
}

// Dir is an empty directory that PostgreSQL's user can reach, removed with the test. t.TempDir is not: its
// parents belong to root alone.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hfpg-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Bin finds the PostgreSQL that HOLDFAST_TEST_POSTGRES names, else any, or skips the test.
func Bin(t testing.TB) string {
	t.Helper()
	if named := os.Getenv("HOLDFAST_TEST_POSTGRES"); named != "" {
		major, err := strconv.Atoi(named)
		if err != nil {
			t.Fatalf("HOLDFAST_TEST_POSTGRES: %v", err)
		}
		dir, err := restore.FindBinDir(major)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, major := range []int{15, 16, 17, 18, 14} {
		if dir, err := restore.FindBinDir(major); err == nil {
			return dir
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no PostgreSQL on this machine")
	}
	t.Skip("no PostgreSQL on this machine")
	return ""
}

// New makes and starts a primary with checksums.
func New(t testing.TB, initdb ...string) *Server {
	t.Helper()
	s := prepare(t)
	if err := s.fill(initdb); err != nil {
		t.Fatal(err)
	}
	s.Start()
	return s
}

// fill makes the directory of a new cluster. The first one of each test is a copy of one that initdb made for all of them, which takes
// a quarter of the time; others would be the same cluster by their identifier.
func (s *Server) fill(initdb []string) error {
	test, _, _ := strings.Cut(s.T.Name(), "/")
	if _, another := firsts.LoadOrStore(test, true); another || len(initdb) > 0 {
		return s.initdb(s.Dir, initdb...)
	}
	from, err := template(s)
	if err != nil {
		return err
	}
	if said, err := exec.Command("cp", "-a", from, s.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, said)
	}
	return nil
}

// firsts are the tests that have a copy of the template.
var firsts sync.Map

// shared is the template of this process.
var shared struct {
	once  sync.Once
	dir   string
	alive io.Closer // that it is open says that this process has not ended
	err   error
}

// template is the directory of a cluster that never ran, made with the programs of the first server that asks.
func template(s *Server) (string, error) {
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("/tmp", "hfpg-template-")
		if err == nil {
			shared.alive, err = disktest.RemoveBehindUs(dir)
		}
		if err == nil && s.Owner.Set {
			err = os.Chown(dir, int(s.Owner.UID), int(s.Owner.GID))
		}
		if err == nil {
			shared.dir = filepath.Join(dir, "data")
			err = s.initdb(shared.dir)
		}
		shared.err = err
	})
	return shared.dir, shared.err
}

func (s *Server) initdb(dir string, more ...string) error {
	args := append([]string{"-D", dir, "-U", "postgres", "-A", "trust", "--data-checksums", "--no-sync", "-E", "UTF8", "--locale=C"}, more...)
	if said, err := s.command("initdb", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, said)
	}
	return nil
}

// Standby clones and starts a standby of s.
func (s *Server) Standby() *Server {
	s.T.Helper()
	n := prepare(s.T)
	s.copyTo(n)
	n.Start()
	return n
}

// copyTo makes n a copy of s that will stream from it, by PostgreSQL's low-level backup: pg_basebackup does not come
// with every set of programs.
func (s *Server) copyTo(n *Server) {
	s.T.Helper()
	ctx := s.T.Context()
	c := s.Conn("postgres")
	if _, err := c.Exec(ctx, "select pg_backup_start('standby', true)"); err != nil {
		s.T.Fatal(err)
	}
	if err := os.CopyFS(n.Dir, os.DirFS(s.Dir)); err != nil {
		s.T.Fatal(err)
	}
	var label string
	if err := c.QueryRow(ctx, "select labelfile from pg_backup_stop(false)").Scan(&label); err != nil {
		s.T.Fatal(err)
	}
	if err := os.Remove(filepath.Join(n.Dir, "postmaster.pid")); err != nil {
		s.T.Fatal(err)
	}
	for name, text := range map[string]string{
		"backup_label": label, "standby.signal": "",
		"postgresql.auto.conf": fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres'\n", s.Addr, s.Port),
	} {
		if err := os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o600); err != nil {
			s.T.Fatal(err)
		}
	}
	s.copySpaces(n)
	err := filepath.WalkDir(filepath.Dir(n.Dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			return nil
		}
		mode := fs.FileMode(0o600)
		if d.IsDir() {
			mode = 0o700
		}
		if err := os.Chmod(path, mode); err != nil || !n.Owner.Set {
			return err
		}
		return os.Chown(path, int(n.Owner.UID), int(n.Owner.GID))
	})
	if err != nil {
		s.T.Fatal(err)
	}
}

// copySpaces gives n tablespaces of its own: two servers cannot share one.
func (s *Server) copySpaces(n *Server) {
	s.T.Helper()
	links, err := filepath.Glob(filepath.Join(s.Dir, "pg_tblspc", "*"))
	if err != nil {
		s.T.Fatal(err)
	}
	for _, l := range links {
		own, link := n.Dir+".spaces-"+filepath.Base(l), filepath.Join(n.Dir, "pg_tblspc", filepath.Base(l))
		to, err := os.Readlink(l)
		if err == nil {
			err = os.CopyFS(own, os.DirFS(to))
		}
		if err == nil {
			err = os.RemoveAll(link)
		}
		if err == nil {
			err = os.Symlink(own, link)
		}
		if err != nil {
			s.T.Fatal(err)
		}
	}
}

// Space makes a directory for a tablespace of s.
func (s *Server) Space(name string) string {
	s.T.Helper()
	place := filepath.Join(filepath.Dir(s.Dir), name)
	if err := os.Mkdir(place, 0o700); err != nil {
		s.T.Fatal(err)
	}
	if s.Owner.Set {
		if err := os.Chown(place, int(s.Owner.UID), int(s.Owner.GID)); err != nil {
			s.T.Fatal(err)
		}
	}
	return place
}

// servers counts those of this process.
var servers atomic.Uint32

// ownAddress is a loopback address that no other server has, of this process or of another package's tests: a port that was free
// a moment ago is still free there when the server takes it.
func ownAddress() string {
	return fmt.Sprintf("127.44.%d.%d", os.Getpid()%250+1, servers.Add(1)%250+1)
}

func prepare(t testing.TB) *Server {
	t.Helper()
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	s := &Server{T: t, Dir: filepath.Join(dir, "data"), BinDir: Bin(t), Addr: ownAddress(), Owner: owner}
	if owner.Set {
		if err := os.Chown(dir, int(owner.UID), int(owner.GID)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", s.Addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.BinDir, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Dir = filepath.Dir(s.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.Owner.Set {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.Owner.UID, Gid: s.Owner.GID, Groups: []uint32{s.Owner.GID}}
	}
	return cmd
}

// Start runs the server and waits until it answers.
func (s *Server) Start() {
	s.T.Helper()
	s.StartWith()
}

// StartWith is Start with settings (name=value) over the usual ones. A server that still runs is not started again:
// two servers cannot have one directory.
func (s *Server) StartWith(settings ...string) {
	s.T.Helper()
	if s.running() {
		s.T.Fatalf("server on %s runs already", s.Dir)
	}
	logFile, err := os.OpenFile(s.Dir+".log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		s.T.Fatal(err)
	}
	cmd := s.command("postgres", "-D", s.Dir, "-c", "listen_addresses="+s.Addr, "-c", fmt.Sprintf("port=%d", s.Port),
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "wal_level=replica", "-c", "max_prepared_transactions=2", "-c", "max_wal_senders=10",
		"-c", "wal_keep_size=256MB", "-c", "wal_retrieve_retry_interval=100ms", "-c", "log_min_messages=warning")
	for _, x := range settings {
		cmd.Args = append(cmd.Args, "-c", x)
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	if err := logFile.Close(); err != nil {
		s.T.Fatal(err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // its log says why
		close(exited)
	}()
	s.T.Cleanup(s.Kill)
	deadline := time.Now().Add(5 * time.Minute)
	for {
		conn, err := pgx.Connect(context.Background(), s.ConnString("postgres"))
		if err == nil {
			_ = conn.Close(context.Background()) // only asked
			return
		}
		select {
		case <-exited:
		case <-time.After(50 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		raw, _ := os.ReadFile(s.Dir + ".log") // for the message alone
		s.T.Fatalf("server on %s does not start: %v\n%s", s.Dir, err, raw)
	}
}

// running says that it was started and has not ended.
func (s *Server) running() bool {
	if s.exited == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Kill ends the server at once, as a crash does; harmless when it is gone.
func (s *Server) Kill() {
	if !s.running() {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGQUIT) // gone is as good
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill() // gone is as good
		<-s.exited
	}
}

// Follow makes a standby stream from another server.
func (s *Server) Follow(primary *Server) {
	s.T.Helper()
	s.Exec("postgres", fmt.Sprintf("alter system set primary_conninfo = 'host=%s port=%d user=postgres'", primary.Addr, primary.Port), "select pg_reload_conf()")
}

// ConnString leads to a database of the server.
func (s *Server) ConnString(database string) string {
	return fmt.Sprintf("postgres://postgres@%s:%d/%s?sslmode=disable", s.Addr, s.Port, database)
}

// Conn opens a connection that ends with the test.
func (s *Server) Conn(database string) *pgx.Conn {
	s.T.Helper()
	conn, err := pgx.Connect(context.Background(), s.ConnString(database))
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Exec runs statements one by one.
func (s *Server) Exec(database string, statements ...string) {
	s.T.Helper()
	conn := s.Conn(database)
	defer func() { _ = conn.Close(context.Background()) }() // statements have their own errors
	for _, q := range statements {
		if _, err := conn.Exec(context.Background(), q); err != nil {
			s.T.Fatalf("%s: %v", q, err)
		}
	}
}
