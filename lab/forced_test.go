package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/lab"
)

// written is one row of which the old primary's client was told.
type written struct {
	id  int
	xid uint32
}

// Scenarios 28 and 29, as an operator lives through them: the primary is cut off while it runs ahead of standbys that
// no commit waits for, nobody may take over, it is forced, and what that lost comes back as a list.
func TestAForcedFailoverListsWhatItLost(t *testing.T) {
	lab.Long(t)
	w := lab.NewApartAs(t, lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, "acknowledged_by: 1", "acknowledged_by: 0", 1)
	}})
	w.Launch()
	was := w.Await("two standbys follow", recoverMax, func(st api.Status) bool { return followers(st) == 2 }).Databases[0]
	beside := inside(t, w, was.Primary)
	must(t, execute(t, beside, "CREATE TABLE visits (id int PRIMARY KEY, what text)"))
	for id := 1; id <= 20; id++ {
		write(t, beside, id)
	}

	out, err := w.Run("database", "failover", "records", "--force", "--yes")
	if err == nil || !strings.Contains(out, "a switchover moves it") {
		t.Errorf("a failover from a primary that serves was not refused: %v\n%s", err, out)
	}
	w.Net.Isolate(was.Primary)
	must(t, execute(t, beside, "UPDATE visits SET what = 'changed beside the old primary' WHERE id IN (1, 2)"))
	var told []written
	for id := 100; ; id++ { // its own clients go on until its deadline
		x, err := tryWrite(t, beside, id)
		if err != nil {
			break
		}
		told = append(told, x)
	}
	if len(told) == 0 {
		t.Fatal("nothing was acknowledged beside the primary that was cut off, so nothing can be lost")
	}
	t.Logf("%d commits were acknowledged after the cut", len(told))

	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		out, err = w.Run("database", "failover", "records", "--force", "--dry-run")
		if err == nil && strings.Contains(out, "Nothing was changed") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the dry run shows no way: %v\n%s", err, out)
		}
	}
	t.Logf("what an operator is shown:\n%s", out)
	for _, want := range []string{"would take over", "last heard", "Nothing is lost if " + was.Primary} {
		if !strings.Contains(out, want) {
			t.Errorf("the loss does not say %q:\n%s", want, out)
		}
	}
	out, err = w.Run("database", "failover", "records", "--force", "--yes")
	must(t, err, out)
	now := w.Await("another primary", recoverMax, movedFrom(was)).Databases[0]
	steadily(t, w, now.Primary, func(conn *pgx.Conn) error {
		return execute(t, conn, "UPDATE visits SET what = 'changed since' WHERE id = 2")
	})

	w.Net.Heal()
	waiting := await(t, w, func(all []api.Salvaged) bool { return len(all) == 1 && all[0].Waits })[0]
	st, err := w.Status()
	must(t, err)
	if text, _ := json.Marshal(st.Problems); !strings.Contains(string(text), "database.salvage-waits") {
		t.Errorf("status does not say that somebody waits: %s", text)
	}
	var report database.Salvage
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) { // names come once the primary was asked
		out, err = w.Run("database", "salvage", "show", "records", waiting.ID, "--output", "json")
		must(t, err, out)
		must(t, json.Unmarshal([]byte(out), &report))
		if !strings.Contains(out, `"file `) || time.Now().After(deadline) {
			break
		}
	}
	compare(t, w, now.Primary, told, report)

	dir := filepath.Join(t.TempDir(), "lost")
	out, err = w.Run("database", "salvage", "export", "records", waiting.ID, "--to", dir)
	must(t, err, out)
	w.Await("the old primary follows", recoverMax, func(st api.Status) bool { return followers(st) == 2 })
	if all := await(t, w, func(all []api.Salvaged) bool { return len(all) > 0 }); all[0].Waits || !strings.Contains(all[0].Settled, "exported") {
		t.Errorf("the decision is not kept: %+v", all)
	}
	replayRows(t, w, now.Primary, filepath.Join(dir, "rows.sql"), told)
}

// replayRows runs the exported rows on the new primary, twice, and expects every lost row back.
func replayRows(t *testing.T, w *lab.World, primary, file string, told []written) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	var sql strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "\\") { // psql's own words
			sql.WriteString(line)
		}
	}
	for range 2 {
		steadily(t, w, primary, func(conn *pgx.Conn) error {
			_, err := conn.PgConn().Exec(t.Context(), sql.String()).ReadAll()
			return err
		})
	}
	now := map[int]string{}
	steadily(t, w, primary, func(conn *pgx.Conn) error {
		rows, err := conn.Query(t.Context(), "SELECT id, what FROM public.visits")
		if err != nil {
			return err
		}
		var id int
		var what string
		_, err = pgx.ForEachRow(rows, []any{&id, &what}, func() error { now[id] = what; return nil })
		return err
	})
	for _, x := range told {
		if what := now[x.id]; what != "seen" {
			t.Errorf("row %d came back as %q", x.id, what)
		}
	}
	if what := now[1]; what != "changed beside the old primary" {
		t.Errorf("an update was not replayed: %q", what)
	}
	if what := now[2]; what != "changed since" {
		t.Errorf("a row that was changed since was overwritten: %q", what)
	}
}

// compare holds the list against what clients were told and what the new primary has.
func compare(t *testing.T, w *lab.World, primary string, told []written, report database.Salvage) {
	t.Helper()
	var there []int
	steadily(t, w, primary, func(conn *pgx.Conn) error {
		rows, err := conn.Query(t.Context(), "SELECT id FROM visits")
		if err != nil {
			return err
		}
		there, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	})
	has := map[int]bool{}
	for _, id := range there {
		has[id] = true
	}
	listed := map[uint32]database.LostCommit{}
	inserts := 0
	for _, c := range report.Commits {
		listed[c.XID] = c
		for _, x := range c.Tables {
			if !x.Catalog {
				inserts += x.Inserted
				if x.Name != "public.visits" || c.Database != "clinic" {
					t.Errorf("a lost commit changed %q of database %q", x.Name, c.Database)
				}
			}
		}
	}
	lost := 0
	for _, x := range told {
		_, ok := listed[x.xid]
		if ok == has[x.id] {
			t.Errorf("row %d of transaction %d: there %t, listed as lost %t", x.id, x.xid, has[x.id], ok)
		}
		if !has[x.id] {
			lost++
		}
	}
	// One more may have been committed whose answer the client never had.
	if report.Acknowledged() < lost {
		t.Errorf("%d of %d are marked acknowledged, and each of them was", report.Acknowledged(), lost)
	}
	if lost == 0 || inserts < lost || inserts > lost+1 || !report.Given || report.Unread > 0 {
		t.Errorf("%d rows are missing, the list has %d inserts (given up %t, %d records not understood)", lost, inserts, report.Given, report.Unread)
	}
	t.Logf("%d acknowledged rows are missing, all listed; %d marked acknowledged, %d in doubt", lost, report.Acknowledged(), len(report.Commits)-report.Acknowledged())
}

// steadily does something through a host's listener as an application would: again when its session is cut. With
// acknowledged_by 0 nobody but etcd can renew a primary's deadline, so when etcd's leader dies or its disks are slow the
// primary is ended, and comes back in a new epoch: sessions are cut then, and nothing is lost. What is done here may be
// done twice.
func steadily(t *testing.T, w *lab.World, host string, do func(*pgx.Conn) error) {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		conn, err := w.Connect(t.Context(), host)
		if err == nil {
			err = do(conn)
			_ = conn.Close(context.WithoutCancel(t.Context())) // cut, perhaps
		}
		if err == nil {
			return
		}
		if refusal := (*pgconn.PgError)(nil); errors.As(err, &refusal) && refusal.Code[:2] != "57" && refusal.Code != "25006" {
			t.Fatal(err) // the server's own word about what was asked
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not do it: %v", host, err)
		}
	}
}

func followers(st api.Status) int {
	n := 0
	for _, d := range st.Databases {
		for _, s := range d.Servers {
			if d.Open && s.Role == "standby" && s.State == "streams" {
				n++
			}
		}
	}
	return n
}

// await lists what was put aside until it is as wanted.
func await(t *testing.T, w *lab.World, ok func([]api.Salvaged) bool) []api.Salvaged {
	t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		out, err := w.Run("database", "salvage", "list", "records", "--output", "json")
		var all []api.Salvaged
		if err == nil {
			must(t, json.Unmarshal([]byte(out), &all), out)
			if ok(all) {
				return all
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("what was put aside is not as wanted: %v\n%s", err, out)
		}
	}
}

// inside is a client on a host, through that host's listener.
func inside(t *testing.T, w *lab.World, host string) *pgx.Conn {
	t.Helper()
	return insideBy(t, w, host, w.DSN(host))
}

func insideBy(t *testing.T, w *lab.World, host, dsn string) *pgx.Conn {
	t.Helper()
	pc, err := pgx.ParseConfig(dsn)
	must(t, err)
	pc.DialFunc = w.Net.Dial(host)
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		conn, err := pgx.ConnectConfig(t.Context(), pc)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(context.Background()) }) // broken by then
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatalf("the listener of %s does not answer: %v", host, err)
		}
	}
}

func execute(t *testing.T, conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(t.Context(), sql)
	return err
}

func write(t *testing.T, conn *pgx.Conn, id int) {
	t.Helper()
	_, err := tryWrite(t, conn, id)
	must(t, err)
}

func tryWrite(t *testing.T, conn *pgx.Conn, id int) (written, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	x := written{id: id}
	err := conn.QueryRow(ctx, "INSERT INTO visits VALUES ($1, 'seen') RETURNING xmin::text::bigint", id).Scan(&x.xid)
	return x, err
}

func must(t testing.TB, err error, words ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err, strings.Join(words, "\n"))
	}
}
