package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// trialMark stands in such a directory, and is locked for as long as its maker runs: what has the mark and no lock was
	// left by one that was killed. It is named after those who had it first.
	trialMark = "holdfast.validating"
	// trialMarking is the mark before it is locked.
	trialMarking = trialMark + ".new"
	trialData    = "data"
	// scratchRun begins the name of a directory for the socket that does not lie in the trial's own.
	scratchRun = "hf-scratch-"
	// socketPathMax is the longest directory in which PostgreSQL can make its socket (its file's name follows).
	socketPathMax = 90
)

// Purpose begins the name of a [Trial]'s directory.
type Purpose string

// The purposes of trials.
const (
	ForValidation Purpose = "validate-"
	ForRecords    Purpose = "records-"
	ForDiff       Purpose = "beside-"
	ForInto       Purpose = "into-"
	ForDrill      Purpose = "drill-"
	ForSample     Purpose = "sample-"
	ForSalvage    Purpose = "salvage-"
)

// purposes are all of them.
func purposes() []Purpose {
	return []Purpose{ForValidation, ForRecords, ForDiff, ForInto, ForDrill, ForSample, ForSalvage}
}

// Trial is the directory of a copy that is removed with its server when its maker is done; when its maker was killed,
// by the next one.
type Trial struct {
	Dir  string
	Run  string // the server's socket and log
	lock *os.File
}

// trialAbout is what the mark says.
type trialAbout struct {
	Backup string `json:"backup"`
	Run    string `json:"run,omitempty"` // where it is not below the directory: its path would be too long for a socket
}

// NewTrial makes a directory for a copy of a backup, or of what was put aside, below parent.
func NewTrial(parent string, why Purpose, backup string) (*Trial, error) {
	dir, err := os.MkdirTemp(parent, string(why))
	if err != nil {
		return nil, err
	}
	t := &Trial{Dir: dir, Run: filepath.Join(dir, "run")}
	if err := t.fill(backup); err != nil {
		return nil, errors.Join(err, t.Remove(context.Background()))
	}
	return t, nil
}

// openTrial removes what others that were killed have left below parent, and makes a directory of its own.
func openTrial(ctx context.Context, parent string, why Purpose, backup string) (*Trial, error) {
	if _, err := SweepTrials(ctx, parent); err != nil {
		return nil, err
	}
	return NewTrial(parent, why, backup)
}

func (t *Trial) fill(backup string) (err error) {
	if t.lock, err = os.OpenFile(filepath.Join(t.Dir, trialMarking), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", t.lock.Name(), err)
	}
	about := trialAbout{Backup: backup}
	if len(t.Run) > socketPathMax {
		if t.Run, err = os.MkdirTemp("", scratchRun); err != nil {
			return err
		}
		about.Run = t.Run
	} else if err := os.Mkdir(t.Run, 0o700); err != nil {
		return err
	}
	raw, err := json.Marshal(about)
	if err != nil {
		return err
	}
	if _, err := t.lock.Write(raw); err != nil {
		return err
	}
	if err := os.Rename(t.lock.Name(), filepath.Join(t.Dir, trialMark)); err != nil { // nobody finds it unlocked
		return err
	}
	return os.Chmod(t.Dir, 0o755) // PostgreSQL's user comes through
}

// Data is the copy's data directory.
func (t *Trial) Data() string { return filepath.Join(t.Dir, trialData) }

// Keep leaves the copy to whoever wanted it: nobody removes it any more. No server may run on it.
func (t *Trial) Keep() error {
	return errors.Join(os.RemoveAll(t.Run), os.Remove(filepath.Join(t.Dir, trialMark)), t.lock.Close())
}

// Remove ends what may still run in the directory, and takes it away.
func (t *Trial) Remove(ctx context.Context) error {
	err := EndServer(ctx, t.Data())
	if err == nil {
		err = errors.Join(os.RemoveAll(t.Run), removeTrial(t.Dir))
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

// SweepTrials removes what validations and restores that were killed have left below parent, and ends their servers. It
// touches nothing without their mark, and nothing of one that still runs. It says which directories it removed.
func SweepTrials(ctx context.Context, parent string) (removed []string, err error) {
	var all []string
	for _, why := range purposes() {
		some, err := filepath.Glob(filepath.Join(parent, string(why)+"*"))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	for _, dir := range all {
		gone, one := sweepTrial(ctx, dir)
		if one != nil {
			err = errors.Join(err, fmt.Errorf("remove what was left in %s by one that was killed: %w", dir, one))
		}
		if gone {
			removed = append(removed, dir)
		}
	}
	return removed, err
}

func sweepTrial(ctx context.Context, dir string) (bool, error) {
	lock, raw, err := openMark(dir)
	if err != nil || lock == nil {
		return false, err
	}
	t := &Trial{Dir: dir, Run: filepath.Join(dir, "run"), lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil // it runs
		}
		return false, err
	}
	var about trialAbout
	// A mark that was cut off says no other directory: only its own is removed then.
	if json.Unmarshal(raw, &about) == nil && isScratchRun(about.Run) {
		t.Run = about.Run
	}
	return true, t.Remove(ctx)
}

// markMax is more bytes than a mark has.
const markMax = 64 << 10

// openMark opens and reads the mark of a trial that this user made; nil = there is none. In a directory that anybody can write to
// others may put what looks like one: who believed it would remove what they want, or wait for ever for what is no file.
func openMark(dir string) (*os.File, []byte, error) {
	at, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!at.IsDir() || !ownedHere(at)) {
		return nil, nil, nil // another user's, who removes it in his turn
	}
	if err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, trialMark), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ELOOP) {
		return nil, nil, nil // somebody's own, or one that is just being made, or was killed then: nothing is in it yet
	}
	if err != nil {
		return nil, nil, err
	}
	is, err := lock.Stat()
	if err == nil && (!is.Mode().IsRegular() || !ownedHere(is)) {
		return nil, nil, lock.Close()
	}
	var raw []byte
	if err == nil {
		raw, err = io.ReadAll(io.LimitReader(lock, markMax))
	}
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	return lock, raw, nil
}

// ownedHere reports whether what was looked at belongs to the user of this process.
func ownedHere(at fs.FileInfo) bool {
	st, ok := at.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// isScratchRun reports whether a path is one that [Trial.fill] makes beside a trial's directory.
func isScratchRun(at string) bool {
	return filepath.Dir(at) == filepath.Clean(os.TempDir()) && strings.HasPrefix(filepath.Base(at), scratchRun)
}
