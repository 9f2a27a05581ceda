package point

import (
	"bytes"
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
	refuse := func(title, remedy string) error { return notExchangeable(set, title, remedy) }
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
	if !sameDisk(at, filepath.Dir(at)) { // a subvolume of btrfs is no mount point
		return "", refuse(at+" is a file system of its own, and such a one cannot be exchanged", "let the set be a directory below it in the plan")
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

func notExchangeable(set, title, remedy string) error {
	return &problem.Problem{Code: "restore.not-exchangeable", Subject: set, Severity: problem.Note, Title: title, Meaning: "Nothing was changed.",
		Remedy: remedy + "; or bring the point back beside: holdfast recovery-point restore POINT --to DIR"}
}

// resolved is a path without symbolic links, of which the end may not be there yet.
func resolved(path string) (string, error) {
	at, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
		return at, err
	}
	above, err := resolved(filepath.Dir(path))
	return filepath.Join(above, filepath.Base(path)), err
}

func isDirectory(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// mountedAt lists the mount points that a directory is or has inside (proc(5), /proc/pid/mountinfo: the fifth field, with
// blanks as octal numbers). Pure.
func mountedAt(mountinfo, dir string) (out []string) {
	for _, m := range mountsOf(mountinfo) {
		if within(m.at, dir) {
			out = append(out, m.at)
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

// exchangeable tries with two empty directories whether the file system beside a path can exchange two: not all can.
func exchangeable(path, set string) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".holdfast-trying-")
	if err != nil {
		return fmt.Errorf("try to exchange two directories: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.Mkdir(a, 0o700), os.Mkdir(b, 0o700)); err != nil {
		return fmt.Errorf("try to exchange two directories: %w", err)
	}
	if err := exchange(a, b); err != nil {
		return &problem.Problem{Code: "restore.not-exchangeable", Subject: set, Severity: problem.Note, Title: "the file system of " + path + " cannot exchange directories: " + err.Error(),
			Meaning: "Nothing was changed.", Remedy: "bring the point back beside: holdfast recovery-point restore POINT --to DIR"}
	}
	return nil
}

// mount is a line of a mountinfo file: what is mounted (a path within a file system), and where.
type mount struct{ device, root, at string }

func mountsOf(mountinfo string) (out []mount) {
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) >= 5 {
			out = append(out, mount{device: f[2], root: octal(f[3]), at: octal(f[4])})
		}
	}
	return out
}

// within reports whether a path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// insideOf is where a directory lies within the file system that it is on: the mount that shows at its path, and its path there.
// Pure.
func insideOf(mine []mount, dir string) (on mount, inside string) {
	for _, m := range mine {
		if within(dir, m.at) && len(m.at) >= len(on.at) { // of two at one place the later one shows
			on = m
		}
	}
	return on, filepath.Join(on.root, strings.TrimPrefix(dir, on.at))
}

// pinnedBy lists where a directory, by its path in mine, or something in it is mounted in theirs: such a mount stays with the
// directory when it gets another name, and whoever looks through it sees what is set aside. Pure.
func pinnedBy(mine, theirs []mount, dir string) (out []string) {
	on, inside := insideOf(mine, dir)
	for _, m := range theirs {
		if on.at != "" && m.device == on.device && within(m.root, inside) {
			out = append(out, m.at)
		}
	}
	return out
}

// calledBy lists the names that a directory, by its path in mine, has in theirs, where what it lies in may be mounted elsewhere.
// Pure.
func calledBy(mine, theirs []mount, dir string) (out []string) {
	on, inside := insideOf(mine, dir)
	for _, m := range theirs {
		if on.at != "" && m.device == on.device && within(inside, m.root) {
			out = append(out, filepath.Join(m.at, strings.TrimPrefix(inside, m.root)))
		}
	}
	return out
}

// mounters are the processes to whom a directory is mounted by itself, as containers and services in a sandbox have it.
func mounters(dir string) ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look where %s is mounted: %w", dir, err)
	}
	mine := mountsOf(string(info))
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look where %s is mounted: %w", dir, err)
	}
	var out []string
	seen := map[string]bool{}
	for _, p := range all {
		space, err := os.Readlink(filepath.Join("/proc", p.Name(), "ns", "mnt"))
		if _, number := strconv.Atoi(p.Name()); number != nil || err != nil || seen[space] {
			continue
		}
		theirs, err := os.ReadFile(filepath.Join("/proc", p.Name(), "mountinfo"))
		if err != nil { // it has ended
			continue
		}
		seen[space] = true
		for _, at := range pinnedBy(mine, mountsOf(string(theirs)), dir) {
			name, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "comm")) // it may have ended
			out = append(out, fmt.Sprintf("process %s (%s) has it mounted at %s", p.Name(), strings.TrimSpace(string(name)), at))
		}
	}
	return out, nil
}

// writers are the processes that have a file below a directory open for writing: with the directory's name gone they would go
// on writing into what is set aside. So would a service whose working directory is there; a shell that stands in it is let be.
// Of processes of other users only root is told.
func writers(dir string) ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look who writes below %s: %w", dir, err)
	}
	mine := mountsOf(string(info))
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look who writes below %s: %w", dir, err)
	}
	var out []string
	names := map[string][]string{} // of the directory, in each space of mounts
	for _, p := range all {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		proc := filepath.Join("/proc", p.Name())
		space, err := os.Readlink(filepath.Join(proc, "ns", "mnt"))
		if err != nil { // it has ended, or is somebody else's
			continue
		}
		if _, known := names[space]; !known {
			theirs, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
			if err != nil { // it has ended
				continue
			}
			names[space] = append(calledBy(mine, mountsOf(string(theirs)), dir), dir)
		}
		if what := writes(proc, names[space]); what != "" {
			name, _ := os.ReadFile(filepath.Join(proc, "comm")) // it may have ended
			out = append(out, fmt.Sprintf("process %s (%s) %s", p.Name(), strings.TrimSpace(string(name)), what))
		}
	}
	return out, nil
}

// writes says what a process does in a directory that has these names for it; "" = nothing that matters.
func writes(proc string, names []string) string {
	in := func(at string) bool {
		return slices.ContainsFunc(names, func(dir string) bool { return within(at, dir) })
	}
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil { // it has ended, or is somebody else's
		return ""
	}
	for _, f := range open {
		at, err := os.Readlink(filepath.Join(proc, "fd", f.Name()))
		if err == nil && in(at) && written(filepath.Join(proc, "fdinfo", f.Name())) {
			return "writes " + at
		}
	}
	if at, err := os.Readlink(filepath.Join(proc, "cwd")); err == nil && in(at) && !onTerminal(proc) {
		return "works in " + at
	}
	return ""
}

// onTerminal reports whether somebody sits before a process (proc(5), /proc/pid/stat: the seventh field, 0 = no terminal).
func onTerminal(proc string) bool {
	raw, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return false
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // from the third on; the name before may hold anything
	return len(f) > 4 && f[4] != "0"
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
