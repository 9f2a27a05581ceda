package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// The kernel path changes this host's rules, and leads only where an address is not loopback. So that a bench touches
// neither the machine's rules nor its addresses, root runs it in a network namespace of its own, which has one host:
// this. Who is not root measures on loopback, without the kernel path.
const (
	spaceMark = "HOLDFAST_BENCH_SPACE" // set in the process that is inside
	hostOwn   = "10.232.0.1"
	loopback  = "127.0.0.1"
)

// exitError is the status of the process inside.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("ended with status %d", int(e)) }

// enterSpace says whether this process is where the bench runs. Otherwise it has run it there already.
func enterSpace(ctx context.Context) (inside bool, err error) {
	if os.Getenv(spaceMark) != "" {
		for _, words := range []string{
			"link set dev lo up", "link add hf0 type veth peer name hf1", "address add " + hostOwn + "/24 dev hf0",
			"link set dev hf0 up", "link set dev hf1 up",
		} {
			if out, err := exec.CommandContext(ctx, "ip", strings.Fields(words)...).CombinedOutput(); err != nil {
				return false, fmt.Errorf("make the bench's network: ip %s: %w: %s", words, err, out)
			}
		}
		return true, nil
	}
	if os.Geteuid() != 0 {
		return true, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("start the bench in a network of its own: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...) // a Ctrl-C reaches it too, and it ends what it started
	cmd.Env = append(os.Environ(), spaceMark+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return false, exitError(max(1, exit.ExitCode()))
	}
	return false, err
}

func spaceAddress() string {
	if os.Getenv(spaceMark) != "" {
		return hostOwn
	}
	return loopback
}
