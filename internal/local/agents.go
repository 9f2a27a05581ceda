package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Agents are the agent processes of one machine, one a host. They are no children of a terminal's group: a
// Ctrl-C reaches `up` alone, which ends them in order.
type Agents struct {
	Root       string
	Plan       string // plan file
	Executable string
	Hosts      []string
	Say        func(format string, args ...any)

	mu      sync.Mutex // guards what follows
	ending  bool
	running map[string]*exec.Cmd
}

// restartPause keeps an agent that fails at once from being started in a tight loop.
const restartPause = 300 * time.Millisecond

// PIDFile is where an agent writes its process id.
func PIDFile(root, name string) string { return filepath.Join(HostDir(root, name), "agent.pid") }

// LogFile is where an agent's own words go.
func LogFile(root, name string) string { return filepath.Join(HostDir(root, name), "agent.log") }

// HoldFile keeps a host's agent from being started while it exists: the host stays as dead as a machine without
// power. Demos and drills use it; an agent that runs is not ended by it.
func HoldFile(root, name string) string { return filepath.Join(HostDir(root, name), "hold") }

func (a *Agents) onHold(name string) bool {
	_, err := os.Stat(HoldFile(a.Root, name))
	return err == nil
}

// Run keeps every agent running until ctx ends or [Agents.End] was called, and returns when all have ended.
func (a *Agents) Run(ctx context.Context) {
	a.running = map[string]*exec.Cmd{}
	var all sync.WaitGroup
	for _, name := range a.Hosts {
		all.Go(func() {
			for !a.done(ctx) {
				if a.onHold(name) {
					// Looked at again after the pause.
				} else if err := a.once(name); err != nil && !a.done(ctx) {
					a.Say("the agent of %s ended: %v; it is started again (its words: %s)", name, err, LogFile(a.Root, name))
				}
				select {
				case <-ctx.Done():
				case <-time.After(restartPause):
				}
			}
		})
	}
	all.Wait()
}

func (a *Agents) done(ctx context.Context) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ending || ctx.Err() != nil
}

// once runs one agent to its end.
func (a *Agents) once(name string) error {
	log, err := os.OpenFile(LogFile(a.Root, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the agent has its own copy
	cmd := exec.Command(a.Executable, "agent", "--plan", a.Plan, "--host", name, "--root", a.Root, "--loopback")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	a.mu.Lock()
	if a.ending {
		a.mu.Unlock()
		return nil
	}
	err = cmd.Start()
	if err == nil {
		a.running[name] = cmd
	}
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("start the agent of %s: %w", name, err)
	}
	err = cmd.Wait()
	a.mu.Lock()
	delete(a.running, name)
	a.mu.Unlock()
	return err
}

// End asks every agent to end its host, children and all. It does not wait: Run does.
func (a *Agents) End() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ending = true
	for name, cmd := range a.running {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			a.Say("the agent of %s was not asked to end: %v", name, err)
		}
	}
}

// Running lists the hosts whose agent runs on a root, with its process id.
func Running(root string, hosts []string) map[string]int {
	out := map[string]int{}
	for _, h := range hosts {
		data, err := os.ReadFile(PIDFile(root, h))
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil || !isAgent(pid, h) {
			continue
		}
		out[h] = pid
	}
	return out
}

// isAgent checks that a process is what its pid file said, for numbers are used again.
func isAgent(pid int, host string) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	words := strings.Split(string(line), "\x00")
	return len(words) > 1 && words[1] == "agent" && strings.Contains(string(line), "\x00"+host+"\x00")
}
