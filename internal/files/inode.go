package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// inode tells one file from another on this host.
type inode struct{ device, number uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

// describe fills in what stat(2) says.
func describe(n *vault.Node, st *unix.Stat_t) {
	n.Kind = vault.KindOf(st.Mode)
	n.Mode, n.UID, n.GID = st.Mode&0o7777, st.Uid, st.Gid
	n.ModNs, n.ChgNs, n.Inode = unix.TimespecToNsec(st.Mtim), unix.TimespecToNsec(st.Ctim), st.Ino
	n.Size, n.Sparse, n.Room, n.Device = 0, false, 0, 0
	switch n.Kind {
	case vault.KindFile:
		n.Size = st.Size
		n.Sparse = st.Blocks*512 < st.Size // blocks of 512 bytes, whatever the file system's are (stat(2))
	case vault.KindChar, vault.KindBlock:
		n.Device = uint64(st.Rdev)
	}
}

// roomIn is how many bytes of an open file lie outside of its holes, at least one block; 0 = it has none, or nobody can say. Its blocks
// do not tell: a file system that compresses, or has not written all of it yet, counts fewer. The file is read from its beginning next.
func roomIn(f *os.File, size int64) int64 {
	fd, room := int(f.Fd()), int64(0)
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= size { // a hole up to the end (lseek(2))
			break
		}
		if err != nil {
			return 0
		}
		if at, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			return 0
		}
		room += min(at, size) - data
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil || room >= size {
		return 0
	}
	return max(room, holeBlock)
}

// lstatAt looks at a name of an open directory, and does not follow it.
func lstatAt(dir *os.File, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retried(func() error { return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

func statOf(f *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retried(func() error { return unix.Fstat(int(f.Fd()), &st) })
	return st, err
}

// openAt opens a name of an open directory without following it or waiting for it.
func openAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	var fd int
	err := retried(func() (err error) {
		fd, err = unix.Openat(int(dir.Fd()), name, flags, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openToRead opens without noting the access where that is allowed.
func openToRead(dir *os.File, name string, flags int) (*os.File, error) {
	f, err := openAt(dir, name, flags|unix.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // another user's file
		return openAt(dir, name, flags|unix.O_RDONLY, 0)
	}
	return f, err
}

func retried(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// procPath names an entry of an open directory for calls that know no *at form; it holds for any bytes in a name.
func procPath(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

// procFile names an open file likewise. Calls that follow links reach the file itself.
func procFile(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// attrsOf reads the extended attributes of an open file or directory.
func attrsOf(f *os.File) ([]vault.Xattr, error) {
	return attrs(
		func(to []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), to) },
		func(name string, to []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, to) })
}

// attrsAt reads those of a name that cannot be opened: a symbolic link or a special file.
func attrsAt(dir *os.File, name string) ([]vault.Xattr, error) {
	at := procPath(dir, name)
	return attrs(
		func(to []byte) (int, error) { return unix.Llistxattr(at, to) },
		func(name string, to []byte) (int, error) { return unix.Lgetxattr(at, name, to) })
}

func attrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]vault.Xattr, error) {
	names, err := grown(list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var out []vault.Xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		value, err := grown(func(to []byte) (int, error) { return get(string(name), to) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) { // it went meanwhile, or is not ours to see
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s: %w", name, err)
		}
		out = append(out, vault.Xattr{Name: string(name), Value: value})
	}
	slices.SortFunc(out, func(a, b vault.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// grown asks how much there is, and for it, until it fits.
func grown(call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		n, err = call(buf)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
