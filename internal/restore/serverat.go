package restore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// polite are settings of a server that others on the host must not feel.
func polite() []setting {
	return []setting{
		{"max_parallel_workers", "0"}, {"max_parallel_maintenance_workers", "0"}, {"maintenance_work_mem", "64MB"}, {"work_mem", "4MB"},
		{"bgwriter_lru_maxpages", "0"}, {"max_logical_replication_workers", "0"},
	}
}

// I/O priorities of ioprio_set(2): best effort, the lowest of its eight levels. The idle class could starve for ever.
const (
	ioprioWhoProcess = 1
	ioprioLowest     = 2<<13 | 7
	niceLowest       = 15
)

// startPolite starts a command that runs behind others from its first moment on, and with it all that it starts: a process
// has its priority from the thread that starts it. That thread ends afterwards, for without rights none gets its own back.
func startPolite(ctx context.Context, cmd *exec.Cmd, log *slog.Logger) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()              // for good: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() { // but the main thread, which never ends: it is held while another one does it
			err := startPolite(ctx, cmd, log)
			runtime.UnlockOSThread()
			started <- err
			return
		}
		if err := giveWay(); err != nil {
			log.DebugContext(ctx, "scratch server runs with usual priority", "err", err)
		}
		started <- cmd.Start()
	}()
	return <-started
}

// giveWay lets the calling thread run behind others; what it starts from then on inherits that.
func giveWay() error {
	err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceLowest)
	if _, _, no := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioLowest); no != 0 {
		err = errors.Join(err, fmt.Errorf("set the priority of its disk accesses: %w", no))
	}
	return err
}

// endGrace is how long a server whose starter is gone may take to end its own processes.
const endGrace = 10 * time.Second

// EndServer ends whatever PostgreSQL server works in a data directory whose starter is gone, and returns when none of its
// processes is left. A process is one of the server's when the directory is its working directory, and it is held by a
// descriptor while that is found out and while it is ended: a number that was given to somebody else meanwhile ends
// nobody. A directory that is not there has no server.
func EndServer(ctx context.Context, dir string) error {
	if pid := postmaster(dir); pid > 0 {
		if err := signalIn(dir, pid, unix.SIGQUIT); err != nil { // it ends its children, and gives back shared memory
			return fmt.Errorf("end the server on %s: %w", dir, err)
		}
	}
	for deadline, sig := time.Now().Add(endGrace), unix.Signal(0); ; {
		left, err := workingIn(dir)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) || postmaster(dir) == 0 {
			sig = unix.SIGKILL
		}
		if sig != 0 {
			for _, pid := range left {
				if err := signalIn(dir, pid, sig); err != nil {
					return fmt.Errorf("end the server on %s: %w", dir, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end the server on %s: %w", dir, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline.Add(endGrace)) {
			return fmt.Errorf("end the server on %s: processes %v do not end", dir, left)
		}
	}
}

// postmaster is the number that the server in dir wrote down, when that process works there; else 0.
func postmaster(dir string) int {
	f, err := os.Open(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }() // opened for reading alone
	line := bufio.NewScanner(f)
	if !line.Scan() {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line.Text()))
	if err != nil || pid <= 1 || !worksIn(pid, dir) {
		return 0
	}
	return pid
}

// worksIn reports whether a process of PostgreSQL has dir as its working directory.
func worksIn(pid int, dir string) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	at, err := os.Stat(proc + "cwd")
	if err != nil {
		return false
	}
	want, err := os.Stat(dir)
	if err != nil || !os.SameFile(at, want) {
		return false
	}
	name, err := os.ReadFile(proc + "comm")
	return err == nil && strings.HasPrefix(string(name), "postgres") // a person's shell may stand there too
}

// workingIn lists the server's processes in dir. PostgreSQL's children leave their parent's process group, but each has
// the data directory as its working directory.
func workingIn(dir string) ([]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, p := range all {
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && worksIn(pid, dir) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// signalIn sends a signal to a process that works in dir; one that is gone, or is another's by now, gets none.
func signalIn(dir string, pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written to it
	if !worksIn(pid, dir) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// killTree kills what still works in dir.
func killTree(dir string) {
	left, err := workingIn(dir)
	if err != nil {
		return
	}
	for _, pid := range left {
		_ = signalIn(dir, pid, unix.SIGKILL) // whoever removes the directory next hears that something is left
	}
}
