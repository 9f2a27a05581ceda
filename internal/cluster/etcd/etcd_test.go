package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/cluster"
	"holdfast/internal/cluster/clustertest"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/problem"
)

func TestConformance(t *testing.T) {
	w := newWorld(t)
	cfg := w.member(t, "b1", "127.41.2.1")
	certs := filepath.Dir(cfg.CertFile)
	m := start(cfg)
	defer func() {
		if err := m.stop(t); err != nil {
			t.Error(err)
		}
	}()
	m.awaitReady(t)
	clustertest.Run(t, clustertest.Subject{
		Open:    func(t *testing.T) cluster.Store { return openStore(t, certs, cfg.ClientURL) },
		Compact: func(t *testing.T, rev int64) { compact(t, certs, cfg.ClientURL, rev) },
		Flaky: func(t *testing.T) (cluster.Store, func(bool)) {
			p := newProxy(t, strings.TrimPrefix(cfg.ClientURL, "https://"))
			return openHasty(t, time.Second, certs, "https://"+p.address), func(cut bool) { p.cut(t, cut) }
		},
	})
}

func TestThreeMembersOutliveOne(t *testing.T) {
	w := newWorld(t)
	cfgs := []etcd.MemberConfig{
		w.member(t, "b1", "127.41.2.1"), w.member(t, "b2", "127.41.2.2"), w.member(t, "b3", "127.41.2.3"),
	}
	peers := map[string]string{}
	var endpoints []string
	for _, c := range cfgs {
		peers[c.Name] = c.PeerURL
		endpoints = append(endpoints, c.ClientURL)
	}
	var members []*running
	for _, c := range cfgs {
		c.Cluster = peers
		members = append(members, start(c))
	}
	for _, m := range members {
		m.awaitReady(t)
	}
	s := openStore(t, filepath.Dir(cfgs[0].CertFile), endpoints...)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	first, err := s.Put(t.Context(), "/k", []byte("before"), 0)
	if err != nil {
		t.Fatal(err)
	}
	impatient(t, peers)
	watch := s.Watch(t.Context(), "/k", first)
	for i, m := range members { // whichever of them leads, it is stopped once
		if err := m.stop(t); err != nil {
			t.Fatalf("stop %s: %v", cfgs[i].Name, err)
		}
		value := "without " + cfgs[i].Name
		clustertest.Eventually(t, func() error { _, err := s.Set(t.Context(), "/k", []byte(value)); return err })
		for seen := ""; seen != value; {
			select {
			case c := <-watch:
				seen = string(c.Value)
			case <-time.After(patience):
				t.Fatalf("the watch does not tell of %q", value)
			}
		}
		c := cfgs[i]
		c.Cluster = peers
		members[i] = start(c)
		members[i].awaitReady(t)
	}
	replaceMember(t, s, cfgs[2], peers, &members[2])
	// A majority gone: no answer, and no harm.
	for _, m := range members[:2] {
		if err := m.stop(t); err != nil {
			t.Fatal(err)
		}
	}
	hasty := openHasty(t, time.Second, filepath.Dir(cfgs[0].CertFile), endpoints...)
	if _, err := hasty.Get(t.Context(), "/k"); !errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("get without a majority: %v", err)
	}
	if err := hasty.Close(); err != nil {
		t.Error(err)
	}
	if err := members[2].stop(t); err != nil {
		t.Fatal(err)
	}
}

// impatient waits until the kernel will give up each connection between members soon when its other end is silent.
func impatient(t *testing.T, peers map[string]string) {
	t.Helper()
	clustertest.Eventually(t, func() error {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return err
		}
		seen := 0
		for _, entry := range entries {
			fd, err := strconv.Atoi(entry.Name())
			if err != nil {
				continue
			}
			remote, err := unix.Getpeername(fd)
			at, ok := remote.(*unix.SockaddrInet4)
			if err != nil || !ok || !slices.Contains(slices.Collect(maps.Values(peers)), fmt.Sprintf("https://%s:%d", net.IP(at.Addr[:]), at.Port)) {
				continue
			}
			seen++
			if ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || ms != 2000 {
				return fmt.Errorf("bytes to %s:%d may stay unacknowledged for %d ms, %v", net.IP(at.Addr[:]), at.Port, ms, err)
			}
		}
		if seen < len(peers) {
			return fmt.Errorf("%d connections lead to other members", seen)
		}
		return nil
	})
}

// replaceMember lets m lose its data, and its place be taken by an empty member that ends up voting.
func replaceMember(t *testing.T, s *etcd.Store, cfg etcd.MemberConfig, peers map[string]string, m **running) {
	t.Helper()
	if err := (*m).stop(t); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	before, err := s.Seats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Cluster, cfg.Join = peers, true
	if err := <-start(cfg).done; !errors.Is(err, etcd.ErrDataLost) {
		t.Fatalf("start without data: %v", err)
	}
	clustertest.Eventually(t, func() error { return s.Replace(t.Context(), cfg.Name, cfg.PeerURL) })
	clustertest.Eventually(t, func() error { return s.Replace(t.Context(), cfg.Name, cfg.PeerURL) }) // repeated; ids hang on the second
	if err := s.Promote(t.Context(), cfg.Name); !errors.Is(err, etcd.ErrBehind) {
		t.Fatalf("promoted before it ran: %v", err)
	}
	if err := os.Remove(cfg.Marker); err != nil {
		t.Fatal(err)
	}
	*m = start(cfg)
	clustertest.Eventually(t, func() error { return s.Promote(t.Context(), cfg.Name) })
	(*m).awaitReady(t)
	after, err := s.Seats(t.Context())
	if err != nil || len(after) != len(before) {
		t.Fatalf("members %+v, %v", after, err)
	}
	for _, a := range after {
		if a.Learner || a.Name == cfg.Name && slices.Contains(before, a) {
			t.Errorf("member %+v after %+v", a, before)
		}
	}
}

func TestOpenDoesNotWaitForMembers(t *testing.T) {
	w := newWorld(t)
	cfg := w.member(t, "b1", "127.41.2.1")
	s := openHasty(t, time.Second, filepath.Dir(cfg.CertFile), cfg.ClientURL) // nothing listens there yet
	defer func() { _ = s.Close() }()                                          // closed on the way out; what matters was tested
	if _, err := s.Get(t.Context(), "/k"); !errors.Is(err, cluster.ErrUnavailable) {
		t.Fatalf("get from nobody: %v", err)
	}
	m := start(cfg)
	m.awaitReady(t)
	clustertest.Eventually(t, func() error { _, err := s.Get(t.Context(), "/k"); return err })
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
}

func TestAFrozenMemberCostsNoRead(t *testing.T) {
	w := newWorld(t)
	cfg := w.member(t, "b1", "127.41.2.1")
	m := start(cfg)
	m.awaitReady(t)
	p := newProxy(t, strings.TrimPrefix(cfg.ClientURL, "https://"))
	s := openHasty(t, 4*time.Second, filepath.Dir(cfg.CertFile), "https://"+p.address, cfg.ClientURL)
	defer func() { _ = s.Close() }() // closed on the way out; what matters was tested
	rev, err := s.Set(t.Context(), "/k", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, func() error { // both endpoints are in use
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.conns) == 0 {
			return errors.New("nobody came through the proxy")
		}
		return nil
	})
	release := p.hold()
	defer release()
	for range 4 { // in turn, so at least one read meets the frozen one first
		if e, err := s.Get(t.Context(), "/k"); err != nil || e.Revision != rev {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	release()
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	cfg := w.member(t, "b1", "127.41.2.1")
	m := start(cfg)
	m.awaitReady(t)
	s := openHasty(t, time.Second, other.certs(t, "b1", "127.41.2.1"), cfg.ClientURL)
	defer func() { _ = s.Close() }() // closed on the way out; what matters was tested
	if _, err := s.Set(t.Context(), "/k", nil); err == nil {
		t.Error("a client of another authority wrote")
	}
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
}

func TestMemberRefusesToStart(t *testing.T) {
	w := newWorld(t)
	cfg := w.member(t, "b1", "127.41.2.1")
	refused := func(t *testing.T, cfg etcd.MemberConfig, want error) error {
		t.Helper()
		m := start(cfg)
		select {
		case err := <-m.done:
			if want != nil && !errors.Is(err, want) || err == nil {
				t.Fatalf("refused with %v, want %v", err, want)
			}
			return err
		case <-m.ready:
			t.Errorf("it started: %v", m.stop(t))
		case <-time.After(patience):
			t.Error("it neither started nor refused")
			_ = m.stop(t) // reported already
		}
		return nil
	}

	m := start(cfg)
	m.awaitReady(t)
	t.Run("twice on the same data", func(t *testing.T) { refused(t, cfg, etcd.ErrInUse) })
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
	if err := etcd.DataLost(cfg); err != nil {
		t.Errorf("its own data, unharmed, are said to be lost: %v", err)
	}
	again := start(cfg)
	again.awaitReady(t) // its own data, unharmed, is welcome
	if err := again.stop(t); err != nil {
		t.Fatal(err)
	}

	t.Run("on data of another application", func(t *testing.T) {
		c := cfg
		c.Application = "bakery"
		refused(t, c, etcd.ErrForeign)
	})
	t.Run("when its log is gone", func(t *testing.T) {
		if err := os.Rename(filepath.Join(cfg.Dir, "data"), filepath.Join(cfg.Dir, "away")); err != nil {
			t.Fatal(err)
		}
		err := refused(t, cfg, etcd.ErrDataLost)
		if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "cluster.member-lost" || p.Remedy == "" {
			t.Errorf("no problem to show in %v", err)
		}
		if err := etcd.DataLost(cfg); !errors.Is(err, etcd.ErrDataLost) {
			t.Errorf("a look says %v", err)
		}
		if err := os.Rename(filepath.Join(cfg.Dir, "away"), filepath.Join(cfg.Dir, "data")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("when its whole folder is gone", func(t *testing.T) {
		if err := os.Rename(cfg.Dir, cfg.Dir+".away"); err != nil {
			t.Fatal(err)
		}
		refused(t, cfg, etcd.ErrDataLost)
		if err := etcd.DataLost(cfg); !errors.Is(err, etcd.ErrDataLost) {
			t.Errorf("a look says %v", err)
		}
	})
	t.Run("on mistakes in its settings, all at once", func(t *testing.T) {
		c := cfg
		c.Marker = filepath.Join(c.Dir, "marker")
		c.ClientURL = "http://127.41.2.1:1"
		c.Cluster = map[string]string{"b1": c.PeerURL, "b2": c.PeerURL}
		err := refused(t, c, nil)
		for _, want := range []string{"inside", "https://ADDRESS:PORT", "odd number"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not told in: %v", want, err)
			}
		}
	})
}

func TestMemberWithoutMajorityStopsCleanly(t *testing.T) {
	w := newWorld(t)
	cfg := w.member(t, "b1", "127.41.2.1")
	cfg.Cluster["b2"], cfg.Cluster["b3"] = "https://127.41.2.2:1", "https://127.41.2.3:1"
	m := start(cfg)
	clustertest.Eventually(t, func() error { _, err := os.Stat(filepath.Join(cfg.Dir, "data", "member", "wal")); return err })
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
	again := start(cfg) // a start cut short leaves a folder that starts again
	select {
	case err := <-again.done:
		t.Fatal(err)
	case <-time.After(300 * time.Millisecond): // it stays; a majority it cannot have
	}
	if err := again.stop(t); err != nil {
		t.Fatal(err)
	}
}

func TestOpenReportsEveryMissingSetting(t *testing.T) {
	_, err := etcd.Open(context.Background(), etcd.Config{})
	for _, want := range []string{"endpoint", "TLS", "logger"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told in: %v", want, err)
		}
	}
}
