// Package host is one host of a plan as a running thing: it opens the drivers, keeps the child processes
// (etcd member, listeners, edge) under keepers, and runs the agent over them. It is the one place, beside the
// command line, that knows every driver; what it decides is only order: what comes up before what.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Config says which host of which plan, and where its files lie.
type Config struct {
	Plan       *plan.Plan // with its root filled in
	Self       string
	Dir        string // this host's own directory
	Executable string // the holdfast program
	Version    string
	Log        *slog.Logger
	// Prepare makes of a parsed plan what Plan is: with this machine's root and addresses. nil = as parsed.
	Prepare   func(*plan.Plan) *plan.Plan
	Authority string       // where the application's authority lies on this machine; "" = elsewhere
	Running   func() error // called once the host's directory is ours; nil = nobody asks

	former *applied // of the life before in this process; nil = this is the first
}

// Following is the same host with the list of hosts that was applied last, as its own disk has it, whatever its file says.
func (c Config) Following() Config {
	c.Plan = newApplied(c).start
	return c
}

// Layout of a host's directory.
func certDir(dir string) string         { return filepath.Join(dir, "tls") }
func keepDir(dir, child string) string  { return filepath.Join(dir, "keep", child) }
func specFile(dir, child string) string { return filepath.Join(dir, "keep", child+".spec.json") }
func runDir(dir string) string          { return filepath.Join(dir, "run") }
func databaseDir(dir, name string) string {
	return filepath.Join(dir, "db", name)
}

// CertDir is where a host's certificates lie, for whoever issues them.
func CertDir(dir string) string { return certDir(dir) }

// lock makes sure that one agent alone works on a host's directory.
func lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, "agent.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the host's directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // never locked
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &problem.Problem{
				Code: "host.in-use", Subject: filepath.Base(dir), Severity: problem.Critical,
				Title:   "another agent works on " + dir,
				Meaning: "Nothing was started and nothing was changed.",
				Remedy:  "use the one that runs (holdfast status), or end it first",
			}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func hostPort(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// portFree refuses a port that somebody else listens on, with what is known of it.
func portFree(ctx context.Context, what, address string, port int) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", hostPort(address, port))
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return &problem.Problem{
			Code: "host.address", Subject: what, Severity: problem.Critical,
			Title:   fmt.Sprintf("cannot listen on %s: %v", hostPort(address, port), err),
			Meaning: "Nothing was started on this port.",
			Remedy:  "correct the host's address in the plan, or give this machine that address",
		}
	}
	return &problem.Problem{
		Code: "host.port-in-use", Subject: what, Severity: problem.Critical,
		Title:   fmt.Sprintf("%s is in use by another program", hostPort(address, port)),
		Meaning: "Nothing of the other program was touched, and nothing was started here.",
		Remedy:  fmt.Sprintf("see who it is (ss -ltnp 'sport = :%d'), end it, or choose another port in the plan", port),
	}
}
