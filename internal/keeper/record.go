package keeper

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// record is the file `pid`: what somebody needs who must end this tree after the keeper died. It is written
// before the child starts, and again with the child's pid.
type record struct {
	Life       string        `json:"life"`
	Name       string        `json:"name"`
	BootID     string        `json:"boot_id"` // nothing of an earlier boot can live
	Keeper     process       `json:"keeper"`
	Child      process       `json:"child"`     // pid 0: not started yet
	Pids       []process     `json:"pids"`      // descendants at the last look; only kept without a cgroup
	Cgroup     string        `json:"cgroup"`    // path, "" = none
	PipeNode   uint64        `json:"pipe_node"` // inode of the output pipe, which descendants inherit
	Started    time.Time     `json:"started"`
	StartedMon time.Duration `json:"started_mono"`
}

// specFile is the file `spec.json`.
type specFile struct {
	Spec
	Life string `json:"life"`
	// FenceUntil is Fence.First as a reading of bootClock, so that a slow start does not lengthen it.
	FenceUntil time.Duration `json:"fence_until"`
}

func newLife() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// bootClock is time since boot, suspension included; every process of the host reads the same.
func bootClock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("keeper: this kernel has no CLOCK_BOOTTIME: %v", err)) // Linux has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// writeRecord replaces the record, without waiting for the disk: after a crash of the host nothing is left
// that it could describe.
func writeRecord(dir string, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Name, err)
	}
	tmp := filepath.Join(dir, "."+recordName)
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Name, err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, recordName)); err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Name, err)
	}
	return nil
}

// readRecord gives nil when there is none. A file cut short belongs to a boot that crashed before the disk had
// it, which leaves nothing to describe either.
func readRecord(dir string) (*record, error) {
	path := filepath.Join(dir, recordName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the keeper's record: %w", err)
	}
	if len(strings.Trim(string(data), "\x00")) == 0 {
		return nil, nil
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &r, nil
}

func writeExit(dir string, e Exit) error {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("write the exit of %s: %w", e.Name, err)
	}
	return durable.WriteFile(filepath.Join(dir, exitName), append(data, '\n'), 0o600)
}

// readExit gives nil when there is none.
func readExit(dir string) (*Exit, error) {
	path := filepath.Join(dir, exitName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the exit: %w", err)
	}
	var e Exit
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &e, nil
}

func readSpec(path string) (specFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return specFile{}, fmt.Errorf("read the keeper's spec: %w", err)
	}
	var s specFile
	if err := json.Unmarshal(data, &s); err != nil {
		return specFile{}, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}
