package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/bench/machine"
)

// server is the one PostgreSQL behind every way.
type server struct {
	bin, data string
	cred      *syscall.Credential // nil = ours
	addr      string              // addr:port
}

// clientsMax is above the most that a load opens at once.
const clientsMax = 100

// startServer makes a cluster with pgbench's tables and starts it. It is durable as a real one is: fsync is on.
func startServer(ctx context.Context, b *bench) (*server, error) {
	bin, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	s := &server{bin: strings.TrimSpace(string(bin)), data: filepath.Join(b.dir, "data")}
	if err != nil {
		if s.bin, err = debianBin(); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 {
		if s.cred, err = machine.User("postgres", "nobody"); err != nil {
			return nil, err
		}
		if err := os.Chown(b.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return nil, fmt.Errorf("give the run's directory to the server's user: %w", err)
		}
	}
	port, err := machine.FreePort(b.address)
	if err != nil {
		return nil, err
	}
	s.addr = net.JoinHostPort(b.address, port)
	if err := s.do(ctx, "initdb", "-D", s.data, "-A", "trust", "-U", "bench", "--no-sync"); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("listen_addresses='%s'\nport=%s\nunix_socket_directories=''\nmax_connections=%d\nshared_buffers=256MB\nmax_wal_size=4GB\ncheckpoint_timeout=1h\n",
		b.address, port, clientsMax)
	if err := machine.Append(filepath.Join(s.data, "postgresql.conf"), settings); err != nil {
		return nil, err
	}
	if err := machine.Append(filepath.Join(s.data, "pg_hba.conf"), "host all all "+b.address+"/32 trust\n"); err != nil {
		return nil, err
	}
	if err := s.do(ctx, "pg_ctl", "-D", s.data, "-w", "-t", "60", "-l", filepath.Join(s.data, "log"), "start"); err != nil {
		return nil, err
	}
	args := append(connect(s.addr), "-i", "-q", "-s", strconv.Itoa(b.scale), "postgres")
	if err := s.do(ctx, "pgbench", args...); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return s.do(ctx, "pg_ctl", "-D", s.data, "-w", "-m", "immediate", "stop")
}

// do runs one of PostgreSQL's programs as the server's user.
func (s *server) do(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	cmd.Dir = filepath.Dir(s.data)
	log, err := os.CreateTemp(filepath.Dir(s.data), program+"-*.log") // a file: a server that it starts keeps it open
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the program has its own copy
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log.Name()) // only for the message
		return fmt.Errorf("run %s: %w: %s", program, err, said)
	}
	return nil
}

// debianBin finds the newest of Debian's versions, for pg_config comes in another package.
func debianBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("find PostgreSQL's programs: neither pg_config nor /usr/lib/postgresql/*/bin (scripts/setup installs them)")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

func connect(addr string) []string {
	host, port, _ := net.SplitHostPort(addr) // ours
	return []string{"-h", host, "-p", port, "-U", "bench"}
}
