package point

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// RecordFile stands in the directory of a restored point, and says how far it is and what was found.
const RecordFile = "recovery-point.json"

// The outcomes of a restore that came to its end.
const (
	Passed = "passed" // everything is as it was stored, every command ended well
	Failed = "failed" // it is there, and not to be opened
)

// Record is how far the restore of a point is, and in the end what came of it.
type Record struct {
	Format   int             `json:"format"` // 1
	Point    vault.Point     `json:"point"`
	Set      string          `json:"files"`
	Backup   string          `json:"backup"`      // of the files
	Base     string          `json:"base_backup"` // of the database
	Began    time.Time       `json:"began"`
	FilesAt  string          `json:"files_at,omitempty"`         // where the files lie; "" = with the rest, see [FilesDir]
	Files    *files.Restored `json:"restored_files,omitempty"`   // they are all there
	Database time.Time       `json:"restored_database,omitzero"` // when it was; zero = not yet
	Serving  bool            `json:"serving,omitempty"`          // a server of ours may run on it
	Touched  bool            `json:"touched,omitempty"`          // a command has worked on it: the files are the application\'s
	Outcome

	// Again says that the call that gave this had nothing to do: it had passed before, and was not looked at again.
	Again bool `json:"-"`
}

// Outcome is what a restored point was found to be.
type Outcome struct {
	Outcome  string          `json:"outcome,omitempty"` // "" = not at the end
	Because  string          `json:"because,omitempty"` // of Failed, in a sentence
	Ended    time.Time       `json:"ended,omitzero"`
	Verified *files.Verified `json:"verified,omitempty"` // each file against what was stored
	Lacks    vault.Names     `json:"lacks,omitzero"`     // of the files, what could not be restored as it was
	After    []Ran           `json:"after_restore,omitempty"`
	Check    *Ran            `json:"check,omitempty"` // nil = the application was not asked
}

const recordFormat = 1

// readRecord reads what a restore before has left in a directory; false = nothing was restored to there.
func readRecord(dir string) (Record, bool, error) {
	var r Record
	raw, err := os.ReadFile(filepath.Join(dir, RecordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err == nil && r.Format != recordFormat {
		err = fmt.Errorf("it is of format %d, and %d is read here", r.Format, recordFormat)
	}
	if err != nil {
		return r, false, fmt.Errorf("read %s: %w", filepath.Join(dir, RecordFile), err)
	}
	return r, true, nil
}

func (r Record) write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, RecordFile), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note how far the restore is: %w", err)
	}
	return nil
}

// claim makes sure that a directory is this restore's, and keeps others out until unlock.
func claim(dir string, fresh Record) (r Record, unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { // the server's user comes through
		return r, nil, fmt.Errorf("make %s: %w", dir, err)
	}
	at, err := os.Open(dir)
	if err != nil {
		return r, nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if err := unix.Flock(int(at.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = at.Close() // nothing was done
		if errors.Is(err, unix.EWOULDBLOCK) {
			return r, nil, &problem.Problem{Code: "restore.busy", Subject: dir, Severity: problem.Note, Title: "another restore of a recovery point works there",
				Meaning: "Nothing was changed by this one.", Remedy: "wait until it has ended"}
		}
		return r, nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	unlock = func() { _ = at.Close() } // which gives the lock back
	r, known, err := look(dir, fresh)
	if err == nil && !known {
		r = fresh
		err = r.write(dir)
	}
	if err != nil {
		unlock()
		return r, nil, err
	}
	return r, unlock, nil
}

// look says what lies in a directory: nothing, or what the same restore has left. Anything else is refused.
func look(dir string, fresh Record) (Record, bool, error) {
	r, known, err := readRecord(dir)
	if err != nil {
		return r, false, err
	}
	if known {
		if r.Point.ID == fresh.Point.ID && r.Backup == fresh.Backup && r.FilesAt == fresh.FilesAt {
			return r, true, r.whole(dir)
		}
		return r, false, occupied(dir, "recovery point "+r.Point.ID)
	}
	found, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if len(found) > 0 {
		return r, false, occupied(dir, found[0].Name())
	}
	return r, false, nil
}

// whole refuses a place from which one half was taken away since: what is left may have been worked on, and does not go
// with what would be restored now.
func (r Record) whole(dir string) error {
	at := Options{Dir: dir, Files: r.FilesAt}.files()
	for half, there := range map[string]bool{at: r.Files != nil, DatabaseDir(dir): !r.Database.IsZero()} {
		_, err := os.Stat(half)
		switch {
		case !there || err == nil:
		case errors.Is(err, fs.ErrNotExist):
			return occupied(dir, "recovery point "+r.Point.ID+", of which "+half+" was taken away")
		default:
			return fmt.Errorf("look at what was restored: %w", err)
		}
	}
	return nil
}

// answers reports whether all that is asked was done and found good: by the same commands, or none are wanted.
func (r Record) answers(c Commands) bool {
	if r.Outcome.Outcome != Passed {
		return false
	}
	if !c.any() {
		return true
	}
	var check []string
	if r.Check != nil {
		check = r.Check.Argv
	}
	return slices.Equal(check, c.Check) && slices.EqualFunc(r.After, c.After, func(ran Ran, argv []string) bool { return slices.Equal(ran.Argv, argv) })
}

// EndLeft ends the server that a killed restore has left on what it restored, so that the place can be surveyed. While
// another restore works there nothing is ended.
func EndLeft(ctx context.Context, o Options) error {
	r, known, err := look(o.Dir, o.fresh())
	if err != nil || !known || !r.Serving {
		return err
	}
	r, unlock, err := claim(o.Dir, o.fresh())
	if err != nil {
		return err
	}
	defer unlock()
	if !r.Serving { // ended meanwhile
		return nil
	}
	if err := restore.EndServer(ctx, DatabaseDir(o.Dir)); err != nil {
		return err
	}
	r.Serving = false
	return r.write(o.Dir)
}

func occupied(dir, found string) error {
	return &problem.Problem{Code: "restore.not-empty", Subject: dir, Severity: problem.Critical, Title: "is not empty: it holds " + found,
		Meaning: "Nothing was touched: a restore never writes over what is there.", Remedy: "name an empty directory with --to"}
}
