package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process names one process for ever: the kernel gives a pid again, but not with the same start.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot (proc(5), stat field 22)
}

// procStat is what /proc/PID/stat tells that matters here.
type procStat struct {
	process
	parent int
	state  byte // R, S, D, T, Z, ...
}

func (p procStat) dead() bool    { return p.state == 'Z' || p.state == 'X' }
func (p procStat) stopped() bool { return p.state == 'T' || p.state == 't' }

func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The command's name is in brackets and may itself hold brackets and blanks: fields start after the last.
	s := string(data)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("read stat of process %d: %d fields", pid, len(fields))
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return procStat{}, fmt.Errorf("read stat of process %d: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("read stat of process %d: %w", pid, err)
	}
	return procStat{process: process{PID: pid, Start: start}, parent: parent, state: fields[0][0]}, nil
}

// allProcesses lists what lives now. A process that ends meanwhile is left out.
func allProcesses() ([]procStat, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = d.Close() }() // opened for reading alone
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []procStat
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if p, err := readStat(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// descendants lists the processes below the roots, without the roots themselves and without dead ones (but
// with what lives below a dead one).
func descendants(all []procStat, roots ...int) []procStat {
	below := make(map[int][]procStat, len(all))
	for _, p := range all {
		below[p.parent] = append(below[p.parent], p)
	}
	seen := make(map[int]bool, len(roots))
	for _, r := range roots {
		seen[r] = true
	}
	var out []procStat
	for queue := roots; len(queue) > 0; queue = queue[1:] {
		for _, p := range below[queue[0]] {
			if seen[p.PID] {
				continue
			}
			seen[p.PID] = true
			queue = append(queue, p.PID)
			if !p.dead() {
				out = append(out, p)
			}
		}
	}
	return out
}

// signalProcess signals p and nobody else: the descriptor pins the process before its start is compared, so a
// pid that was given again is never hit. A process that is gone is no error.
func signalProcess(p process, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }() // a pidfd holds nothing that closing could lose
	now, err := readStat(p.PID)
	if err != nil || now.Start != p.Start {
		return nil // gone, or another process by now
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// alive reports whether exactly this process still runs.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	now, err := readStat(p.PID)
	return err == nil && now.Start == p.Start && !now.dead()
}

// pipeHolders lists processes started since `since` that have the pipe as output or error output: what a
// keeper's descendants inherit, whoever their parent is by now.
func pipeHolders(all []procStat, node uint64, since uint64) []procStat {
	if node == 0 {
		return nil
	}
	want := "pipe:[" + strconv.FormatUint(node, 10) + "]"
	var out []procStat
	for _, p := range all {
		if p.Start < since || p.dead() {
			continue
		}
		for _, fd := range []string{"1", "2"} {
			if at, err := os.Readlink("/proc/" + strconv.Itoa(p.PID) + "/fd/" + fd); err == nil && at == want {
				out = append(out, p)
				break
			}
		}
	}
	return out
}
