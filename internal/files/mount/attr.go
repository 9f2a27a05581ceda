package mount

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// blockSize is in what a file system counts that has none of its own.
const blockSize = 4096

// attrs describes a name as stat(2) shows it.
func (t *tree) attrs(i name, n vault.Node, out *fuse.Attr) {
	out.Ino, out.Mode, out.Owner = idOf(i), vault.FormatOf(n.Kind)|n.Mode, fuse.Owner{Uid: n.UID, Gid: n.GID}
	out.Size, out.Blksize = uint64(n.Size), blockSize
	if n.Kind == vault.KindSymlink {
		out.Size = uint64(len(n.Target))
	}
	out.Blocks = (out.Size + 511) / 512 // of 512 bytes, whatever Blksize is (stat(2))
	if n.Sparse && out.Blocks > 1 {
		out.Blocks-- // where the holes were is not known; that there were some tells who copies it to look for zeros
	}
	// 1 says that the links of a directory are not counted, as on btrfs: programs that reckon with them then look.
	out.Nlink = 1
	if n.Kind != vault.KindDir {
		out.Nlink = t.index.links(i)
	}
	changed := n.ChgNs
	if changed == 0 { // it was touched right before it was read
		changed = n.ModNs
	}
	out.Mtime, out.Mtimensec = moment(n.ModNs)
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = moment(changed)
	if n.Kind == vault.KindChar || n.Kind == vault.KindBlock {
		out.Rdev = deviceOf(n.Device)
	}
}

// moment splits nanoseconds as the kernel wants them; before 1970 the seconds are negative, and so they come back.
func moment(ns int64) (uint64, uint32) {
	t := unix.NsecToTimespec(ns)
	return uint64(t.Sec), uint32(t.Nsec)
}

// deviceOf packs a device's number into 32 bits as FUSE has it: 12 of the major number, 20 of the minor (new_encode_dev in
// linux/kdev_t.h).
func deviceOf(d uint64) uint32 {
	major, minor := unix.Major(d), unix.Minor(d)
	return minor&0xff | major<<8 | minor&^0xff<<12
}
