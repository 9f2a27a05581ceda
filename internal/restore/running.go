package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// stopped refuses a directory on which a server runs. postmaster.pid stays behind when a server is killed, and its number
// means nothing where the server had numbers of its own, in a container; so what is asked is whether any process that can
// be seen works in the directory, and whether somebody answers on the socket that the file names.
func stopped(dir, database string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid == 0 {
		return fmt.Errorf("read postmaster.pid of %s: %q is no process", dir, lines[0])
	}
	refuse := func(who string) error {
		return &problem.Problem{Code: "restore.running", Subject: database, Severity: problem.Critical,
			Title: fmt.Sprintf("a server runs on %s (%s)", dir, who), Meaning: "Nothing was touched.",
			Remedy: "stop it, or name another directory with --to; when it is certain that none runs, in no container either, remove postmaster.pid there"}
	}
	at, err := serverIn(dir, max(pid, -pid)) // a standalone backend writes its own as a negative number
	if err != nil {
		return err
	}
	if at != 0 {
		return refuse(fmt.Sprintf("process %d", at))
	}
	if socket := socketOf(lines); socket != "" && accepts(socket) {
		return refuse("it answers on " + socket)
	}
	return nil
}

// serverIn finds a process of a server in dir. expected counts too when where it works may not be seen. 0 = none.
func serverIn(dir string, expected int) (int, error) {
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", expected)); errors.Is(err, fs.ErrPermission) {
		return expected, nil
	}
	all, err := workingIn(dir)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	if slices.Contains(all, expected) {
		return expected, nil
	}
	return all[0], nil
}

// socketOf is the Unix socket that postmaster.pid names: its fourth line is the port, its fifth the directory.
func socketOf(lines []string) string {
	if len(lines) < 5 {
		return ""
	}
	port, folder := strings.TrimSpace(lines[3]), strings.TrimSpace(lines[4])
	if port == "" || !filepath.IsAbs(folder) {
		return ""
	}
	return filepath.Join(folder, ".s.PGSQL."+port)
}

// accepts reports whether somebody listens on a Unix socket.
func accepts(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was said
	return true
}

// orphaned reports whether a server that a restore let replay the log on dir has outlived it: the restore was killed. What tells
// is that its socket lies where restores put it, and that its starter is gone. run is the directory of that socket. It is asked of
// directories with a restore's marker alone.
func orphaned(dir string) (run string, ok bool) {
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return "", false
	}
	socket := socketOf(strings.Split(string(raw), "\n"))
	run = filepath.Dir(socket)
	if !isScratchRun(run) {
		return "", false
	}
	if pid := postmaster(dir); pid != 0 {
		return run, !startedByUs(pid)
	}
	// The number may be one of a container's own: whoever works there all the same is nobody's to end, and nor is who answers.
	left, err := workingIn(dir)
	return run, err == nil && len(left) == 0 && !accepts(socket)
}

// startedByUs reports whether a process's parent runs this same program: a restore that still waits for its server. A program of the
// same name counts too: it may have been upgraded meanwhile, or be another copy. A server whose starter was killed is the child of
// whoever takes in orphans, mostly process 1. What cannot be found out counts as waited for.
func startedByUs(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, rest, _ := strings.Cut(string(status), "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	parent, errNumber := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || errNumber != nil {
		return true
	}
	if parent <= 1 {
		return false
	}
	exe := fmt.Sprintf("/proc/%d/exe", parent)
	its, err := os.Stat(exe)
	if errors.Is(err, fs.ErrNotExist) { // it ends right now
		return false
	}
	own, errOwn := os.Stat("/proc/self/exe")
	return err != nil || errOwn != nil || os.SameFile(its, own) || programName(exe) == programName("/proc/self/exe")
}

// programName is what the file of a process was called, also when it has been removed since; exe is its link in /proc.
func programName(exe string) string {
	at, err := os.Readlink(exe)
	if err != nil {
		return ""
	}
	return filepath.Base(strings.TrimSuffix(at, " (deleted)"))
}

// endOrphan ends a server of a restore that was killed, and removes the directory of its socket. Any other is left alone.
func endOrphan(ctx context.Context, dir string) error {
	run, ok := orphaned(dir)
	if !ok {
		return nil
	}
	if err := EndServer(ctx, dir); err != nil {
		return err
	}
	return os.RemoveAll(run)
}
