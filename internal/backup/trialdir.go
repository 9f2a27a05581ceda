package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

const (
	// trialPrefix begins the name of every directory that a validation makes.
	trialPrefix = "validate-"
	// trialMark stands in such a directory, and is locked for as long as its validation runs: what has the mark and no
	// lock was left by one that was killed.
	trialMark = "holdfast.validating"
	trialData = "data"
	// socketPathMax is the longest directory in which PostgreSQL can make its socket (its file's name follows).
	socketPathMax = 90
)

// trial is the directory of one validation.
type trial struct {
	dir  string
	run  string // the server's socket and log
	lock *os.File
}

// trialAbout is what the mark says.
type trialAbout struct {
	Backup string `json:"backup"`
	Run    string `json:"run,omitempty"` // where it is not below the directory: its path would be too long for a socket
}

// newTrial makes a directory for one validation below parent.
func newTrial(parent, backup string) (*trial, error) {
	dir, err := os.MkdirTemp(parent, trialPrefix)
	if err != nil {
		return nil, err
	}
	t := &trial{dir: dir, run: filepath.Join(dir, "run")}
	if err := t.fill(backup); err != nil {
		return nil, errors.Join(err, t.remove(context.Background()))
	}
	return t, nil
}

func (t *trial) fill(backup string) (err error) {
	if t.lock, err = os.OpenFile(filepath.Join(t.dir, trialMark), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", t.lock.Name(), err)
	}
	about := trialAbout{Backup: backup}
	if len(t.run) > socketPathMax {
		if t.run, err = os.MkdirTemp("", "hf-scratch-"); err != nil {
			return err
		}
		about.Run = t.run
	} else if err := os.Mkdir(t.run, 0o700); err != nil {
		return err
	}
	raw, err := json.Marshal(about)
	if err != nil {
		return err
	}
	if _, err := t.lock.Write(raw); err != nil {
		return err
	}
	return os.Chmod(t.dir, 0o755) // PostgreSQL's user comes through
}

func (t *trial) data() string { return filepath.Join(t.dir, trialData) }

// remove ends what may still run in the directory, and takes it away.
func (t *trial) remove(ctx context.Context) error {
	err := restore.EndServer(ctx, t.data())
	if err == nil {
		err = errors.Join(os.RemoveAll(t.run), removeTrial(t.dir))
	}
	if t.lock != nil {
		err = errors.Join(err, t.lock.Close())
	}
	return err
}

// removeTrial takes the mark away last, so that what is cut off is found again.
func removeTrial(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == trialMark {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// SweepTrials removes what validations that were killed have left below parent, and ends their servers. It touches
// nothing without their mark, and nothing of one that still runs. It says which directories it removed.
func SweepTrials(ctx context.Context, parent string) (removed []string, err error) {
	all, err := filepath.Glob(filepath.Join(parent, trialPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range all {
		gone, one := sweepTrial(ctx, dir)
		if one != nil {
			err = errors.Join(err, fmt.Errorf("remove what a killed validation left in %s: %w", dir, one))
		}
		if gone {
			removed = append(removed, dir)
		}
	}
	return removed, err
}

func sweepTrial(ctx context.Context, dir string) (bool, error) {
	at, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !at.IsDir() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, trialMark), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// Killed between making the directory and marking it: nothing is in it yet. Anything else is somebody's.
		if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t := &trial{dir: dir, run: filepath.Join(dir, "run"), lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil // it runs
		}
		return false, err
	}
	raw, err := os.ReadFile(lock.Name())
	if err != nil {
		return false, errors.Join(err, lock.Close())
	}
	var about trialAbout
	// A mark that was cut off says no other directory: only its own is removed then.
	if json.Unmarshal(raw, &about) == nil && about.Run != "" {
		t.run = about.Run
	}
	return true, t.remove(ctx)
}

// roomSpare is what must stay free on the disk behind a validation, in bytes, and of how large a disk: the twentieth part,
// at most 20 GiB. The live database often lies there too.
const (
	roomSpare    = 256 << 20
	roomSpareMax = 20 << 30
)

// checkRoom refuses a validation that would leave too little room for others.
func checkRoom(dir string, b vault.Backup, log int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("ask for free space on %s: %w", dir, err)
	}
	free, size := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	if need := roomFor(b.Bytes, log, size); free < need {
		return &problem.Problem{Code: "backup.no-room-to-prove", Subject: b.Database, Severity: problem.Degraded,
			Title:   fmt.Sprintf("%s has %d MB free; restoring %s on trial needs %d MB with what must stay free", dir, free>>20, b.ID, need>>20),
			Meaning: "The backup is whole in the vault, and is not proven. Nothing was written.",
			Remedy:  "make room on that disk, or prove it on another machine: holdfast backup validate --vault URL --key FILE --dir DIR " + b.Database}
	}
	return nil
}

// roomFor is how much must be free before a validation: the data, its log twice over (replay writes too), and the spare.
func roomFor(data, log, disk int64) int64 {
	return data + 2*log + roomSpare + min(disk/20, roomSpareMax)
}
