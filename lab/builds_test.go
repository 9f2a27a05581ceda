package lab_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// Another build of Holdfast is put in the place of the one that runs, under load: agents end by SIGTERM and come back as the
// new one, which goes on with keepers, servers and listeners of the old one; then the keeper of each member of etcd is killed,
// so that both are begun anew, and a restart gives each server a keeper of the new build, standbys first.
func TestAnotherBuildTakesOverUnderLoad(t *testing.T) {
	lab.Long(t)
	w := lab.NewApartAs(t, lab.Shape{Services: true, Plan: withoutBackup})
	w.OwnPrograms()
	w.Start()
	was := w.Await("well", recoverMax, lab.Well).Databases[0]
	load := w.PatientLoad("builds")
	w.Upgrade("another-build")
	if out, err := w.Run("version"); err != nil || !strings.Contains(out, "another-build") {
		t.Fatalf("it is no other build: %v\n%s", err, out)
	}

	load.Client.Mark("agents")
	for _, h := range w.Hosts {
		before := w.PID(h, "agent.pid")
		must(t, syscall.Kill(before, syscall.SIGTERM))
		w.Await("an agent of the new build answers on "+h, recoverMax, func(st api.Status) bool {
			pid := w.PID(h, "agent.pid")
			return pid != before && !w.Outdated(pid) && answers(st, h) && lab.Well(st)
		})
		if !w.Outdated(serverKeeper(t, w, h)) {
			t.Errorf("the keeper of the server on %s is not of the former build: nothing is shown of agents beside older ones", h)
		}
	}
	load.Client.Mark("members")
	for _, h := range w.Hosts {
		w.Kill(keeperOf(t, w, h, "/keep/etcd/")) // its member ends with it
		w.Await("keeper and member of the new build run on "+h, recoverMax, func(api.Status) bool {
			now := w.Running(h, "etcd-member")
			keeper, found := lookForKeeper(w, h, "/keep/etcd/")
			return found && len(now) > 0 && !slices.ContainsFunc(append(now, keeper), w.Outdated)
		})
		awaitMembers(t, w, w.Hosts...)
	}
	still := w.Await("well", recoverMax, lab.Well).Databases[0]
	if still.Epoch != was.Epoch || still.Primary != was.Primary {
		t.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d): %v", was.Primary, was.Epoch, still.Primary, still.Epoch, still.Because)
	}
	load.Client.Mark("servers")
	for _, phase := range []string{"agents", "members"} {
		for path, n := range failed(load.Client.Phases(), phase) {
			t.Errorf("%d requests failed by %s while the %s were replaced", n, path, phase)
		}
	}
	out, err := w.Run("database", "restart", "records", "--yes")
	must(t, err, out)
	now := w.Await("well after the restart", recoverMax, lab.Well).Databases[0]
	if now.Epoch != still.Epoch+1 || now.Primary == still.Primary {
		t.Errorf("%s is the primary in epoch %d after %s in epoch %d: one switchover was to come", now.Primary, now.Epoch, still.Primary, still.Epoch)
	}
	for _, h := range w.Hosts {
		if w.Outdated(serverKeeper(t, w, h)) {
			t.Errorf("the keeper of the server on %s is still of the former build", h)
		}
	}
	load.Recovered()
	load.Client.Mark("after")
	for path, n := range failed(load.Client.Phases(), "servers") {
		if strings.HasPrefix(path, "edge ") {
			t.Errorf("%d requests failed by %s while the servers restarted", n, path)
		}
	}
	for _, p := range load.End() {
		gap, failed, slow := p.Worst()
		t.Logf("%-24s longest gap %6.2f s, failed %d, slow %d", p.Name, gap.Seconds(), failed, slow)
	}
}

// serverKeeper is the keeper of the server of a host.
func serverKeeper(t *testing.T, w *lab.World, host string) int {
	t.Helper()
	return keeperOf(t, w, host, "/db/records/keep/")
}
