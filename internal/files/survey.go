package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
)

// Place is a directory that may be restored to.
type Place struct {
	Dir     string `json:"dir"`
	State   string `json:"state"`           // absent, empty, interrupted, occupied
	Found   string `json:"found,omitempty"` // something that is in it
	Need    int64  `json:"need"`            // bytes
	Free    int64  `json:"free"`            // bytes; of the nearest directory that exists
	NeedIDs int    `json:"need_names"`
	FreeIDs int64  `json:"free_names"` // -1 = the file system has no limit
	Mark    string `json:"-"`          // name of the file that says a restore is under way
	// Trusted is false when a restore was interrupted here before the machine was started: what it left may be torn, also
	// where size and time are right, for a file's content is on disk for certain only when its restore has ended.
	Trusted bool `json:"-"`
}

// markPrefix begins the names of files that say which backup's restore is under way.
const markPrefix = ".holdfast-restoring-"

// tempPrefix begins the names of files that are being written.
const tempPrefix = ".holdfast-writing-"

// Fits reports whether there is room.
func (p Place) Fits() bool {
	return p.Need <= p.Free && (p.FreeIDs < 0 || int64(p.NeedIDs) <= p.FreeIDs)
}

// Survey looks at the place of a restore, and refuses one that must not be written to.
func Survey(o RestoreOptions, size Size) (Place, error) {
	p := Place{Dir: o.To, Mark: markPrefix + o.Tree.Backup.ID, Need: size.Bytes, NeedIDs: size.Names, Trusted: true}
	found, err := os.ReadDir(o.To)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.State = "absent"
	case err != nil:
		return p, fmt.Errorf("look at %s: %w", o.To, err)
	case len(found) == 0:
		p.State = "empty"
	default:
		p.State, p.Found = "occupied", found[0].Name()
	}
	if err := p.readMarks(found); err != nil {
		return p, err
	}
	if p.State == "occupied" && o.Onto == OntoNothing {
		return p, occupied(p)
	}
	var st unix.Statfs_t
	at := o.To
	for err = unix.Statfs(at, &st); errors.Is(err, unix.ENOENT) && at != filepath.Dir(at); err = unix.Statfs(at, &st) {
		at = filepath.Dir(at)
	}
	if err != nil {
		return p, fmt.Errorf("look how much room %s has: %w", at, err)
	}
	p.Free, p.FreeIDs = int64(st.Bavail)*st.Bsize, int64(st.Ffree)
	if st.Files == 0 {
		p.FreeIDs = -1
	}
	if p.State != "interrupted" && o.Onto != OntoDelta && !p.Fits() {
		return p, noRoom(p)
	}
	return p, nil
}

// readMarks looks for restores that were interrupted here. One of another backup puts its files in doubt likewise.
func (p *Place) readMarks(found []fs.DirEntry) error {
	for _, e := range found {
		if !strings.HasPrefix(e.Name(), markPrefix) || !e.Type().IsRegular() {
			continue
		}
		was, err := os.ReadFile(filepath.Join(p.Dir, e.Name()))
		if err != nil {
			return fmt.Errorf("look at %s: %w", p.Dir, err)
		}
		if e.Name() == p.Mark {
			p.State = "interrupted"
		}
		now := bootID()
		p.Trusted = p.Trusted && now != "" && string(was) == now
	}
	return nil
}

// bootID tells one start of the machine from another; empty when it cannot be told.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// begin leaves the mark. One that is there stays as it is until everything is restored: the files that an earlier start of
// the machine left are in doubt until each was written again, however often that is interrupted.
func (p Place) begin(root *os.File) error {
	if p.State == "interrupted" {
		return nil
	}
	f, err := openAt(root, p.Mark, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if p.Trusted {
		_, err = f.WriteString(bootID())
	}
	return errors.Join(err, f.Sync(), f.Close(), root.Sync())
}

func occupied(p Place) *problem.Problem {
	return &problem.Problem{
		Code: "restore.files-occupied", Subject: p.Dir, Severity: problem.Note,
		Title:   "is not empty: it holds " + p.Found,
		Meaning: "Nothing was written: what lies there could be replaced.",
		Remedy:  "name an empty directory with --to; or say --delta (what differs is replaced) or --overwrite (everything is)",
	}
}

func noRoom(p Place) *problem.Problem {
	return &problem.Problem{
		Code: "restore.no-space", Subject: p.Dir, Severity: problem.Critical,
		Title:   fmt.Sprintf("%d bytes and %d names are needed, %d bytes and %d names are free", p.Need, p.NeedIDs, p.Free, p.FreeIDs),
		Meaning: "Nothing was written.",
		Remedy:  "name a directory on a larger file system with --to, or restore part of it with --path",
	}
}

func noneSelected(o RestoreOptions) *problem.Problem {
	return &problem.Problem{
		Code: "restore.no-such-path", Subject: o.Tree.Backup.Set, Severity: problem.Note,
		Title:   fmt.Sprintf("backup %s holds nothing of %s", o.Tree.Backup.ID, strings.Join(o.Paths, ", ")),
		Meaning: "Nothing was written.",
		Remedy:  "look for it: holdfast files find " + o.Tree.Backup.Set + " NAME --backup " + o.Tree.Backup.ID,
	}
}
