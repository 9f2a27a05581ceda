package lab_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
	"holdfast/lab"
)

// flip changes one byte of a page of a host's relation on its disk, and gives the page the checksum of what it holds then: as if
// a disk had given back something else.
func flip(t *testing.T, w *lab.World, host, relation string, page int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(w.Root, "hosts", host, "db", "records", "pgdata", relation), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, pgdata.PageSize)
	if _, err = f.ReadAt(held, page*pgdata.PageSize); err == nil {
		held[pgdata.PageSize-20] ^= 1
		binary.LittleEndian.PutUint16(held[8:], pgdata.Checksum(held, uint32(page)))
		_, err = f.WriteAt(held, page*pgdata.PageSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A page changes on the disk of the host that archives, with a right checksum and without log: the next backup says so, it is a
// problem until an operator accepts it, and a restore that would hold it says that it would.
func TestAPageThatChangesBehindTheLogIsAnAlarmUntilItIsAccepted(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.66", lab.Shape{})
	w.Start()
	st := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	host, primary := st.Databases[0].Archive.Host, st.Databases[0].Primary
	psql(t, w, primary, "create table calm (id int, body text)")
	psql(t, w, primary, "insert into calm select g, repeat('x', 500) from generate_series(1, 5000) g")
	psql(t, w, primary, "vacuum freeze calm")
	if out, err := w.Run("backup", "run", "records"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	good, _ := backupsOf(t, w)
	flip(t, w, host, psql(t, w, primary, "select pg_relation_filepath('calm')"), 3)

	out, err := w.Run("backup", "run", "records")
	if err == nil || !strings.Contains(out, "backup.changed-silently") || !strings.Contains(out, "table public.calm blocks") {
		t.Fatalf("%v\n%s", err, out)
	}
	alarm := func(st api.Status) bool {
		return slices.ContainsFunc(st.Problems, func(p problem.Problem) bool {
			return p.Code == "backup.changed-silently" && p.Subject == "records" && p.Severity == problem.Critical
		})
	}
	st = w.Await("status has the problem", 2*recoverMax, alarm)
	bad := st.Databases[0].Archive.Last
	if bad == nil || !bad.Proven || slices.Contains(good, bad.ID) {
		t.Fatalf("the newest is %+v, and was %v", bad, good)
	}
	if out, err := w.Run("backup", "status", "records"); err == nil || !strings.Contains(out, "CHANGED ") {
		t.Errorf("%v\n%s", err, out)
	}
	to := filepath.Join(filepath.Dir(w.Plan), "restored")
	out, err = w.Run("restore", "database", "records", "--to", to, "--dry-run", "--no-sample")
	if err != nil || !strings.Contains(out, "restore.holds-change") || !strings.Contains(out, bad.ID) || !strings.Contains(out, "holdfast restore database records --at ") {
		t.Errorf("%v\n%s", err, out)
	}

	if out, err := w.Run("backup", "accept", bad.ID, "--reason", "it was the test", "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.Await("the problem is gone", 2*recoverMax+time.Minute, func(st api.Status) bool { return !alarm(st) && lab.Well(st) })
	if out, err := w.Run("backup", "status", "records"); err != nil || strings.Contains(out, "CHANGED ") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := w.Run("restore", "database", "records", "--to", to, "--dry-run", "--no-sample"); err != nil || strings.Contains(out, "restore.holds-change") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := w.Run("backup", "run", "records"); err != nil {
		t.Errorf("the one after it: %v\n%s", err, out)
	}
}
