// Package pgtest gives tests real PostgreSQL servers under real keepers on loopback addresses: folders that
// PostgreSQL's user may enter, certificates, ports, and an orderly end of every process. A test package that
// uses it calls [Main] from its TestMain, for the test binary is also the keepers' program.
package pgtest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/auth"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/keeper"
)

// Main runs the tests, or, when the binary was started as `… keeper SPEC`, a keeper.
func Main(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		if err := keeper.Main(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Major is the version that the environment variable HOLDFAST_TEST_POSTGRES names, else the newest one of the
// distribution's that Holdfast supports. Without one the test is skipped, or fails where CI is set.
func Major(t testing.TB) int {
	t.Helper()
	if named := os.Getenv("HOLDFAST_TEST_POSTGRES"); named != "" {
		major, err := strconv.Atoi(named)
		if err != nil {
			t.Fatalf("HOLDFAST_TEST_POSTGRES: %v", err)
		}
		return major
	}
	for major := 18; major >= 14; major-- {
		if _, err := os.Stat(fmt.Sprintf("/usr/lib/postgresql/%d/bin/postgres", major)); err == nil {
			return major
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("PostgreSQL is not installed in /usr/lib/postgresql")
	}
	t.Skip("PostgreSQL is not installed in /usr/lib/postgresql")
	return 0
}

// Dir is a fresh folder with a short path (a Unix socket must fit below it) that PostgreSQL's user may enter.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hfpg")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("KEEP") != "" {
			t.Logf("kept: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Port is a free port of an address.
func Port(t testing.TB, address string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // only its number is wanted
	return l.Addr().(*net.TCPAddr).Port
}

// Node is one host's server.
type Node struct {
	*postgres.Server
	Config   postgres.Config
	Endpoint database.Endpoint
}

// Options change what New makes.
type Options struct {
	Roles      []postgres.Role
	Parameters []postgres.Parameter
	Vault      postgres.Vault // that copies may be made of; nil = none
}

// New makes one server for each address, the hosts being called b1, b2 and so on. None is initialised.
func New(t testing.TB, o Options, addresses ...string) []*Node {
	t.Helper()
	major := Major(t)
	dir := Dir(t)
	ca, err := auth.CreateAuthority(filepath.Join(dir, "ca"), "test")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*Node
	for i, address := range addresses {
		n := &Node{Endpoint: database.Endpoint{Host: fmt.Sprintf("b%d", i+1), Address: address, Port: Port(t, address)}}
		certs := filepath.Join(dir, n.Endpoint.Host, "certs")
		if err := ca.WriteHost(certs, auth.HostCert{Name: n.Endpoint.Host, Addresses: []net.IP{net.ParseIP(address)}}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(certs), 0o755); err != nil {
			t.Fatal(err)
		}
		n.Config = postgres.Config{
			Database: "orders", Host: n.Endpoint.Host, Address: address, Port: n.Endpoint.Port,
			Dir: filepath.Join(dir, n.Endpoint.Host, "db"), Major: major, CertDir: certs,
			Roles: o.Roles, Parameters: o.Parameters, Vault: o.Vault, Executable: self,
		}
		if testing.Verbose() {
			n.Config.Log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("host", n.Endpoint.Host)
		}
		nodes = append(nodes, n)
	}
	for i, n := range nodes {
		for j, p := range nodes {
			if i != j {
				n.Config.Peers = append(n.Config.Peers, p.Endpoint)
			}
		}
		n.Reopen(t)
		t.Cleanup(func() { n.end(t) })
	}
	return nodes
}

// Reopen makes the driver anew, as a restart of the agent does.
func (n *Node) Reopen(t testing.TB) {
	t.Helper()
	if n.Server != nil {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := postgres.Open(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	n.Server = s
}

func (n *Node) end(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Kill(ctx, "the test has ended"); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		if b, err := os.ReadFile(filepath.Join(n.Config.Dir, "postgres.log")); err == nil {
			t.Logf("log of %s ends with:\n%s", n.Endpoint.Host, b[max(0, len(b)-3000):])
		}
	}
}

// Await observes until the observation is as wanted.
func (n *Node) Await(t testing.TB, what string, ok func(database.Local) bool) database.Local {
	t.Helper()
	until := time.Now().Add(patience)
	for {
		l := n.Observe(t.Context())
		if ok(l) {
			return l
		}
		if time.Now().After(until) {
			t.Fatalf("%s: not within %s: %s; last seen: %+v", n.Endpoint.Host, patience, what, l)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Answers observes a running server that answers; on a busy machine one observation alone may come too late.
func (n *Node) Answers(t testing.TB) database.Local {
	t.Helper()
	return n.Await(t, "it answers", func(l database.Local) bool { return l.Ready })
}

// Primary makes the first server of nodes from nothing: initialised, started, promoted to timeline 2 in epoch 1,
// open without standbys (W = 0), with its roles, admitting clients.
func Primary(t testing.TB, n *Node) {
	t.Helper()
	ctx := t.Context()
	Must(t, n.Init(ctx, 1))
	Must(t, n.Start(ctx, false))
	Must(t, n.Promote(ctx, 1, 2, nil))
	Must(t, n.SetNames(ctx, database.Names{}))
	Must(t, n.EnsureRoles(ctx))
	Must(t, n.Admit(ctx, true))
}

// Join makes n a streaming copy of primary in epoch.
func Join(t testing.TB, n, primary *Node, epoch int64) {
	t.Helper()
	ctx := t.Context()
	Must(t, n.Clone(ctx, primary.Endpoint, primary.Endpoint, epoch))
	Must(t, n.Follow(ctx, primary.Endpoint, epoch))
	n.Await(t, "streaming", func(l database.Local) bool { return l.Receiving })
}

// patience is more than anything takes here, on a busy machine too.
const patience = 3 * time.Minute

// Context ends with the test, and before that when something does not return: then that is an error with the test's name,
// and not the end of the whole run a quarter of an hour later.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("it did not return within %s", patience))
	t.Cleanup(cancel)
	return ctx
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
