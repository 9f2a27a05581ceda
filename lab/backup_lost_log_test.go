package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
	"holdfast/lab"
)

// Log that is gone from every server before the vault had it, and log that the vault holds with other content: each is told as
// a problem of its own, and a whole base backup behind it is made and proven by itself, from which moments can be restored again.
func TestLogThatIsLostOrComesTwiceIsToldAndLedOnFrom(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.64", lab.Shape{})
	w.Start()
	st := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	primary, archiver := st.Databases[0].Primary, st.Databases[0].Archive.Host

	before, _ := backupsOf(t, w)
	place := filepath.Join(w.Root, "vault")
	if err := os.Rename(place, place+".away"); err != nil {
		t.Fatal(err)
	}
	w.Await("status says that the vault is away", recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return a != nil && a.Trouble != ""
	})
	fill(t, w, primary, 2)
	psql(t, w, primary, "SELECT pg_switch_wal()")
	fill(t, w, primary, 1)
	loseLog(t, w, primary)
	w.Kill(w.PID(archiver, "agent.pid")) // with what it had received
	if err := os.Rename(place+".away", place); err != nil {
		t.Fatal(err)
	}
	told := ledOn(t, w, "backup.log-lost", before)
	t.Logf("lost log: told %s after the vault was back, a proven backup behind it after %s", told.told, told.led)

	before, _ = backupsOf(t, w)
	piece := plant(t, w, primary)
	psql(t, w, primary, "SELECT pg_switch_wal()")
	fill(t, w, primary, 1)
	psql(t, w, primary, "SELECT pg_switch_wal()")
	told = ledOn(t, w, "backup.log-twice", before)
	if !strings.Contains(told.title, piece) {
		t.Errorf("the problem names %q, want %s", told.title, piece)
	}
	t.Logf("log that came twice: told after %s, a proven backup behind it after %s", told.told, told.led)
	if out, err := w.Run("status", "--why"); err == nil && strings.Contains(out, "backup.log-") {
		t.Errorf("it is still told:\n%s", out)
	}
}

// ledOnFrom is how a running plan told of log that no backup leads over, and how long it took.
type ledOnFrom struct {
	title     string
	told, led time.Duration
}

// ledOn waits until a problem is told, and until it has ended with a proven base backup that was not there before.
func ledOn(t *testing.T, w *lab.World, code string, before []string) (out ledOnFrom) {
	t.Helper()
	began := time.Now()
	w.Await(code+" is told, or was by the time a backup is there", recoverMax, func(st api.Status) bool {
		i := slices.IndexFunc(st.Problems, func(p problem.Problem) bool { return p.Code == code })
		if i >= 0 {
			out.title = st.Problems[i].Title
		}
		return i >= 0
	})
	out.told = time.Since(began)
	w.Await("a backup behind it is made and proven", 3*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Gap == "" && a.Last != nil && !slices.Contains(before, a.Last.ID) && a.Last.Proven
	})
	out.led = time.Since(began)
	return out
}

// loseLog takes every finished segment away from every server, once none of them needs it to start.
func loseLog(t *testing.T, w *lab.World, primary string) {
	t.Helper()
	at := psql(t, w, primary, "SELECT pg_current_wal_flush_lsn()")
	now := psql(t, w, primary, "SELECT pg_walfile_name(pg_current_wal_flush_lsn())")
	psql(t, w, primary, "CHECKPOINT")
	for _, h := range w.Others(primary) {
		w.Await(h+" has replayed it", recoverMax, func(api.Status) bool {
			return psql(t, w, h, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", at)) == "t"
		})
		psql(t, w, h, "CHECKPOINT")
	}
	for _, h := range w.Hosts {
		files, err := filepath.Glob(filepath.Join(w.Root, "hosts", h, "db", "records", "pgdata", "pg_wal", "0*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if name := filepath.Base(f); len(name) == len(now) && name < now {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// plant stores other content in the vault for the segment that the primary begins next, and names it.
func plant(t *testing.T, w *lab.World, primary string) string {
	t.Helper()
	ctx := t.Context()
	key, err := os.ReadFile(filepath.Join(w.Root, "secrets", "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(ctx, vault.Config{URL: "file://" + filepath.Join(w.Root, "vault"), Key: redact.Secret(strings.TrimSpace(string(key)))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	system, err := strconv.ParseUint(psql(t, w, primary, "SELECT system_identifier FROM pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	timeline, at, err := wal.ParseSegmentName(psql(t, w, primary, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"), wal.DefaultSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	next := at + wal.DefaultSegmentSize
	if err := v.Log(system, 0).PutSegment(ctx, timeline, next, bytes.Repeat([]byte("other"), wal.DefaultSegmentSize/5+1)[:wal.DefaultSegmentSize], time.Time{}); err != nil {
		t.Fatal(err)
	}
	return wal.SegmentName(timeline, next, wal.DefaultSegmentSize)
}
