package lab_test

import (
	"fmt"
	"slices"
	"testing"

	"holdfast/internal/api"
	"holdfast/lab"
)

// The agent that makes a base backup is killed -9 within it: nothing partial is listed, the server has ended the backup's
// session, and the backup that was asked for is made by itself once an agent is there again.
func TestABackupWhoseAgentIsKilledIsMadeAllTheSame(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.62", lab.Shape{})
	w.Start()
	st := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	fill(t, w, st.Databases[0].Primary, 2)
	before, _ := backupsOf(t, w)
	host := st.Databases[0].Archive.Host
	if out, err := w.Run("backup", "run", "records", "--limit", "4MiB", "--wait=false"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Holdfast's other sessions have names; one without that lasts is the backup's.
	session := ""
	w.Await("the backup is under way", recoverMax, func(api.Status) bool {
		session = psql(t, w, host, "SELECT pid FROM pg_stat_activity WHERE usename = 'holdfast' AND application_name = '' AND backend_start < clock_timestamp() - interval '3 s' LIMIT 1")
		return session != ""
	})
	killed := w.PID(host, "agent.pid")
	w.Kill(killed)
	if held, _ := backupsOf(t, w); !slices.Equal(held, before) {
		t.Errorf("listed are %v, were %v", held, before)
	}
	w.Await("the server has ended the backup's session", recoverMax, func(api.Status) bool {
		return psql(t, w, host, fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", session)) == "0"
	})
	st = w.Await("the backup is made and proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && !slices.Contains(before, a.Last.ID) && a.Last.Proven
	})
	if a := st.Databases[0].Archive; a.Last.Stored > a.Last.Bytes/2 {
		t.Errorf("%d of %d bytes were stored, most of which the vault had", a.Last.Stored, a.Last.Bytes)
	}
	if held, _ := backupsOf(t, w); len(held) <= len(before) {
		t.Errorf("listed are %v, were %v", held, before)
	}
}
