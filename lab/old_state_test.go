package lab_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/internal/rebuild"
	"holdfast/lab"
)

// etcd is put back to before a switchover, and the newest state is lost. A forced failover is refused; the host that was the
// primary in the old record, and has followed the later one since, rebuilds the agreed state, without a vault that knows
// better. The outlook says that its record is old; taken in again, the others follow it.
func TestAnOldAgreedStateIsRebuiltWithoutTheNewestOne(t *testing.T) {
	lab.Long(t)
	w := lab.NewApart(t)
	w.Start()
	copies := t.TempDir()
	copyState := func(put bool) {
		w.PowerOffAll()
		for host, dir := range w.EtcdDirs() {
			from, to := dir, filepath.Join(copies, host)
			if put {
				from, to = to, dir
				must(t, os.RemoveAll(dir))
			}
			out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
			must(t, err, string(out))
		}
		w.PowerOnAll()
	}
	w.Await("well", recoverMax, lab.Well)
	copyState(false)
	was := w.Await("well with what was copied", recoverMax, lab.Well).Databases[0]
	to := standby(was)
	w.AwaitFit(to, recoverMax)
	out, err := w.Run("database", "switchover", "records", "--to", to, "--yes")
	must(t, err, out)
	later := w.Await("well in a later epoch", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Primary == to }).Databases[0]
	copyState(true)
	w.Await("the old state is refused", recoverMax, func(st api.Status) bool { return slices.Contains(codes(st), "database.agreed-state-old") })
	if out, err := w.Run("database", "failover", "records", "--force", "--yes"); err == nil || !strings.Contains(out, "an old backup") {
		t.Errorf("a forced failover into an old agreed state: %v\n%s", err, out)
	}
	left := was.Primary
	others := w.Others(left)
	for _, h := range others {
		w.PowerOff(h)
	}
	vault := filepath.Join(w.Root, "vault")
	must(t, os.Rename(vault, vault+".away"))
	if d := outlookOn(t, w, left); d.Older == nil || d.Older.Epoch < later.Epoch || strings.Contains(d.Next, "every commit") {
		t.Errorf("of a record of epoch %d, with %d begun since, it says %+v %+v", d.Was, later.Epoch, d, d.Older)
	}
	out, err = w.RunOn(left, "cluster", "recover", "--host", left, "--yes")
	must(t, err, out)
	must(t, os.Rename(vault+".away", vault))
	w.Net.Heal()
	for _, h := range others {
		w.PowerOn(h)
		w.Await(h+" says that it was written off", recoverMax, func(st api.Status) bool { return offs(st, h) })
		out, err := w.Run("cluster", "replace", h, "--yes")
		must(t, err, out)
	}
	now := w.Await("well again, once it is decided about what others hold alone", 2*recoverMax, func(st api.Status) bool {
		waive(t, w)
		return lab.Well(st)
	}).Databases[0]
	if now.Primary != left || now.Epoch <= later.Epoch {
		t.Errorf("%s is the primary of epoch %d after %d", now.Primary, now.Epoch, later.Epoch)
	}
}

// waive decides that nobody needs what waits for a decision: how much the others were ahead is chance.
func waive(t *testing.T, w *lab.World) {
	t.Helper()
	out, err := w.Run("database", "salvage", "list", "records", "--output", "json")
	var all []api.Salvaged
	if err != nil || json.Unmarshal([]byte(out), &all) != nil {
		return // not now
	}
	for _, x := range all {
		if !x.Waits {
			continue
		}
		if x.Acknowledged != 0 {
			t.Errorf("%d commits of %s are listed as acknowledged, and nobody is left who can know", x.Acknowledged, x.Host)
		}
		if out, err := w.Run("database", "salvage", "waive", "records", x.ID, "--reason", "a test's", "--yes"); err != nil {
			t.Logf("waive %s: %v\n%s", x.ID, err, out)
		}
	}
}

// outlookOn is what a rebuilding on one host would begin its database with.
func outlookOn(t *testing.T, w *lab.World, host string) rebuild.DatabaseOutlook {
	t.Helper()
	out, err := w.RunOn(host, "cluster", "recover", "--host", host, "--dry-run", "--output", "json")
	must(t, err, out)
	var p rebuild.Proposal
	must(t, json.NewDecoder(strings.NewReader(out[max(0, strings.Index(out, "{")):])).Decode(&p), out)
	if len(p.Databases) != 1 {
		t.Fatalf("the outlook has %d databases", len(p.Databases))
	}
	return p.Databases[0]
}
