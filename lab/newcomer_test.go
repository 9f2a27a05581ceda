package lab_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/local"
	"holdfast/lab"
)

// A host's directory is copied while it runs, and the copy is started as if on another machine: with process ids and a machine id of
// its own, at another address. It is refused while the first answers, and while the first has no power. In the first one's place,
// it comes up when an operator gives the first one up, and then the first is refused in its turn.
func TestANewcomerWithAHostsNameRunsNothing(t *testing.T) {
	lab.Long(t)
	w := lab.NewApart(t)
	w.Start()
	was := w.Await("well", recoverMax, lab.Well).Databases[0]
	name := standby(was)
	root := filepath.Join(filepath.Dir(w.Plan), "copy")
	for _, dir := range []string{"ca", "secrets", "hosts/" + name} {
		must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(dir)), 0o755))
		out, err := exec.Command("cp", "-a", filepath.Join(w.Root, dir), filepath.Join(root, dir)).CombinedOutput()
		must(t, err, string(out))
	}
	load := w.Load("newcomer")
	load.Client.Mark("newcomer")

	elsewhere := begin(t, w, "outside", root, copyOf(t, w, name, w.Net.Address("outside")), name)
	elsewhere.says("host.name-taken", "and answers")
	w.Await("the first tells of it", recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), "host.runs-twice") })
	pauseFor(t.Context(), 10*time.Second) // longer than any failover
	elsewhere.runsNothing()
	now := w.Await("as before", recoverMax, lab.Well).Databases[0]
	if now.Epoch != was.Epoch || now.Primary != was.Primary {
		t.Errorf("the newcomer disturbed: %s in epoch %d, then %s in epoch %d", was.Primary, was.Epoch, now.Primary, now.Epoch)
	}
	load.Recovered()
	load.Client.Mark("power")
	if f := failed(load.Client.Phases(), "newcomer"); len(f) > 0 {
		t.Errorf("clients saw failed requests: %v", f)
	}
	w.PowerOff(name)
	elsewhere.says("does not answer", "cluster replace "+name)
	elsewhere.runsNothing()
	elsewhere.end()

	w.Net.Heal()
	instead := begin(t, w, name, root, w.Plan, name)
	instead.says("does not answer", "cluster replace "+name)
	instead.runsNothing()
	out, err := w.Run("cluster", "replace", name, "--yes")
	must(t, err, out)
	w.Await("well with the other machine", recoverMax, lab.Well)
	instead.end()
	for _, pid := range w.Net.Processes(name) {
		w.Kill(pid)
	}

	w.PowerOn(name)
	out, err = w.Run("cluster", "replace", name, "--yes")
	must(t, err, out)
	w.Await("well with the first machine", recoverMax, lab.Well)
	load.Recovered()
	load.End()
}

// copyOf is the plan with another address for a host.
func copyOf(t *testing.T, w *lab.World, host, address string) string {
	t.Helper()
	text, err := os.ReadFile(w.Plan)
	must(t, err)
	path := filepath.Join(filepath.Dir(w.Plan), "copy.yaml")
	must(t, os.WriteFile(path, []byte(strings.Replace(string(text), w.Address[host], address, 1)), 0o600))
	return path
}

// second is an agent that is no world's.
type second struct {
	t    *testing.T
	w    *lab.World
	node string
	log  string
	cmd  *exec.Cmd
}

// begin starts an agent on a node, with process ids and a machine id of its own.
func begin(t *testing.T, w *lab.World, node, root, plan, host string) *second {
	t.Helper()
	id := filepath.Join(root, "machine-id")
	must(t, os.WriteFile(id, []byte("another machine\n"), 0o600))
	n := &second{t: t, w: w, node: node, log: local.LogFile(root, host) + "." + node}
	log, err := os.Create(n.log)
	must(t, err)
	defer func() { _ = log.Close() }() // the agent has its own copy
	n.cmd = exec.Command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c",
		`mount --bind "$0" /etc/machine-id && exec "$@"`, id, w.Program(), "agent", "--plan", plan, "--host", host, "--root", root)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, w.Net.Inside(node, n.cmd.Start))
	t.Cleanup(n.end)
	return n
}

// says waits until the agent's words of its refusal hold all of some words.
func (n *second) says(words ...string) {
	n.t.Helper()
	for deadline := time.Now().Add(recoverMax); ; pauseFor(n.t.Context(), 100*time.Millisecond) {
		text, err := os.ReadFile(n.log)
		must(n.t, err)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(string(text), w) }) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the newcomer does not say %q: %s", words, text)
		}
	}
}

// runsNothing looks for anything that an agent starts.
func (n *second) runsNothing() {
	n.t.Helper()
	for _, pid := range n.w.Net.Processes(n.node) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
		for _, word := range []string{"keeper", "etcd-member", "postgres", "gate"} {
			if strings.Contains(string(line), "\x00"+word+"\x00") || strings.Contains(string(line), "bin/"+word) {
				n.t.Errorf("the newcomer runs %q", strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
	}
}

// end ends the agent at once, with all that has its process ids.
func (n *second) end() {
	if n.cmd.ProcessState != nil {
		return
	}
	_ = n.cmd.Process.Kill() // it has not been waited for, so it is still ours
	_ = n.cmd.Wait()         // it was killed
}
