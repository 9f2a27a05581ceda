package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// places are a directory of the machine's disk and one that is memory, which may not know the direct way.
func places(t *testing.T) []string {
	t.Helper()
	out := []string{t.TempDir()}
	if shm, err := os.MkdirTemp("/dev/shm", "direct-"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(shm) }) // a directory of this test's
		out = append(out, shm)
	}
	return out
}

func TestAFileThatIsWrittenDirectlyIsWhole(t *testing.T) {
	const piece = 64 << 10
	for _, dir := range places(t) {
		for _, size := range []int{1, 4095, 4096, piece, 5*piece - 1, 5*piece + 4097} {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(rand.Uint32())
			}
			name := filepath.Join(dir, fmt.Sprint(size))
			f, err := os.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			d, err := durable.NewDirect(f, int64(size))
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for at := 0; at < size; at += piece {
				all.Go(func() {
					part := want[at:min(at+piece, size)]
					room := append(durable.DirectRoom(piece), part...)
					if n, err := d.WriteAt(room, int64(at)); err != nil || n != len(part) {
						t.Errorf("%d bytes of %d written at %d: %v", n, len(part), at, err)
					}
				})
			}
			all.Wait()
			if err := errors.Join(d.Truncate(int64(size)), d.Sync(), d.Close()); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes came back, %d were written, or others: %v", name, len(got), size, err)
			}
		}
	}
}

// What lies where no disk takes it is written in the usual way, and what was written before stays.
func TestWhatDoesNotLieWellIsWrittenToo(t *testing.T) {
	for _, dir := range places(t) {
		name := filepath.Join(dir, "f")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := durable.NewDirect(f, 3*4096)
		if err != nil {
			t.Fatal(err)
		}
		first := append(durable.DirectRoom(4096), bytes.Repeat([]byte("a"), 4096)...)
		odd := append(durable.DirectRoom(4096)[:1], bytes.Repeat([]byte("b"), 100)...)[1:] // one byte behind where it ought to begin
		for _, w := range []struct {
			p  []byte
			at int64
		}{{first, 0}, {odd, 4096}, {bytes.Repeat([]byte("c"), 50), 4196}, {first[:10:10], 4246}} {
			want := bytes.Clone(w.p)
			if n, err := d.WriteAt(w.p, w.at); err != nil || n != len(want) {
				t.Errorf("%d bytes at %d: %d, %v", len(want), w.at, n, err)
			}
		}
		if err := errors.Join(d.Truncate(4256), d.Close()); err != nil {
			t.Error(err)
		}
		want := append(append(append(bytes.Repeat([]byte("a"), 4096), bytes.Repeat([]byte("b"), 100)...), bytes.Repeat([]byte("c"), 50)...), first[:10]...)
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, %d were written, or others: %v", dir, len(got), len(want), err)
		}
	}
}

// Zeros are put behind the end of the file alone: elsewhere they would lie over what another writer has put there.
func TestAPieceWithinAFileGetsNoZerosBehindIt(t *testing.T) {
	for _, dir := range places(t) {
		name := filepath.Join(dir, "f")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := durable.NewDirect(f, 8192)
		if err != nil {
			t.Fatal(err)
		}
		second := append(durable.DirectRoom(4096), bytes.Repeat([]byte("b"), 4096)...)
		first := append(durable.DirectRoom(8192), bytes.Repeat([]byte("a"), 4090)...)
		_, err2 := d.WriteAt(second, 4096)
		_, err1 := d.WriteAt(first, 0)
		sixth := append(durable.DirectRoom(8192), bytes.Repeat([]byte("a"), 5000)...)
		_, err0 := d.WriteAt(sixth[:5000], 0)
		if err := errors.Join(err2, err1, err0, d.Truncate(8192), d.Close()); err != nil {
			t.Error(err)
		}
		want := append(bytes.Repeat([]byte("a"), 5000), bytes.Repeat([]byte("b"), 8192-5000)...)
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, or others: %v", dir, len(got), err)
		}
	}
}

// On a disk of which that is expected the direct way is gone, until something comes that does not lie well.
func TestADiskIsWrittenDirectly(t *testing.T) {
	dir := t.TempDir()
	var on unix.Statfs_t
	if err := unix.Statfs(dir, &on); err != nil {
		t.Fatal(err)
	}
	if on.Type != unix.EXT4_SUPER_MAGIC && on.Type != unix.XFS_SUPER_MAGIC {
		t.Skip("the tests' directory is on a file system that is written in the usual way")
	}
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := durable.NewDirect(f, 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	direct := func() bool {
		flags, err := unix.FcntlInt(d.Fd(), unix.F_GETFL, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags&unix.O_DIRECT != 0
	}
	if !direct() {
		t.Error("it is not written directly")
	}
	if _, err := d.WriteAt(make([]byte, 100), 8000); err != nil || direct() {
		t.Errorf("what does not lie well: %v, directly: %v", err, direct())
	}
}

func TestAFileForWhichThereIsNoRoomIsRefused(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // nothing was written to it
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &on); err != nil {
		t.Fatal(err)
	}
	if on.Type != unix.EXT4_SUPER_MAGIC && on.Type != unix.XFS_SUPER_MAGIC {
		t.Skip("the tests' directory is on a file system that is written in the usual way")
	}
	if _, err := durable.NewDirect(f, int64(on.Blocks)*on.Bsize*2); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EFBIG) {
		t.Errorf("twice the disk: %v", err)
	}
}
