package point_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/files"
	"holdfast/internal/restore"
	"holdfast/internal/restore/point"
	"holdfast/internal/vault"
)

// inPlaceChild says what a process of its own does, and when it kills itself.
const inPlaceChild = "HOLDFAST_TEST_IN_PLACE"

// child is that in words that a process can be told.
type child struct {
	Vault, DSN, BinDir, Program string
	Dir                         string // see stage
	Undo                        bool
	Dies                        string // when this phase begins
}

// stage is where the application lives: its directory, and everything else, lie below one.
func (c child) stage() point.Stage {
	say := func(word string) []string {
		return []string{"/bin/sh", "-c", "echo " + word + " >> " + filepath.Join(c.Dir, "log")}
	}
	return point.Stage{Set: "attachments", Database: "records", Base: filepath.Join(c.Dir, "in-place"), Path: filepath.Join(c.Dir, "set"),
		Live:   func(database string) string { return strings.ReplaceAll(c.DSN, "DATABASE", database) },
		Before: say("before"), After: say("after"), Run: runs, Freeze: 5 * time.Minute, Held: filepath.Join(c.Dir, "held"), Note: filepath.Join(c.Dir, "note")}
}

// inPlaceCommands are the application's own.
func inPlaceCommands(program string) point.Commands {
	word := func(w string) []string { return []string{program, "-test.run=^TestTheApplicationsCommand$", w} }
	c := point.Commands{After: [][]string{word("requeue")}, Check: word("check"), Limit: 5 * time.Minute, Application: "clinic", Role: "clinic", Inside: "clinic"}
	if os.Geteuid() == 0 {
		c.User = "nobody"
	}
	return c
}

// runs runs the commands before and after, as an agent does.
func runs(ctx context.Context, c files.Command) error {
	return exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...).Run()
}

// TestTheProcessThatIsKilledInPlace is no test by itself: it is the process that the next one begins and that kills itself.
func TestTheProcessThatIsKilledInPlace(t *testing.T) {
	raw := os.Getenv(inPlaceChild)
	if raw == "" {
		t.Skip("run by the test below alone")
	}
	var c child
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		t.Fatal(err)
	}
	st := c.stage()
	st.Progress = func(phase string, _, _ int64) {
		if strings.HasPrefix(phase, c.Dies) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	var err error
	if c.Undo {
		_, err = st.Undo(t.Context())
	} else {
		_, _, err = st.Restore(t.Context(), c.options(t), nil)
	}
	t.Fatalf("it was to be killed when %s, and ended with %v", c.Dies, err)
}

// options finds the only recovery point in the vault.
func (c child) options(t *testing.T) point.Options {
	t.Helper()
	v, err := vault.Open(t.Context(), vaultConfig(c.Vault))
	if err != nil {
		t.Fatal(err)
	}
	all, err := v.FileBackups(t.Context(), "attachments")
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	cat, err := restore.Load(t.Context(), v, "records")
	if err != nil {
		t.Fatal(err)
	}
	o := point.Options{Tree: v.OpenTree(all[0]), Vault: v, BinDir: c.BinDir, Commands: inPlaceCommands(c.Program)}
	if o.Choice, err = restore.ChoosePoint(cat, *all[0].Point); err != nil {
		t.Fatal(err)
	}
	if o.Owner, err = restore.DefaultOwner(); err != nil {
		t.Fatal(err)
	}
	return o
}

// dies runs it in a process of its own until that kills itself.
func (c child) dies(t *testing.T, undo bool, when string) {
	t.Helper()
	c.Undo, c.Dies = undo, when
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheProcessThatIsKilledInPlace$")
	cmd.Env = append(os.Environ(), inPlaceChild+"="+string(raw))
	out, _ := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("it was to die when %s: %v\n%s", when, cmd.ProcessState, out)
	}
}

// The whole application goes back to a point where it is, and forth again, on a real server and real directories: killed at
// each step, with an exchange that fails in the middle, and with somebody who goes on writing.
func TestAnApplicationGoesBackToAPointInPlaceAndForthAgain(t *testing.T) {
	app := aPoint(t)
	c := child{Vault: app.vault, DSN: app.server.ConnString("DATABASE"), BinDir: app.server.BinDir, Program: program(t), Dir: filepath.Dir(app.set)}
	st, log := c.stage(), filepath.Join(c.Dir, "log")
	o := c.options(t)
	t.Cleanup(func() {
		if err := o.Vault.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(filepath.Join(c.BinDir, "pg_dump")); err != nil { // as in the npm package of 18
		if _, _, err := st.Restore(t.Context(), o, nil); code(err) != "restore.no-program" || live(t, app) != "one two three/one two three" {
			t.Errorf("without pg_dump: %v", err)
		}
		return
	}
	const then, now = "one two/one two", "one two three/one two three"
	is := func(what, want string) {
		t.Helper()
		if got := live(t, app); got != want {
			t.Fatalf("%s: live is %s, want %s", what, got, want)
		}
	}

	look, err := st.Look(t.Context(), o, nil)
	if err != nil || len(look.Steps) != 7 || look.Place == nil || look.Begun {
		t.Fatalf("%+v, %v", look, err)
	}
	if _, err := st.LookBack(t.Context()); code(err) != "restore.nothing-kept" {
		t.Errorf("nothing was done yet: %v", err)
	}
	for _, when := range []string{"restoring the database", "loading clinic", "exchanging the names"} {
		c.dies(t, false, when)
		is("killed when "+when, now)
	}
	if look, err = st.Look(t.Context(), o, nil); err != nil || !look.Begun || look.Steps[0] != point.StepThaw {
		t.Fatalf("%+v, %v", look, err)
	}
	another := *o.Tree
	another.Backup.ID = "another"
	o2 := o
	o2.Tree = &another
	if _, err := st.Look(t.Context(), o2, nil); code(err) != "restore.in-place-unfinished" {
		t.Errorf("another point: %v", err)
	}

	// The directories cannot be exchanged when the SQL databases were: these are taken back, and the application goes on.
	fails := st
	fails.Run = func(ctx context.Context, c files.Command) error {
		if slices.Equal(c.Argv, st.Before) {
			return errors.Join(runs(ctx, c), os.Rename(look.Beside, look.Beside+"-away"))
		}
		return runs(ctx, c)
	}
	if _, _, err := fails.Restore(t.Context(), o, nil); code(err) != "restore.undo-unclear" {
		t.Fatalf("with nothing to exchange: %v", err)
	}
	is("the exchange failed in the middle", now)
	stands(t, st, log, false)
	if err := os.Rename(look.Beside+"-away", look.Beside); err != nil {
		t.Fatal(err)
	}

	c.dies(t, false, "exchanging the directories")
	is("killed between the halves", "one two/one two three")
	stands(t, st, log, true)
	j, _, err := st.Restore(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	is("it was finished", then)
	stands(t, st, log, false)
	if _, err := os.Stat(filepath.Join(j.Beside, "three")); err != nil {
		t.Errorf("what was live is not kept: %v", err)
	}
	if _, err := os.Stat(filepath.Join(st.Base, j.Run)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy is left: %v", err)
	}
	if raw, err := os.ReadFile(filepath.Join(app.set, "one")); err != nil || string(raw) != "brought in order" {
		t.Errorf("what after_restore did is not live: %s, %v", raw, err)
	}

	c.dies(t, true, "exchanging the directories")
	is("killed while it was taken back", "one two three/one two")
	if _, _, err := st.Restore(t.Context(), o, nil); err != nil {
		t.Fatal(err)
	}
	is("it goes forth instead", then)
	c.dies(t, true, "letting the application go on")
	is("killed when all was taken back", now)
	if _, err := st.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	is("taken back", now)
	stands(t, st, log, false)
	if _, err := st.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	is("and forth again", then)

	// Somebody who goes on writing would write into what is set aside.
	f, err := os.OpenFile(filepath.Join(app.set, "one"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Undo(t.Context()); code(err) != "restore.not-frozen" {
		t.Errorf("somebody writes: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	is("somebody wrote", then)
	stands(t, st, log, false)

	// What was moved away or dropped meanwhile is not guessed.
	name := kept(t, app)
	app.server.Exec("postgres", "alter database "+name+" rename to elsewhere")
	if _, err := st.Undo(t.Context()); code(err) != "restore.undo-unclear" {
		t.Errorf("what was kept has another name: %v", err)
	}
	is("it was refused", then)
	stands(t, st, log, false)
	app.server.Exec("postgres", "alter database elsewhere rename to "+name)

	// What was refused is tried again by the same command, in the same direction.
	fails = st
	fails.Run = func(ctx context.Context, c files.Command) error {
		if slices.Equal(c.Argv, st.Before) {
			return errors.New("it does not want to")
		}
		return runs(ctx, c)
	}
	for _, want := range []string{now, then} {
		if _, err := fails.Undo(t.Context()); code(err) != "restore.not-frozen" {
			t.Errorf("before fails: %v", err)
		}
		if _, err := st.Undo(t.Context()); err != nil {
			t.Fatal(err)
		}
		is("tried again", want)
	}
}

// live is which letters the live database has, and which the live directory.
func live(t *testing.T, app application) string {
	t.Helper()
	var rows string
	if err := app.server.Conn("clinic").QueryRow(t.Context(), "select string_agg(name, ' ' order by case name when 'one' then 1 when 'two' then 2 else 3 end) from letters").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, name := range []string{"one", "two", "three"} {
		if _, err := os.Stat(filepath.Join(app.set, name)); err == nil {
			there = append(there, name)
		}
	}
	return rows + "/" + strings.Join(there, " ")
}

// stands holds what is known of the application against whether it was let go on after the last time that it was frozen.
func stands(t *testing.T, st point.Stage, log string, want bool) {
	t.Helper()
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(string(raw))
	_, held := os.Stat(st.Held)
	j, _, err := point.ReadJournal(st.Base)
	if last := said[len(said)-1]; err != nil || (last == "before") != want || (held == nil) != want || j.Held != want {
		t.Errorf("commands %v, held %v, journal %v, %v; it is to stand still: %v", said, held == nil, j.Held, err, want)
	}
}

// kept is the SQL database that was set aside last.
func kept(t *testing.T, app application) string {
	t.Helper()
	var names []string
	rows, err := app.server.Conn("postgres").Query(t.Context(), "select datname::text from pg_database where datname like 'clinic\\_kept\\_%'")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var n string
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	if len(names) != 1 || rows.Err() != nil {
		t.Fatalf("kept are %v, %v", names, rows.Err())
	}
	return slices.Max(names)
}
