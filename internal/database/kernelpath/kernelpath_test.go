package kernelpath

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/internal/database/kernelpath/spacetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The hosts' addresses of most tests.
const (
	listener = "10.233.0.1:5432"
	first    = "10.233.0.2:7430"
	second   = "10.233.0.3:7430"
)

// greeter says its name to whoever connects, and then repeats lines, until the test ends.
func greeter(t *testing.T, addr, name string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed below
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			all.Go(func() {
				if _, err := fmt.Fprintln(c, name); err == nil {
					_, _ = io.Copy(c, c) // ends with the connection
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // ends the loop above
		mu.Lock()
		for _, c := range open {
			_ = c.Close() // may be broken
		}
		mu.Unlock()
		all.Wait()
	})
}

// client is a connection and who answers it.
type client struct {
	net.Conn
	in   *bufio.Reader
	name string
}

func dial(t *testing.T, network, addr string) *client {
	t.Helper()
	c, err := net.DialTimeout(network, addr, 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return greeted(t, c)
}

// greeted waits for the server's name.
func greeted(t *testing.T, c net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() }) // may be broken
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	name, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &client{c, in, strings.TrimSpace(name)}
}

func (c *client) talk() error {
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	_, err := c.in.ReadString('\n')
	return err
}

// cut says whether the connection was ended from outside, which a client that only reads learns too.
func (c *client) cut() bool {
	_, err := c.in.ReadString('\n')
	return errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ECONNRESET)
}

func opened(t *testing.T, listen ...string) *Path {
	t.Helper()
	cfg := Config{Application: "clinic", Host: "a1", Database: "orders"}
	for _, l := range listen {
		cfg.Listen = append(cfg.Listen, netip.MustParseAddrPort(l))
	}
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func to(epoch uint64, target string) Tag {
	tag := Tag{Epoch: epoch, Generation: 1}
	if target != "" {
		tag.Target = netip.MustParseAddrPort(target)
	}
	return tag
}

func set(t *testing.T, p *Path, tag Tag) {
	t.Helper()
	if err := p.Set(tag); err != nil {
		t.Fatal(err)
	}
}

func TestAChangeOfPrimaryEndsOldSessionsAndLeadsNewOnes(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	greeter(t, listener, "gate")
	greeter(t, first, "first")
	greeter(t, second, "second")
	p := opened(t, listener)
	early := dial(t, "tcp", listener)
	set(t, p, to(1, first))
	led := dial(t, "tcp", listener)
	if early.name != "gate" || led.name != "first" {
		t.Fatalf("reached %s without a rule and %s with one", early.name, led.name)
	}
	if err := early.talk(); err != nil {
		t.Errorf("a connection that the gate had accepted: %v", err)
	}

	set(t, p, to(2, ""))
	held := dial(t, "tcp", listener)
	if held.name != "gate" {
		t.Errorf("while a primary is made %s answered", held.name)
	}
	if err := led.talk(); err != nil {
		t.Errorf("changing the rules alone ends nothing, or a drain could not be: %v", err)
	}
	n, err := p.Cut(netip.MustParseAddrPort(first))
	if err != nil || n < 1 {
		t.Fatalf("ended %d connections: %v", n, err)
	}
	if !led.cut() {
		t.Error("a session on the old server goes on")
	}
	set(t, p, to(2, second))
	if c := dial(t, "tcp", listener); c.name != "second" {
		t.Errorf("a new connection reached %s", c.name)
	}
	for what, c := range map[string]*client{"before the first rule": early, "while holding": held} {
		if err := c.talk(); err != nil {
			t.Errorf("a connection that the gate accepted %s: %v", what, err)
		}
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	if c := dial(t, "tcp", listener); c.name != "gate" {
		t.Errorf("without rules %s answered", c.name)
	}
	if err := held.talk(); err != nil {
		t.Errorf("a connection of the gate, when the rules went: %v", err)
	}
}

func TestALowerEpochNeverOverwrites(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	p := opened(t, listener)
	set(t, p, to(7, first))
	for _, tag := range []Tag{{Epoch: 6, Generation: 9}, {Epoch: 7, Generation: 0}} {
		if stale, ok := errors.AsType[*StaleError](p.Set(tag)); !ok || stale.Have.Epoch != 7 {
			t.Errorf("%+v was not refused as stale: %v", tag, stale)
		}
	}
	if now, ok, err := p.Now(); err != nil || !ok || now != to(7, first) {
		t.Errorf("the rules say %+v, %t, %v", now, ok, err)
	}
	set(t, p, to(7, first)) // again, as an agent repeats its orders
	set(t, p, to(8, ""))
}

// Two that change the rules at once must not overwrite each other unseen: the last to succeed has the highest epoch.
func TestChangesAtOnceEndWithTheHighestEpoch(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	p := opened(t, listener)
	var all sync.WaitGroup
	for epoch := range uint64(16) {
		all.Go(func() {
			err := p.Set(to(epoch+1, first))
			if _, stale := errors.AsType[*StaleError](err); err != nil && !stale {
				t.Errorf("epoch %d: %v", epoch+1, err)
			}
		})
	}
	all.Wait()
	if now, _, err := p.Now(); err != nil || now.Epoch != 16 {
		t.Errorf("in the end the rules say %+v, %v", now, err)
	}
}

func TestRulesOfOthersAreNeverTouched(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	const foreign = `table inet filter {
	set s { type ipv4_addr; elements = { 10.9.9.9 } }
	chain input { type filter hook input priority 0; policy accept; ip saddr @s counter drop; }
}
table ip nat {
	chain out { type nat hook output priority -100; tcp dport 9999 dnat to 10.9.9.9:1 comment "holdfast"; }
}
table inet holdfast.clinic.a1.ledger { comment "somebody else's"; }
table inet holdfast.clinic.a10.orders { comment "holdfast epoch=1 generation=1 target=gate from=10.9.9.9:1"; }
`
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(foreign)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	before := spacetest.Run(t, "nft", "--handle", "list", "ruleset")
	p := opened(t, listener)
	set(t, p, to(1, first))
	if now := spacetest.Run(t, "nft", "list", "table", "inet", "holdfast.clinic.a1.orders"); !strings.Contains(now, "ip daddr 10.233.0.1 tcp dport 5432 tcp flags syn / fin,syn,rst,ack dnat ip to 10.233.0.2:7430") {
		t.Errorf("nft reads our table as\n%s", now)
	}
	if _, err := p.Cut(netip.MustParseAddrPort(first)); err != nil {
		t.Fatal(err)
	}
	set(t, p, to(2, ""))
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	set(t, p, to(1, first))
	if err := Sweep("clinic", "a1"); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := p.Now(); ok || err != nil {
		t.Errorf("a sweep left our table: %v", err)
	}
	if after := spacetest.Run(t, "nft", "--handle", "list", "ruleset"); after != before {
		t.Errorf("rules of others were\n%s\nand are\n%s", before, after)
	}
	ledger := *p
	ledger.table = "holdfast.clinic.a1.ledger"
	if err := ledger.Set(to(1, first)); !errors.Is(err, errForeign) {
		t.Errorf("overwrote a table that is not ours: %v", err)
	}
	if err := ledger.Remove(); !errors.Is(err, errForeign) {
		t.Errorf("removed a table that is not ours: %v", err)
	}
}

func TestASweepSparesWhatIsStillServed(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	greeter(t, first, "first")
	p := opened(t, listener)
	set(t, p, to(1, first))
	c := dial(t, "tcp", listener)
	if err := Sweep("clinic", "a1", "orders"); err != nil || c.talk() != nil {
		t.Fatalf("swept what is served: %v", err)
	}
	if err := Sweep("clinic", "a1", "ledger"); err != nil {
		t.Fatal(err)
	}
	if !c.cut() {
		t.Error("a connection that was led goes on after its rules went")
	}
}

// Clients speak IPv6, or IPv4 through sockets of IPv6, as Java's do.
func TestEveryFamilyIsLedAndCut(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	const listener6, first6 = "[fd00:233::1]:5432", "[fd00:233::2]:7430"
	greeter(t, first, "first")
	greeter(t, first6, "first")
	p := opened(t, listener, listener6)
	for _, c := range []struct{ name, target, dial string }{
		{"IPv6", first6, listener6},
		{"IPv4", first, listener},
		{"IPv4 through a socket of IPv6", first, "mapped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set(t, p, to(1, c.target))
			var led *client
			if c.dial == "mapped" {
				led = dialMapped(t)
			} else {
				led = dial(t, "tcp", c.dial)
			}
			set(t, p, to(1, ""))
			if n, err := p.Cut(noServer); err != nil || n != 1 {
				t.Errorf("ended %d connections: %v", n, err)
			}
			if !led.cut() {
				t.Error("it was not cut")
			}
		})
	}
}

// dialMapped connects to the IPv4 listener through a socket of IPv6.
func dialMapped(t *testing.T) *client {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(listener)
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "mapped")
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return greeted(t, c)
}

// On the server's host sessions end that did not come through a rule here; standbys stay.
func TestTheServersHostEndsSessionsButNotThoseOfPeers(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	greeter(t, first, "first")
	p := opened(t, listener)
	p.cfg.Peers = []netip.Addr{netip.MustParseAddr("10.233.0.3")}
	from := func(address string) *client {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))}
		c, err := d.Dial("tcp", first)
		if err != nil {
			t.Fatal(err)
		}
		return greeted(t, c)
	}
	stranger, standby := from("10.233.0.1"), from("10.233.0.3")
	if _, err := p.Cut(netip.MustParseAddrPort(first)); err != nil {
		t.Fatal(err)
	}
	if !stranger.cut() {
		t.Error("a session on the server goes on")
	}
	if err := standby.talk(); err != nil {
		t.Errorf("a standby's connection: %v", err)
	}
}

func TestWhatCannotBeIsRefusedWithItsReason(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	for _, c := range []struct{ name, listen, want string }{
		{"loopback", "127.0.0.1:5432", "loopback"},
		{"loopback of IPv6", "[::1]:5432", "loopback"},
		{"every address", "0.0.0.0:5432", "not one of this host alone"},
		{"another host's address", "10.233.0.77:5432", "on no interface"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(Config{Application: "clinic", Host: "a1", Database: "orders", Listen: []netip.AddrPort{netip.MustParseAddrPort(c.listen)}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("said %v, want %q in it", err, c.want)
			}
		})
	}
	if rules := spacetest.Run(t, "nft", "list", "ruleset"); rules != "" {
		t.Errorf("probing left\n%s", rules)
	}
}

// Who lacks the capability learns so from the probe, and a sweep finds nothing of its own.
func TestWithoutTheCapabilityThereIsNoPath(t *testing.T) {
	if !spacetest.Enter(t) {
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperWithoutRights$", "-test.v")
	cmd.Env = append(os.Environ(), "HOLDFAST_TEST_WITHOUT_RIGHTS=1")
	// All its capabilities concern a user namespace of its own, and this network belongs to another.
	same := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: same, GidMappings: same}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestHelperWithoutRights") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestHelperWithoutRights is no test: it is what another test runs without rights.
func TestHelperWithoutRights(t *testing.T) {
	if os.Getenv("HOLDFAST_TEST_WITHOUT_RIGHTS") == "" {
		t.Skip("only as a child of another test")
	}
	_, err := Open(Config{Application: "clinic", Host: "a1", Database: "orders", Listen: []netip.AddrPort{netip.MustParseAddrPort(listener)}})
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("said %v, want the capability named", err)
	}
	if err := Sweep("clinic", "a1"); err != nil {
		t.Errorf("sweep: %v", err)
	}
}
