// Package lab runs real plans on real servers and breaks them on purpose. The hosts of [New] are loopback addresses,
// where processes die for real; those of [NewApart] are network namespaces, where links fail as well, hosts freeze,
// and disks stand still or run full.
package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/api"
)

// World is one running application of the clinic's kind.
type World struct {
	t       testing.TB
	Root    string
	Plan    string
	Hosts   []string // names
	Address map[string]string
	Net     *Network // that the hosts are apart on; nil = they are loopback addresses
	Shape   Shape
	bin     string

	mu     sync.Mutex // guards what runs
	up     *exec.Cmd
	log    *os.File
	agents *agents

	clocks clocks

	memory, memoryName string // directory of the hosts' groups, and how their names begin; "" = they have none
}

// readyMax is how long a world may take to come up on a busy machine.
const readyMax = 3 * time.Minute

var build sync.Once
var built struct {
	dir string
	err error
}

// binaries builds what a world runs, once for each test process.
func binaries(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "holdfast-lab-bin-")
		if built.err != nil {
			return
		}
		built.err = os.Chmod(built.dir, 0o755)
		for name, pkg := range map[string]string{"holdfast": "holdfast/cmd/holdfast", "clinic": "holdfast/examples/clinic/cmd/clinic"} {
			if built.err == nil {
				out, err := exec.Command("go", "build", "-o", filepath.Join(built.dir, name), pkg).CombinedOutput()
				if err != nil {
					built.err = fmt.Errorf("build %s: %w: %s", name, err, out)
				}
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// RemoveBinaries removes what [New] built; a package's TestMain calls it last.
func RemoveBinaries() error {
	if built.dir == "" {
		return nil
	}
	return os.RemoveAll(built.dir)
}

// OwnPrograms gives the world a copy of the program for itself, for [World.Upgrade]. Nothing of the world may run yet.
func (w *World) OwnPrograms() {
	w.t.Helper()
	own := filepath.Join(filepath.Dir(w.Plan), "programs")
	if err := os.Mkdir(own, 0o755); err != nil {
		w.t.Fatal(err)
	}
	copyFile(w.t, w.Program(), filepath.Join(own, "holdfast"))
	w.bin = own
}

// Upgrade puts another build of the program in the place of the one that the world runs, as a package does. What runs goes on
// with the former one, whose file has no name any more: see [World.Outdated].
func (w *World) Upgrade(version string) {
	w.t.Helper()
	next := w.Program() + ".next"
	out, err := exec.Command("go", "build", "-o", next, "-ldflags", "-X holdfast/internal/cli.version="+version, "holdfast/cmd/holdfast").CombinedOutput()
	if err != nil {
		w.t.Fatalf("build %s: %v: %s", version, err, out)
	}
	if err := os.Rename(next, w.Program()); err != nil {
		w.t.Fatal(err)
	}
}

// Outdated reports whether a process runs a program that has been replaced on the disk since (proc_pid_exe(5)).
func (w *World) Outdated(pid int) bool {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasSuffix(program, " (deleted)")
}

// Start runs the world and waits until all of it is well.
func (w *World) Start() {
	w.t.Helper()
	w.Launch()
	w.Await("everything is well", readyMax, Well)
}

// Launch runs the world without waiting.
func (w *World) Launch() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Net != nil {
		w.launchApart()
		return
	}
	log, err := os.OpenFile(filepath.Join(filepath.Dir(w.Plan), "up.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	w.log = log
	w.up = exec.Command(filepath.Join(w.bin, "holdfast"), "up", "--root", w.Root, w.Plan)
	w.up.Stdout, w.up.Stderr = log, log
	w.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := w.up.Start(); err != nil {
		w.t.Fatal(err)
	}
}

// Stop ends the world as Ctrl-C does, and checks that nothing of it is left.
func (w *World) Stop() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.agents != nil:
		w.stopApart()
	case w.up != nil:
		w.stopUp()
	default:
		return
	}
	if left := w.Processes(""); len(left) > 0 {
		w.t.Errorf("processes are left: %v", left)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // ours: their command line or folder is below our root
		}
	}
}

func (w *World) stopUp() {
	w.t.Helper()
	if err := w.up.Process.Signal(syscall.SIGINT); err != nil {
		w.t.Errorf("end the world: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- w.up.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			w.t.Errorf("the world ended badly: %v\n%s", err, w.tail())
		}
	case <-time.After(3 * time.Minute):
		_ = w.up.Process.Kill() // nothing better is left
		w.t.Errorf("the world did not end; %s", w.tail())
		<-done
	}
	w.up = nil
	_ = w.log.Close() // the child has ended
}

// Processes lists the living processes of one host ("" = of all), by command line or working directory.
func (w *World) Processes(host string) []int {
	dir := filepath.Join(w.Root, "hosts", host)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		w.t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may have ended
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		agent := host != "" && bytes.Contains(line, []byte("--host\x00"+host+"\x00")) && bytes.Contains(line, []byte(w.Root+"\x00"))
		if bytes.Contains(line, []byte(dir+"/")) || strings.HasPrefix(cwd, dir+"/") || agent {
			out = append(out, pid)
		}
	}
	return out
}

// Kill ends one process at once.
func (w *World) Kill(pid int) {
	w.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatalf("kill %d: %v", pid, err)
	}
}

// PID reads a process id from a file below a host's directory.
func (w *World) PID(host, file string) int {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.Root, "hosts", host, file))
	if err != nil {
		w.t.Fatal(err)
	}
	word, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(word))
	if err != nil {
		w.t.Fatal(err)
	}
	return pid
}

// Run runs one holdfast command against the world.
func (w *World) Run(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(w.bin, "holdfast"), args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ROOT="+w.Root)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := w.run(cmd)
	return out.String(), err
}

// RunOn runs one holdfast command on a host, as its operator does there. Hosts must be apart.
func (w *World) RunOn(host string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(w.bin, "holdfast"), args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ROOT="+w.Root)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.Net.Inside(host, cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// RunProgram runs any program where operators and clients are.
func (w *World) RunProgram(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := w.run(cmd)
	return out.String(), err
}

// run runs a command where operators and clients are.
func (w *World) run(cmd *exec.Cmd) error {
	if w.Net == nil {
		return cmd.Run()
	}
	if err := w.Net.Inside(outside, cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

// Status asks for the present state.
func (w *World) Status() (api.Status, error) {
	var st api.Status
	cmd := exec.Command(filepath.Join(w.bin, "holdfast"), "status", "--root", w.Root, "--output", "json")
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := w.run(cmd); err != nil {
		return st, fmt.Errorf("ask for the status: %w: %s", err, words.String())
	}
	return st, json.Unmarshal(out.Bytes(), &st)
}

// Await waits until the status is as wanted.
func (w *World) Await(what string, limit time.Duration, ok func(api.Status) bool) api.Status {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	for {
		st, err := w.Status()
		if err == nil && ok(st) {
			return st
		}
		select {
		case <-ctx.Done():
			text, _ := json.MarshalIndent(st, "", " ") // only for a message
			w.t.Fatalf("%s: not within %s (%v)\n%s\n%s", what, limit, err, text, w.tail())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// AwaitFit waits until a switchover to a host would be begun, by the word of the primary, whose senders the status does not
// tell: a standby may stream, by its own word, a moment before.
func (w *World) AwaitFit(to string, limit time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	for {
		out, err := w.Run("database", "switchover", "records", "--to", to, "--dry-run")
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("%s could not take over within %s (%v)\n%s\n%s", to, limit, err, out, w.tail())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Well reports whether every promise holds with its whole margin.
func Well(st api.Status) bool {
	for _, d := range st.Databases {
		streams := 0
		for _, s := range d.Servers {
			if s.Role == "standby" && s.State == "streams" && s.Counts {
				streams++
			}
		}
		if !d.Open || streams == 0 || streams < len(d.Servers)-1 {
			return false
		}
	}
	for _, s := range st.Services {
		if s.Ready < s.Wanted {
			return false
		}
	}
	return len(st.Databases) > 0
}

// DSN leads to the database through one host's listener.
func (w *World) DSN(host string) string { return w.dsn(host, "5432") }

// ReadDSN leads to a standby through one host's read-only listener, in a world whose plan puts it on port 5433.
func (w *World) ReadDSN(host string) string { return w.dsn(host, "5433") }

func (w *World) dsn(host, port string) string {
	w.t.Helper()
	password, err := os.ReadFile(filepath.Join(w.Root, "secrets", "clinic.password"))
	if err != nil {
		w.t.Fatal(err)
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("clinic", strings.TrimSpace(string(password))), Host: w.Address[host] + ":" + port, Path: "/clinic",
		RawQuery: url.Values{"sslmode": {"verify-ca"}, "sslrootcert": {filepath.Join(w.Root, "ca", "ca.crt")}, "connect_timeout": {"3"}}.Encode(),
	}
	return u.String()
}

// TLS trusts the application's own authority.
func (w *World) TLS() *tls.Config {
	w.t.Helper()
	pem, err := os.ReadFile(filepath.Join(w.Root, "ca", "ca.crt"))
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		w.t.Fatal("the authority's certificate was not understood")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// Program is the holdfast program that the world runs.
func (w *World) Program() string { return filepath.Join(w.bin, "holdfast") }
