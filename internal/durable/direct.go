package durable

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directUnit is what position, length and address of a direct write are multiples of, in bytes: no disk that is sold asks for more.
const directUnit = 4096

// DirectRoom gives empty room for n bytes that [Direct.WriteAt] can take as they lie there.
func DirectRoom(n int) []byte {
	need := directUp(n)
	b := make([]byte, need+directUnit)
	at := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (directUnit - 1)
	return b[at : at : at+need]
}

func directUp(n int) int { return (n + directUnit - 1) &^ (directUnit - 1) }

// Direct is a file that is written straight to its disk where that can be done (open(2), O_DIRECT). Large files that nobody reads
// soon cost less so: nothing is copied, no memory is taken from what others read again and again, and the disk works from the
// first byte on. Nothing else changes: only after Sync are the bytes sure to outlive a power cut, and whatever a file system,
// a disk or a piece of memory cannot do is done in the usual way. Many goroutines may write other places of the file.
type Direct struct {
	*os.File
	size int64       // of the whole file, in bytes
	off  atomic.Bool // it is written in the usual way
}

// NewDirect begins to write a file of that size, in bytes, and takes all the room for it at once where the file system can.
func NewDirect(f *os.File, size int64) (*Direct, error) {
	d := &Direct{File: f, size: size}
	if !d.set(true) {
		return Through(f), nil
	}
	// Otherwise each write that makes the file longer waits for all others.
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return d, fmt.Errorf("take %d bytes for %s: %w", size, f.Name(), err)
	}
	return d, nil // whatever else stands in the way does not stand in the way of writing
}

// Through is a Direct that is written in the usual way.
func Through(f *os.File) *Direct {
	d := &Direct{File: f}
	d.off.Store(true)
	return d
}

// set switches between both ways, and reports whether that could be done. Direct writes are only asked of file systems that
// are known to do them as everybody expects; one that compresses or checks its data does not.
func (d *Direct) set(direct bool) bool {
	fd := d.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	if !direct {
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags&^unix.O_DIRECT)
		return err == nil
	}
	var on unix.Statfs_t
	if unix.Fstatfs(int(fd), &on) != nil || !slices.Contains([]int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC}, int64(on.Type)) {
		return false
	}
	_, err = unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_DIRECT)
	return err == nil
}

// WriteAt is [os.File.WriteAt]. An end of the file that is not whole units is written with zeros behind it where p has room for
// them: whoever writes it gives the file its length with Truncate when all is written.
func (d *Direct) WriteAt(p []byte, at int64) (int, error) {
	whole := directUp(len(p))
	fits := whole == len(p) || at+int64(len(p)) == d.size && whole <= cap(p) // zeros within the file would be another writer's place
	aligned := at%directUnit == 0 && fits && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directUnit == 0
	if aligned && !d.off.Load() {
		padded := p[:whole]
		clear(padded[len(p):])
		n, err := d.File.WriteAt(padded, at)
		if !errors.Is(err, unix.EINVAL) {
			return min(n, len(p)), err
		}
	}
	if !d.off.Load() {
		if !d.set(false) {
			return 0, fmt.Errorf("write %s: it can be written neither past the memory nor through it", d.Name())
		}
		d.off.Store(true)
	}
	return d.File.WriteAt(p, at)
}
