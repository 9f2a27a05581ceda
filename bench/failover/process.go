package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/bench/machine"
)

// errSilent: writes are not acknowledged.
var errSilent = errors.New("writes are not acknowledged")

// await asks again and again until there is no error, and returns the last one when the limit is over.
func await(ctx context.Context, limit, every time.Duration, ok func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// processes lists living processes by command line (words end with a zero byte) and working directory.
func processes(match func(line []byte, cwd string) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may have ended
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if match(line, cwd) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// below matches who was started with a path below a directory, or works there.
func below(dir string) func([]byte, string) bool {
	return func(line []byte, cwd string) bool {
		return bytes.Contains(line, []byte(dir+"/")) || strings.HasPrefix(cwd+"/", dir+"/")
	}
}

// killAll ends processes at once, and whom they started meanwhile, until none is left.
func killAll(match func([]byte, string) bool) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		pids, err := processes(match)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes: %v do not end", pids)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		time.Sleep(5 * time.Millisecond) // the kernel takes them down
	}
}

// killPostmaster ends the one process that a data directory names.
func killPostmaster(data string) error {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("find the postmaster: %w", err)
	}
	word, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(word))
	if err != nil {
		return fmt.Errorf("find the postmaster: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the postmaster %d: %w", pid, err)
	}
	return nil
}

// child is a process of ours; whoever starts one ends it with [child.wait].
type child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// start runs a command in a group of its own, its words appended to a log, so that a Ctrl-C reaches us alone.
func start(log string, credential *syscall.Credential, dir string, argv ...string) (*child, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	defer func() { _ = f.Close() }() // the child has its own copy
	c := &child{cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = dir, f, f
	c.cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	go func() { // ends with the process, for which down waits
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// wait returns when the process has ended, and kills it after a limit.
func (c *child) wait(limit time.Duration) error {
	select {
	case <-c.done:
		return nil
	case <-time.After(limit):
	}
	_ = c.cmd.Process.Kill() // it may have ended just now
	<-c.done
	return fmt.Errorf("end %s: it was killed, for it did not end within %s", filepath.Base(c.cmd.Path), limit)
}

// aboutMachine tells where figures come from.
func aboutMachine() string {
	return fmt.Sprintf("%s: %d cores, load before the run %s", time.Now().UTC().Format("2006-01-02 15:04 MST"), runtime.NumCPU(), machine.Load())
}
