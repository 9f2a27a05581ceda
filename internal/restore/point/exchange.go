package point

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
)

// liveDirectory is the directory that a path leads to, if it can be exchanged with one beside it: it is there, it is no mount
// point, and nothing is mounted inside, for a mount would go with what is set aside.
func liveDirectory(path, set string) (string, error) {
	refuse := func(title, remedy string) error {
		return &problem.Problem{Code: "restore.not-exchangeable", Subject: set, Severity: problem.Note, Title: title, Meaning: "Nothing was changed.",
			Remedy: remedy + "; or bring the point back beside: holdfast recovery-point restore POINT --to DIR"}
	}
	at, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", refuse(path+" is not there", "mount its disk, or make an empty directory")
	}
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	if !isDirectory(at) || at == "/" {
		return "", refuse(at+" is no directory that could have another name", "correct the path of the set in the plan")
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", at, err)
	}
	if me := os.Geteuid(); me != 0 && int(st.Uid) != me {
		return "", refuse(at+" belongs to another user, and only root can give files to their owners", "give the command as root")
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("look what is mounted at %s: %w", at, err)
	}
	switch in := mountedAt(string(info), at); {
	case slices.Contains(in, at):
		return "", refuse(at+" is a mount point, and such a one cannot be exchanged", "let the set be a directory below it in the plan")
	case len(in) > 0:
		return "", refuse("another file system is mounted inside: "+strings.Join(in, ", "), "unmount it")
	}
	return at, nil
}

func isDirectory(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// mountedAt lists the mount points that a directory is or has inside (proc(5), /proc/pid/mountinfo: the fifth field, with
// blanks as octal numbers). Pure.
func mountedAt(mountinfo, dir string) (out []string) {
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		at := octal(f[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			out = append(out, at)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// octal undoes \040 and the like.
func octal(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// sameDisk reports whether two paths lie, or will lie, on one file system.
func sameDisk(a, b string) bool {
	x, okA := deviceOf(a)
	y, okB := deviceOf(b)
	return okA && okB && x == y
}

// deviceOf is the file system of a path, or of the nearest directory above that is there.
func deviceOf(path string) (uint64, bool) {
	for {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		if err == nil {
			return st.Dev, true
		}
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return 0, false
		}
		path = filepath.Dir(path)
	}
}

// inodeOf is the inode of a directory; 0 = there is none of that name.
func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Ino, nil
}

// exchange gives two directories beside each other each other's name: one call, which is done or not done (renameat2(2)).
func exchange(path, beside string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, beside, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", path, beside, err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// writers are the processes that have a file below a directory open for writing: with the directory's name gone they would go
// on writing into what is set aside. Of processes of other users only root is told.
func writers(dir string) ([]string, error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look who writes below %s: %w", dir, err)
	}
	var out []string
	for _, p := range all {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		proc := filepath.Join("/proc", p.Name())
		open, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil { // it has ended, or is somebody else's
			continue
		}
		for _, f := range open {
			at, err := os.Readlink(filepath.Join(proc, "fd", f.Name()))
			if err == nil && strings.HasPrefix(at, dir+"/") && written(filepath.Join(proc, "fdinfo", f.Name())) {
				name, _ := os.ReadFile(filepath.Join(proc, "comm")) // it may have ended
				out = append(out, fmt.Sprintf("process %s (%s) writes %s", p.Name(), strings.TrimSpace(string(name)), at))
				break
			}
		}
	}
	return out, nil
}

// written reads from the kernel's word on a descriptor whether it was opened for writing (proc(5), flags in octal).
func written(fdinfo string) bool {
	raw, err := os.ReadFile(fdinfo)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(rest), 8, 64)
			return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}
