package point

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// Journal is what is written down of a restore in place, each word before what it tells of is done. So whoever comes after a
// crash finds out how it stands, and finishes it or takes it back.
type Journal struct {
	Format int         `json:"format"` // 1
	Run    string      `json:"run"`    // when it began, in UTC
	Point  vault.Point `json:"point"`
	Set    string      `json:"files"`
	Backup string      `json:"backup"` // of the files
	Path   string      `json:"path"`   // the live directory
	Beside string      `json:"beside"` // the other content of it
	To     Side        `json:"to"`     // which is to be live
	Began  time.Time   `json:"began"`
	Ended  time.Time   `json:"ended,omitzero"` // zero = not yet
	Held   bool        `json:"held,omitempty"` // before may have run, and after has not succeeded since

	Before *files.Process `json:"before,omitempty"` // leads the group of before; nil = it has not begun since after succeeded

	// The directories by their inodes, noted before the first exchange; 0 = not yet, and what was live is.
	WasInode  uint64 `json:"was_inode,string,omitempty"`
	CameInode uint64 `json:"point_inode,string,omitempty"`

	SQL     Side          `json:"sql"`                   // who has the names, unless Doing was done
	Doing   *restore.Swap `json:"exchanging,omitempty"`  // was begun; whether it was done is found out
	Done    *restore.Swap `json:"exchanged,omitempty"`   // the last that was done; nil = none, and nothing is kept
	Stood   time.Duration `json:"stood_still,omitempty"` // from before to after, the last time
	Alone   []string      `json:"left_alone,omitempty"`  // SQL databases that are left as they are, and why
	LeftOut []string      `json:"left_out,omitempty"`    // what of the SQL databases does not come with their content
}

const (
	journalFormat = 1
	journalFile   = "in-place.json"
)

// dir is where the copy lies until the exchange.
func (j Journal) dir(base string) string { return filepath.Join(base, j.Run) }

// began reports whether any name was, or may have been, exchanged.
func (j Journal) began() bool { return j.Done != nil || j.Doing != nil || j.CameInode != 0 }

// ReadJournal reads what the last restore in place below base has written down; false = there was none.
func ReadJournal(base string) (Journal, bool, error) {
	var j Journal
	at := filepath.Join(base, journalFile)
	raw, err := os.ReadFile(at)
	if errors.Is(err, fs.ErrNotExist) {
		return j, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &j)
	}
	if err == nil && j.Format != journalFormat {
		err = fmt.Errorf("it is of format %d, and %d is read here", j.Format, journalFormat)
	}
	if err != nil {
		return j, false, fmt.Errorf("read %s: %w", at, err)
	}
	return j, true, nil
}

func (j Journal) write(base string) error {
	raw, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(base, journalFile), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note how far the restore in place is: %w", err)
	}
	return nil
}

// lockBase keeps other restores in place of the same file set out until unlock.
func lockBase(base, set string) (unlock func(), err error) {
	if err := os.MkdirAll(base, 0o755); err != nil { // the server's user comes through
		return nil, fmt.Errorf("make %s: %w", base, err)
	}
	at, err := os.Open(base)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", base, err)
	}
	if err := unix.Flock(int(at.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = at.Close() // nothing was done
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &problem.Problem{Code: "restore.busy", Subject: set, Severity: problem.Note, Title: "another restore in place is under way",
				Meaning: "Nothing was changed by this one.", Remedy: "wait until it has ended"}
		}
		return nil, fmt.Errorf("lock %s: %w", base, err)
	}
	return func() { _ = at.Close() }, nil // which gives the lock back
}
