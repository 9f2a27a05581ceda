package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// one restores a file, a symbolic link or a special file.
func (r *restoring) one(ctx context.Context, n vault.Node, buf []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, name, err := r.parent(n)
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }() // nothing was written through it
	if n.Kind == vault.KindFile {
		return r.file(ctx, at, name, n, buf)
	}
	if err := r.clear(at, name, n); err != nil {
		return err
	}
	switch n.Kind {
	case vault.KindSymlink:
		err = unix.Symlinkat(string(n.Target), int(at.Fd()), name)
	default:
		err = unix.Mknodat(int(at.Fd()), name, vault.FormatOf(n.Kind)|0o600, int(n.Device))
	}
	if errors.Is(err, unix.EPERM) { // a device, and we are not root
		r.lack(n, "not made", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %q: %w", n.Path, err)
	}
	r.dressAt(at, name, n)
	r.count(n, 0, 0)
	return nil
}

// file writes a file beside its place and then puts it there, so that a file with its name is a whole one.
func (r *restoring) file(ctx context.Context, at *os.File, name string, n vault.Node, buf []byte) error {
	if r.o.Onto == OntoDelta {
		if f := r.right(at, name, n); f != nil {
			r.dressFile(f, n)
			r.count(n, 0, n.Size)
			return f.Close()
		}
	}
	// No backup holds such a name of itself, and an inode has one writer.
	temp := fmt.Sprintf("%s%s-%x", tempPrefix, strings.TrimPrefix(r.mark, markPrefix), n.Inode)
	if err := r.clear(at, temp, n); err != nil {
		return err
	}
	f, err := openAt(at, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make %q: %w", n.Path, err)
	}
	err = r.fill(ctx, f, n, buf)
	if err == nil {
		r.dressFile(f, n)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.put(at, temp, name, n)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %q: %w", n.Path, err), ignoreAbsent(unix.Unlinkat(int(at.Fd()), temp, 0)))
	}
	r.count(n, n.Size, 0)
	return nil
}

// right opens a file that is there and need not be written; nil = it must be. It looks at the file that it opened: a name
// may become another file's. A file that shall run with its owner's rights must be the owner's already: anybody could have
// made another one with the same size and time.
func (r *restoring) right(at *os.File, name string, n vault.Node) *os.File {
	same := func(st unix.Stat_t, err error) bool {
		return err == nil && vault.KindOf(st.Mode) == vault.KindFile && st.Size == n.Size && unix.TimespecToNsec(st.Mtim) == n.ModNs && st.Nlink == 1 &&
			(n.Mode&setID == 0 || st.Uid == n.UID && st.Gid == n.GID)
	}
	if !same(lstatAt(at, name)) { // no device is opened
		return nil
	}
	f, err := openAt(at, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	if !same(statOf(f)) {
		_ = f.Close() // opened for reading alone
		return nil
	}
	return f
}

func ignoreAbsent(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (r *restoring) put(at *os.File, temp, name string, n vault.Node) error {
	err := unix.Renameat(int(at.Fd()), temp, int(at.Fd()), name)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if err = r.clear(at, name, n); err == nil {
			err = unix.Renameat(int(at.Fd()), temp, int(at.Fd()), name)
		}
	}
	return err
}

// fill writes a file's content. Where the file had holes, runs of zeros become holes again.
func (r *restoring) fill(ctx context.Context, f *os.File, n vault.Node, buf []byte) error {
	from, err := r.o.Tree.Open(ctx, n)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // opened for reading alone
	var to io.Writer = struct{ io.Writer }{f}
	if n.Sparse {
		to = &holes{f: f}
	}
	got, err := io.CopyBuffer(to, struct{ io.Reader }{&source{ctx: ctx, r: from}}, buf)
	if err == nil && got != n.Size {
		err = fmt.Errorf("%d bytes came, %d were stored", got, n.Size)
	}
	if err == nil && n.Sparse {
		err = f.Truncate(n.Size)
	}
	return err
}

// holes leaves out runs of zeros of a block.
type holes struct {
	f  *os.File
	at int64
}

const holeBlock = 4096

var zeros [holeBlock]byte

func (h *holes) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		end := min(len(p), done+holeBlock-int(h.at%holeBlock))
		piece := p[done:end]
		if !bytes.Equal(piece, zeros[:len(piece)]) {
			if _, err := h.f.WriteAt(piece, h.at); err != nil {
				return done, err
			}
		}
		h.at += int64(len(piece))
		done = end
	}
	return len(p), nil
}

// dressFile gives an open file its owner, attributes, mode and time, in the order in which none undoes another.
func (r *restoring) dressFile(f *os.File, n vault.Node) {
	fd := int(f.Fd())
	if r.owner {
		if err := unix.Fchown(fd, int(n.UID), int(n.GID)); err != nil {
			r.lack(n, "owner", err)
		}
	}
	r.undress(f, n)
	for _, x := range n.Attrs {
		if err := unix.Fsetxattr(fd, x.Name, x.Value, 0); err != nil {
			r.lack(n, "attribute "+x.Name, err)
		}
	}
	if err := unix.Fchmod(fd, r.modeFor(f, n)); err != nil {
		r.lack(n, "mode", err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, procFile(f), times(n), 0); err != nil {
		r.lack(n, "time", err)
	}
}

// setID are the bits by which a file runs with the rights of its owner and group.
const setID = unix.S_ISUID | unix.S_ISGID

// modeFor is the mode for what was opened: without set-user-ID and set-group-ID when it could not be given to its owner and
// group, for those bits would lend the rights of whoever has it now.
func (r *restoring) modeFor(f *os.File, n vault.Node) uint32 {
	if n.Mode&setID == 0 {
		return n.Mode
	}
	st, err := statOf(f)
	if err == nil && (st.Uid != n.UID || st.Gid != n.GID) {
		err = fmt.Errorf("it belongs to %d:%d, not to %d:%d", st.Uid, st.Gid, n.UID, n.GID)
	}
	if err != nil {
		r.lack(n, "set-user-ID and set-group-ID left out", err)
		return n.Mode &^ setID
	}
	return n.Mode
}

// undress takes away attributes that the original has not: what a directory hands down to what is made in it, or what
// stood there before. Labels of SELinux are the host's own matter.
func (r *restoring) undress(f *os.File, n vault.Node) {
	has, err := attrsOf(f)
	if err != nil {
		r.lack(n, "attributes", err)
	}
	for _, x := range has {
		kept := slices.ContainsFunc(n.Attrs, func(want vault.Xattr) bool { return want.Name == x.Name })
		if kept || x.Name == "security.selinux" {
			continue
		}
		if err := unix.Fremovexattr(int(f.Fd()), x.Name); err != nil {
			r.lack(n, "attribute "+x.Name, err)
		}
	}
}

// dressAt does the same for what cannot be opened to read, which was made just now. It is held by a handle and seen to be
// what was made: whoever may write to the directory may put a link to another file in its place. A symbolic link has no mode.
func (r *restoring) dressAt(at *os.File, name string, n vault.Node) {
	f, err := openAt(at, name, unix.O_PATH, 0)
	if err != nil {
		r.lack(n, "owner, mode and time", err)
		return
	}
	defer func() { _ = f.Close() }() // nothing was written through it
	st, err := statOf(f)
	if err == nil && (vault.KindOf(st.Mode) != n.Kind || st.Nlink != 1) {
		err = errors.New("somebody put something else in its place")
	}
	if err != nil {
		r.lack(n, "owner, mode and time", err)
		return
	}
	if r.owner {
		if err := unix.Fchownat(int(f.Fd()), "", int(n.UID), int(n.GID), unix.AT_EMPTY_PATH); err != nil {
			r.lack(n, "owner", err)
		}
	}
	if n.Kind != vault.KindSymlink {
		if err := unix.Chmod(procFile(f), r.modeFor(f, n)); err != nil {
			r.lack(n, "mode", err)
		}
	}
	for _, x := range n.Attrs {
		if err := unix.Setxattr(procFile(f), x.Name, x.Value, 0); err != nil {
			r.lack(n, "attribute "+x.Name, err)
		}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, procFile(f), times(n), 0); err != nil {
		r.lack(n, "time", err)
	}
}

func times(n vault.Node) []unix.Timespec {
	t := unix.NsecToTimespec(n.ModNs)
	return []unix.Timespec{t, t}
}

// link makes a further name of a file that is there. Where the file system has none, it becomes a file of its own.
func (r *restoring) link(ctx context.Context, l link) error {
	at, name, err := r.parent(l.node)
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }() // nothing was written through it
	from, first, err := r.parent(l.to)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // opened for reading alone
	if err := r.clear(at, name, l.node); err != nil {
		return err
	}
	err = unix.Linkat(int(from.Fd()), first, int(at.Fd()), name, 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTSUP) {
		r.lack(l.node, "not one file with "+l.to.Path, err)
		return r.one(ctx, l.node, make([]byte, 1<<20))
	}
	if err != nil {
		return fmt.Errorf("link %q to %q: %w", l.node.Path, l.to.Path, err)
	}
	r.count(l.node, 0, 0)
	return nil
}

// dress gives every directory but the root its owner, mode and time, the inner ones first, when nothing is written into
// them any more. It gives the root's.
func (r *restoring) dress(ctx context.Context) (root vault.Node, err error) {
	var open []vault.Node // from the root's child down
	leave := func(dir string) error {
		for len(open) > 0 && open[len(open)-1].Path != dir {
			if err := r.dressDir(open[len(open)-1]); err != nil {
				return err
			}
			open = open[:len(open)-1]
		}
		return nil
	}
	err = r.o.Tree.Each(ctx, func(n vault.Node) error {
		switch {
		case n.Path == ".":
			root = n
			return nil
		case n.Kind != vault.KindDir || !r.o.Paths.Has(n.Path) && !r.o.Paths.Leads(n.Path):
			return nil
		}
		if err := leave(path.Dir(n.Path)); err != nil {
			return err
		}
		open = append(open, n)
		return nil
	})
	return root, errors.Join(err, leave("."))
}

func (r *restoring) dressDir(n vault.Node) error {
	at, err := openDirBelow(r.root, n.RealPath())
	if err != nil {
		return fmt.Errorf("open directory %q: %w", n.Path, err)
	}
	r.dressFile(at, n)
	r.count(n, 0, 0)
	return r.note(at)
}

// note closes a directory, or keeps it as the one by which its file system is synchronised.
func (r *restoring) note(dir *os.File) error {
	st, err := statOf(dir)
	if err == nil && st.Dev != r.disk && r.disks[st.Dev] == nil {
		r.disks[st.Dev] = dir
		return nil
	}
	return errors.Join(err, dir.Close())
}
