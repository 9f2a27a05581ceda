package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/lab"
)

// What the primary writes while no standby receives it: a table of rows of a kilobyte, and how far ahead that takes it.
const (
	aheadCommits = 30
	aheadRows    = 2000 // of each commit
	aheadLeast   = 50 << 20

	// The ports of the first database of a plan, by default: standbys stream through them.
	gatePort   = 7410
	serverPort = 7430
)

// The standbys, which no commit waits for, stop to receive while the primary writes 50 MB, and then its host falls silent. A
// forced failover shows as much before, every commit that it lost is listed when the host is back, and what is exported
// brings back every row.
func TestAForcedFailoverOfAPrimaryFarAheadListsAllOfIt(t *testing.T) {
	lab.Long(t)
	w := lab.NewApartAs(t, lab.Shape{Plan: func(text string) string {
		return strings.Replace(withoutBackup(text), "acknowledged_by: 1", "acknowledged_by: 0", 1)
	}})
	w.Launch()
	was := w.Await("two standbys follow", recoverMax, func(st api.Status) bool { return followers(st) == 2 }).Databases[0]
	beside := inside(t, w, was.Primary)
	must(t, execute(t, beside, "CREATE TABLE letters (id int PRIMARY KEY, words text)"))
	var text string
	must(t, beside.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&text))
	end, err := database.ParseLSN(text)
	must(t, err)
	w.Await("the standbys have the table", recoverMax, func(st api.Status) bool {
		return !slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool {
			at, err := database.ParseLSN(s.LSN)
			return err != nil || at < end
		})
	})
	for _, h := range w.Others(was.Primary) {
		w.Net.CutPorts(was.Primary, h, gatePort, serverPort)
	}
	told := map[uint32]bool{}
	for n := range aheadCommits {
		told[writeLetters(t, beside, n)] = true
	}
	var sum int64
	const count = "SELECT coalesce(sum(hashtext(words)::bigint * id), 0) FROM letters"
	must(t, beside.QueryRow(t.Context(), count).Scan(&sum))
	w.Await("the others have heard how far ahead it is", recoverMax, func(api.Status) bool { return behind(t, w) >= aheadLeast })
	w.Net.Isolate(was.Primary)

	shown := shownLoss(t, w)
	if shown.Bytes < aheadLeast || shown.AckedBytes < aheadLeast || shown.Primary != was.Primary {
		t.Errorf("the loss that is shown is %d bytes of %s, %d of them acknowledged; it is %d at least", shown.Bytes, shown.Primary, shown.AckedBytes, aheadLeast)
	}
	out, err := w.Run("database", "failover", "records", "--force", "--yes") // what was shown
	must(t, err, out)
	now := w.Await("another primary", recoverMax, movedFrom(was)).Databases[0]
	w.Net.Heal()
	waiting := await(t, w, func(all []api.Salvaged) bool { return len(all) == 1 && all[0].Waits })[0]
	if waiting.Bytes < aheadLeast {
		t.Errorf("%d bytes were put aside, of %d at least", waiting.Bytes, aheadLeast)
	}
	allListed(t, w, waiting.ID, told)

	dir := filepath.Join(t.TempDir(), "lost")
	out, err = w.Run("database", "salvage", "export", "records", waiting.ID, "--to", dir)
	must(t, err, out)
	w.Await("the old primary follows", recoverMax, func(st api.Status) bool { return followers(st) == 2 })
	for range 2 { // it may be run again
		replayExported(t, w, filepath.Join(dir, "rows.sql"), now.Primary)
	}
	steadily(t, w, now.Primary, func(conn *pgx.Conn) error {
		var rows, again int64
		err := conn.QueryRow(t.Context(), "SELECT count(*), ("+count+") FROM letters").Scan(&rows, &again)
		if err == nil && (rows != aheadCommits*aheadRows || again != sum) {
			t.Errorf("%d rows of %d came back, with the sum %d; it was %d", rows, aheadCommits*aheadRows, again, sum)
		}
		return err
	})
}

// replayExported runs exported rows as an operator does, again when its session is cut: with acknowledged_by 0 that happens wherever
// etcd's leader changes (see [steadily]).
func replayExported(t *testing.T, w *lab.World, file, host string) {
	t.Helper()
	for deadline := time.Now().Add(4 * recoverMax); ; time.Sleep(time.Second) {
		out, err := w.RunProgram("psql", "-q", "-f", file, w.DSN(host))
		var exit *exec.ExitError
		switch {
		case err == nil:
			return
		case errors.As(err, &exit) && exit.ExitCode() == 2 && time.Now().Before(deadline): // of psql: no connection, or none any more
		default:
			t.Fatalf("run the exported rows: %v\n%s", err, out)
		}
	}
}

// writeLetters commits rows of about a kilobyte each that nothing makes shorter, and tells the transaction's number.
func writeLetters(t *testing.T, conn *pgx.Conn, n int) (xid uint32) {
	t.Helper()
	var rows int
	insert := fmt.Sprintf(`WITH added AS (INSERT INTO letters SELECT %d + i, (SELECT string_agg(md5((%d + i)::text || k), '') FROM generate_series(1, 30) k)
		FROM generate_series(1, %d) i RETURNING id) SELECT pg_current_xact_id()::xid::text::bigint, count(*) FROM added`, n*aheadRows, n*aheadRows, aheadRows)
	must(t, conn.QueryRow(t.Context(), insert).Scan(&xid, &rows))
	if rows != aheadRows {
		t.Fatalf("%d rows were written, not %d", rows, aheadRows)
	}
	return xid
}

// behind is how many bytes of log the standby that is nearest to the primary lacks, by what hosts have heard; -1 = not known.
func behind(t *testing.T, w *lab.World) int64 {
	t.Helper()
	st, err := w.Status()
	if err != nil {
		return -1
	}
	var head database.LSN
	var far []database.LSN
	for _, s := range st.Databases[0].Servers {
		at, err := database.ParseLSN(s.LSN)
		switch {
		case err != nil:
			return -1
		case s.Role == "primary":
			head = at
		default:
			far = append(far, at)
		}
	}
	least := int64(-1)
	for _, at := range far {
		if gap := int64(head) - int64(at); least < 0 || gap < least {
			least = max(gap, 0)
		}
	}
	return least
}

// shownLoss is what an operator is shown before a failover is forced, once nothing is in the way of it.
func shownLoss(t *testing.T, w *lab.World) database.Risk {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		out, err := w.Run("database", "failover", "records", "--force", "--dry-run", "--output", "json")
		if err == nil {
			var f api.Failover
			must(t, json.Unmarshal([]byte(out), &f), out)
			t.Logf("at least %d bytes would be lost, and clients had been told of %d", f.Risk.Bytes, f.Risk.AckedBytes)
			return f.Risk
		}
		if time.Now().After(deadline) {
			t.Fatalf("the dry run shows no way: %v\n%s", err, out)
		}
	}
}

// allListed holds the list of what was put aside against the commits that clients were told of.
func allListed(t *testing.T, w *lab.World, id string, told map[uint32]bool) {
	t.Helper()
	out, err := w.Run("database", "salvage", "show", "records", id, "--output", "json")
	must(t, err, out)
	var report database.Salvage
	must(t, json.Unmarshal([]byte(out), &report))
	if report.Unread > 0 || !report.Given {
		t.Errorf("%d records were not understood; given up: %t", report.Unread, report.Given)
	}
	left := len(told)
	for _, c := range report.Commits {
		inserted := 0
		for _, x := range c.Tables {
			if !x.Catalog {
				inserted += x.Inserted
			}
		}
		switch {
		case !told[c.XID]: // none of ours
		case inserted != aheadRows || c.AtLeast:
			t.Errorf("transaction %d is listed with %d rows of %d (at least: %t)", c.XID, inserted, aheadRows, c.AtLeast)
		default:
			left--
		}
	}
	if left != 0 || report.Acknowledged() < len(told) {
		t.Errorf("of %d commits that clients were told of %d are missing from the list; it marks %d as acknowledged", len(told), left, report.Acknowledged())
	}
}
