// Package pgtest runs a real PostgreSQL server for tests, on a loopback address of its own.
package pgtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// address is where the test servers of this process listen: loopback, and no other process's, so that a port that was free a moment
// ago is still free when a server takes it.
func address() string { return fmt.Sprintf("127.45.%d.1", os.Getpid()%250+1) }

// Server is one server with a role and database "clinic". Its methods end the test on failure.
type Server struct {
	URL string // of the clinic role, who owns the database

	bin    string
	dir    string
	port   int
	caller *syscall.Credential // nil = run as ourselves
	child  *exec.Cmd           // nil = not running
	exited chan struct{}       // closed when child has been waited for
}

// Start makes an empty cluster and starts it; the test's end removes it. Without PostgreSQL on the machine
// the test is skipped, but fails where the environment has CI set.
func Start(t testing.TB) *Server {
	t.Helper()
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(bins) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("no PostgreSQL under /usr/lib/postgresql, and CI needs one")
		}
		t.Skip("no PostgreSQL under /usr/lib/postgresql")
	}
	slices.Sort(bins)
	s := &Server{bin: filepath.Dir(bins[len(bins)-1])}
	// t.TempDir is closed to other users, and the server runs as one when we are root.
	if s.dir, err = os.MkdirTemp("", "clinic-pg-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(s.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		s.caller = postgresUser(t)
		if err := os.Chown(data, int(s.caller.Uid), int(s.caller.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.port = freePort(t)
	t.Cleanup(func() { s.Stop(t) })
	s.Run(t)
	s.Exec(t, `CREATE ROLE clinic LOGIN`)
	s.Exec(t, `CREATE DATABASE clinic OWNER clinic`)
	s.URL = fmt.Sprintf("postgres://clinic@%s:%d/clinic?sslmode=disable", address(), s.port)
	return s
}

// Run starts the server again after Stop or Crash, and returns when it answers.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	child := s.command("postgres", "-D", filepath.Join(s.dir, "data"), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses="+address(), "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200")
	child.Stdout, child.Stderr = log, log
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = child.Wait() // Stop and Crash make it end badly on purpose
		close(exited)
	}()
	s.child, s.exited = child, exited
	deadline := time.Now().Add(5 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, s.AdminURL())
		if err == nil {
			err = conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return
		}
		select {
		case <-exited:
			t.Fatalf("the server ended while starting:\n%s", s.logText())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not answer: %v\n%s", err, s.logText())
		}
	}
}

// Stop ends the server as an administrator would (fast shutdown); a no-op when it does not run.
func (s *Server) Stop(t testing.TB) { t.Helper(); s.signal(t, syscall.SIGINT) }

// Crash ends the server without a word to its clients or its disk (immediate shutdown).
func (s *Server) Crash(t testing.TB) { t.Helper(); s.signal(t, syscall.SIGQUIT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if s.child == nil {
		return
	}
	if err := s.child.Process.Signal(sig); err != nil {
		t.Errorf("signal the server: %v", err)
	}
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		t.Error("the server did not stop within 20 s, killing it")
		_ = s.child.Process.Kill() // Wait tells how that went
		<-s.exited
	}
	s.child = nil
}

// AdminURL is the superuser's URL, to the clinic database once it exists.
func (s *Server) AdminURL() string {
	database := "postgres"
	if s.URL != "" {
		database = "clinic"
	}
	return fmt.Sprintf("postgres://postgres@%s:%d/%s?sslmode=disable", address(), s.port, database)
}

// Exec runs one statement as superuser.
func (s *Server) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Number runs a query that returns one integer, as superuser.
func (s *Server) Number(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var n int64
	if err := conn.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Await polls a query until it returns want.
func (s *Server) Await(t testing.TB, want int64, sql string, args ...any) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for s.Number(t, sql, args...) != want {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not become %d within five minutes", sql, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if s.caller != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.caller}
	}
	return cmd
}

func (s *Server) logText() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func postgresUser(t testing.TB) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("PostgreSQL does not run as root: %v", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("user postgres has ids %q, %q", u.Uid, u.Gid)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", address()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
