package lab_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/examples/clinic/client"
	"holdfast/internal/api"
	"holdfast/lab"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := lab.RemoveBinaries(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// recoverMax is how long full redundancy may take to return on a busy machine.
const recoverMax = 2 * time.Minute

func failed(phases []client.Phase, name string) map[string]int {
	out := map[string]int{}
	for _, p := range phases {
		if p.Name != name {
			continue
		}
		for path, f := range p.Paths {
			if f.Failed > 0 {
				out[string(path)] = f.Failed
			}
		}
	}
	return out
}

// One world for a chain of faults: coming up costs more than each of them.
func TestAWorldSurvivesOneFaultAfterTheOther(t *testing.T) {
	w := lab.New(t, "127.60.1")
	w.Start()
	load := w.Load("chain")

	t.Run("agents are killed and come back, and no client, standby or service notices", func(t *testing.T) {
		before := w.Await("well", recoverMax, lab.Well)
		load.Client.Mark("agents")
		for _, h := range w.Hosts {
			w.Kill(w.PID(h, "agent.pid"))
			was := w.PID(h, "agent.pid")
			w.Await(h+" answers again", recoverMax, func(st api.Status) bool {
				return w.PID(h, "agent.pid") != was && answers(st, h) && lab.Well(st)
			})
		}
		load.Recovered()
		after := w.Await("well", recoverMax, lab.Well)
		if a, b := before.Databases[0], after.Databases[0]; a.Epoch != b.Epoch || a.Primary != b.Primary {
			t.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d)", a.Primary, a.Epoch, b.Primary, b.Epoch)
		}
		load.Client.Mark("after agents")
		if f := failed(load.Client.Phases(), "agents"); len(f) > 0 {
			t.Errorf("clients saw failed requests: %v", f)
		}
	})

	t.Run("a killed keeper of an instance is found out, and the instance comes back", func(t *testing.T) {
		st := w.Await("well", recoverMax, lab.Well)
		i := st.Services[0].Instances[0]
		load.Client.Mark("keeper")
		w.Kill(keeperOf(t, w, i.Host, "/svc/web/"))
		w.Await("the instance is missed", recoverMax, func(st api.Status) bool { return st.Services[0].Ready < 2 })
		w.Await("it is back", recoverMax, lab.Well)
		load.Recovered()
	})

	t.Run("a killed primary is followed by a standby, and nothing acknowledged is lost", func(t *testing.T) {
		st := w.Await("well", recoverMax, lab.Well)
		was := st.Databases[0]
		load.Client.Mark("primary")
		w.Kill(w.PID(was.Primary, "db/records/pgdata/postmaster.pid"))
		load.Recovered()
		now := w.Await("well again", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Epoch > was.Epoch })
		if now.Databases[0].Primary == was.Primary {
			t.Errorf("%s is still the primary, though two standbys could take over", was.Primary)
		}
	})

	t.Run("a killed keeper of the primary fences it, and a standby takes over", func(t *testing.T) {
		st := w.Await("well", recoverMax, lab.Well)
		was := st.Databases[0]
		load.Client.Mark("keeper of the primary")
		w.Kill(keeperOf(t, w, was.Primary, "/db/records/keep/"))
		load.Recovered()
		w.Await("well again", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Epoch > was.Epoch })
	})

	t.Run("a switchover loses nothing and goes where it was asked to", func(t *testing.T) {
		st := w.Await("well", recoverMax, lab.Well)
		to := ""
		for _, s := range st.Databases[0].Servers {
			if s.Role == "standby" {
				to = s.Host
			}
		}
		w.AwaitFit(to, recoverMax)
		load.Client.Mark("switchover")
		out, err := w.Run("database", "switchover", "records", "--to", to, "--yes")
		if err != nil {
			t.Fatalf("switchover: %v\n%s", err, out)
		}
		load.Recovered()
		now := w.Await("well again", recoverMax, lab.Well)
		if now.Databases[0].Primary != to {
			t.Errorf("the primary is on %s, asked for %s", now.Databases[0].Primary, to)
		}
	})

	t.Run("a switchover to nobody is refused in words", func(t *testing.T) {
		out, err := w.Run("database", "switchover", "records", "--to", "nowhere", "--yes")
		if err == nil || !strings.Contains(out, "nowhere: the plan has no such host") || !strings.Contains(out, "h1, h2, h3") {
			t.Errorf("got %v: %s", err, out)
		}
	})

	t.Run("every command refuses names that the plan does not have, before it asks anything", func(t *testing.T) {
		for _, args := range [][]string{
			{"database", "switchover", "recods"}, {"database", "switchover", "records", "--to", "h9"}, {"database", "failover", "recods", "--force"},
			{"database", "failover", "records", "--force", "--to", "h9"}, {"database", "restart", "recods"}, {"database", "pause", "recods", "--for", "1m"},
			{"database", "resume", "recods"}, {"database", "explain", "recods"}, {"database", "salvage", "list", "recods"},
			{"database", "salvage", "show", "recods"}, {"database", "salvage", "waive", "recods", "x", "--reason", "none"},
			{"backup", "run", "recods"}, {"backup", "cancel", "recods"}, {"backup", "list", "recods"}, {"backup", "window", "recods"},
			{"backup", "status", "recods"}, {"backup", "validate", "recods"}, {"backup", "prune", "recods"}, {"files", "backup", "letters"},
			{"recovery-point", "create", "letters"}, {"cluster", "replace", "h9"}, {"receipt", "rotate", "h9"}, {"vault", "status", "mian"},
			{"restore", "database", "recods", "--to", filepath.Join(t.TempDir(), "copy")}, {"restore", "undo", "recods"},
			{"agent", "--plan", w.Plan, "--host", "h9"},
		} {
			// Without a terminal a question ends a command: that would be seen here.
			if out, err := w.Run(args...); err == nil || !regexp.MustCompile(`^(api\.unknown|cli\.unknown-\w+) `).MatchString(out) || !strings.Contains(out, "Do: ") {
				t.Errorf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	})

	t.Run("everything on the primary's host is killed, and the others go on", func(t *testing.T) {
		st := w.Await("well", recoverMax, lab.Well)
		was := st.Databases[0]
		load.Client.Mark("host")
		for _, pid := range w.Processes(was.Primary) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // some end with their parents
		}
		load.Recovered()
		w.Await("well again", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Epoch > was.Epoch })
	})

	t.Run("a second up on the same data is refused", func(t *testing.T) {
		out, err := w.Run("up", "--root", w.Root, w.Plan)
		if err == nil || !strings.Contains(out, "host.in-use") {
			t.Errorf("got %v: %s", err, out)
		}
	})

	for _, p := range load.End() {
		gap, failed, slow := p.Worst()
		t.Logf("%-24s longest gap %6.2f s, failed %d, slow %d", p.Name, gap.Seconds(), failed, slow)
	}

	t.Run("after Ctrl-C the same data start again", func(t *testing.T) {
		w.Stop()
		w.Start()
		again := w.Load("again")
		again.End()
		v, err := load.Client.Verify(t.Context(), w.DSN(w.Hosts[0]))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Err(); err != nil {
			t.Errorf("acknowledged before the stop and lost by it: %v", err)
		}
	})
}

func answers(st api.Status, host string) bool {
	for _, h := range st.Hosts {
		if h.Name == host {
			return h.Heard
		}
	}
	return false
}

// keeperOf finds the keeper whose spec lies below a part of a host's directory.
func keeperOf(t testing.TB, w *lab.World, host, below string) int {
	t.Helper()
	pid, found := lookForKeeper(w, host, below)
	if !found {
		t.Fatalf("no keeper below %s on %s", below, host)
	}
	return pid
}

func lookForKeeper(w *lab.World, host, below string) (pid int, found bool) {
	for _, pid := range w.Processes(host) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), "\x00keeper\x00") && strings.Contains(string(line), filepath.Join(w.Root, "hosts", host)+below) {
			return pid, true
		}
	}
	return 0, false
}

func TestABusyPortIsNamedAndNothingIsTouched(t *testing.T) {
	w := lab.New(t, "127.60.2")
	l, err := net.Listen("tcp", w.Address["h2"]+":5432")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the test's end frees it anyway
	out, err := w.Run("up", "--root", w.Root, w.Plan)
	if err == nil || !strings.Contains(out, "host.port-in-use") || !strings.Contains(out, "127.60.2.2:5432") {
		t.Errorf("got %v: %s", err, out)
	}
	if left := w.Processes(""); len(left) > 0 {
		t.Errorf("processes were started: %v", left)
	}
}

func TestAForeignRootIsRefusedUntouched(t *testing.T) {
	w := lab.New(t, "127.60.3")
	if err := os.MkdirAll(w.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(w.Root, "letters.txt")
	if err := os.WriteFile(own, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := w.Run("up", "--root", w.Root, w.Plan)
	if err == nil || !strings.Contains(out, "host.foreign-root") {
		t.Errorf("got %v: %s", err, out)
	}
	entries, err := os.ReadDir(w.Root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "letters.txt" && e.Name() != "up.lock" {
			t.Errorf("%s was made in a foreign directory", e.Name())
		}
	}
}

func TestAWrongPlanNamesEveryMistakeAndChangesNothing(t *testing.T) {
	w := lab.New(t, "127.60.4")
	text, err := os.ReadFile(w.Plan)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(text), "standbys: 2", "standbys: 9", 1)
	bad = strings.Replace(bad, "port: 8080", "port: 99999", 1)
	if err := os.WriteFile(w.Plan, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := w.Run("up", "--root", w.Root, w.Plan)
	if err == nil || !strings.Contains(out, "standbys") || !strings.Contains(out, "99999") {
		t.Errorf("got %v: %s", err, out)
	}
	if _, err := os.Stat(w.Root); !os.IsNotExist(err) {
		t.Errorf("the root was made: %v", err)
	}
}

func TestANearlyFullDiskIsRefusedBeforeAnythingIsMade(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("mounting a small file system needs root")
		}
		t.Skip("mounting a small file system needs root")
	}
	w := lab.New(t, "127.60.5")
	if err := os.MkdirAll(w.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", w.Root, "tmpfs", 0, "size=100m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(w.Root, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}()
	out, err := w.Run("up", "--root", w.Root, w.Plan)
	if err == nil || !strings.Contains(out, "host.disk-low") {
		t.Errorf("got %v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(w.Root, "ca")); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
}

// Whenever Ctrl-C comes, the same data start again: in the middle of certificates, of the first etcd election, of
// initdb, of the first copies.
func TestCtrlCAtAnyMomentLeavesDataThatStartAgain(t *testing.T) {
	w := lab.New(t, "127.60.6")
	for _, after := range []time.Duration{300 * time.Millisecond, 1100 * time.Millisecond, 1900 * time.Millisecond, 2900 * time.Millisecond} {
		w.Launch()
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) { // until it listens to Ctrl-C
			if _, err := os.Stat(w.Root); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no data root was made")
			}
		}
		time.Sleep(after) // the moment of the fault, not a wait for anything
		w.Stop()
	}
	w.Start()
	w.Load("after").End()
}
