package lab_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// An application with standbys goes back to a recovery point where it is, and forth again; the command is killed both times.
func TestARecoveryPointGoesBackInPlaceBesideStandbys(t *testing.T) {
	lab.Long(t)
	p := newPointWorld(t, "127.60.68")
	p.write("letters/one", "before")
	p.write("letters/two", "of the point")
	then := p.state()
	p.run("recovery-point", "create", "attachments")
	p.write("letters/one", "rewritten")
	p.write("letters/three", "after it")
	now := p.state()
	if then == now {
		t.Fatalf("nothing was written behind the point: %s", now)
	}
	awaitVault(t, p.w, time.Now())
	was := p.well()
	databases := "select string_agg(datname, ' ' order by datname) from pg_database where not datistemplate"
	bare := psql(t, p.w, "h1", databases)

	back := []string{"recovery-point", "restore", "latest", "--in-place"}
	p.commandsRan("before after")
	if out := p.run(append(back, "--dry-run")...); !strings.Contains(out, "Nothing was changed.") || !strings.Contains(out, "exchange "+p.set+" and ") {
		t.Errorf("the dry run says:\n%s", out)
	}
	p.is("looked at alone", now)
	p.commandsRan("before after")
	if beside, err := filepath.Glob(p.set + "?*"); err != nil || len(beside) > 0 {
		t.Errorf("the dry run left %v, %v", beside, err)
	}

	// Killed while it brings the application to stand still. That stays so, also for an agent that is killed and comes back.
	back = append(back, "--yes", "--output", "json")
	left := p.killedIn("before", back...)
	p.is("killed before the exchange", now)
	held, agent := filepath.Join(p.w.Root, "hosts", "h1", "held-attachments"), p.w.PID("h1", "agent.pid")
	p.w.Kill(agent)
	p.w.Await("the agent is back", recoverMax, func(st api.Status) bool { return p.w.PID("h1", "agent.pid") != agent && lab.Well(st) })
	if _, err := os.Stat(held); err != nil {
		t.Errorf("the agent does not know that it stands still: %v", err)
	}
	if out, err := p.w.Run("recovery-point", "create", "attachments"); err == nil || !strings.Contains(out, "a restore in place has brought files and database to stand still") {
		t.Errorf("a recovery point meanwhile: %v\n%s", err, out)
	}
	p.commandsRan("before after before")
	if !runs(left) {
		t.Error("the command before does not outlive the one that was killed: nothing shows that it is ended")
	}
	kept := p.kept(p.run(back...))
	if d := p.well(); d.Epoch != was.Epoch || d.Timeline != was.Timeline {
		t.Errorf("epoch %d and timeline %d, were %d and %d", d.Epoch, d.Timeline, was.Epoch, was.Timeline)
	}
	p.commandsRan("before after before after before after")
	if runs(left) {
		t.Error("the command before of what was killed is left, and would bring the application to stand still again")
	}
	p.is("it went back", then)
	p.besides(kept, now)

	to := p.w.Hosts[0]
	if to == was.Primary {
		to = p.w.Hosts[1]
	}
	p.w.AwaitFit(to, recoverMax)
	p.run("database", "switchover", "records", "--to", to, "--yes")
	p.is("a standby took over", then)
	was = p.w.Await("it leads", recoverMax, func(st api.Status) bool { return lab.Well(st) && st.Databases[0].Primary == to }).Databases[0]

	// Killed when all was taken back, by a primary that was a standby, and before the application goes on.
	undo := []string{"recovery-point", "undo", "attachments", "--yes", "--output", "json"}
	left = p.killedIn("after", undo...)
	if err := os.Remove(p.waits("after", left)); err != nil { // and it ends
		t.Fatal(err)
	}
	p.is("killed behind the exchange", now)
	kept = p.kept(p.run(undo...))
	p.commandsRan("before after before after before after before after after")
	p.is("it was taken back", now)
	p.besides(kept, then)

	if _, err := os.Stat(held); err == nil {
		t.Error("the agent is still kept out")
	}
	if got, want := strings.Fields(psql(t, p.w, "h1", databases)), append(strings.Fields(bare), kept[1]); len(got) != len(want) || !slices.Contains(got, kept[1]) {
		t.Errorf("SQL databases are %v, want %v", got, want)
	}
	if d := p.well(); d.Epoch != was.Epoch || d.Timeline != was.Timeline {
		t.Errorf("epoch %d and timeline %d, were %d and %d", d.Epoch, d.Timeline, was.Epoch, was.Timeline)
	}
	p.run("receipt", "verify")
	p.run("recovery-point", "create", "attachments") // which the agent is let do again
}

// pointWorld is a world with a file set and a table that are written together.
type pointWorld struct {
	t             *testing.T
	w             *lab.World
	dir, set, log string
}

// newPointWorld starts one. The plan's commands write down that they ran; whoever finds a file to wait for takes it, and waits
// until it is gone.
func newPointWorld(t *testing.T, network string) *pointWorld {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "holdfast-lab-point-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil { // the copy's server runs as another user
		t.Fatal(err)
	}
	p := &pointWorld{t: t, dir: dir, set: filepath.Join(dir, "set"), log: filepath.Join(dir, "log")}
	program := func(name, text string) string {
		t.Helper()
		at := filepath.Join(dir, name+".sh")
		if err := os.WriteFile(at, []byte("#!/bin/sh\nset -e\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return at
	}
	says := func(word string) string {
		return program(word, fmt.Sprintf("if mv %[1]s %[1]s.$$ 2>/dev/null; then echo %[2]s >> %[3]s; while test -e %[1]s.$$; do sleep 0.1; done\nelse echo %[2]s >> %[3]s; fi\n", p.hold(word), word, p.log))
	}
	check := program("check", `test "$(psql -X -A -t -d clinic -c 'select count(*) from letters')" = "$(ls "$HOLDFAST_PATH/letters" | wc -l)"`+"\n")
	p.w = lab.NewAs(t, network, lab.Shape{Plan: func(text string) string {
		return text + "  attachments: { every: 31d, keep: tiers }\nfiles:\n  attachments:\n    path: " + p.set + "\n    hosts: [h1]\n" +
			"    moment: { database: records, before: [" + says("before") + "], after: [" + says("after") + "], check: [" + check + "] }\n"
	}})
	if err := os.MkdirAll(filepath.Join(p.set, "letters"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.w.Start()
	p.w.Await("a base backup is proven and the files are backed up", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven && len(st.Files) == 1 && st.Files[0].Last != nil
	})
	p.exec("create table letters (name text primary key, body text not null)")
	return p
}

// hold is the file that the next run of a command of the plan takes.
func (p *pointWorld) hold(word string) string { return filepath.Join(p.dir, word+".hold") }

// waits is that file when the process has taken it.
func (p *pointWorld) waits(word string, pid int) string {
	return fmt.Sprintf("%s.%d", p.hold(word), pid)
}

// runs reports whether a process lives. One that has ended, and that nobody has asked yet how, has no command line.
func runs(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(line) > 0
}

// well waits until all is well, and is the database's status then.
func (p *pointWorld) well() api.DatabaseStatus {
	p.t.Helper()
	return p.w.Await("all is well", recoverMax, lab.Well).Databases[0]
}

func (p *pointWorld) run(args ...string) string {
	p.t.Helper()
	out, err := p.w.Run(args...)
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// exec runs a statement through a listener.
func (p *pointWorld) exec(sql string, args ...any) {
	p.t.Helper()
	conn, err := p.w.Connect(p.t.Context(), "h1")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = conn.Close(p.t.Context()) }() // the statement was answered
	if _, err := conn.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// write writes a letter to the set, and its row.
func (p *pointWorld) write(name, body string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.set, name), []byte(body), 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.exec("insert into letters values ($1, $2) on conflict (name) do update set body = excluded.body", name, body)
}

// lettersOf asks for every row.
const lettersOf = "select coalesce(string_agg(name || '=' || body, ', ' order by name), '') from letters"

// state is what the application has: its rows, by the first listener, and its files.
func (p *pointWorld) state() string {
	p.t.Helper()
	rows, err := p.listened("h1")
	if err != nil {
		p.t.Fatal(err)
	}
	return rows + "\n" + p.tree(p.set)
}

func (p *pointWorld) listened(host string) (rows string, err error) {
	conn, err := p.w.Connect(p.t.Context(), host)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(p.t.Context()) }() // only asked
	err = conn.QueryRow(p.t.Context(), lettersOf).Scan(&rows)
	return rows, err
}

// stored asks a host's own server.
func (p *pointWorld) stored(host, database string) (string, error) {
	dir := filepath.Join(p.w.Root, "hosts", host, "db", "records", "run")
	sockets, err := filepath.Glob(filepath.Join(dir, ".s.PGSQL.*[0-9]"))
	if err != nil || len(sockets) != 1 {
		return "", fmt.Errorf("the socket of %s: %v, %w", host, sockets, err)
	}
	_, port, _ := strings.Cut(filepath.Base(sockets[0]), "PGSQL.")
	out, err := exec.Command("psql", "-X", "-A", "-t", "-h", dir, "-p", port, "-U", "holdfast", "-d", database, "-c", lettersOf).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// tree is every name below a directory, with the mode of each, and the time and content of files.
func (p *pointWorld) tree(dir string) string {
	p.t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path) // below it, so it has one
		line := name + " " + info.Mode().String()
		if !d.IsDir() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s %x", info.ModTime().UTC().Format(time.RFC3339Nano), sha256.Sum256(raw))
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// is waits until each listener shows the rows of a state and each server, standbys too, has them; the files have to be its.
func (p *pointWorld) is(what, state string) {
	p.t.Helper()
	rows, tree, _ := strings.Cut(state, "\n")
	if got := p.tree(p.set); got != tree {
		p.t.Fatalf("%s: the files are\n%s\nwant\n%s", what, got, tree)
	}
	for _, host := range p.w.Hosts {
		p.await(what+": the listener of "+host, rows, func() (string, error) { return p.listened(host) })
		p.await(what+": the server of "+host, rows, func() (string, error) { return p.stored(host, "clinic") })
	}
	p.w.Await(what+": all is well", recoverMax, lab.Well)
}

func (p *pointWorld) await(what, want string, ask func() (string, error)) {
	p.t.Helper()
	for deadline := time.Now().Add(recoverMax); ; time.Sleep(200 * time.Millisecond) {
		got, err := ask()
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: %s, %v, want %s", what, got, err, want)
		}
	}
}

// kept is what the command says that it kept: a directory, then an SQL database.
func (p *pointWorld) kept(text string) []string {
	p.t.Helper()
	var told struct {
		Done    bool
		Kept    []string
		Receipt string
	}
	if err := json.Unmarshal([]byte(text[max(strings.Index(text, "{\n"), 0):]), &told); err != nil { // behind its progress
		p.t.Fatalf("%v\n%s", err, text)
	}
	if !told.Done || len(told.Kept) != 2 || !strings.HasPrefix(told.Kept[0], p.set+".holdfast-") || told.Receipt != "signed, in vault main" {
		p.t.Fatalf("it says\n%s", text)
	}
	return told.Kept
}

// besides holds what is kept against the state that it was, on standbys too.
func (p *pointWorld) besides(kept []string, state string) {
	p.t.Helper()
	rows, tree, _ := strings.Cut(state, "\n")
	if got := p.tree(kept[0]); got != tree {
		p.t.Errorf("kept in %s is\n%s\nwant\n%s", kept[0], got, tree)
	}
	for _, host := range p.w.Hosts {
		p.await("kept as "+kept[1]+" by "+host, rows, func() (string, error) { return p.stored(host, kept[1]) })
	}
}

// commandsRan holds which commands of the plan ran, since the world began, against those wanted.
func (p *pointWorld) commandsRan(want string) {
	p.t.Helper()
	if got := strings.Join(p.ran(), " "); got != want {
		p.t.Errorf("the commands were %s, want %s", got, want)
	}
}

func (p *pointWorld) ran() []string {
	p.t.Helper()
	raw, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Fields(string(raw))
}

// killedIn kills a command of holdfast once it runs the given command of the plan, whose process is left.
func (p *pointWorld) killedIn(word string, args ...string) (left int) {
	p.t.Helper()
	if err := os.WriteFile(p.hold(word), nil, 0o600); err != nil {
		p.t.Fatal(err)
	}
	seen := p.count(word)
	said, err := os.Create(filepath.Join(p.dir, "said"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = said.Close() }() // only for a message
	cmd := exec.CommandContext(p.t.Context(), p.w.Program(), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "HOLDFAST_ROOT="+p.w.Root), said, said
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.After(3 * recoverMax); p.count(word) == seen; {
		select {
		case err := <-ended:
			p.t.Fatalf("%s ended before it was killed: %v\n%s", strings.Join(args, " "), err, p.said())
		case <-deadline:
			_ = cmd.Process.Kill() // the test has failed
			p.t.Fatalf("%s does not come to run %s:\n%s", strings.Join(args, " "), word, p.said())
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	if err := <-ended; err == nil {
		p.t.Fatalf("%s was not killed:\n%s", strings.Join(args, " "), p.said())
	}
	taken, err := filepath.Glob(p.hold(word) + ".*")
	if err != nil || len(taken) != 1 {
		p.t.Fatalf("who waits: %v, %v", taken, err)
	}
	if left, err = strconv.Atoi(strings.TrimPrefix(taken[0], p.hold(word)+".")); err != nil {
		p.t.Fatal(err)
	}
	return left
}

func (p *pointWorld) count(word string) (n int) {
	p.t.Helper()
	for _, x := range p.ran() {
		if x == word {
			n++
		}
	}
	return n
}

func (p *pointWorld) said() string {
	raw, _ := os.ReadFile(filepath.Join(p.dir, "said")) // only for a message
	return string(raw)
}
