package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// How a directory is treated that holds something already.
const (
	OntoNothing = ""          // it must be empty, or left by the same restore
	OntoDelta   = "delta"     // what has the same size and time stays unread; what differs is replaced
	OntoAll     = "overwrite" // everything is read and replaced
)

// RestoreOptions say what is restored, and to where.
type RestoreOptions struct {
	Tree     *vault.Tree
	Paths    Selection // none = everything
	To       string
	Onto     string
	Workers  int            // files written at once; 0 = two for each core, at most 8
	Log      *slog.Logger   // nil = silent
	Progress func(Restored) // nil = nobody asks; called from one goroutine
}

// Restored is how far a restore is, and in the end what came of it.
type Restored struct {
	Files  int   `json:"files"`
	Dirs   int   `json:"dirs"`
	Others int   `json:"others"` // symbolic links and special files
	Bytes  int64 `json:"bytes"`  // written
	Kept   int64 `json:"kept"`   // bytes that were right already
	Of     Size  `json:"of"`     // what is to be restored
	// Owners is false when files belong to whoever restored: only root can give files away.
	Owners bool        `json:"owners"`
	Lacks  vault.Names `json:"lacks,omitzero"` // what could not be restored faithfully, with the reason
}

// Size is how much a selection is.
type Size struct {
	Files int   `json:"files"`
	Names int   `json:"names"`
	Bytes int64 `json:"bytes"`
	Room  int64 `json:"room"` // bytes that it takes on a disk, at most Bytes: holes take none
}

// roomOf is how many bytes a file takes on a disk.
func roomOf(n vault.Node) int64 {
	if n.Room > 0 {
		return min(n.Room, n.Size)
	}
	return n.Size
}

// Measure says how much a selection of a backup is.
func Measure(ctx context.Context, t *vault.Tree, s Selection) (Size, error) {
	var out Size
	err := t.Each(ctx, func(n vault.Node) error {
		if !s.Has(n.Path) {
			return nil
		}
		out.Names++
		if n.Kind == vault.KindFile {
			out.Files++
			if n.Link == "" || !s.Has(n.Link) {
				out.Bytes += n.Size
				out.Room += roomOf(n)
			}
		}
		return nil
	})
	return out, err
}

// progressStep is how many names pass between two words of progress.
const progressStep = 200

// restoring is one restore under way.
type restoring struct {
	o     RestoreOptions
	root  *os.File
	mark  string
	owner bool // files may be given away

	mu    sync.Mutex // guards what follows
	out   Restored
	steps int

	links []link              // made at the end, when what they lead to is there
	real  map[string]string   // listed path -> real path, where they differ and something may lead there
	disk  uint64              // the root's file system
	disks map[uint64]*os.File // a directory on each file system that is mounted inside
	stand map[string]string   // first name of an inode, not selected -> the selected name that stands for it
}

type link struct{ node, to vault.Node }

// Restore writes a backup, or part of it, into a directory. It never writes outside it, whatever is in the backup or
// lies in the directory: names are taken one by one below the directory, and no symbolic link is followed. A restore
// that was cut off goes on when it is called again with the same backup.
func Restore(ctx context.Context, o RestoreOptions) (Restored, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Workers <= 0 {
		o.Workers = min(8, 2*runtime.NumCPU())
	}
	size, err := Measure(ctx, o.Tree, o.Paths)
	if err != nil {
		return Restored{}, err
	}
	if size.Names == 0 {
		return Restored{}, noneSelected(o)
	}
	place, err := Survey(ctx, o, size)
	if err != nil {
		return Restored{}, err
	}
	if err := os.MkdirAll(o.To, 0o700); err != nil {
		return Restored{}, fmt.Errorf("restore files: %w", err)
	}
	root, err := openRoot(o.To)
	if err != nil {
		return Restored{}, fmt.Errorf("restore files: %w", err)
	}
	defer func() { _ = root.Close() }() // what matters is synchronised before
	r := &restoring{o: o, root: root, mark: place.Mark, owner: os.Geteuid() == 0, real: map[string]string{}, stand: map[string]string{}, disks: map[uint64]*os.File{}}
	r.out.Of, r.out.Owners = size, r.owner
	st, err := statOf(root)
	if err != nil {
		return Restored{}, fmt.Errorf("restore files: %w", err)
	}
	r.disk = st.Dev
	defer func() {
		for _, d := range r.disks { // of a run that did not come to the end
			_ = d.Close()
		}
	}()
	if err := place.begin(root); err != nil {
		return Restored{}, fmt.Errorf("restore files: %w", err)
	}
	if !place.Trusted {
		r.o.Onto = OntoAll
		o.Log.InfoContext(ctx, "every file is written anew: a restore was interrupted here before this machine was started, and what it left may be torn", "dir", o.To)
	} else if r.o.Onto == OntoNothing {
		r.o.Onto = OntoDelta
	}
	if err := r.run(ctx); err != nil {
		return r.out, fmt.Errorf("restore files to %s: %w", o.To, o.Tree.Unreadable(err))
	}
	return r.out, nil
}

func (r *restoring) run(ctx context.Context) error {
	if err := r.write(ctx); err != nil {
		return err
	}
	for _, l := range r.links {
		if err := r.link(ctx, l); err != nil {
			return err
		}
	}
	root, err := r.dress(ctx)
	if err != nil {
		return err
	}
	if err := r.sync(); err != nil {
		return err
	}
	if err := unix.Unlinkat(int(r.root.Fd()), r.mark, 0); err != nil {
		return fmt.Errorf("remove %s: %w", r.mark, err)
	}
	if len(r.o.Paths) == 0 { // with a part, the directory stays as it was found
		r.dressFile(r.root, root)
		r.count(root, 0, 0)
	}
	return r.root.Sync()
}

// sync writes everything to disk, before the mark goes that puts it in doubt: each file system once, for a file by itself
// would cost a flush of the disk. What is mounted inside the directory was noted on the way.
func (r *restoring) sync() error {
	err := unix.Syncfs(int(r.root.Fd()))
	for _, d := range r.disks {
		err = errors.Join(err, unix.Syncfs(int(d.Fd())), d.Close())
	}
	r.disks = nil
	if err != nil {
		return fmt.Errorf("write to disk: %w", err)
	}
	return nil
}

// write makes directories in order, and what is in them by several workers.
func (r *restoring) write(ctx context.Context) error {
	work := make(chan vault.Node, window)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		return r.o.Tree.Each(ctx, func(n vault.Node) error { return r.sort(ctx, n, work) })
	})
	for range r.o.Workers {
		g.Go(func() error {
			buf := make([]byte, 1<<20)
			for n := range work {
				if err := r.one(ctx, n, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// sort makes a directory, hands on what stands by itself, and keeps links for the end.
func (r *restoring) sort(ctx context.Context, n vault.Node, work chan<- vault.Node) error {
	has := r.o.Paths.Has(n.Path)
	switch {
	case n.Kind == vault.KindDir:
		if has || r.o.Paths.Leads(n.Path) {
			return r.dir(n)
		}
		return nil
	case !has:
		return nil
	}
	if len(n.Raw) > 0 {
		r.real[n.Path] = n.RealPath()
	}
	if n.Link != "" {
		first := n.Link
		if !r.o.Paths.Has(first) {
			stand, ok := r.stand[first]
			if !ok {
				r.stand[first], first = n.Path, ""
			} else {
				first = stand
			}
		}
		if first != "" {
			to := n
			to.Path, to.Raw = first, nil
			if real, ok := r.real[first]; ok {
				to.Raw = []byte(real)
			}
			r.links = append(r.links, link{n, to})
			return nil
		}
	}
	select {
	case work <- n:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parent opens the directory that a name lies in, and gives the name.
func (r *restoring) parent(n vault.Node) (*os.File, string, error) {
	dir, name := path.Split(n.RealPath())
	at, err := openDirBelow(r.root, strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, "", fmt.Errorf("open the directory of %q: %w", n.Path, err)
	}
	return at, name, nil
}

// dir makes a directory that its owner alone can enter, until everything in it is there.
func (r *restoring) dir(n vault.Node) error {
	if n.Path == "." {
		return nil
	}
	at, name, err := r.parent(n)
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }() // nothing was written through it
	st, err := lstatAt(at, name)
	if err == nil && vault.KindOf(st.Mode) == vault.KindDir {
		if st.Mode&0o700 != 0o700 {
			err = enter(at, name)
		}
		return err
	}
	if err == nil {
		if err := r.clear(at, name, n); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(int(at.Fd()), name, 0o700); err != nil {
		return fmt.Errorf("make directory %q: %w", n.Path, err)
	}
	return nil
}

// enter lets the owner of a directory into it. Whoever may write beside it may put a link in its place meanwhile: so what
// is changed is the directory that was opened, which needs no permission.
func enter(at *os.File, name string) error {
	d, err := openAt(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Chmod(procFile(d), 0o700), d.Close())
}

// clear takes away what stands where something else shall be; a directory with something in it is refused.
func (r *restoring) clear(at *os.File, name string, n vault.Node) error {
	err := unix.Unlinkat(int(at.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(int(at.Fd()), name, unix.AT_REMOVEDIR)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("replace %q: %w", n.Path, err)
	}
	return nil
}

// lack notes what could not be restored as it was.
func (r *restoring) lack(n vault.Node, what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Lacks.Add(fmt.Sprintf("%s: %s: %v", n.Path, what, err))
}

// count adds one name that is done.
func (r *restoring) count(n vault.Node, written, kept int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch n.Kind {
	case vault.KindFile:
		r.out.Files++
	case vault.KindDir:
		r.out.Dirs++
	default:
		r.out.Others++
	}
	r.out.Bytes += written
	r.out.Kept += kept
	if r.steps++; r.o.Progress != nil && r.steps%progressStep == 0 {
		r.o.Progress(r.out) // under the lock: one at a time
	}
}
