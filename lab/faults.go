package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// faultTable stands in the switch's namespace and loses packets silently, as a broken switch does: neither side is
// told, sockets stay, neighbours stay known.
const faultTable = `table bridge holdfast_lab {
	set cut { type ipv4_addr . ipv4_addr; }
	set ports { type ipv4_addr . ipv4_addr . inet_service; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		ip saddr . ip daddr @cut drop
		ip saddr . ip daddr . tcp dport @ports drop
		ip saddr . ip daddr . tcp sport @ports drop
	}
}
`

// nft carries out one transaction in the switch's namespace.
func (n *Network) nft(rules string) {
	n.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(rules), &out, &out
	if err := n.Inside(theSwitch, cmd.Run); err != nil {
		n.t.Fatalf("change the switch: %v: %s\n%s", err, out.String(), rules)
	}
}

func (n *Network) lose(pairs ...string) {
	n.t.Helper()
	n.nft(fmt.Sprintf("add element bridge holdfast_lab cut { %s }\n", strings.Join(pairs, ", ")))
}

func (n *Network) pair(from, to string) string { return n.at[from] + " . " + n.at[to] }

// CutOneWay loses everything that one node sends to another.
func (n *Network) CutOneWay(from, to string) {
	n.t.Helper()
	n.lose(n.pair(from, to))
}

// Cut loses everything between two nodes, both ways at one moment.
func (n *Network) Cut(a, b string) {
	n.t.Helper()
	n.lose(n.pair(a, b), n.pair(b, a))
}

// CutPorts loses every TCP packet between two nodes that comes from or goes to one of some ports on either.
func (n *Network) CutPorts(a, b string, ports ...int) {
	n.t.Helper()
	var elements []string
	for _, port := range ports {
		elements = append(elements, fmt.Sprintf("%s . %d", n.pair(a, b), port), fmt.Sprintf("%s . %d", n.pair(b, a), port))
	}
	n.nft(fmt.Sprintf("add element bridge holdfast_lab ports { %s }\n", strings.Join(elements, ", ")))
}

// Separate cuts a node off from some others at one moment; the rest still reach it.
func (n *Network) Separate(node string, from ...string) {
	n.t.Helper()
	var pairs []string
	for _, other := range from {
		pairs = append(pairs, n.pair(node, other), n.pair(other, node))
	}
	n.lose(pairs...)
}

// Isolate cuts a node off from all others at one moment.
func (n *Network) Isolate(node string) {
	n.t.Helper()
	n.lose(append(n.to(node), n.from(node)...)...)
}

// Mute loses everything that a node sends, to whomever.
func (n *Network) Mute(node string) {
	n.t.Helper()
	n.lose(n.from(node)...)
}

// Deafen loses everything that is sent to a node, by whomever.
func (n *Network) Deafen(node string) {
	n.t.Helper()
	n.lose(n.to(node)...)
}

func (n *Network) from(node string) (pairs []string) {
	for other := range n.at {
		if other != node {
			pairs = append(pairs, n.pair(node, other))
		}
	}
	return pairs
}

func (n *Network) to(node string) (pairs []string) {
	for other := range n.at {
		if other != node {
			pairs = append(pairs, n.pair(other, node))
		}
	}
	return pairs
}

// Heal makes the network whole again.
func (n *Network) Heal() {
	n.t.Helper()
	n.nft("flush set bridge holdfast_lab cut\nflush set bridge holdfast_lab ports\n")
}

// stop sends SIGSTOP to every process that find lists, until none of them runs: they may have had children meanwhile.
func stop(find func() []int) error {
	for deadline := time.Now().Add(time.Minute); ; {
		running := slices.DeleteFunc(find(), stopped)
		if len(running) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("stop processes: %v still run", running)
		}
		for _, pid := range running {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop process %d: %w", pid, err)
			}
		}
	}
}

// stopped reports whether a process runs nothing: stopped by a signal, dead or gone.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // it has ended
	}
	rest := strings.TrimSpace(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return rest != "" && strings.ContainsRune("TtZX", rune(rest[0]))
}

// resume sends SIGCONT to processes, in their order.
func resume(pids []int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("resume process %d: %w", pid, err)
		}
	}
	return nil
}

// Freeze stops every process of a host. Its kernel goes on answering for it, so a frozen machine is one that is
// isolated as well.
func (w *World) Freeze(host string) {
	w.t.Helper()
	if err := stop(func() []int { return w.Net.Processes(host) }); err != nil {
		w.t.Fatal(err)
	}
}

// Thaw lets a frozen host go on, its servers and listeners before whoever watches over them: the order in which
// stale servers have most time to do harm.
func (w *World) Thaw(host string) {
	w.t.Helper()
	var first, then []int
	for _, pid := range w.Net.Processes(host) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && (bytes.Contains(line, []byte("\x00keeper\x00")) || bytes.Contains(line, []byte("\x00agent\x00"))) {
			then = append(then, pid)
		} else {
			first = append(first, pid)
		}
	}
	if err := errors.Join(resume(first), resume(then)); err != nil {
		w.t.Fatal(err)
	}
}

// FreezeMembers stops the etcd members of hosts, and nothing else there.
func (w *World) FreezeMembers(hosts ...string) {
	w.t.Helper()
	for _, h := range hosts {
		if err := stop(func() []int { return w.members(h) }); err != nil {
			w.t.Fatal(err)
		}
	}
}

// ThawMembers lets the etcd members of hosts go on.
func (w *World) ThawMembers(hosts ...string) {
	w.t.Helper()
	for _, h := range hosts {
		if err := resume(w.members(h)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *World) members(host string) []int {
	w.t.Helper()
	pids := w.Running(host, "etcd-member")
	if len(pids) == 0 {
		w.t.Fatalf("no etcd member runs on %s", host)
	}
	return pids
}

// Running lists the processes of a host that have a word among their arguments: "agent", "etcd-member", "keeper".
func (w *World) Running(host, word string) []int {
	w.t.Helper()
	return slices.DeleteFunc(w.Net.Processes(host), func(pid int) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || !bytes.Contains(line, []byte("\x00"+word+"\x00"))
	})
}

// Server lists the processes of a host's PostgreSQL server.
func (w *World) Server(host string) []int {
	w.t.Helper()
	data := filepath.Join(w.Root, "hosts", host, "db", "records", "pgdata")
	return slices.DeleteFunc(w.Net.Processes(host), func(pid int) bool {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		return err != nil || cwd != data
	})
}

// Pause stops processes by a signal until [World.Resume].
func (w *World) Pause(pids ...int) {
	w.t.Helper()
	if err := stop(func() []int { return slices.Clone(pids) }); err != nil {
		w.t.Fatal(err)
	}
}

// Resume lets paused processes go on.
func (w *World) Resume(pids ...int) {
	w.t.Helper()
	if err := resume(pids); err != nil {
		w.t.Fatal(err)
	}
}
