package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Network is a switch with nodes plugged into it, each of them a network namespace. It has no link to this machine's
// own network: only [Network.Inside] leads in. What breaks on it is in faults.go.
type Network struct {
	t      testing.TB
	prefix string            // of its namespaces' names
	at     map[string]string // addresses, by node
}

// The names in the switch's namespace, and of the one interface that each node has.
const (
	theSwitch = "switch"
	nodeLink  = "eth0"
	netnsDir  = "/run/netns"
	netnsMark = "hf-"
)

// NewNetwork plugs nodes into a new switch; node k has the address 10.231.X.k, k counted from 1. All of it is removed
// when the test ends, and what dead test processes left is removed first.
func NewNetwork(t testing.TB, nodes ...string) *Network {
	t.Helper()
	needNetwork(t)
	if err := removeLeftovers(); err != nil {
		t.Fatal(err)
	}
	born, err := bornAt(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{t: t, prefix: fmt.Sprintf("%s%d-%s-", netnsMark, os.Getpid(), born), at: map[string]string{}}
	if taken, err := filepath.Glob(filepath.Join(netnsDir, n.prefix+"*")); err != nil || len(taken) > 0 {
		t.Fatalf("one network at a time in a test process: %v (%v)", taken, err)
	}
	t.Cleanup(func() {
		if err := removeSpaces(n.prefix); err != nil {
			t.Errorf("remove the network: %v", err)
		}
	})
	n.ip("netns", "add", n.space(theSwitch))
	n.ip("-n", n.space(theSwitch), "link", "add", "br0", "type", "bridge")
	n.ip("-n", n.space(theSwitch), "link", "set", "dev", "br0", "up")
	for i, node := range nodes {
		n.at[node] = fmt.Sprintf("10.231.%d.%d", os.Getpid()%256, i+1)
		n.ip("netns", "add", n.space(node))
		n.ip("-n", n.space(node), "link", "set", "dev", "lo", "up")
		n.ip("-n", n.space(node), "link", "add", nodeLink, "type", "veth", "peer", "name", node, "netns", n.space(theSwitch))
		n.ip("-n", n.space(theSwitch), "link", "set", "dev", node, "master", "br0", "up")
		n.ip("-n", n.space(node), "address", "add", n.at[node]+"/24", "dev", nodeLink)
		n.ip("-n", n.space(node), "link", "set", "dev", nodeLink, "up")
	}
	n.nft(faultTable)
	return n
}

// needNetwork says what is missing for namespaces. On a laptop the test is left out; in CI it fails.
func needNetwork(t testing.TB) {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	switch {
	case len(missing) == 0:
	case os.Getenv("CI") != "":
		t.Fatalf("network namespaces need %v (scripts/setup installs programs)", missing)
	default:
		t.Skipf("network namespaces need %v (scripts/setup installs programs)", missing)
	}
}

func (n *Network) space(node string) string { return n.prefix + node }

// Address is where a node is reached.
func (n *Network) Address(node string) string { return n.at[node] }

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if err := ip(args...); err != nil {
		n.t.Fatal(err)
	}
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Inside calls do on a thread that is in a node's namespace: sockets made and processes started by do itself, not
// by goroutines of it, belong there for good.
func (n *Network) Inside(node string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter the network of %s: %w", node, err)
			return
		}
		defer func() { _ = own.Close() }() // only read
		there, err := os.Open(filepath.Join(netnsDir, n.space(node)))
		if err == nil {
			defer func() { _ = there.Close() }() // as above
			err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter the network of %s: %w", node, err)
			return
		}
		err = do()
		// A thread that cannot go back stays locked, and ends with this goroutine.
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave the network of %s: %w", node, back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Dial is how programs on a node make connections. The address must be an IP address: names are looked up by other
// goroutines.
func (n *Network) Dial(node string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = n.Inside(node, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// Processes lists what runs in a node's namespace, this process apart.
func (n *Network) Processes(node string) []int {
	n.t.Helper()
	pids, err := processesIn(n.space(node))
	if err != nil {
		n.t.Fatal(err)
	}
	return pids
}

func processesIn(space string) ([]int, error) {
	var want syscall.Stat_t
	if err := syscall.Stat(filepath.Join(netnsDir, space), &want); err != nil {
		return nil, fmt.Errorf("look at the namespace %s: %w", space, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var has syscall.Stat_t
		if syscall.Stat(filepath.Join("/proc", e.Name(), "ns", "net"), &has) != nil {
			continue // it has ended
		}
		if has.Ino == want.Ino && has.Dev == want.Dev {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// bornAt is a process's start in clock ticks since the machine's: with its id it names one process for ever.
func bornAt(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("look when process %d began: %w", pid, err)
	}
	// The name in parentheses may hold spaces. The third field follows it; the 22nd is wanted (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("look when process %d began: %q is no stat line", pid, stat)
	}
	return fields[19], nil
}

// removeLeftovers removes the namespaces whose names tell of a test process that is no more.
func removeLeftovers() error {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for old namespaces: %w", err)
	}
	var prefixes []string
	for _, e := range entries {
		word := strings.SplitN(e.Name(), "-", 4) // hf-PID-BORN-node
		if len(word) != 4 || word[0]+"-" != netnsMark {
			continue
		}
		pid, err := strconv.Atoi(word[1])
		if err != nil {
			continue
		}
		if born, err := bornAt(pid); err == nil && born == word[2] {
			continue // its process lives
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		if prefix := strings.Join(word[:3], "-") + "-"; !slices.Contains(prefixes, prefix) {
			prefixes = append(prefixes, prefix)
		}
	}
	var bad []error
	for _, p := range prefixes {
		bad = append(bad, removeSpaces(p))
	}
	return errors.Join(bad...)
}

// removeSpaces ends what still runs in the namespaces of a prefix, and removes them; their links go with them.
func removeSpaces(prefix string) error {
	spaces, err := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	if err != nil {
		return err
	}
	var bad []error
	for _, path := range spaces {
		space := filepath.Base(path)
		pids, err := processesIn(space)
		bad = append(bad, err)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // ours, for the namespace is; it may have ended
		}
		bad = append(bad, ip("netns", "delete", space))
	}
	return errors.Join(bad...)
}
