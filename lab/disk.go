package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk is an ext4 file system in a file: a loop device that can stand still and run full without harming anybody else.
// Its file's name tells whose it is, so that the disks of a dead test process are found and removed.

// diskMark begins the path of every disk's file, as the kernel shows it for a loop device.
const diskMark = "/var/tmp/holdfast-lab-"

// DiskOf is where a host's own disk lies: all databases of the host are on it. The world's shape must ask for disks.
func (w *World) DiskOf(host string) string { return filepath.Join(w.Root, "hosts", host, "db") }

// EtcdDiskOf is where the disk of a host's etcd member lies. The world's shape must ask for such disks.
func (w *World) EtcdDiskOf(host string) string { return filepath.Join(w.Root, "hosts", host, "etcd") }

// disk is one of a host.
type disk struct {
	dir  string
	name string // ends the name of its file
	size int64
}

// disks are all that the world's shape asks for.
func (w *World) disks() (all []disk) {
	for _, h := range w.Hosts {
		if w.Shape.Disk > 0 {
			all = append(all, disk{w.DiskOf(h), h, w.Shape.Disk})
		}
		if w.Shape.EtcdDisk > 0 {
			all = append(all, disk{w.EtcdDiskOf(h), h + "-etcd", w.Shape.EtcdDisk})
		}
	}
	return all
}

// mountDisks gives every host its disks.
func (w *World) mountDisks() {
	w.t.Helper()
	if len(w.disks()) == 0 {
		return
	}
	if err := removeDisks(); err != nil {
		w.t.Fatal(err)
	}
	born, err := bornAt(os.Getpid())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range w.disks() {
		if there, err := mounted(d.dir); err != nil || there {
			if err != nil {
				w.t.Fatal(err)
			}
			continue // the world starts once more
		}
		image := filepath.Join(filepath.Dir(w.Plan), fmt.Sprintf("disk-%d-%s-%s", os.Getpid(), born, d.name))
		if err := d.mount(image); err != nil {
			w.t.Fatalf("make the disk %s: %v", d.name, err)
		}
	}
}

// mount makes a new disk of a file, and puts it where it belongs.
func (d disk) mount(image string) error {
	for _, step := range []func() error{
		func() error { return os.WriteFile(image, nil, 0o600) },
		func() error { return os.Truncate(image, d.size) },
		func() error { return os.MkdirAll(d.dir, 0o755) },
		func() error { return command("mkfs.ext4", "-q", "-m", "0", image) },
		func() error { return command("mount", "-o", "loop,errors=remount-ro", image, d.dir) },
		func() error { return os.Remove(filepath.Join(d.dir, "lost+found")) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// unmountDisks takes the disks away; nothing of the world runs any more.
func (w *World) unmountDisks() {
	w.t.Helper()
	for _, d := range w.disks() {
		if there, err := mounted(d.dir); err != nil {
			w.t.Error(err)
		} else if there {
			if err := command("umount", d.dir); err != nil {
				w.t.Error(err)
			}
		}
	}
}

// FreezeDisk lets every write to a host's disk hang until [World.ThawDisk]; reads go on.
func (w *World) FreezeDisk(host string) {
	w.t.Helper()
	if err := command("fsfreeze", "--freeze", w.DiskOf(host)); err != nil {
		w.t.Fatal(err)
	}
}

// ThawDisk lets a disk go on. One that was not frozen stays as it is.
func (w *World) ThawDisk(host string) {
	w.t.Helper()
	if err := thaw(w.DiskOf(host)); err != nil {
		w.t.Error(err)
	}
}

// FreezeEtcdDisks lets every write to the disks of etcd members hang until [World.ThawEtcdDisks]. Whoever asks them is
// answered as far as that takes no disk.
func (w *World) FreezeEtcdDisks(hosts ...string) {
	w.t.Helper()
	for _, h := range hosts {
		if err := command("fsfreeze", "--freeze", w.EtcdDiskOf(h)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// ThawEtcdDisks lets disks of etcd members go on. One that was not frozen stays as it is.
func (w *World) ThawEtcdDisks(hosts ...string) {
	w.t.Helper()
	for _, h := range hosts {
		if err := thaw(w.EtcdDiskOf(h)); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *World) thawDisks() {
	w.t.Helper()
	for _, d := range w.disks() {
		if err := thaw(d.dir); err != nil {
			w.t.Error(err)
		}
	}
}

// fithaw is FITHAW of linux/fs.h.
const fithaw = 0xc0045878

func thaw(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("thaw the disk: %w", err)
	}
	defer func() { _ = d.Close() }()                                                                 // only read
	if err := unix.IoctlSetInt(int(d.Fd()), fithaw, 0); err != nil && !errors.Is(err, unix.EINVAL) { // it is not frozen
		return fmt.Errorf("thaw the disk %s: %w", dir, err)
	}
	return nil
}

// fsShutdown is EXT4_IOC_SHUTDOWN of linux/ext4.h, and fsNoFlush its flag that writes nothing more.
const (
	fsShutdown = 0x8004587d
	fsNoFlush  = 2
)

// FailDisk lets everything on a host's disk end with an input/output error, until [World.MendDisk].
func (w *World) FailDisk(host string) {
	w.t.Helper()
	d, err := os.Open(w.DiskOf(host))
	if err == nil {
		err = errors.Join(unix.IoctlSetPointerInt(int(d.Fd()), fsShutdown, fsNoFlush), d.Close())
	}
	if err != nil {
		w.t.Fatalf("fail the disk of %s: %v", host, err)
	}
}

// SealDisk makes a host's disk read-only, as ext4 does when it finds an error, until [World.MendDisk].
func (w *World) SealDisk(host string) {
	w.t.Helper()
	device, err := w.deviceOf(host)
	if err == nil {
		err = os.WriteFile(filepath.Join("/sys/fs/ext4", device, "trigger_fs_error"), []byte("lab"), 0o200)
	}
	if err != nil {
		w.t.Fatalf("seal the disk of %s: %v", host, err)
	}
}

// MendDisk puts a disk that refused in order, as a person does. Nothing of the host may run: see [World.PowerOff].
func (w *World) MendDisk(host string) {
	w.t.Helper()
	device, err := w.deviceOf(host)
	if err != nil {
		w.t.Fatal(err)
	}
	image, err := os.ReadFile(filepath.Join("/sys/block", device, "loop", "backing_file"))
	if err == nil {
		err = command("umount", w.DiskOf(host))
	}
	if err != nil {
		w.t.Fatalf("mend the disk of %s: %v", host, err)
	}
	file := strings.TrimSpace(string(image))
	var exit *exec.ExitError
	if err := exec.Command("e2fsck", "-fy", file).Run(); errors.As(err, &exit) && exit.ExitCode() > 1 || err != nil && exit == nil {
		w.t.Fatalf("mend the disk of %s: %v", host, err) // 1: it was damaged, and is not any more
	}
	if err := command("mount", "-o", "loop,errors=remount-ro", file, w.DiskOf(host)); err != nil {
		w.t.Fatalf("mend the disk of %s: %v", host, err)
	}
}

// deviceOf is the loop device of a host's disk.
func (w *World) deviceOf(host string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("look for the disk of %s: %w", host, err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == w.DiskOf(host) {
			return filepath.Base(fields[0]), nil
		}
	}
	return "", fmt.Errorf("look for the disk of %s: nothing is mounted at %s", host, w.DiskOf(host))
}

// FillDisk takes all space of a host's disk but so many bytes, until [World.EmptyDisk].
func (w *World) FillDisk(host string, left int64) {
	w.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(w.DiskOf(host), &st); err != nil {
		w.t.Fatal(err)
	}
	take := int64(st.Bavail)*st.Bsize - left
	if take <= 0 {
		w.t.Fatalf("the disk of %s has no %d bytes free", host, left)
	}
	f, err := os.OpenFile(w.ballast(host), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, take), f.Close())
	}
	if err != nil {
		w.t.Fatalf("fill the disk of %s: %v", host, err)
	}
}

// EmptyDisk gives back what [World.FillDisk] took.
func (w *World) EmptyDisk(host string) {
	w.t.Helper()
	if err := os.Remove(w.ballast(host)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
}

func (w *World) ballast(host string) string { return filepath.Join(w.DiskOf(host), "ballast") }

// needDisks says what is missing for disks. On a laptop the test is left out; in CI it fails.
func needDisks(t testing.TB) {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, program := range []string{"mkfs.ext4", "e2fsck", "mount", "umount", "fsfreeze"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing = append(missing, "loop devices")
	}
	switch {
	case len(missing) == 0:
	case os.Getenv("CI") != "":
		t.Fatalf("disks of their own need %v", missing)
	default:
		t.Skipf("disks of their own need %v", missing)
	}
}

// mounted reports whether something is mounted right at a directory.
func mounted(dir string) (bool, error) {
	var own, above syscall.Stat_t
	if err := syscall.Stat(dir, &own); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if err := syscall.Stat(filepath.Dir(dir), &above); err != nil {
		return false, fmt.Errorf("look above %s: %w", dir, err)
	}
	return own.Dev != above.Dev, nil
}

// removeDisks takes away the disks of test processes that are no more.
func removeDisks() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("look for old disks: %w", err)
	}
	var bad []error
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], diskMark) {
			continue
		}
		file, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(fields[0]), "loop", "backing_file"))
		if err != nil {
			continue // no loop device: not ours
		}
		if dead, err := ofADeadProcess(filepath.Base(strings.TrimSpace(string(file)))); err != nil {
			bad = append(bad, err)
		} else if dead {
			bad = append(bad, thaw(fields[1]), command("umount", fields[1]))
		}
	}
	return errors.Join(bad...)
}

// ofADeadProcess reports whether a disk's file is of a test process that is no more.
func ofADeadProcess(name string) (bool, error) {
	var pid int
	var born, host string
	if _, err := fmt.Sscanf(strings.ReplaceAll(name, "-", " "), "disk %d %s %s", &pid, &born, &host); err != nil {
		return false, nil // not named by us
	}
	now, err := bornAt(pid)
	switch {
	case err == nil:
		return now != born, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return true, nil
	}
	return false, err
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
