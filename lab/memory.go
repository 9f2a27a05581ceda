package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A host's memory is a control group of its own (of the kernel's memory controller, version 1), in which everything counts
// that its agent starts. It has no limit until [World.ShortOfMemory] gives it one.

// memoryMount is where the memory controller is mounted, as systems do it.
const memoryMount = "/sys/fs/cgroup/memory"

// memoryMark begins the names of the groups, so that those of dead test processes are found and removed.
const memoryMark = "holdfast-lab-"

// needMemory leaves a test out where the kernel offers no memory controller of version 1: no program can be installed for it.
func needMemory(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(memoryMount, "memory.limit_in_bytes")); err != nil || os.Geteuid() != 0 {
		t.Skipf("a memory of its own for each host needs root and the memory controller at %s: %v", memoryMount, err)
	}
}

// memoryOf is the control group of a host.
func (w *World) memoryOf(host string) string { return filepath.Join(w.memory, w.memoryName+host) }

// makeMemories gives every host its group. They are removed when the test ends.
func (w *World) makeMemories() {
	w.t.Helper()
	parent, err := ownMemory()
	if err == nil {
		err = removeMemories(parent)
	}
	born, bornErr := bornAt(os.Getpid())
	if err = errors.Join(err, bornErr); err != nil {
		w.t.Fatal(err)
	}
	w.memory, w.memoryName = parent, fmt.Sprintf("%s%d-%s-", memoryMark, os.Getpid(), born)
	for _, h := range w.Hosts {
		if err := os.Mkdir(w.memoryOf(h), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			w.t.Fatal(err)
		}
	}
}

// removeOwnMemories removes the groups; nothing of the world runs any more.
func (w *World) removeOwnMemories() {
	w.t.Helper()
	if w.memory == "" {
		return
	}
	for _, h := range w.Hosts {
		if err := syscall.Rmdir(w.memoryOf(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.t.Errorf("remove the memory of %s: %v", h, err)
		}
	}
}

// ownMemory is this process's own group: what is made below it stays within its limits.
func ownMemory() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("look for the own memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && fields[1] == "memory" {
			own := filepath.Join(memoryMount, fields[2])
			if _, err := os.Stat(own); err != nil { // seen from a container: its own group is the mount's root
				own = memoryMount
			}
			return own, nil
		}
	}
	return "", errors.New("look for the own memory: /proc/self/cgroup does not name it")
}

// removeMemories removes the groups of test processes that are no more.
func removeMemories(parent string) error {
	old, err := filepath.Glob(filepath.Join(parent, memoryMark+"*"))
	if err != nil {
		return err
	}
	var bad []error
	for _, group := range old {
		word := strings.SplitN(strings.TrimPrefix(filepath.Base(group), memoryMark), "-", 3)
		pid, err := strconv.Atoi(word[0])
		if err != nil || len(word) != 3 {
			continue // not ours
		}
		if born, err := bornAt(pid); err == nil && born == word[1] {
			continue // its process lives
		}
		bad = append(bad, syscall.Rmdir(group))
	}
	return errors.Join(bad...)
}

// within makes a command start in the group of a host, if hosts have any.
func (w *World) within(host string, cmd *exec.Cmd) *exec.Cmd {
	if !w.Shape.Memory {
		return cmd
	}
	enter := `echo $$ > "$0" && exec "$@"`
	return exec.Command("sh", append([]string{"-c", enter, filepath.Join(w.memoryOf(host), "cgroup.procs")}, cmd.Args...)...)
}

// Shortage is a host that is short of memory, until it ends.
type Shortage struct {
	w    *World
	host string
	once sync.Once
	hog  *exec.Cmd
}

// ShortOfMemory leaves a host so many bytes beside what its programs hold for good, and has another program read through a file
// that is far larger, again and again: whoever asks for memory there waits until the kernel has taken some from somebody,
// and what was read of other files is taken first. The file has nothing but holes, so that no disk is kept busy.
func (w *World) ShortOfMemory(host string, room int64) *Shortage {
	w.t.Helper()
	holes := filepath.Join(filepath.Dir(w.Plan), "holes-"+host)
	err := os.WriteFile(holes, nil, 0o600)
	if err == nil {
		err = os.Truncate(holes, 10*room)
	}
	var held int64
	if err == nil {
		held, err = w.heldMemory(host)
	}
	if err == nil {
		err = w.limitMemory(host, held+room)
	}
	hog := w.within(host, exec.Command("sh", "-c", `while :; do cat "$0" > /dev/null; done`, holes))
	hog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err == nil {
		err = hog.Start()
	}
	if err != nil {
		w.t.Fatalf("make %s short of memory: %v", host, err)
	}
	s := &Shortage{w: w, host: host, hog: hog}
	w.t.Cleanup(s.End)
	return s
}

// End gives the memory back. It may be called twice.
func (s *Shortage) End() {
	s.once.Do(func() {
		_ = syscall.Kill(-s.hog.Process.Pid, syscall.SIGKILL) // all of its group
		_ = s.hog.Wait()                                      // it was killed
		if err := s.w.limitMemory(s.host, -1); err != nil {
			s.w.t.Errorf("give %s its memory back: %v", s.host, err)
		}
	})
}

func (w *World) limitMemory(host string, bytes int64) error {
	return os.WriteFile(filepath.Join(w.memoryOf(host), "memory.limit_in_bytes"), []byte(strconv.FormatInt(bytes, 10)), 0o644)
}

// heldMemory is what a host's programs and the kernel hold for them that cannot be read again from a file.
func (w *World) heldMemory(host string) (int64, error) {
	var usage, cache, shared int64
	for from, into := range map[[2]string]*int64{
		{"memory.usage_in_bytes", ""}: &usage, {"memory.stat", "total_cache"}: &cache, {"memory.stat", "total_shmem"}: &shared,
	} {
		n, err := w.memoryFigure(host, from[0], from[1])
		if err != nil {
			return 0, err
		}
		*into = n
	}
	return usage - cache + shared, nil
}

// MemoryRefusals is how often somebody on a host asked for memory when none was left, and had to wait for some.
func (w *World) MemoryRefusals(host string) int64 {
	w.t.Helper()
	n, err := w.memoryFigure(host, "memory.failcnt", "")
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// memoryFigure is one of a group's: the only number of a file, or that behind a word.
func (w *World) memoryFigure(host, file, word string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(w.memoryOf(host), file))
	if err != nil {
		return 0, fmt.Errorf("look at the memory of %s: %w", host, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), word); found && (word == "" || strings.HasPrefix(value, " ")) {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("look at the memory of %s: %s has no %q", host, file, word)
}
