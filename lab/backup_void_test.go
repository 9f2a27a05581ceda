package lab_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// A server that crashes, and one that is promoted, while its files are read for a base backup: the attempt is void, the next
// one begins by itself and is what was asked for, and both have receipts.
func TestABackupWhoseServerCrashesOrIsPromotedIsMadeAllTheSame(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.63", lab.Shape{})
	w.Start()
	st := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	fill(t, w, st.Databases[0].Primary, 2)
	host := st.Databases[0].Archive.Host
	if host == st.Databases[0].Primary {
		t.Fatalf("%s is the primary and archives, with two standbys", host)
	}
	for _, c := range []struct {
		name, why string
		change    func()
	}{
		{"it crashes", "its session has ended", func() {
			w.Kill(postmaster(t, w, host))
		}},
		{"it is promoted", "has been promoted", func() {
			if out, err := w.Run("database", "switchover", "records", "--to", host, "--yes"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}},
	} {
		before, _ := backupsOf(t, w)
		told := len(backupReceipts(t, w))
		if out, err := w.Run("backup", "run", "records", "--limit", "2MiB", "--wait=false"); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, out)
		}
		w.Await("the backup is under way", recoverMax, func(api.Status) bool {
			return psql(t, w, host, "SELECT pid FROM pg_stat_activity WHERE usename = 'holdfast' AND application_name = '' AND backend_start < clock_timestamp() - interval '3 s' LIMIT 1") != ""
		})
		c.change()
		var said []saidReceipt
		w.Await("the attempt is void", recoverMax, func(api.Status) bool {
			said = backupReceipts(t, w)[told:]
			return len(said) > 0
		})
		if said[0].Outcome != "failed" || !strings.Contains(said[0].Says, c.why) {
			t.Errorf("%s: the receipt says %+v, want %q", c.name, said[0], c.why)
		}
		st := w.Await("the backup is made and proven all the same", 3*recoverMax, func(st api.Status) bool {
			a := st.Databases[0].Archive
			return lab.Well(st) && a != nil && a.Last != nil && !slices.Contains(before, a.Last.ID) && a.Last.Proven
		})
		said = backupReceipts(t, w)[told:]
		last := said[len(said)-1]
		if last.Outcome != "done" || last.Details.ID != st.Databases[0].Archive.Last.ID || last.Details.Timeline != st.Databases[0].Timeline {
			t.Errorf("%s: the last receipt is %+v of %d; the backup is %+v on timeline %d", c.name, last, len(said), st.Databases[0].Archive.Last, st.Databases[0].Timeline)
		}
		t.Logf("%s: %+v", c.name, said)
	}
}

// postmaster is the server on a host.
func postmaster(t *testing.T, w *lab.World, host string) int {
	t.Helper()
	return w.PID(host, filepath.Join("db", "records", "pgdata", "postmaster.pid"))
}

type saidReceipt struct {
	Outcome, Says string
	Details       struct {
		ID       string
		Timeline uint32
	}
}

// backupReceipts are those of base backups, oldest first.
func backupReceipts(t *testing.T, w *lab.World) []saidReceipt {
	t.Helper()
	out, err := w.Run("receipt", "list", "records", "--kind", "backup", "--output", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all []saidReceipt
	if err := json.Unmarshal([]byte(out[strings.IndexAny(out, "[{"):]), &all); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return all
}
