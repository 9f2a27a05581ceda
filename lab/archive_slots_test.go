package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/api"
	"holdfast/lab"
)

// psql asks a host's own server by its private socket.
func psql(t *testing.T, w *lab.World, host, sql string) string {
	t.Helper()
	dir := filepath.Join(w.Root, "hosts", host, "db", "records", "run")
	sockets, err := filepath.Glob(filepath.Join(dir, ".s.PGSQL.*[0-9]"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("the socket of %s: %v, %v", host, sockets, err)
	}
	_, port, _ := strings.Cut(filepath.Base(sockets[0]), "PGSQL.")
	return ask(t, dir, port, "postgres", sql)
}

func ask(t *testing.T, socket, port, database, sql string) string {
	t.Helper()
	out, err := exec.Command("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", socket, "-p", port, "-U", "holdfast", "-d", database, "-c", sql).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", socket, sql, err, out)
	}
	return strings.TrimSpace(string(out))
}

// backupsOf are the base backups that the vault lists, and how many stretches of moments without a hole can be restored.
func backupsOf(t *testing.T, w *lab.World) (held []string, stretches int) {
	t.Helper()
	out, err := w.Run("backup", "window", "records", "--output", "json")
	if err != nil {
		t.Fatalf("window: %v\n%s", err, out)
	}
	var all []struct {
		Backups []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, b := range all[0].Backups {
		held = append(held, b.ID)
	}
	if out, err = w.Run("backup", "window", "records"); err != nil {
		t.Fatalf("window: %v\n%s", err, out)
	}
	return held, strings.Count(out, "any moment from ")
}

// The vault is away while more log is written than servers keep by themselves, and the primary dies: the standby that takes
// over has kept what the vault lacks, so that no moment is missing when the vault is back.
func TestAFailoverWhileTheVaultIsAwayLeavesNoHole(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.61", lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, "acknowledged_by:", `parameters: { wal_keep_size: 0, max_wal_size: 64MB, min_wal_size: 32MB }
    acknowledged_by:`, 1)
	}})
	w.Start()
	was := w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	}).Databases[0]
	before, _ := backupsOf(t, w)
	standbys := w.Others(was.Primary)
	const slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'holdfast_archive' AND NOT active AND wal_status <> 'lost'"
	w.Await("each standby keeps log for the vault", recoverMax, func(api.Status) bool {
		return !slices.ContainsFunc(standbys, func(h string) bool { return psql(t, w, h, slot) != "1" })
	})

	vault := filepath.Join(w.Root, "vault")
	if err := os.Rename(vault, vault+".away"); err != nil {
		t.Fatal(err)
	}
	st := w.Await("status says that the vault is away", recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return a != nil && a.Trouble != ""
	})
	archived := st.Databases[0].Archive.Archived
	moment := fill(t, w, was.Primary, 12)
	for _, h := range append([]string{was.Primary}, standbys...) { // what nobody asks for goes
		at := psql(t, w, was.Primary, "SELECT pg_current_wal_flush_lsn()")
		if h != was.Primary {
			w.Await(h+" has replayed it", recoverMax, func(api.Status) bool {
				return psql(t, w, h, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", at)) == "t"
			})
		}
		psql(t, w, h, "CHECKPOINT")
	}
	for _, h := range standbys {
		if got := psql(t, w, h, fmt.Sprintf("SELECT restart_lsn <= '%s' FROM pg_replication_slots WHERE slot_name = 'holdfast_archive'", archived)); got != "t" {
			t.Errorf("%s does not keep the log from %s on", h, archived)
		}
	}
	// What a standby keeps outlives its own restart as well.
	w.Kill(w.PID(standbys[0], "db/records/pgdata/postmaster.pid"))
	w.Await("the standby is back", recoverMax, lab.Well)
	w.Kill(w.PID(was.Primary, "db/records/pgdata/postmaster.pid"))
	now := w.Await("a standby has taken over", recoverMax, func(st api.Status) bool {
		return lab.Well(st) && st.Databases[0].Primary != was.Primary
	}).Databases[0]
	fill(t, w, now.Primary, 4)
	psql(t, w, now.Primary, "CHECKPOINT")
	if err := os.Rename(vault+".away", vault); err != nil {
		t.Fatal(err)
	}
	end := psql(t, w, now.Primary, "SELECT pg_current_wal_flush_lsn()")
	st = w.Await("the vault has everything", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return a != nil && a.Trouble == "" && psql(t, w, now.Primary, fmt.Sprintf("SELECT '%s'::pg_lsn >= '%s'", a.Archived, end)) == "t"
	})
	if a := st.Databases[0].Archive; a.Gap != "" {
		t.Errorf("log is lost: %s", a.Gap)
	}
	after, stretches := backupsOf(t, w)
	if !slices.Contains(after, before[0]) || stretches != 1 {
		t.Errorf("backups %v, were %v; %d stretches of moments can be restored", after, before, stretches)
	}
	// A moment while the vault was away, before the failover, is there to the row.
	out, err := w.Run("restore", "database", "records", "--as", "records-away", "--at", moment.at.UTC().Format("2006-01-02 15:04:05.000000 UTC"), "--output", "json")
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
		return slices.ContainsFunc(st.Restored, func(c api.RestoredStatus) bool { return c.Name == "records-away" && c.State == "serves" })
	})
	_, port, _ := strings.Cut(told.As.Address, ":")
	if got := ask(t, told.As.Socket, port, "clinic", "SELECT count(*) FROM filler"); got != fmt.Sprint(moment.rows) {
		t.Errorf("%s rows at %s, there were %d", got, moment.at, moment.rows)
	}
}

// filled is a moment, and the rows of table filler then.
type filled struct {
	at   time.Time
	rows int
}

// fill writes log, 16 MB a round, through the listener, and gives a moment in the middle.
func fill(t *testing.T, w *lab.World, host string, rounds int) (middle filled) {
	t.Helper()
	ctx := t.Context()
	conn, err := w.Connect(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }() // every statement was answered
	run := func(sql string, into ...any) {
		t.Helper()
		if len(into) == 0 {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			return
		}
		if err := conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(into...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run("CREATE TABLE IF NOT EXISTS filler (body text)")
	for i := range rounds {
		run("INSERT INTO filler SELECT repeat('x', 1500) FROM generate_series(1, 10000)")
		if i == rounds/2 {
			run("SELECT clock_timestamp(), (SELECT count(*) FROM filler)", &middle.at, &middle.rows)
		}
	}
	return middle
}
