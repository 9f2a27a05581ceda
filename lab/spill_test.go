package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/internal/disktest"
	"holdfast/lab"
)

// Scenario 6: the vault is away for so long that the room for log that waits for it is full. The log goes to the second place of the
// plan, somebody fills that too, the primary keeps the rest: each is told before it is a loss, in that order, and once the vault
// is back it has all of it: no moment is missing, and no row.
func TestLogThatFillsItsRoomGoesToTheSecondPlaceOfARunningPlan(t *testing.T) {
	lab.Long(t)
	disktest.NeedRoot(t)
	second := t.TempDir()
	disktest.Small(t, second, "160m", 0o777)
	w := lab.NewAs(t, "127.60.66", lab.Shape{Standbys: 1, Plan: func(text string) string {
		text = strings.Replace(text, "    listen: { write: 5432 }\n", "    listen: { write: 5432 }\n    slots: { max: 2GB }\n", 1)
		return strings.Replace(text, "pitr: 14d }", fmt.Sprintf("pitr: 14d, spill: %s }", second), 1)
	}})
	w.Start()
	st := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	primary := st.Databases[0].Primary
	psql(t, w, primary, "CREATE TABLE spilled (id bigint GENERATED ALWAYS AS IDENTITY, body text)")
	heard := hearAlarms(t, w)

	place := filepath.Join(w.Root, "vault")
	if err := os.Rename(place, place+".away"); err != nil {
		t.Fatal(err)
	}
	w.Await("status says that the vault is away", recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return a != nil && a.Trouble != ""
	})
	heard.write(primary, "backup.log-spilled degraded")
	if heard.knows("backup.second-place critical") {
		t.Error("the second place is told as full while it has room")
	}
	disktest.Fill(t, filepath.Join(second, "theirs"))
	heard.write(primary, "backup.log-spilled critical")
	heard.write(primary, "backup.second-place critical")
	heard.write(primary, "backup.queue-filling degraded")
	heard.write(primary, "backup.queue-filling critical")
	if err := os.Rename(place+".away", place); err != nil {
		t.Fatal(err)
	}
	w.Await("the vault has everything, and nothing is told any more", 6*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Trouble == "" && a.Gap == "" && len(alarms(st)) == 0
	})
	heard.end()
	end := psql(t, w, primary, "SELECT pg_current_wal_flush_lsn()")
	w.Await("the vault has the last row", recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return a != nil && a.Archived != "" && psql(t, w, primary, fmt.Sprintf("SELECT '%s'::pg_lsn >= '%s'::pg_lsn", a.Archived, end)) == "t"
	})
	t.Logf("told in this order: %s", strings.Join(heard.order, "; "))
	heard.inOrder("backup.log-spilled degraded", "backup.second-place critical", "backup.queue-filling degraded", "backup.queue-filling critical")
	for _, code := range heard.order {
		if strings.HasPrefix(code, "backup.log-lost") || strings.HasPrefix(code, "backup.log-twice") {
			t.Errorf("%s was told", code)
		}
	}
	if _, stretches := backupsOf(t, w); stretches != 1 {
		t.Errorf("moments can be restored in %d stretches, want 1", stretches)
	}
	if got, want := spilledRows(t, w), psql(t, w, primary, "SELECT count(*), sum(id) FROM spilled"); got != want {
		t.Errorf("restored from the vault alone: %s, live: %s", got, want)
	}
}

// alarms are the problems with the log, as code and severity.
func alarms(st api.Status) (out []string) {
	for _, p := range st.Problems {
		for _, begin := range []string{"backup.log-", "backup.second-place", "backup.queue-filling"} {
			if strings.HasPrefix(p.Code, begin) && p.Code != "backup.log-not-kept" { // that is of a host that does not archive
				out = append(out, p.Code+" "+string(p.Severity))
			}
		}
	}
	return out
}

// hearing looks at the status again and again, and keeps what was told for the first time, in order.
type hearing struct {
	t    *testing.T
	w    *lab.World
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex // guards what follows
	order []string
	looks int
}

func hearAlarms(t *testing.T, w *lab.World) *hearing {
	ctx, stop := context.WithCancel(t.Context())
	h := &hearing{t: t, w: w, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for ctx.Err() == nil {
			if st, err := w.Status(); err == nil {
				h.take(alarms(st))
			}
			pauseFor(ctx, 200*time.Millisecond)
		}
	}()
	t.Cleanup(h.end)
	return h
}

func (h *hearing) take(now []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	for _, a := range now {
		if !slices.Contains(h.order, a) {
			h.order = append(h.order, a)
		}
	}
}

// end ends the looking; what was heard may be read then.
func (h *hearing) end() {
	h.stop()
	<-h.done
}

func (h *hearing) knows(alarm string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.order, alarm)
}

func (h *hearing) looked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.looks
}

// write writes rows and log, three segments at a time, until an alarm has been heard. Between them the hosts tell how it stands.
func (h *hearing) write(primary, alarm string) {
	h.t.Helper()
	for n := 0; !h.knows(alarm); n++ {
		if n == 120 { // 6 GB
			h.t.Fatalf("%s is never told; told was %v", alarm, h.order)
		}
		for range 3 {
			psql(h.t, h.w, primary, "INSERT INTO spilled (body) SELECT repeat('x', 500) FROM generate_series(1, 20)")
			psql(h.t, h.w, primary, "SELECT pg_switch_wal()")
		}
		seen := h.looked()
		for deadline := time.Now().Add(recoverMax); h.looked() < seen+6 && !h.knows(alarm); pauseFor(h.t.Context(), 100*time.Millisecond) {
			if time.Now().After(deadline) {
				h.t.Fatalf("the status is not told any more")
			}
		}
	}
}

func (h *hearing) inOrder(want ...string) {
	h.t.Helper()
	at := -1
	for _, a := range want {
		i := slices.Index(h.order, a)
		if i < at {
			h.t.Errorf("%s was not told, or too early: %v", a, h.order)
		}
		at = max(at, i)
	}
}

// spilledRows restores the latest moment beside the live database, and counts there.
func spilledRows(t *testing.T, w *lab.World) string {
	t.Helper()
	out, err := w.Run("restore", "database", "records", "--as", "records-spilled", "--output", "json")
	if err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	var told struct {
		As struct{ Socket, Address string }
	}
	if err := json.Unmarshal([]byte(out[max(strings.Index(out, "{"), 0):]), &told); err != nil { // behind its progress
		t.Fatalf("%v\n%s", err, out)
	}
	w.Await("the copy serves", recoverMax, func(st api.Status) bool {
		return slices.ContainsFunc(st.Restored, func(c api.RestoredStatus) bool { return c.Name == "records-spilled" && c.State == "serves" })
	})
	_, port, _ := strings.Cut(told.As.Address, ":")
	return ask(t, told.As.Socket, port, "postgres", "SELECT count(*), sum(id) FROM spilled")
}
