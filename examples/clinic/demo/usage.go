package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ticksPerSecond is the unit of processor time in /proc/PID/stat: USER_HZ, which is 100 on every platform that
// Linux runs Go on.
const ticksPerSecond = 100

// meterPace is how often the machine is read. Processor time that a process used after its last reading is lost,
// so what is told is a little less than what was used.
const meterPace = time.Second

// meter adds up what the demo's processes ask of the machine. The demo itself, which is the load, does not count.
type meter struct {
	work string

	mu        sync.Mutex // guards what follows
	ticks     map[string]int64
	peakBytes int64
	peakCount int
	err       error // why the last reading failed; nil = it did not
}

// demand is what was asked of the machine.
type demand struct {
	processor time.Duration // of all processors together
	peakBytes int64         // of memory, pages that processes share counted once
	processes int           // at most, at once
	diskBytes int64         // in use at the end
}

// run reads until ctx ends.
func (m *meter) run(ctx context.Context) {
	for {
		m.read()
		select {
		case <-ctx.Done():
			return
		case <-time.After(meterPace):
		}
	}
}

func (m *meter) read() {
	all, err := processes()
	ours := ofDemo(all, m.work, os.Getpid())
	var bytes int64
	for _, p := range ours {
		bytes += memory(p.pid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if m.ticks == nil {
		m.ticks = map[string]int64{}
	}
	for _, p := range ours {
		m.ticks[strconv.Itoa(p.pid)+" "+p.start] = p.ticks
	}
	m.peakBytes = max(m.peakBytes, bytes)
	m.peakCount = max(m.peakCount, len(ours))
}

// demand sums up. It walks the disk.
func (m *meter) demand() (demand, error) {
	m.read()
	disk, err := diskUse(m.work)
	m.mu.Lock()
	defer m.mu.Unlock()
	out := demand{peakBytes: m.peakBytes, processes: m.peakCount, diskBytes: disk}
	for _, t := range m.ticks {
		out.processor += time.Duration(t) * time.Second / ticksPerSecond
	}
	return out, errors.Join(err, m.err)
}

// memory is a process's share of memory in bytes: its own pages, and its part of those that it shares. A
// process that has ended has none; where the kernel does not tell shares, all its pages count.
func memory(pid int) int64 {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if text, err := os.ReadFile(filepath.Join(dir, "smaps_rollup")); err == nil {
		if kib, ok := parsePss(string(text)); ok {
			return kib << 10
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "statm"))
	f := strings.Fields(string(text))
	if err != nil || len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// parsePss reads the proportional set size in KiB from smaps_rollup (proc(5)).
func parsePss(text string) (int64, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib, err == nil
		}
	}
	return 0, false
}

// diskUse is what a directory takes on disk. Files that vanish meanwhile do not count.
func diskUse(dir string) (int64, error) {
	var bytes int64
	seen := map[uint64]bool{} // inodes with several names
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				st, ok := info.Sys().(*syscall.Stat_t)
				if ok && !seen[st.Ino] {
					seen[st.Ino] = st.Nlink > 1 && !e.IsDir()
					bytes += st.Blocks * 512
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return bytes, fmt.Errorf("measure what the disk holds: %w", err)
	}
	return bytes, nil
}
