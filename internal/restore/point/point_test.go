package point_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/backup"
	"holdfast/internal/durable"
	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/restore"
	"holdfast/internal/restore/pgtest"
	"holdfast/internal/restore/point"
	"holdfast/internal/vault"
)

// TestTheApplicationsCommand is no test by itself: it is the command of the application, and HOLDFAST_POINT says that it was
// started as one. Its last word says what it is to do.
func TestTheApplicationsCommand(t *testing.T) {
	if os.Getenv("HOLDFAST_POINT") == "" {
		t.Skip("run by the test below alone")
	}
	todo, dir := os.Args[len(os.Args)-1], os.Getenv("HOLDFAST_PATH")
	conn, err := pgx.Connect(t.Context(), os.Getenv("HOLDFAST_DATABASE_URL"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "..", "stop")); err == nil {
		fmt.Println("told to stop")
		os.Exit(3)
	}
	switch todo {
	case "requeue":
		if _, err := conn.Exec(t.Context(), "update letters set queued = true"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "one"), []byte("brought in order"), 0o644); err != nil {
			t.Fatal(err)
		}
	case "check":
		rows, err := conn.Query(t.Context(), "select name from letters where queued order by 1")
		if err != nil {
			t.Fatal(err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if _, err := os.Stat(filepath.Join(dir, n)); err != nil {
				t.Fatal(err)
			}
		}
		var who string
		if err := conn.QueryRow(t.Context(), "select current_user").Scan(&who); err != nil {
			t.Fatal(err)
		}
		fmt.Println("all there:", names, "as", who)
		if os.Getenv("USER") != "nobody" { // the server's own user may be this one
			return
		}
		if _, err := pgx.Connect(t.Context(), "user=postgres dbname=postgres"); err == nil {
			t.Fatal("let in as the superuser")
		}
	}
}

// program is this test, where another user may run it.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pgtest.Dir(t), "application")
	if err := errors.Join(durable.WriteProgram(path, from), from.Close(), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// application is a server and a directory that are live, and a recovery point of both from before.
type application struct {
	point.Options
	server *pgtest.Server
	set    string // directory
	vault  string // URL
}

func vaultConfig(url string) vault.Config {
	return vault.Config{URL: url, Key: redact.Secret("k"), Keys: &vault.Keyring{}, Application: "clinic"}
}

// aPoint makes a recovery point of a server and a directory, which both change before and after it.
func aPoint(t *testing.T) application {
	t.Helper()
	ctx, s := t.Context(), pgtest.New(t)
	url := "file://" + filepath.Join(t.TempDir(), "vault")
	v, err := vault.Create(ctx, vaultConfig(url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conf, err := pgconn.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := backup.NewReceiver(backup.ReceiverOptions{Vault: v, Database: "records", Spool: filepath.Join(t.TempDir(), "spool"), PartialEvery: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	receiving, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- receiver.Run(receiving, conf) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("receiver ended with %v", err)
		}
	})
	s.Exec("postgres", "create role clinic login", "create database clinic owner clinic")
	s.Exec("clinic", "create table letters (name text, queued bool default false)", "alter table letters owner to clinic")
	set := filepath.Join(pgtest.Dir(t), "set")
	write := func(name string) {
		t.Helper()
		if err := os.MkdirAll(set, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(set, name), []byte("letter "+name), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(set, 0o777), os.Chmod(filepath.Join(set, name), 0o666)); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		s.Exec("clinic", "insert into letters values ('"+name+"')")
	}
	write("one")
	live, err := pgx.ParseConfig(s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Base(ctx, backup.BaseOptions{Conn: live, DataDir: s.Dir, Vault: v, Database: "records"}); err != nil {
		t.Fatal(err)
	}
	write("two")
	b, err := files.Backup(ctx, files.Options{Vault: v, Set: "attachments", Host: "east-1", Path: set, Still: &files.Still{
		Note: filepath.Join(t.TempDir(), "note"), Before: []string{"before"}, After: []string{"after"}, Freeze: time.Minute, Snapshot: time.Minute,
		Run: func(context.Context, files.Command) error { return nil }, Stuck: func(error) {},
		Mark: func(ctx context.Context) (vault.Point, error) {
			p, err := backup.MarkPoint(ctx, live, "p1")
			p.Database, p.At = "records", time.Now().UTC()
			return p, err
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	write("three")
	for deadline := time.Now().Add(5 * time.Minute); receiver.Status().Archived < b.Point.LSN; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the vault holds the log up to %s only", receiver.Status().Archived)
		}
	}
	o := point.Options{Tree: v.OpenTree(b), Vault: v, Dir: filepath.Join(pgtest.Dir(t), "back"), BinDir: s.BinDir}
	c, err := restore.Load(ctx, v, "records")
	if err != nil {
		t.Fatal(err)
	}
	if b.Point.Timeline != 1 || b.Point.SystemID == 0 {
		t.Errorf("the point is on timeline %d of %d", b.Point.Timeline, b.Point.SystemID)
	}
	if o.Choice, err = restore.ChoosePoint(c, *b.Point); err != nil {
		t.Fatal(err)
	}
	if o.Owner, err = restore.DefaultOwner(); err != nil {
		t.Fatal(err)
	}
	return application{o, s, set, url}
}

func code(err error) string {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p.Code
	}
	return ""
}

// Files and a database of one moment come back, however often that is interrupted, and the application's commands say
// whether they agree.
func TestAPointComesBackAndIsHeldAgainstItself(t *testing.T) {
	o := aPoint(t).Options
	app := program(t)
	word := func(w string) []string { return []string{app, "-test.run=^TestTheApplicationsCommand$", w} }
	o.Commands = point.Commands{After: [][]string{word("requeue")}, Check: word("check"), Limit: time.Minute, Application: "clinic", Role: "clinic", Inside: "clinic"}
	if os.Geteuid() == 0 {
		o.Commands.User = "nobody"
	}
	if p, err := point.Survey(t.Context(), o); err != nil || p.State != "absent" || !p.Fits() || p.Files.Files != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	// Cut off while the database comes: the files are not restored again.
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(phase string, _, _ int64) {
		if phase == "restoring the database" {
			cancel()
		}
	}
	if _, err := point.Restore(ctx, o); err == nil {
		t.Fatal("it was interrupted and ended")
	}
	cancel()
	phases := map[string]bool{}
	o.Progress = func(phase string, _, _ int64) { phases[phase] = true }
	if p, err := point.Survey(t.Context(), o); err != nil || p.State != "begun" || p.Record.Files == nil {
		t.Fatalf("%+v, %v", p, err)
	}
	// A command that fails is an outcome, and the last one that runs.
	if err := os.WriteFile(filepath.Join(o.Dir, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := point.Restore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome.Outcome != point.Failed || len(r.After) != 1 || r.After[0].Status != 3 || !strings.Contains(r.After[0].Output, "told to stop") || r.Check != nil || r.Verified.Names != 2 || r.Verified.Wrong.Count != 0 {
		t.Fatalf("%+v", r)
	}
	if phases["restoring files"] || !phases["restoring the database"] || !phases["running "+app] {
		t.Errorf("it went through %v", phases)
	}
	// What a killed restore has left running is ended, and the same call looks again.
	left, err := restore.StartScratch(t.Context(), restore.ScratchOptions{Dir: point.DatabaseDir(o.Dir), BinDir: o.BinDir, Owner: o.Owner})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := left.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := left.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(o.Dir, point.RecordFile)
	rewrite(t, record, func(m map[string]any) { m["serving"] = true })
	if err := os.Remove(filepath.Join(o.Dir, "stop")); err != nil {
		t.Fatal(err)
	}
	clear(phases)
	if r, err = point.Restore(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if r.Outcome.Outcome != point.Passed || r.Check == nil || !strings.Contains(r.Check.Output, "all there: [one two] as clinic") {
		t.Fatalf("%+v", r)
	}
	if phases["restoring the database"] || phases["restoring files"] || phases["comparing files"] {
		t.Errorf("it went through %v", phases)
	}
	// Once it has passed nothing runs again.
	clear(phases)
	if r, err = point.Restore(t.Context(), o); err != nil || r.Outcome.Outcome != point.Passed || !r.Again || len(phases) > 0 {
		t.Errorf("%+v, %v, %v", r, err, phases)
	}
	// What could not be restored as it was is no point that passed.
	rewrite(t, record, func(m map[string]any) {
		delete(m, "outcome")
		m["restored_files"].(map[string]any)["lacks"] = map[string]any{"count": 1, "first": []string{"one: give it to its owner"}}
	})
	if r, err = point.Restore(t.Context(), o); err != nil || r.Outcome.Outcome != point.Failed || r.Lacks.Count != 1 || !strings.Contains(r.Because, "its owner") || len(r.After) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// A restore that was killed while the log was replayed has left its server: it is ended before anything is looked at.
	killed, err := restore.StartScratch(t.Context(), restore.ScratchOptions{Dir: point.DatabaseDir(o.Dir), BinDir: o.BinDir, Owner: o.Owner})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := killed.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := killed.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	rewrite(t, record, func(m map[string]any) { m["serving"] = true; delete(m, "restored_database") })
	if _, err := point.Survey(t.Context(), o); code(err) != "restore.running" {
		t.Errorf("a server runs there: %v", err)
	}
	if err := point.EndLeft(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if p, err := point.Survey(t.Context(), o); code(err) == "restore.running" || err == nil && p.Record.Serving {
		t.Errorf("%+v, %v", p, err)
	}
	rewrite(t, record, func(m map[string]any) { m["outcome"], m["restored_database"] = "passed", time.Now() })
	if err := os.Rename(point.DatabaseDir(o.Dir), o.Dir+"-moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := point.Restore(t.Context(), o); code(err) != "restore.not-empty" {
		t.Errorf("the database was taken away: %v", err)
	}
	rewrite(t, record, func(m map[string]any) { m["point"].(map[string]any)["id"] = "p0" })
	if _, err := point.Restore(t.Context(), o); code(err) != "restore.not-empty" {
		t.Errorf("another point's place: %v", err)
	}
}

func rewrite(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	raw, err := os.ReadFile(path)
	m := map[string]any{}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err == nil {
		change(m)
		raw, err = json.Marshal(m)
	}
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
