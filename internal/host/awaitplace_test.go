package host

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/plan"
)

// A host that was away while every member that it knew was replaced finds those that its plan file names.
func TestAHostFindsItsPlaceWhereAllMembersItKnewAreGone(t *testing.T) {
	const (
		address  = "127.9.83.1" // of the member
		patience = 2 * time.Minute
	)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	top := t.TempDir()
	cfg := Config{Self: "a", Dir: filepath.Join(top, "a"), Log: slog.New(slog.DiscardHandler)}
	ca, err := auth.CreateAuthority(filepath.Join(top, "ca"), "clinic")
	must(err)
	member := etcd.MemberConfig{
		Name: "b", Application: "clinic", Dir: filepath.Join(top, "b", "etcd"), Marker: filepath.Join(top, "b", "etcd.member"),
		Log: cfg.Log, PeerURL: "https://" + freeAt(t, address), ClientURL: "https://" + freeAt(t, address),
	}
	member.Cluster = map[string]string{"b": member.PeerURL}
	certs := filepath.Join(top, "b", "tls")
	must(ca.WriteHost(certs, auth.HostCert{Name: "b", Role: auth.Host, Addresses: []net.IP{net.ParseIP(address)}}))
	must(ca.WriteHost(certDir(cfg.Dir), auth.HostCert{Name: "a", Role: auth.Host, Addresses: []net.IP{net.ParseIP("127.9.83.2")}}))
	member.CertFile, member.KeyFile, member.CAFile = filepath.Join(certs, auth.HostCertFile), filepath.Join(certs, auth.HostKeyFile), filepath.Join(certs, auth.CACertFile)
	ready, ended := make(chan struct{}), make(chan error, 1)
	member.Ready = func() { close(ready) }
	living, end := context.WithCancel(context.Background())
	go func() { ended <- etcd.RunMember(living, member) }()
	defer func() { end(); <-ended }()
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the member ended: %v", err)
	case <-ctx.Done():
		t.Fatal("the member is not ready")
	}

	_, port, _ := strings.Cut(strings.TrimPrefix(member.ClientURL, "https://"), ":")
	text := fmt.Sprintf("application: clinic\nports: { etcd_client: %s }\nsites: { here: { hosts: { a: { address: 127.9.83.2, etcd: false }, b: { address: %s, etcd: true } } } }\nservices: { web: { run: /bin/web, instances: 2 } }\n", port, address)
	p, mistakes := plan.Parse("/etc/holdfast.yaml", []byte(text))
	if p == nil {
		t.Fatal(mistakes)
	}
	cfg.Plan = p
	conf, err := auth.ClientTLS(certDir(cfg.Dir), "")
	must(err)
	store, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{member.ClientURL}, TLS: conf, Log: cfg.Log})
	must(err)
	_, err = store.Put(ctx, agent.KeyPlan, []byte(text), 0)
	must(err)
	_, err = store.Put(ctx, agent.KeyRecovery, []byte(`{"number":2,"founding":"after the flood"}`), 0)
	must(err)
	must(store.Close())

	t.Run("new, where the agreed state was rebuilt", func(t *testing.T) {
		cfg := cfg
		cfg.Dir = filepath.Join(top, "new")
		must(os.MkdirAll(cfg.Dir, 0o700))
		must(os.CopyFS(certDir(cfg.Dir), os.DirFS(certDir(filepath.Join(top, "a")))))
		if came, err := awaitPlace(ctx, cfg, nil); err != nil || !came {
			t.Fatalf("it has its place: %t, %v", came, err)
		}
		want := founding{ClusterID: store.ClusterID(), Founding: "after the flood", Recovery: 2}
		if got, err := readFounding(cfg.Dir); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("it is of %+v, %v; want %+v", got, err, want)
		}
	})
	for name, c := range map[string]struct {
		cluster uint64
		came    bool
	}{"of the cluster that it knew": {store.ClusterID(), true}, "of another cluster": {store.ClusterID() + 1, false}} {
		t.Run(name, func(t *testing.T) {
			must(founding{ClusterID: c.cluster, Clients: []string{"https://" + freeAt(t, address)}}.write(cfg.Dir))
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			cfg, told := cfg, atomic.Bool{}
			cfg.Log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
				if strings.Contains(string(p), "founded a cluster anew") {
					told.Store(true)
					cancel() // nothing else will come
				}
				return len(p), nil
			}), nil))
			if came, err := awaitPlace(ctx, cfg, nil); err != nil || came != c.came || told.Load() == came {
				t.Errorf("it has its place: %t, %v; told that another cluster answers: %t", came, err, told.Load())
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// freeAt is an address that nobody listens at.
func freeAt(t *testing.T, ip string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing is pending on it
	return l.Addr().String()
}
