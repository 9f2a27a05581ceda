package lab_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/api"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/lab"
)

// createAcks makes the table of rows that clients were told are safe, as [lab.World.Writer] writes it.
const createAcks = "CREATE TABLE lab_acks (writer text NOT NULL, id bigint NOT NULL)"

// told inserts one row after the other through a host's listener, and keeps which of them it was told are safe.
type told struct {
	mu   sync.Mutex // guards what follows
	safe []int64
}

func (l *told) ids() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.safe)
}

func (l *told) run(ctx context.Context, dsn string) {
	var conn *pgx.Conn
	for n := int64(1); ctx.Err() == nil; n++ {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, dsn); err != nil {
				conn = nil
				pauseFor(ctx, 50*time.Millisecond)
				continue
			}
		}
		if _, err := conn.Exec(ctx, "INSERT INTO lab_acks VALUES ('told', $1)", n); err != nil {
			_ = conn.Close(context.Background()) // what became of that row is not known, and nobody counts on it
			conn = nil
			continue
		}
		l.mu.Lock()
		l.safe = append(l.safe, n)
		l.mu.Unlock()
	}
	if conn != nil {
		_ = conn.Close(context.Background()) // the test has ended
	}
}

// snatch takes the vault as it lies there at one moment, with the rows that clients had been told are safe before it. While
// it is taken the vault is away; during is called then.
func snatch(t *testing.T, w *lab.World, l *told, during func()) (copied string, safe []int64) {
	t.Helper()
	dir := filepath.Join(w.Root, "vault")
	safe = l.ids()
	back := takeAway(t, dir)
	during()
	copied = filepath.Join(t.TempDir(), "vault")
	if err := os.CopyFS(copied, os.DirFS(dir+".away")); err != nil {
		t.Fatal(err)
	}
	back()
	return copied, safe
}

// heldIn restores the database from a vault alone, and checks that every row of safe is there.
func heldIn(t *testing.T, w *lab.World, dir string, safe []int64) {
	t.Helper()
	lost := missingIn(t, w, dir, safe)
	t.Logf("%d rows were acknowledged, %d of them are not in the vault", len(safe), len(lost))
	if len(lost) > 0 {
		t.Errorf("acknowledged and lost with the site: %v", lost[:min(len(lost), 20)])
	}
}

// missingIn restores the database from a vault alone, and gives the rows that are not there.
func missingIn(t *testing.T, w *lab.World, dir string, rows []int64) (lost []int64) {
	t.Helper()
	ctx := t.Context()
	key, err := os.ReadFile(filepath.Join(w.Root, "secrets", "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(ctx, vault.Config{URL: "file://" + dir, Key: redact.Secret(strings.TrimSpace(string(key))), Application: "lab", Host: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Close(context.Background()) }() // read only
	c, err := restore.Load(ctx, v, "records")
	if err != nil {
		t.Fatal(err)
	}
	choice, err := restore.Choose(c, restore.Target{Kind: restore.Latest})
	if err != nil {
		t.Fatal(err)
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		t.Fatal(err)
	}
	there, err := os.MkdirTemp("/var/tmp", "holdfast-lab-stored-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(there); err != nil {
			t.Error(err)
		}
	}()
	if err := os.Chmod(there, 0o755); err != nil {
		t.Fatal(err)
	}
	o := restore.Options{Vault: v, Choice: choice, Dir: filepath.Join(there, "data"), Owner: owner, Throwaway: true}
	if _, err := restore.Run(ctx, o); err != nil {
		t.Fatal(err)
	}
	rec, err := restore.Recover(ctx, choice, restore.Promote, restore.ScratchOptions{Dir: o.Dir, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rec.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	conn, err := pgx.Connect(ctx, rec.ConnString("clinic"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, "SELECT coalesce(array_agg(n), '{}') FROM unnest($1::bigint[]) n WHERE NOT EXISTS (SELECT FROM lab_acks WHERE id = n.n)", rows).Scan(&lost); err != nil {
		t.Fatal(err)
	}
	return lost
}

// Commits wait for the vault: whenever every server is lost at once, the vault alone has each row that a client was told is
// safe. Without the vault writes wait, and status says why; a failover keeps all of that.
func TestWhatTheVaultAcknowledgesSurvivesTheLossOfEveryServer(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.63", lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, "    acknowledged_by:", "    acknowledged_by_vault: strict\n    acknowledged_by:", 1)
	}})
	w.Start()
	holds := func(st api.Status) bool {
		v := st.Databases[0].ByVault
		return lab.Well(st) && v != nil && v.Holds
	}
	was := w.Await("commits are acknowledged by the vault", 2*recoverMax, holds).Databases[0]
	conn, err := pgx.Connect(t.Context(), w.DSN("h1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), createAcks); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context()) // it has done its work
	ctx, cancel := context.WithCancel(t.Context())
	l, ended := &told{}, make(chan struct{})
	go func() { defer close(ended); l.run(ctx, w.DSN("h1")) }()
	defer func() { cancel(); <-ended }()
	more := func(n int) func(api.Status) bool {
		before := len(l.ids())
		return func(api.Status) bool { return len(l.ids()) >= before+n }
	}
	w.Await("rows are written", recoverMax, more(100))

	dir, safe := snatch(t, w, l, func() {
		w.Await("status says that writes wait", recoverMax, func(st api.Status) bool {
			return slices.ContainsFunc(st.Problems, func(p problem.Problem) bool { return p.Code == "database.waits-for-vault" })
		})
		before := len(l.ids())
		pauseFor(t.Context(), 2*time.Second)
		if n := len(l.ids()); n != before {
			t.Errorf("%d rows were acknowledged while the vault was away", n-before)
		}
	})
	heldIn(t, w, dir, safe)
	w.Await("writes go on", recoverMax, more(20))

	killed := time.Now()
	w.Kill(w.PID(was.Primary, "db/records/pgdata/postmaster.pid"))
	dir, safe = snatch(t, w, l, func() {}) // before anybody can have taken over
	heldIn(t, w, dir, safe)
	w.Await("writes go on behind the failover", recoverMax, more(20))
	t.Logf("writes went on %s after the primary was killed, a restore of the vault meanwhile among it", time.Since(killed).Round(time.Millisecond))
	w.Await("the vault acknowledges again", recoverMax, holds)
	w.Await("rows are written", recoverMax, more(100))
	dir, safe = snatch(t, w, l, func() {})
	heldIn(t, w, dir, safe)

	out, err := w.Run("status")
	if err != nil || !strings.Contains(out, "acknowledged by 1 and the vault") || !strings.Contains(out, "the loss of all servers loses none") {
		t.Errorf("%v\n%s", err, out)
	}
	// The plan may give it up, and takes it back by the same steps.
	text, err := os.ReadFile(w.Plan)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		mode string
		ok   func(api.Status) bool
	}{
		{"", func(st api.Status) bool { return lab.Well(st) && st.Databases[0].ByVault == nil }},
		{"    acknowledged_by_vault: relaxed\n", func(st api.Status) bool { return holds(st) && st.Databases[0].ByVault.Wanted == "relaxed" }},
	} {
		plan := strings.Replace(string(text), "    acknowledged_by_vault: strict\n", step.mode, 1)
		if err := os.WriteFile(w.Plan, []byte(plan), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := w.Run("apply", w.Plan, "--yes"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.Await(fmt.Sprintf("the plan with %q is followed", step.mode), recoverMax, step.ok)
		w.Await("rows are written", recoverMax, more(20))
	}
	// A relaxed database leaves a vault that stays away, says so, and comes back to it.
	_, _ = snatch(t, w, l, func() {
		w.Await("the vault is left", recoverMax, func(st api.Status) bool {
			v := st.Databases[0].ByVault
			return v != nil && !v.Holds && slices.ContainsFunc(st.Problems, func(p problem.Problem) bool { return p.Code == "database.vault-left" })
		})
		w.Await("rows are written without it", recoverMax, more(20))
	})
	w.Await("the vault acknowledges again", recoverMax, holds)
	w.Await("rows are written", recoverMax, more(20))
	dir, safe = snatch(t, w, l, func() {})
	heldIn(t, w, dir, safe)
}
