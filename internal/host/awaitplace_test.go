package host

import (
	"context"
	"encoding/json"
	"errors"
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
	"holdfast/internal/problem"
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
	member, cfg := memberFor(t, ctx, address, "127.9.83.2")
	top := filepath.Dir(cfg.Dir)

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

// memberFor runs a member of etcd at an address, of host b, and gives what host a at another needs to ask it.
func memberFor(t *testing.T, ctx context.Context, address, asks string) (etcd.MemberConfig, Config) {
	t.Helper()
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
	must(ca.WriteHost(certDir(cfg.Dir), auth.HostCert{Name: "a", Role: auth.Host, Addresses: []net.IP{net.ParseIP(asks)}}))
	member.CertFile, member.KeyFile, member.CAFile = filepath.Join(certs, auth.HostCertFile), filepath.Join(certs, auth.HostKeyFile), filepath.Join(certs, auth.CACertFile)
	ready, ended := make(chan struct{}), make(chan error, 1)
	member.Ready = func() { close(ready) }
	living, end := context.WithCancel(context.Background())
	go func() { ended <- etcd.RunMember(living, member) }()
	t.Cleanup(func() { end(); <-ended })
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the member ended: %v", err)
	case <-ctx.Done():
		t.Fatal("the member is not ready")
	}
	return member, cfg
}

// An order that was given before another one names a member that is not there any more: whoever entered with it would be let in by nobody.
func TestAnOrderWhosePlaceWasGivenToAnotherIsRefused(t *testing.T) {
	const address = "127.9.84.1"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	member, cfg := memberFor(t, ctx, address, "127.9.84.2")
	conf, err := auth.ClientTLS(certDir(cfg.Dir), "")
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{cfg: cfg, self: plan.Host{Name: "a", Address: "127.9.84.2", Etcd: true}, joins: make(chan struct{}, 1)}
	h.cfg.Plan = planOf(t, "a*", "b*", "c*")
	if h.store, err = etcd.Open(ctx, etcd.Config{Endpoints: []string{member.ClientURL}, TLS: conf, Log: cfg.Log}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.store.Close(); err != nil {
			t.Error(err)
		}
	}()
	seats, err := h.store.Seats(ctx)
	if err != nil || len(seats) != 1 {
		t.Fatalf("%v, %v", seats, err)
	}
	for name, c := range map[string]struct {
		cluster, seat uint64
		taken         bool
	}{
		"given to another since": {h.store.ClusterID(), seats[0].ID + 1, false},
		"that is there":          {h.store.ClusterID(), seats[0].ID, true},
		"of another cluster":     {h.store.ClusterID() + 1, seats[0].ID + 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(joinOrder{founding{ClusterID: c.cluster, Seat: c.seat, Join: true, Clients: []string{member.ClientURL}, Members: map[string]string{"a": peerURL(h.cfg.Plan, h.self)}}})
			if err != nil {
				t.Fatal(err)
			}
			err = h.Join(ctx, raw)
			p, refused := errors.AsType[*problem.Problem](err)
			if (err == nil) != c.taken || !c.taken && (!refused || !strings.Contains(p.Remedy, "cluster replace a")) {
				t.Errorf("it says %v", err)
			}
			if _, err := os.Stat(joinFile(cfg.Dir)); (err == nil) != c.taken {
				t.Errorf("the order is kept: %v", err)
			}
			if err := os.Remove(joinFile(cfg.Dir)); err != nil && c.taken {
				t.Error(err)
			}
		})
	}
}

// A host does not ask for another place while one that somebody has asked for may be on its way to it.
func TestAHostAsksForItsPlaceOnce(t *testing.T) {
	h := aFilerHost(t, plan.Moment{})
	learner, voter := etcd.Seat{ID: 7, Learner: true}, etcd.Seat{ID: 5}
	if !h.mayAsk(etcd.Seat{}, false) || h.mayAsk(voter, true) {
		t.Error("it asks where it has no seat, and not where one has voted")
	}
	for range 2 { // the second time of a newer one
		for look := range orderLooks {
			if h.mayAsk(learner, true) {
				t.Fatalf("at look %d it asks for another than that which was given", look)
			}
		}
		learner.ID++
	}
	learner.ID--
	if !h.mayAsk(learner, true) {
		t.Error("nobody brings the order, and it never asks")
	}
	if h.works.end(); h.mayAsk(etcd.Seat{}, false) {
		t.Error("it asks though its life ends")
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
