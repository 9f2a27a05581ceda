package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// result is one measurement.
type result struct {
	system, what string
	wall, cpu    time.Duration // cpu: of the program, its children and the server's processes that ended meanwhile
	rss          int64         // bytes, the largest process's
	bytes        int64         // that were backed up or restored
	stored       int64         // bytes by which the repository grew
	differs      string        // how a restored copy differs from its source; "" = it does not
}

// rate is in 10^6 bytes a second.
func (r result) rate() float64 { return float64(r.bytes) / 1e6 / r.wall.Seconds() }

// measure runs one command as the server's user, to its end and until the disk has what it wrote. between says that the
// server must know of the backup (a program that copies files alone): asking it is part of the time. held says that the
// command opens its repository and waits for a word: what it took until then is not counted.
func (b *bench) measure(ctx context.Context, s system, argv []string, between, held bool) (result, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "KOPIA_PASSWORD=bench", "RESTIC_PASSWORD=bench", "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+b.server.home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.server.cred, Setpgid: true}
	cmd.Dir = b.server.home
	run := program{Cmd: cmd}
	var opened time.Duration // of the processor, for opening
	if held {
		if err := run.open(); err != nil {
			return result{}, fmt.Errorf("run %s: %w", strings.Join(argv, " "), err)
		}
		defer run.abandon()
		var err error
		if opened, err = usedBy(cmd.Process.Pid); err != nil {
			return result{}, err
		}
	}
	syscall.Sync() // what is written back is this measurement's own
	serverBefore, err := b.server.cpu()
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	var conn *pgx.Conn
	if between {
		if conn, err = b.server.backupStart(ctx); err != nil {
			return result{}, err
		}
		defer func() { _ = conn.Close(ctx) }() // backupStop has read what it had to say
	}
	if out, err := run.finish(); err != nil && (s.accepts == nil || !s.accepts(err)) {
		return result{}, fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), err, tail(out))
	}
	if between {
		if err := b.server.backupStop(ctx, conn, s.label); err != nil {
			return result{}, err
		}
	}
	syscall.Sync()
	wall := time.Since(began)
	serverAfter, err := b.server.cpu()
	if err != nil {
		return result{}, err
	}
	use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return result{}, errors.New("the system does not tell what a process used")
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() - opened
	return result{wall: wall, cpu: used + serverAfter - serverBefore, rss: use.Maxrss << 10}, nil
}

func tail(out []byte) string {
	const most = 2000
	if len(out) > most {
		out = out[len(out)-most:]
	}
	return string(out)
}

// sizeOf is how many bytes the files below a directory hold.
func sizeOf(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			if err == nil && d.Name() == "pg_wal" {
				return fs.SkipDir
			}
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			sum += fi.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return sum, nil
}

// ticks is how many of a process's ticks are a second (proc(5); 100 wherever Linux runs).
const ticks = 100

// endedChildren is the processor time of a process's children that have ended.
func endedChildren(pid int) (time.Duration, error) { return ticksOf(pid, 13) } // cutime and cstime

// usedBy is the processor time of a process so far.
func usedBy(pid int) (time.Duration, error) { return ticksOf(pid, 11) } // utime and stime

// usedByAll is the processor time so far of a process, of its children that live, and of all that have ended and were
// waited for by these.
func usedByAll(pid int) (time.Duration, error) {
	var sum time.Duration
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		one, _ := strconv.Atoi(filepath.Base(dir)) // it is a number
		fields, err := statOf(one)
		if err != nil || one != pid && fields[1] != strconv.Itoa(pid) { // it has ended, and its parent counts it, or it is another's
			continue
		}
		own, err := addTicks(fields[11:13])
		ended, errEnded := addTicks(fields[13:15])
		if err := errors.Join(err, errEnded); err != nil {
			return 0, err
		}
		sum += own + ended
	}
	return sum, nil
}

// ticksOf adds up two fields of /proc/PID/stat, counted from the first one behind the name.
func ticksOf(pid, field int) (time.Duration, error) {
	fields, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return addTicks(fields[field : field+2])
}

// statOf gives the fields of /proc/PID/stat behind the name: state, parent and so on (proc(5)).
func statOf(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("read what a process used: %w", err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("read what process %d used: %d fields", pid, len(fields))
	}
	return fields, nil
}

func addTicks(fields []string) (time.Duration, error) {
	var sum int64
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read what a process used: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}
