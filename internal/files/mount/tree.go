package mount

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/internal/files"
	"holdfast/internal/vault"
)

// known is for how long the kernel may go by what it was told: a backup never changes.
const known = 24 * time.Hour

// tree answers the kernel. It keeps nothing of what the kernel knows: the number of a name stands for it for ever, so there
// is nothing to forget either. Requests that change something never come: the kernel refuses them, for the mount is read-only.
type tree struct {
	fuse.RawFileSystem // says of everything else that it is not there

	backup   vault.FileBackup
	index    *index
	spool    *spool
	contents *contents
	trouble  *trouble
}

// node numbers of the kernel begin with 1, the root.
func numberOf(id uint64) name { return name(id - fuse.FUSE_ROOT_ID) }
func idOf(i name) uint64      { return uint64(i) + fuse.FUSE_ROOT_ID }

// node reads what the list says of a name.
func (t *tree) node(i name) (vault.Node, error) {
	line, err := t.spool.read(t.index.at[i], t.index.at[i+1])
	if err != nil {
		return vault.Node{}, err
	}
	return vault.ParseNode(line)
}

// asked is node for a request: an error is told, and becomes the one that the caller sees.
func (t *tree) asked(id uint64) (name, vault.Node, fuse.Status) {
	i := numberOf(id)
	if int64(i) >= int64(t.index.total()) {
		return 0, vault.Node{}, fuse.Status(unix.ESTALE)
	}
	n, err := t.node(i)
	if err != nil {
		return 0, vault.Node{}, t.refused(err)
	}
	return i, n, fuse.OK
}

// refused tells why something cannot be read.
func (t *tree) refused(err error) fuse.Status {
	if errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) {
		return fuse.EINTR
	}
	t.trouble.bad(err)
	return fuse.EIO
}

// find looks for a name in a directory.
func (t *tree) find(dir name, above vault.Node, real string) (name, vault.Node, bool, error) {
	kids := t.index.in(dir)
	for listed := files.Spelled(real); ; listed += "%" {
		var err error
		k, ok := slices.BinarySearchFunc(kids, path.Join(above.Path, listed), func(i name, want string) int {
			var n vault.Node
			if err == nil {
				n, err = t.node(i)
			}
			return vault.ComparePaths(n.Path, want)
		})
		if err != nil || !ok {
			return 0, vault.Node{}, false, err
		}
		n, err := t.node(kids[k])
		if err != nil || path.Base(n.RealPath()) == real {
			return kids[k], n, err == nil, err
		}
		if listed == real { // it is how the name of another file is spelled
			return 0, vault.Node{}, false, nil
		}
	}
}

func (t *tree) Lookup(_ <-chan struct{}, in *fuse.InHeader, real string, out *fuse.EntryOut) fuse.Status {
	dir, above, status := t.asked(in.NodeId)
	if !status.Ok() {
		return status
	}
	if above.Kind != vault.KindDir {
		return fuse.ENOTDIR
	}
	i, n, ok, err := t.find(dir, above, real)
	if err != nil {
		return t.refused(err)
	}
	if !ok {
		return fuse.ENOENT
	}
	t.enter(i, n, out)
	return fuse.OK
}

// enter tells the kernel of a name. Further names of an inode have all that the first has, so it is the same which is told.
func (t *tree) enter(i name, n vault.Node, out *fuse.EntryOut) {
	i = t.index.inode(i)
	out.NodeId, out.Generation = idOf(i), 1
	t.attrs(i, n, &out.Attr)
	out.SetEntryTimeout(known)
	out.SetAttrTimeout(known)
}

func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	i, n, status := t.asked(in.NodeId)
	if status.Ok() {
		t.attrs(i, n, &out.Attr)
		out.SetTimeout(known)
	}
	return status
}

func (t *tree) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	_, n, status := t.asked(in.NodeId)
	if status.Ok() && n.Kind != vault.KindSymlink {
		status = fuse.EINVAL
	}
	return n.Target, status
}

func (t *tree) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string, to []byte) (uint32, fuse.Status) {
	_, n, status := t.asked(in.NodeId)
	if !status.Ok() {
		return 0, status
	}
	for _, x := range n.Attrs {
		if x.Name == attr {
			return filled(to, x.Value)
		}
	}
	return 0, fuse.ENOATTR
}

func (t *tree) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, to []byte) (uint32, fuse.Status) {
	_, n, status := t.asked(in.NodeId)
	if !status.Ok() {
		return 0, status
	}
	var all strings.Builder
	for _, x := range n.Attrs {
		all.WriteString(x.Name)
		all.WriteByte(0)
	}
	return filled(to, []byte(all.String()))
}

func filled(to, with []byte) (uint32, fuse.Status) {
	if len(to) < len(with) {
		return uint32(len(with)), fuse.ERANGE
	}
	return uint32(copy(to, with)), fuse.OK
}

// Open has nothing to keep. What the kernel holds of the content stays right.
func (t *tree) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (t *tree) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	i, n, status := t.asked(in.NodeId)
	if !status.Ok() {
		return nil, status
	}
	if n.Kind != vault.KindFile {
		return nil, fuse.EINVAL
	}
	off := int64(in.Offset)
	if off < 0 || off >= n.Size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(int64(len(buf)), n.Size-off)]
	if err := t.contents.read(cancel, i, buf, off); err != nil {
		return nil, t.refused(err)
	}
	t.trouble.good()
	return fuse.ReadResultData(buf), fuse.OK
}

// open opens a file in the vault, for contents.
func (t *tree) openIn(from *vault.Tree) func(context.Context, name) (reading, error) {
	return func(ctx context.Context, i name) (reading, error) {
		n, err := t.node(i)
		if err != nil {
			return nil, err
		}
		return from.Open(ctx, n)
	}
}

func (t *tree) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.list(in, func(e fuse.DirEntry, _ name, _ vault.Node) bool { return out.AddDirEntry(e) })
}

func (t *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.list(in, func(e fuse.DirEntry, i name, n vault.Node) bool {
		to := out.AddDirLookupEntry(e)
		if to == nil {
			return false
		}
		if e.Name != "." && e.Name != ".." { // which the kernel looks up by itself
			t.enter(i, n, to)
		}
		return true
	})
}

// list gives the names of a directory from an offset on, for as long as they are taken.
func (t *tree) list(in *fuse.ReadIn, take func(fuse.DirEntry, name, vault.Node) bool) fuse.Status {
	dir, n, status := t.asked(in.NodeId)
	if !status.Ok() {
		return status
	}
	if n.Kind != vault.KindDir {
		return fuse.ENOTDIR
	}
	kids := t.index.in(dir)
	for off := in.Offset; off < uint64(len(kids))+2; off++ {
		e, i := fuse.DirEntry{Name: []string{".", ".."}[min(off, 1)], Mode: unix.S_IFDIR, Ino: idOf(dir), Off: off + 1}, dir
		at := n
		if off >= 2 {
			i = kids[off-2]
			var err error
			if at, err = t.node(i); err != nil {
				return t.refused(err)
			}
			e.Name, e.Mode, e.Ino = path.Base(at.RealPath()), vault.FormatOf(at.Kind), idOf(t.index.inode(i))
		} else if off == 1 {
			up, err := t.above(dir, n)
			if err != nil {
				return t.refused(err)
			}
			e.Ino = idOf(up)
		}
		if !take(e, i, at) {
			break
		}
	}
	return fuse.OK
}

// above is the directory that holds another; that of the root is the root.
func (t *tree) above(dir name, n vault.Node) (name, error) {
	up := path.Dir(n.Path)
	if dir == 0 || up == "." {
		return 0, nil
	}
	at := name(0)
	for _, part := range strings.Split(up, "/") {
		kids := t.index.in(at)
		var err error
		k, ok := slices.BinarySearchFunc(kids, part, func(i name, want string) int {
			var n vault.Node
			if err == nil {
				n, err = t.node(i)
			}
			return strings.Compare(path.Base(n.Path), want)
		})
		if err != nil || !ok {
			return 0, errors.Join(err, errors.New("a directory of the list has none above it"))
		}
		at = kids[k]
	}
	return at, nil
}

func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks, out.Files = uint64(t.backup.Bytes+blockSize-1)/blockSize, uint64(t.index.total())
	return fuse.OK
}

// Access is asked where the kernel does not judge by itself. Only who mounted it comes here, and may see what is there.
func (t *tree) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

func (t *tree) String() string { return "holdfast" }
