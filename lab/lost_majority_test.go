package lab_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/internal/local"
	"holdfast/lab"
)

// Two of three hosts burn down. The operator rebuilds the agreed state on the one that is left. One of the lost hosts
// comes back after all with its old disk, the other as a new machine: neither does anything by itself; taken in again
// they are standbys, the database opens, and it has every acknowledged row.
func TestALostMajorityIsRecovered(t *testing.T) {
	lab.Long(t)
	w := lab.NewApart(t)
	w.Start()
	load := w.Load("majority")
	was := w.Await("well", recoverMax, lab.Well).Databases[0]
	left := was.Primary
	var lost []string
	for _, h := range w.Hosts {
		if h != left {
			lost = append(lost, h)
		}
	}
	if out, err := w.RunOn(left, "cluster", "recover", "--host", left, "--yes"); err == nil || !strings.Contains(out, "cluster.majority-lives") {
		t.Fatalf("a rebuilding that nobody needs: %v\n%s", err, out)
	}
	load.Client.Mark("two hosts burn down")
	for _, h := range lost {
		w.PowerOff(h)
	}
	burn(t, w, lost[1])

	if out, err := w.RunOn(left, "cluster", "recover", "--host", left, "--dry-run"); err != nil || !strings.Contains(out, "Written off") || !strings.Contains(out, "Nothing was changed") {
		t.Fatalf("the outlook: %v\n%s", err, out)
	}
	out, err := w.RunOn(left, "cluster", "recover", "--host", left, "--yes")
	if err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	st := w.Await("the database's record is rebuilt", recoverMax, func(st api.Status) bool { return st.Databases[0].Epoch > was.Epoch+1 })
	if st.Databases[0].Open {
		t.Error("it is open although nobody holds a second copy")
	}

	t.Run("lost hosts that come back run nothing", func(t *testing.T) {
		w.Net.Heal()
		for _, h := range lost {
			w.PowerOn(h)
		}
		w.Await("the one with the old disk says that it was written off", recoverMax, func(st api.Status) bool { return offs(st, lost[0]) })
		for _, s := range clusters(t, w) {
			if s.Host == lost[0] && s.WrittenOff == "" {
				t.Errorf("%s takes part: %+v", s.Host, s)
			}
		}
		if _, err := os.Stat(filepath.Join(w.Root, "hosts", lost[0], "db", "records", "pgdata", "postmaster.pid")); err == nil {
			for _, x := range w.Await("its server stays down", recoverMax, func(api.Status) bool { return true }).Databases[0].Servers {
				if x.Host == lost[0] && x.Role != "stopped" {
					t.Errorf("%s runs a server: %+v", x.Host, x)
				}
			}
		}
	})

	t.Run("taken in again they follow, and nothing acknowledged is lost", func(t *testing.T) {
		for _, h := range lost {
			if out, err := w.Run("cluster", "replace", h, "--yes"); err != nil {
				t.Fatalf("replace %s: %v\n%s", h, err, out)
			}
		}
		now := w.Await("well again", recoverMax, lab.Well).Databases[0]
		if now.Epoch <= was.Epoch || now.Timeline <= was.Timeline {
			t.Errorf("epoch %d on timeline %d after epoch %d on timeline %d", now.Epoch, now.Timeline, was.Epoch, was.Timeline)
		}
		load.Recovered()
		for _, s := range clusters(t, w) {
			if need, serve := s.Majority(); !s.Reachable || s.WrittenOff != "" || need != 2 || serve != 3 || len(s.Saved) == 0 {
				t.Errorf("%s sees %+v", s.Host, s)
			}
		}
	})
	load.End()
}

// The primary burns down with one standby, and the other standby is all that is left: recovered, and forced open after
// the loss was shown, it opens; the old primary, back with its old disk, writes nothing; and writes flow once a standby
// holds them, for one must (the policy is strict).
func TestALostMajorityWithItsPrimaryIsForcedOpen(t *testing.T) {
	lab.Long(t)
	w := lab.NewApart(t)
	w.Start()
	was := w.Await("well", recoverMax, lab.Well).Databases[0]
	left := standby(was)
	var lost []string
	for _, h := range w.Hosts {
		switch h {
		case left:
			continue
		case was.Primary:
			lost = append([]string{h}, lost...)
		default:
			lost = append(lost, h)
		}
		w.PowerOff(h)
	}
	if out, err := w.RunOn(left, "cluster", "recover", "--host", left, "--yes"); err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	w.Await("the database's record is rebuilt", recoverMax, func(st api.Status) bool { return st.Databases[0].Epoch > was.Epoch+1 })
	if out, err := w.RunOn(left, "database", "failover", "records", "--force", "--yes"); err != nil {
		t.Fatalf("forced failover: %v\n%s", err, out)
	}
	now := w.Await("it serves on what is left", recoverMax, func(st api.Status) bool { return st.Databases[0].Open && st.Databases[0].Primary == left }).Databases[0]
	if now.Epoch <= was.Epoch || now.Timeline <= was.Timeline {
		t.Errorf("epoch %d on timeline %d after epoch %d on timeline %d", now.Epoch, now.Timeline, was.Epoch, was.Timeline)
	}
	burnt := lost[1]
	burn(t, w, burnt)
	w.Net.Heal()
	for _, h := range lost { // lost[0] with its old disk, the other as a new machine
		w.PowerOn(h)
	}
	w.Await("the old disk's host says that it was written off", recoverMax, func(st api.Status) bool { return offs(st, lost[0]) })
	for _, s := range w.Await("their servers stay down", recoverMax, func(api.Status) bool { return true }).Databases[0].Servers {
		if s.Host != left && s.Role == "primary" {
			t.Errorf("%s is a primary again: %+v", s.Host, s)
		}
	}
	if out, err := w.Run("cluster", "replace", burnt, "--yes"); err != nil {
		t.Fatalf("replace %s: %v\n%s", burnt, err, out)
	}
	w.Await("a standby counts", recoverMax, func(st api.Status) bool { return counts(st, burnt) })
	load := w.LoadOn(left, "after") // it returns when writes are acknowledged
	if end := w.Await("still there", recoverMax, func(api.Status) bool { return true }).Databases[0]; end.Primary != left || end.Epoch != now.Epoch {
		t.Errorf("the primary moved to %s (epoch %d)", end.Primary, end.Epoch)
	}
	load.End()
}

// burn removes a host's disk, and brings a new machine in its place: with a certificate, and off.
func burn(t *testing.T, w *lab.World, host string) {
	t.Helper()
	dir := local.HostDir(w.Root, host)
	ashes := filepath.Join(filepath.Dir(w.Plan), "burnt-"+host)
	for _, step := range []func() error{
		func() error { return os.Rename(dir, ashes) },
		func() error { return os.MkdirAll(dir, 0o755) },
		func() error { return os.WriteFile(local.HoldFile(w.Root, host), nil, 0o644) },
		func() error { return os.CopyFS(filepath.Join(dir, "tls"), os.DirFS(filepath.Join(ashes, "tls"))) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// offs reports whether a host says that it was written off.
func offs(st api.Status, host string) bool {
	for _, p := range st.Problems {
		if p.Code == "cluster.written-off" && p.Subject == host {
			return true
		}
	}
	return false
}

func clusters(t *testing.T, w *lab.World) []api.ClusterStatus {
	t.Helper()
	out, err := w.Run("cluster", "status", "--output", "json")
	if err != nil {
		t.Fatalf("cluster status: %v\n%s", err, out)
	}
	var all []api.ClusterStatus
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	return all
}
