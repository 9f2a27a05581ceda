package backup_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
)

// Scenario 45: a trial asks nothing of the live server, keeps to the bytes a second that it was given while it writes the
// scratch copy and while it reads it again, and each process of its server gives way to whatever else runs on the host.
func TestATrialKeepsToItsLimitAndGivesWay(t *testing.T) {
	if os.Getenv("HOLDFAST_LAB") != "all" {
		t.Skip("it takes long: make lab runs it (HOLDFAST_LAB=all)")
	}
	const limit = 16 << 20 // bytes a second
	s, v := pgtest.New(t), newVault(t)
	r := receiver(t, v)
	stop := archive(t, r, s)
	s.Exec("postgres", "create table rows as select g as id, repeat(md5(g::text), 20) as body from generate_series(1, 60000) g")
	b := base(t, v, s)
	_ = stop() // its context has ended
	live := s.Conn("postgres")
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	sessions := func() (n int) {
		t.Helper()
		if err := live.QueryRow(t.Context(), "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until(t, "the backup's session has ended", func() bool { return sessions() == 0 })
	dir, looked := pgtest.Dir(t), 0
	_, mark, err := backup.Validate(t.Context(), backup.ValidateOptions{Vault: v, Database: "orders", Backup: b.ID, Dir: dir, Owner: owner, Limit: limit, Progress: func(p backup.Progress) {
		phase := p.Phase
		if n := sessions(); n != 0 {
			t.Errorf("%s: the live server has %d sessions", phase, n)
		}
		if phase != "heap" && phase != "counts" { // the scratch server runs
			return
		}
		for pid, nice := range nicenessIn(t, dir) {
			looked++
			if nice < 10 {
				t.Errorf("%s: process %d of the scratch server has niceness %d", phase, pid, nice)
			}
		}
	}})
	if err != nil || !mark.Passed {
		t.Fatalf("%+v, %v", mark, err)
	}
	if looked == 0 {
		t.Error("no process of the scratch server was seen")
	}
	least := time.Duration(float64(b.Bytes)/limit*float64(time.Second)) - 2*time.Second // one unused second counts, and what no page is
	for _, c := range mark.Checks {
		if (c.Name == "restore" || c.Name == "checksums") && c.Took < least {
			t.Errorf("%s of %d bytes took %s, which at %d bytes a second takes %s", c.Name, b.Bytes, c.Took, limit, least)
		}
	}
	t.Logf("%d bytes, %d processes seen: %+v", b.Bytes, looked, mark.Checks)
}

// nicenessIn is how far each process that works below dir gives way (proc(5), stat).
func nicenessIn(t *testing.T, dir string) map[int]int {
	t.Helper()
	out := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		at, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err != nil || !strings.HasPrefix(at, dir) {
			continue // gone, or another's
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // gone meanwhile
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		const niceField = 16 // of what stands behind the name; the 19th of all
		fields := strings.Fields(rest)
		if len(fields) <= niceField {
			t.Fatalf("/proc/%d/stat reads %q", pid, raw)
		}
		if out[pid], err = strconv.Atoi(fields[niceField]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
