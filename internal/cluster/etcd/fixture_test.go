package etcd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/etcd"
)

// patience bounds waits for what must happen; nothing is asserted about speed.
const patience = 2 * time.Minute

// etcd's members end their peers' HTTP connections by a timeout of five seconds; nothing of ours speaks HTTP here.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
	)
}

// world is one application's certificates and hosts.
type world struct {
	authority *auth.Authority
	dir       string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	a, err := auth.CreateAuthority(filepath.Join(dir, "ca"), "clinic")
	if err != nil {
		t.Fatal(err)
	}
	return &world{a, dir}
}

// certs writes the certificate of name, valid for address and for the proxy's, and returns its folder.
func (w *world) certs(t *testing.T, name, address string) string {
	t.Helper()
	dir := filepath.Join(w.dir, name, "certs")
	ips := []net.IP{net.ParseIP(address), net.ParseIP(proxyAddress)}
	if err := w.authority.WriteHost(dir, auth.HostCert{Name: name, Addresses: ips}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort finds a port that nobody listens on at address.
func freePort(t *testing.T, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing is pending on it
	return l.Addr().String()
}

func (w *world) member(t *testing.T, name, address string) etcd.MemberConfig {
	t.Helper()
	certs := w.certs(t, name, address)
	peer := "https://" + freePort(t, address)
	return etcd.MemberConfig{
		Name: name, Application: "clinic",
		Dir:     filepath.Join(w.dir, name, "etcd"),
		Marker:  filepath.Join(w.dir, name, "etcd.life"),
		PeerURL: peer, ClientURL: "https://" + freePort(t, address),
		Cluster:  map[string]string{name: peer},
		CertFile: filepath.Join(certs, auth.HostCertFile),
		KeyFile:  filepath.Join(certs, auth.HostKeyFile),
		CAFile:   filepath.Join(certs, auth.CACertFile),
		Log:      slog.New(slog.DiscardHandler),
	}
}

// running is a member in this process.
type running struct {
	ready chan struct{}
	done  chan error
	end   context.CancelFunc
}

func start(cfg etcd.MemberConfig) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{make(chan struct{}), make(chan error, 1), cancel}
	cfg.Ready = func() { close(r.ready) }
	go func() { r.done <- etcd.RunMember(ctx, cfg) }()
	return r
}

func (r *running) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-r.ready:
	case err := <-r.done:
		t.Fatalf("the member ended: %v", err)
	case <-time.After(patience):
		t.Fatal("the member is not ready")
	}
}

// stop ends the member and returns what RunMember gave.
func (r *running) stop(t *testing.T) error {
	t.Helper()
	r.end()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		t.Fatal("the member does not stop")
		return nil
	}
}

func clientTLS(t *testing.T, dir string) *tls.Config {
	t.Helper()
	c, err := auth.ClientTLS(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openStore is a client of members that answer, however slowly.
func openStore(t *testing.T, certs string, endpoints ...string) *etcd.Store {
	t.Helper()
	return openHasty(t, 20*time.Second, certs, endpoints...)
}

// openHasty is a client that gives a call up after timeout.
func openHasty(t *testing.T, timeout time.Duration, certs string, endpoints ...string) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(context.Background(), etcd.Config{
		Endpoints: endpoints, TLS: clientTLS(t, certs), Log: slog.New(slog.DiscardHandler),
		Timeout: timeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compact forgets history through a client of its own: the store itself leaves that to the member.
func compact(t *testing.T, certs, endpoint string, rev int64) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: clientTLS(t, certs)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // the compaction's error is the one wanted
	if _, err := c.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
}

const proxyAddress = "127.41.2.250"

// proxy passes TCP through to target until it is cut.
type proxy struct {
	address, target string
	wg              sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[net.Conn]bool
	held     chan struct{} // while open nothing passes, and nothing is closed either
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	p := &proxy{address: freePort(t, proxyAddress), target: target, conns: map[net.Conn]bool{}, held: make(chan struct{})}
	close(p.held)
	p.cut(t, false)
	t.Cleanup(func() {
		p.cut(t, true)
		p.wg.Wait()
	})
	return p
}

// cut closes what is open and refuses what comes; cut(false) takes connections again.
func (p *proxy) cut(t *testing.T, cut bool) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !cut {
		l, err := net.Listen("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		p.listener = l
		p.wg.Go(func() { p.accept(l) })
		return
	}
	if p.listener != nil {
		_ = p.listener.Close() // cutting is the point
		p.listener = nil
	}
	for c := range p.conns {
		_ = c.Close() // cutting is the point
		delete(p.conns, c)
	}
}

// hold makes the far side look frozen: connections stay open, and the kernel acknowledges what is sent.
func (p *proxy) hold() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	return sync.OnceFunc(func() { close(held) })
}

// holding passes writes on once the proxy is not held.
type holding struct {
	net.Conn
	p *proxy
}

func (h holding) Write(b []byte) (int, error) {
	h.p.mu.Lock()
	held := h.p.held
	h.p.mu.Unlock()
	<-held
	return h.Conn.Write(b)
}

func (p *proxy) accept(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = in.Close() // the client sees a broken connection, as it should
			continue
		}
		p.mu.Lock()
		if p.listener != l {
			_ = errors.Join(in.Close(), out.Close()) // cut meanwhile
			p.mu.Unlock()
			return
		}
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			p.wg.Go(func() {
				_, _ = io.Copy(holding{way[0], p}, way[1])      // ends when either side closes
				_ = errors.Join(way[0].Close(), way[1].Close()) // and takes the other side along
			})
		}
	}
}

var _ cluster.Store = (*etcd.Store)(nil)
