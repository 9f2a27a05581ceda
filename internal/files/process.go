package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process names one process for ever: a pid is given again, but not with the same start in the same run of the machine.
type Process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // the kernel's ticks after the machine's start
	Boot  string `json:"boot"`
}

// ProcessOf is the process that has a pid now.
func ProcessOf(pid int) (Process, error) {
	st, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: st.start, Boot: bootID()}, nil
}

// stat is what the kernel tells of a process.
type stat struct {
	group int
	start string
	dead  bool // it has ended, and its parent has not asked yet how
}

func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:])) // the name before it may hold anything
	if len(f) < 20 {
		return stat{}, fmt.Errorf("read stat of process %d: %d fields", pid, len(f))
	}
	group, err := strconv.Atoi(f[2])
	if err != nil {
		return stat{}, fmt.Errorf("read stat of process %d: %w", pid, err)
	}
	return stat{group: group, start: f[19], dead: f[0] == "Z" || f[0] == "X"}, nil
}

// End kills the group that the process leads, and gives nil once none of it lives. One that has ended by itself is left
// alone with all that it left behind: that was meant to go on.
func (p Process) End(ctx context.Context) error {
	if p.PID <= 1 || p.Boot != bootID() {
		return nil
	}
	if st, err := readStat(p.PID); err != nil || st.dead || st.start != p.Start {
		return nil // gone, or another one by now
	}
	if err := unix.Kill(-p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process group %d: %w", p.PID, err)
	}
	for {
		left, err := inGroup(p.PID)
		if err != nil || !left {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end process group %d: %w", p.PID, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// inGroup reports whether a process of a group lives.
func inGroup(group int) (bool, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.group == group && !st.dead { // one that ends meanwhile is none
			return true, nil
		}
	}
	return false, nil
}
