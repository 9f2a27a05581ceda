package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/local"
	"holdfast/internal/plan"
)

// outside is the node of clients and operators: none of the hosts.
const outside = "outside"

// NewApart lays out a world whose hosts are namespaces on a network of their own; nothing runs yet. Everything of it
// ends with the test.
func NewApart(t testing.TB) *World {
	t.Helper()
	return NewApartAs(t, Shape{Services: true})
}

// NewApartAs is [NewApart] for a world of a shape of its own.
func NewApartAs(t testing.TB, shape Shape) *World {
	t.Helper()
	shape = shape.whole()
	if shape.Disk > 0 || shape.EtcdDisk > 0 {
		needDisks(t)
	}
	if shape.Memory {
		needMemory(t)
	}
	n := NewNetwork(t, append(shape.hosts(), outside)...)
	address := map[string]string{}
	for _, h := range shape.hosts() {
		address[h] = n.Address(h)
	}
	w := layOut(t, shape, address)
	w.Net = n
	return w
}

// agents are the agent processes of hosts that are apart: each is started again when it ends, as a machine's
// service manager does.
type agents struct {
	mu     sync.Mutex // guards ending
	ending bool
	all    sync.WaitGroup
}

func (a *agents) isEnding() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ending
}

// launchApart makes what an operator brings to each machine (certificates, secrets), and starts the agents.
func (w *World) launchApart() {
	w.t.Helper()
	text, err := os.ReadFile(w.Plan)
	if err != nil {
		w.t.Fatal(err)
	}
	p, mistakes := plan.Parse(w.Plan, text)
	if len(mistakes) > 0 {
		w.t.Fatal(mistakes)
	}
	if err := os.MkdirAll(w.Root, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if _, _, err := local.Prepare(p.WithRoot(w.Root), w.Plan, w.Root); err != nil {
		w.t.Fatal(err)
	}
	w.mountDisks()
	if w.Shape.Memory {
		w.makeMemories()
	}
	w.agents = &agents{}
	for _, h := range w.Hosts {
		w.keepAgent(h, w.Plan)
	}
}

// keepAgent starts a host's agent with a plan file, and again whenever it ends.
func (w *World) keepAgent(host, planFile string) {
	log := w.t.Logf // of the whole test: agents outlive its parts
	w.agents.all.Go(func() {
		for !w.agents.isEnding() {
			if w.isOff(host) {
				// Looked at again after the pause.
			} else if err := w.runAgent(host, planFile); err != nil && !w.agents.isEnding() && !w.isOff(host) {
				log("the agent of %s ended: %v", host, err)
			}
			time.Sleep(300 * time.Millisecond) // so that one that fails at once does not spin
		}
	})
}

// Bring starts the agent of a machine that is new to the world and has its certificate, with a plan file of its own. A
// network must have had it from the beginning; among loopback hosts its agent ends with the test.
func (w *World) Bring(host, planFile string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Net == nil {
		w.bringHere(host, planFile)
		return
	}
	w.Address[host] = w.Net.Address(host)
	w.Hosts = append(w.Hosts, host)
	w.keepAgent(host, planFile)
}

func (w *World) bringHere(host, planFile string) {
	w.t.Helper()
	log, err := os.OpenFile(local.LogFile(w.Root, host), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(w.bin, "holdfast"), "agent", "--plan", planFile, "--host", host, "--root", w.Root, "--loopback")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = log.Close() // the agent has its own copy
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // everything of its host ends; it may have ended
		if err := cmd.Wait(); err != nil {
			w.t.Logf("the agent of %s ended: %v", host, err)
		}
	})
}

// Retire ends the agent of a host that the plan does not have any more; the world is without it from then on.
func (w *World) Retire(host string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents.mu.Lock() // so that no agent of it is being started
	defer w.agents.mu.Unlock()
	if err := os.WriteFile(local.HoldFile(w.Root, host), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Kill(w.PID(host, "agent.pid"), syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		w.t.Fatal(err)
	}
	w.Hosts = slices.DeleteFunc(slices.Clone(w.Hosts), func(h string) bool { return h == host })
}

// runAgent runs the agent of one host, in that host's namespace, to its end.
func (w *World) runAgent(host, planFile string) error {
	log, err := os.OpenFile(local.LogFile(w.Root, host), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the agent has its own copy
	cmd := w.within(host, exec.Command(filepath.Join(w.bin, "holdfast"), "agent", "--plan", planFile, "--host", host, "--root", w.Root))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w.agents.mu.Lock()
	if w.agents.ending || w.isOff(host) {
		w.agents.mu.Unlock()
		return nil
	}
	err = w.Net.Inside(host, cmd.Start)
	w.agents.mu.Unlock()
	if err != nil {
		return fmt.Errorf("start the agent of %s: %w", host, err)
	}
	return cmd.Wait()
}

// stopApart heals everything and ends all hosts in good order.
func (w *World) stopApart() {
	w.t.Helper()
	w.Net.Heal()
	w.thawDisks()
	for _, h := range w.Hosts {
		w.Thaw(h)
		w.PowerOn(h)
	}
	w.agents.mu.Lock()
	w.agents.ending = true
	w.agents.mu.Unlock()
	if out, err := w.Run("down"); err != nil {
		w.t.Errorf("end the world: %v\n%s", err, out)
		w.askStacks()
		w.killApart()
	}
	done := make(chan struct{})
	go func() { w.agents.all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		w.t.Errorf("the agents did not end")
		w.killApart()
		<-done
	}
	w.agents = nil
}

// askStacks has the agents that still run write into their logs where they hang, and end.
func (w *World) askStacks() {
	for _, pid := range local.Running(w.Root, w.Hosts) {
		_ = syscall.Kill(pid, syscall.SIGQUIT) // it may have ended meanwhile
	}
	for deadline := time.Now().Add(5 * time.Second); len(local.Running(w.Root, w.Hosts)) > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *World) killApart() {
	for _, h := range w.Hosts {
		for _, pid := range w.Net.Processes(h) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				w.t.Errorf("kill %d: %v", pid, err)
			}
		}
	}
}

// tailMax is how much of each agent's words a failure shows.
const tailMax = 4000

func (w *World) tail() string {
	files := []string{filepath.Join(filepath.Dir(w.Plan), "up.log")}
	if w.Net != nil {
		files = nil
		for _, h := range w.Hosts {
			files = append(files, local.LogFile(w.Root, h))
		}
	}
	var out string
	for _, file := range files {
		data, _ := os.ReadFile(file) // only for a message
		out += file + ":\n" + string(data[max(0, len(data)-tailMax):])
	}
	return out
}
