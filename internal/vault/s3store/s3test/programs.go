package s3test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// programs are the parts of Ceph that a server is made of; scripts/setup installs them.
var programs = [...]string{"ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool"}

// need skips the test where a program is not installed; in CI it fails there.
func need(t *testing.T) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed: run scripts/setup", p)
		}
		t.Skipf("%s is not installed: run scripts/setup", p)
	}
}

// command is one of Ceph's programs, told nothing by this machine's own settings of Ceph. [startsOnOneThread] starts it.
func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "CEPH_ARGS=", "CEPH_CONF=", "CEPH_KEYRING=", "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}

// run runs a program to its end. What it says is in the error.
func run(ctx context.Context, program string, args ...string) error {
	var said bytes.Buffer
	cmd := command(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	err := startsOnOneThread()(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, said.String())
	}
	return nil
}

// daemon is a program that goes on until it is killed, or this process ends.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
	log   string // the file of what it says
}

// begin starts a daemon that says what it has to say in a file.
func begin(log, program string, args ...string) (*daemon, error) {
	to, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = to.Close() }() // the daemon has its own
	d := &daemon{cmd: command(context.Background(), program, args...), ended: make(chan struct{}), log: log}
	d.cmd.Stdout, d.cmd.Stderr = to, to
	if err := startsOnOneThread()(d.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		defer close(d.ended)
		_ = d.cmd.Wait() // why it ended is in its log
	}()
	return d, nil
}

// kill ends the daemon at once, as a power cut does.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.ended
}

// hasEnded reports whether the daemon is gone.
func (d *daemon) hasEnded() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// said is the end of what the daemon said.
func (d *daemon) said() string {
	raw, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4000):])
}

// startsOnOneThread gives what starts all programs. That they die with their parent means, to the kernel, with the thread that
// started them (prctl(2), PR_SET_PDEATHSIG), and a thread of Go's may end before the process: this one does not.
var startsOnOneThread = sync.OnceValue(func() func(*exec.Cmd) error {
	type order struct {
		cmd  *exec.Cmd
		done chan<- error
	}
	orders := make(chan order)
	go func() {
		runtime.LockOSThread()
		for o := range orders {
			o.done <- o.cmd.Start()
		}
	}()
	return func(cmd *exec.Cmd) error {
		done := make(chan error)
		orders <- order{cmd, done}
		return <-done
	}
})
