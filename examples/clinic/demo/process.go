package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one process as /proc shows it.
type process struct {
	pid    int
	parent int
	start  string   // clock ticks after boot: with the pid it names one process for ever
	argv   []string // nil = a zombie, or the kernel's own
	dir    string   // working directory; "" = not ours to know
	env    []string // where the words below may stand too; nil = not ours to know
	ticks  int64    // of processor time, its own alone
}

// mentions reports whether a process works with a path or something below it.
func (p process) mentions(path string) bool {
	if within(p.dir, path) {
		return true
	}
	for _, words := range [][]string{p.argv, p.env} {
		for _, w := range words {
			for {
				i := strings.Index(w, path)
				if i < 0 {
					break
				}
				w = w[i+len(path):]
				if w == "" || strings.ContainsRune("/,:;?&' \"", rune(w[0])) {
					return true
				}
			}
		}
	}
	return false
}

func within(dir, path string) bool { return dir == path || strings.HasPrefix(dir, path+"/") }

// isAgentOf reports whether a process is the agent of one host: its words name the root and the host apart.
func (p process) isAgentOf(root, host string) bool {
	if len(p.argv) < 2 || p.argv[1] != "agent" {
		return false
	}
	return follows(p.argv, "--host", host) && follows(p.argv, "--root", root)
}

func follows(words []string, flag, value string) bool {
	i := slices.Index(words, flag)
	return i >= 0 && i+1 < len(words) && words[i+1] == value
}

// markName is an environment variable that whatever a demo starts carries, its directory being the value.
// Mentioning that directory alone makes nobody one of ours: a person may have a shell or a pager there.
const markName = "HOLDFAST_DEMO"

func mark(work string) string { return markName + "=" + work }

// isOurs reports whether a demo's `up` started a process, whoever its parent is by now. Holdfast's own processes
// inherit the mark. PostgreSQL and services get an environment of their own: those are known by the directory
// that they serve from and the program that they run.
func (p process) isOurs(work string) bool {
	if slices.Contains(p.env, mark(work)) {
		return true
	}
	if len(p.argv) == 0 {
		return false
	}
	program, _, _ := strings.Cut(p.argv[0], " ") // PostgreSQL's children write what they do behind it
	switch {
	case within(program, work):
		return true
	case filepath.Base(program) == "postgres" || program == "postgres:":
		return p.mentions(work)
	}
	return false
}

// ofDemo selects everything that a demo started below its directory, and whatever descends from it.
func ofDemo(all []process, work string, self int) []process {
	return family(all, self, func(p process) bool { return p.isOurs(work) })
}

// ofHost selects of a demo's processes those that belong to one host, the agent first: whoever works with the
// host's directory, and whatever descends from those.
func ofHost(all []process, at place, host string, self int) []process {
	dir := at.host(host)
	return family(all, self, func(p process) bool {
		return p.isOurs(at.work) && (p.isAgentOf(at.root(), host) || p.mentions(dir))
	})
}

// family is who belongs and all their descendants, agents first, without the process self. A zombie is nobody.
func family(all []process, self int, belongs func(process) bool) []process {
	children := map[int][]process{}
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p)
	}
	seen := map[int]bool{self: true}
	var found []process
	var add func(p process)
	add = func(p process) {
		if seen[p.pid] {
			return
		}
		seen[p.pid] = true
		found = append(found, p)
		for _, c := range children[p.pid] {
			add(c)
		}
	}
	for _, p := range all {
		if belongs(p) {
			add(p)
		}
	}
	found = slices.DeleteFunc(found, func(p process) bool { return p.argv == nil })
	slices.SortStableFunc(found, func(a, b process) int { return rank(a) - rank(b) })
	return found
}

// rank puts those first that would notice the end of the others.
func rank(p process) int {
	switch {
	case len(p.argv) > 1 && p.argv[1] == "agent":
		return 0
	case len(p.argv) > 1 && p.argv[1] == "keeper":
		return 1
	}
	return 2
}

// running lists the processes of one service on one host.
func running(all []process, at place, host, program, verb string, self int) []process {
	return slices.DeleteFunc(ofHost(all, at, host, self), func(p process) bool {
		return len(p.argv) < 2 || filepath.Base(p.argv[0]) != program || p.argv[1] != verb
	})
}

// processes lists what lives now. A process that ends meanwhile is left out.
func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

func readProcess(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(string(stat))
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	p.pid = pid
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return process{}, err
	}
	p.argv = nulWords(line)
	// These two are other users' secret; then the process is not one of ours.
	p.dir, _ = os.Readlink(filepath.Join(dir, "cwd"))
	env, _ := os.ReadFile(filepath.Join(dir, "environ"))
	p.env = nulWords(env)
	return p, nil
}

func nulWords(text []byte) []string {
	s := strings.TrimRight(string(text), "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}

// parseStat reads /proc/PID/stat (proc(5)).
func parseStat(text string) (process, error) {
	// The command's name is in brackets and may itself hold brackets and blanks: fields start after the last.
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 {
		return process{}, fmt.Errorf("stat has %d fields", len(f))
	}
	parent, err := strconv.Atoi(f[1])
	user, err2 := strconv.ParseInt(f[11], 10, 64)
	system, err3 := strconv.ParseInt(f[12], 10, 64)
	if err := errors.Join(err, err2, err3); err != nil {
		return process{}, err
	}
	return process{parent: parent, start: f[19], ticks: user + system}, nil
}

// kill sends SIGKILL to exactly these processes. Who is gone already, or whose pid is another's by now, is passed over.
func kill(list []process) error {
	type pinned struct {
		process
		handle *os.Process
	}
	var held []pinned
	for _, p := range list {
		handle, err := os.FindProcess(p.pid) // a descriptor that pins the process, where the kernel has them
		if err != nil {
			continue
		}
		if now, err := readProcess(p.pid); err != nil || now.start != p.start {
			_ = handle.Release() // a descriptor and nothing more
			continue
		}
		held = append(held, pinned{p, handle})
	}
	var errs []error
	for _, p := range held {
		if err := p.handle.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("kill process %d (%s): %w", p.pid, strings.Join(p.argv, " "), err))
		}
		_ = p.handle.Release() // likewise
	}
	return errors.Join(errs...)
}

// killAll kills what choose selects until nothing of it is left, and returns how many that were.
func killAll(ctx context.Context, choose func([]process) []process) (int, error) {
	killed := map[string]bool{}
	for {
		all, err := processes()
		if err != nil {
			return len(killed), err
		}
		left := choose(all)
		if len(left) == 0 {
			return len(killed), nil
		}
		for _, p := range left {
			killed[strconv.Itoa(p.pid)+" "+p.start] = true
		}
		if err := kill(left); err != nil {
			return len(killed), err
		}
		select {
		case <-ctx.Done():
			return len(killed), fmt.Errorf("kill %d processes: %w", len(left), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// postmaster finds the PostgreSQL server of one host by the pid file that the server itself keeps.
func (p place) postmaster(host, database string) (process, error) {
	data := filepath.Join(p.host(host), "db", database, "pgdata")
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return process{}, errNoPostmaster
	}
	if err != nil {
		return process{}, fmt.Errorf("find the PostgreSQL server of %s: %w", host, err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return process{}, fmt.Errorf("find the PostgreSQL server of %s: %w", host, err)
	}
	found, err := readProcess(pid)
	if err != nil || found.dir != data {
		return process{}, errNoPostmaster
	}
	return found, nil
}

var errNoPostmaster = errors.New("no PostgreSQL server runs there")
