package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process of ours.
type child struct {
	name string
	cmd  *exec.Cmd
}

// start runs a process until stop, its words in a log.
func (b *bench) start(name, program string, args ...string) (*child, error) {
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own copy
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &child{name, cmd}, nil
}

// stop asks the process to end, and waits.
func (c *child) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("end %s: %w", c.name, err)
	}
	late := time.AfterFunc(20*time.Second, func() { _ = c.cmd.Process.Kill() }) // it may have ended just now
	defer late.Stop()
	_ = c.cmd.Wait() // HAProxy ends with status 143 when it is asked to
	if s := c.cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() && s.Signal() == syscall.SIGKILL {
		return fmt.Errorf("end %s: it did not within 20 s, and was killed", c.name)
	}
	return nil
}

// ticks is how many of a process's ticks are a second (proc(5); 100 wherever Linux runs).
const ticks = 100

// cpu is the processor time that the process has used.
func (c *child) cpu() (time.Duration, error) {
	if c == nil {
		return 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read what %s used: %w", c.name, err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var sum int64
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read what %s used: %w", c.name, err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}
