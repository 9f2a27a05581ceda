package keeper

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is one cgroup v2 that a keeper made for its child. The keeper itself stays outside.
type cgroup struct{ path string }

// makeCgroup makes a cgroup below the caller's own one (or, where that cannot be, below the mount's root).
func makeCgroup(name string) (*cgroup, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	mount, root, ok := cgroup2Mount(mountinfo)
	if !ok {
		return nil, errors.New("make a cgroup: no cgroup2 file system is mounted")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	var errs []error
	for _, parent := range cgroupParents(mount, root, ownCgroup(own)) {
		c := &cgroup{path: filepath.Join(parent, name)}
		if err := os.Mkdir(c.path, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		// Freezing is what makes a kill complete; a kernel without it is served better by the /proc walk.
		if _, err := os.Stat(filepath.Join(c.path, "cgroup.freeze")); err != nil {
			errs = append(errs, err, os.Remove(c.path))
			continue
		}
		return c, nil
	}
	return nil, fmt.Errorf("make a cgroup: %w", errors.Join(errs...))
}

// cgroup2Mount finds the cgroup2 file system in mountinfo (proc(5)): where it is, and which part of it is there.
func cgroup2Mount(mountinfo []byte) (mount, root string, ok bool) {
	sc := bufio.NewScanner(bytes.NewReader(mountinfo))
	for sc.Scan() {
		before, after, found := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(before)
		if !found || len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		return unescapeMount(fields[4]), unescapeMount(fields[3]), true
	}
	return "", "", false
}

// unescapeMount undoes the octal escapes of blanks and backslashes in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// ownCgroup finds the v2 line ("0::/path") of /proc/self/cgroup; "" when there is none.
func ownCgroup(file []byte) string {
	for line := range strings.Lines(string(file)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path
		}
	}
	return ""
}

func cgroupParents(mount, root, own string) []string {
	parents := []string{}
	if own != "" && !strings.HasPrefix(own, "/..") {
		if rel, err := filepath.Rel(root, own); err == nil && !strings.HasPrefix(rel, "..") {
			parents = append(parents, filepath.Join(mount, rel))
		}
	}
	if len(parents) == 0 || parents[0] != mount {
		parents = append(parents, mount)
	}
	return parents
}

// open gives a descriptor that a process can be started into.
func (c *cgroup) open() (int, error) {
	fd, err := unix.Open(c.path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open cgroup %s: %w", c.path, err)
	}
	return fd, nil
}

// event reads one value of cgroup.events. A cgroup that is gone has neither members nor frost.
func (c *cgroup) event(key string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read cgroup %s: %w", c.path, err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
			return v == "1", nil
		}
	}
	return false, fmt.Errorf("read cgroup %s: cgroup.events has no %q", c.path, key)
}

func (c *cgroup) populated() (bool, error) { return c.event("populated") }

func (c *cgroup) write(file, value string) error {
	err := os.WriteFile(filepath.Join(c.path, file), []byte(value), 0)
	if err != nil && !gone(err) {
		return fmt.Errorf("write %s of cgroup %s: %w", file, c.path, err)
	}
	return nil
}

// freeze stops every member, and waits at most `wait` until the kernel says so.
func (c *cgroup) freeze(wait time.Duration) error {
	if err := c.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	for until := bootClock() + wait; ; time.Sleep(time.Millisecond) {
		frozen, err := c.event("frozen")
		if err != nil || frozen {
			return err
		}
		if bootClock() >= until {
			return fmt.Errorf("freeze cgroup %s: not frozen after %v", c.path, wait)
		}
	}
}

func (c *cgroup) thaw() error { return c.write("cgroup.freeze", "0") }

// kill sends SIGKILL to every member; frozen ones die too. Kernels before 5.14 have no cgroup.kill.
func (c *cgroup) kill() error {
	err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0)
	if err == nil {
		return nil
	}
	pids, perr := c.members()
	if perr != nil {
		return perr
	}
	for _, pid := range pids {
		if p, err := readStat(pid); err == nil {
			if err := signalProcess(p.process, unix.SIGKILL); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cgroup) members() ([]int, error) {
	data, err := os.ReadFile(filepath.Join(c.path, "cgroup.procs"))
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read members of cgroup %s: %w", c.path, err)
	}
	var pids []int
	for _, f := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// remove takes the empty cgroup away. The kernel may call it busy for a moment after its last member died.
func (c *cgroup) remove(wait time.Duration) error {
	for until := bootClock() + wait; ; time.Sleep(2 * time.Millisecond) {
		err := unix.Rmdir(c.path)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || bootClock() >= until {
			return fmt.Errorf("remove cgroup %s: %w", c.path, err)
		}
	}
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }
