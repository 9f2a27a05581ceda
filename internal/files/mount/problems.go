package mount

import (
	"errors"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"holdfast/internal/problem"
)

const device = "/dev/fuse"

// checkDevice says why nothing can be mounted here, before a list is fetched in vain.
func checkDevice() error {
	if _, err := os.Stat(device); err != nil {
		return noDevice(err)
	}
	if root() {
		return checkRight()
	}
	if _, err := exec.LookPath("fusermount3"); err == nil {
		return nil
	}
	if _, err := exec.LookPath("fusermount"); err == nil {
		return nil
	}
	return noRight(errors.New("there is no program fusermount3, by which a user who is not root mounts"))
}

// refusedMount says why the kernel, or the program that asks it, refused.
func refusedMount(dir string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return noRight(err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return noDevice(err)
	}
	return &problem.Problem{
		Code: "files.not-mounted", Subject: dir, Severity: problem.Note, Title: "cannot be mounted: " + err.Error(),
		Meaning: "Nothing was mounted; the backup is as it was.", Remedy: instead,
	}
}

// instead is the way without a mount.
const instead = "look for what is wanted with holdfast files ls and holdfast files find, and bring it back with holdfast restore files NAME --path PATH --to DIR"

func noDevice(err error) error {
	return &problem.Problem{
		Code: "files.not-mounted", Subject: device, Severity: problem.Note, Title: "cannot be used: " + err.Error(),
		Meaning: "This machine cannot show a backup as a directory. Nothing was mounted; the backup is as it was.",
		Remedy:  "load it with modprobe fuse; into a container hand it with --device /dev/fuse --cap-add SYS_ADMIN. Or " + instead,
	}
}

func noRight(err error) error {
	return &problem.Problem{
		Code: "files.not-mounted", Subject: device, Severity: problem.Note, Title: "this user may not mount: " + err.Error(),
		Meaning: "Nothing was mounted; the backup is as it was.",
		Remedy:  "run it as root, or install fuse3; in a container root needs --cap-add SYS_ADMIN too. Or " + instead,
	}
}

func notThere(dir string, err error) error {
	p := &problem.Problem{
		Code: "files.not-mounted", Subject: dir, Severity: problem.Note, Title: "is no directory to mount on: " + err.Error(),
		Meaning: "Nothing was mounted.", Remedy: "name an empty directory that is there: mkdir " + dir,
	}
	if errors.Is(err, unix.ENOTCONN) {
		p.Title = "a mount lies there whose process was killed"
		p.Remedy = "take it away: umount " + dir + " (or fusermount3 -u " + dir + ")"
	}
	return p
}

func notEmpty(dir, found string) error {
	return &problem.Problem{
		Code: "files.not-mounted", Subject: dir, Severity: problem.Note, Title: "is not empty: it holds " + found,
		Meaning: "Nothing was mounted: what lies there would be hidden.", Remedy: "name an empty directory",
	}
}

// checkRight says what root lacks in many a container: the device, or the right to mount.
func checkRight() error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return noRight(err)
	}
	if err := f.Close(); err != nil {
		return noRight(err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData // 64 bits in two words (capget(2))
	if err := unix.Capget(&head, &has[0]); err != nil {
		return noRight(err)
	}
	if has[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return noRight(errors.New("root lacks CAP_SYS_ADMIN here"))
	}
	return nil
}
