package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
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
		if s.cred, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(b.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return nil, fmt.Errorf("give the run's directory to the server's user: %w", err)
		}
	}
	port, err := freePort(b.address)
	if err != nil {
		return nil, err
	}
	s.addr = net.JoinHostPort(b.address, port)
	if err := s.do(ctx, "initdb", "-D", s.data, "-A", "trust", "-U", "bench", "--no-sync"); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("listen_addresses='%s'\nport=%s\nunix_socket_directories=''\nmax_connections=%d\nshared_buffers=256MB\nmax_wal_size=4GB\ncheckpoint_timeout=1h\n",
		b.address, port, clientsMax)
	if err := appendTo(filepath.Join(s.data, "postgresql.conf"), settings); err != nil {
		return nil, err
	}
	if err := appendTo(filepath.Join(s.data, "pg_hba.conf"), "host all all "+b.address+"/32 trust\n"); err != nil {
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

// unprivileged is who runs the server when we are root, which PostgreSQL refuses to be.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("find a user for the server: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func connect(addr string) []string {
	host, port, _ := net.SplitHostPort(addr) // ours
	return []string{"-h", host, "-p", port, "-U", "bench"}
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// freePort is one that nobody listens on now.
func freePort(address string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
