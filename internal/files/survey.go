package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
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

// Survey looks at the place of a restore, and refuses one that must not be written to. Where files lie there already, it looks at
// each: how much room what differs takes more than what it replaces, and whether anything is in the way.
func Survey(ctx context.Context, o RestoreOptions, size Size) (Place, error) {
	p := Place{Dir: o.To, Mark: markPrefix + o.Tree.Backup.ID, Need: size.Room, NeedIDs: size.Names, Trusted: true}
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
	if p.State == "interrupted" || p.State == "occupied" {
		over, err := lookOver(ctx, o, p)
		if err != nil {
			return p, err
		}
		p.Need, p.NeedIDs = max(over.more, over.largest), over.names
	}
	if !p.Fits() {
		return p, noRoom(p)
	}
	return p, nil
}

// over is what a restore onto files needs.
type over struct {
	more    int64 // bytes that what is written takes more than what it replaces
	largest int64 // bytes of the largest file: it is written beside its place
	names   int   // that are not there yet
}

// lookOver compares what is selected with what lies there. It refuses a directory with something in it where something else
// shall be: nothing is removed that nobody named.
func lookOver(ctx context.Context, o RestoreOptions, p Place) (out over, err error) {
	absent := map[string]bool{} // directories that are made; whatever a link leads to is not what will be there
	err = o.Tree.Each(ctx, func(n vault.Node) error {
		selected := o.Paths.Has(n.Path)
		if n.Path == "." || !selected && (n.Kind != vault.KindDir || !o.Paths.Leads(n.Path)) {
			return nil
		}
		var st unix.Stat_t
		at := filepath.Join(p.Dir, n.RealPath())
		there := !absent[path.Dir(n.Path)] && unix.Lstat(at, &st) == nil // what cannot be looked at is told when it is written
		isDir := there && vault.KindOf(st.Mode) == vault.KindDir
		if !there {
			out.names++
		}
		if n.Kind == vault.KindDir {
			if !isDir {
				absent[n.Path] = true
			}
			return nil
		}
		if isDir {
			return inTheWay(at)
		}
		if n.Kind != vault.KindFile || n.Link != "" && o.Paths.Has(n.Link) {
			return nil
		}
		if there && o.Onto != OntoAll && p.Trusted && st.Size == n.Size && unix.TimespecToNsec(st.Mtim) == n.ModNs {
			return nil
		}
		room := roomOf(n)
		out.more, out.largest = out.more+room, max(out.largest, room)
		if there && st.Nlink == 1 {
			out.more -= st.Blocks * 512
		}
		return nil
	})
	if what, ok := errors.AsType[*problem.Problem](err); ok {
		return out, what
	}
	if err != nil {
		return out, fmt.Errorf("look at %s: %w", p.Dir, o.Tree.Unreadable(err))
	}
	return out, nil
}

// inTheWay refuses a directory with something in it; nil = it is empty.
func inTheWay(dir string) error {
	found, err := os.ReadDir(dir)
	if err != nil || len(found) == 0 {
		return err
	}
	return &problem.Problem{
		Code: "restore.files-in-the-way", Subject: dir, Severity: problem.Note,
		Title:   "is a directory and holds " + found[0].Name() + "; in the backup it is none",
		Meaning: "Nothing was written: what is in that directory would have to go, and the backup does not name it.",
		Remedy:  "move it away, or name an empty directory with --to",
	}
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
