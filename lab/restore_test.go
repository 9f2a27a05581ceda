package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
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

// An operator brings back a moment beside the live database: as a server of its own, and one table into a new schema.
func TestAMomentComesBackBesideTheLiveDatabase(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.52", lab.Shape{Services: true})
	w.Start()
	load := w.Load("restores")
	w.Await("a backup is proven", 2*recoverMax, func(st api.Status) bool {
		a := st.Databases[0].Archive
		return lab.Well(st) && a != nil && a.Last != nil && a.Last.Proven
	})
	run := func(args ...string) string {
		t.Helper()
		out, err := w.Run(args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	state := func(st api.Status) string {
		for _, c := range st.Restored {
			if c.Name == "records-before" {
				return c.State
			}
		}
		return ""
	}
	load.Client.Mark("restores")
	run("restore", "database", "records", "--as", "records-before", "--dry-run")
	var told struct {
		As struct{ Socket, Address string }
	}
	text := run("restore", "database", "records", "--as", "records-before", "--output", "json")
	if err := json.Unmarshal([]byte(text[max(strings.Index(text, "{"), 0):]), &told); err != nil { // behind its progress
		t.Fatalf("%v\n%s", err, text)
	}
	st := w.Await("the copy serves", recoverMax, func(st api.Status) bool { return state(st) == "serves" })
	t.Logf("%+v", st.Restored)
	if out, err := w.Run("restore", "database", "records", "--as", "records-before"); err == nil || !strings.Contains(out, "restore.name-taken") {
		t.Errorf("a second of that name: %v\n%s", err, out)
	}
	for _, h := range w.Hosts { // the copy outlives its agent, or comes back with it
		w.Kill(w.PID(h, "agent.pid"))
	}
	w.Await("the copy serves again", recoverMax, func(st api.Status) bool { return lab.Well(st) && state(st) == "serves" })
	_, port, _ := strings.Cut(told.As.Address, ":")
	out, err := exec.Command("psql", "-X", "-A", "-t", "-h", told.As.Socket, "-p", port, "-U", "holdfast", "-d", "postgres", "-c",
		"select pg_is_in_recovery(), current_setting('archive_mode'), current_setting('max_wal_senders')").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "f|off|0" {
		t.Errorf("the copy: %v, %s", err, out)
	}
	run("restore", "stop", "records-before")
	w.Await("the copy is stopped", recoverMax, func(st api.Status) bool { return state(st) == "stopped" })
	run("restore", "start", "records-before")
	run("restore", "stop", "records-before", "--remove", "--yes")
	w.Await("the copy is gone", recoverMax, func(st api.Status) bool { return state(st) == "" })

	run("restore", "records", "--table", "appointments", "--at", "latest", "--into", "rescued", "--dry-run")
	if text := run("restore", "records", "--table", "appointments", "--at", "latest", "--into", "rescued", "--yes"); !strings.Contains(text, "whole: schema rescued") {
		t.Errorf("%s", text)
	}
	if out, err := w.Run("restore", "records", "--table", "appointments", "--at", "latest", "--into", "rescued", "--yes"); err == nil || !strings.Contains(out, "restore.name-taken") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
	load.Recovered()
	load.End()                                              // what is written while the database stands at another moment belongs to that
	file := filepath.Join(filepath.Dir(w.Plan), "rows.sql") // with the plan, and asking no server
	if text := run("restore", "records", "--table", "numbered_rows", "--dump", file); !strings.Contains(text, "psql -X -d DATABASE -f "+file) {
		t.Errorf("%s", text)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}

	held := run("backup", "list", "records", "--output", "json") // the end of the newest backup is a moment that is surely there
	var listed []struct {
		Backups []struct {
			Stop string `json:"stop_lsn"`
		}
	}
	if err := json.Unmarshal([]byte(held), &listed); err != nil || len(listed) == 0 || len(listed[0].Backups) == 0 {
		t.Fatalf("%v\n%s", err, held)
	}
	was, moment := w.Await("all is well", recoverMax, lab.Well), listed[0].Backups[0].Stop
	run("restore", "database", "records", "--at", moment, "--in-place", "--dry-run")
	if text := run("restore", "database", "records", "--at", moment, "--in-place", "--yes"); !strings.Contains(text, "_kept_") {
		t.Errorf("%s", text)
	}
	st = w.Await("all is well behind the restore in place", recoverMax, lab.Well)
	if st.Databases[0].Epoch != was.Databases[0].Epoch || st.Databases[0].Timeline != was.Databases[0].Timeline {
		t.Errorf("epoch %d and timeline %d, were %d and %d", st.Databases[0].Epoch, st.Databases[0].Timeline, was.Databases[0].Epoch, was.Databases[0].Timeline)
	}
	run("restore", "undo", "records", "--dry-run")
	run("restore", "undo", "records", "--yes")
	receipts := run("receipt", "list", "records", "--kind", "restore")
	for _, says := range []string{"was restored from base backup", "as the new schema rescued", "to the file " + file, "was restored in place at", "was taken back"} {
		if !strings.Contains(receipts, says) {
			t.Errorf("no receipt says that it %s:\n%s", says, receipts)
		}
	}

	run("vault", "key", "export", "main", "--out", filepath.Join(filepath.Dir(w.Plan), "exported.key"))
	recorded := map[string]string{}
	for _, table := range []string{"numbered_rows", "load_rows"} { // both ways of the load, which has ended
		conn, err := w.Connect(t.Context(), w.Hosts[0])
		if err != nil {
			t.Fatal(err)
		}
		var rows string
		err = conn.QueryRow(t.Context(), rowsOf(table)).Scan(&rows)
		if err = errors.Join(err, conn.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(rows, "0 ") {
			t.Fatalf("%s has no rows: there is nothing to compare", table)
		}
		recorded[table] = rows
	}
	awaitVault(t, w, time.Now())
	w.Stop()
	restoreFromNothing(t, filepath.Join(w.Root, "vault"), filepath.Join(filepath.Dir(w.Plan), "exported.key"), recorded)
}

// rowsOf asks for what is recorded of a table of the load: how many rows, the greatest key, and a digest of all keys.
func rowsOf(table string) string {
	return "select count(*) || ' ' || coalesce(max(number), -1) || ' ' || coalesce(md5(string_agg(client || '/' || number, ',' order by client, number)), '') from " + table
}

// awaitVault waits until the vault leads to a moment behind the given one.
func awaitVault(t *testing.T, w *lab.World, moment time.Time) {
	t.Helper()
	for deadline := time.Now().Add(2 * recoverMax); ; time.Sleep(time.Second) {
		out, err := w.Run("backup", "window", "records", "--output", "json")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var held []struct {
			Windows []struct{ To time.Time }
		}
		if err := json.Unmarshal([]byte(out), &held); err != nil {
			t.Fatal(err)
		}
		if len(held) == 1 && slices.ContainsFunc(held[0].Windows, func(x struct{ To time.Time }) bool { return x.To.After(moment) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log does not come into the vault: %+v", held)
		}
	}
}

// restoreFromNothing restores with no file but the program, a vault and its exported key, as another user, where there is no
// network: all of it, and one table as a file of SQL. A server runs on what came back, and has the rows that were recorded.
func restoreFromNothing(t *testing.T, vault, key string, recorded map[string]string) {
	t.Helper()
	far := newFarSite(t, vault, key)
	data := filepath.Join(far.dir, "data")
	out, err := far.run("restore", "database", "records", "--vault", far.vault, "--key", far.key, "--to", data, "--output", "json")
	if err != nil {
		t.Fatalf("restore from the vault and its key alone: %v\n%s", err, out)
	}
	var told struct {
		BinDir string `json:"bin_dir"`
	}
	if err := json.Unmarshal(out[max(bytes.IndexByte(out, '{'), 0):], &told); err != nil { // behind its progress
		t.Fatalf("%v\n%s", err, out)
	}
	file := filepath.Join(far.dir, "rows.sql")
	out, err = far.run("restore", "records", "--vault", far.vault, "--key", far.key, "--database", "clinic", "--table", "load_rows", "--scratch", filepath.Join(far.dir, "scratch"), "--dump", file)
	if err != nil {
		t.Fatalf("one table from the vault and its key alone: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	ask := far.serve(t, told.BinDir, data)
	for table, rows := range recorded {
		if got := ask("clinic", "-c", rowsOf(table)); got != rows {
			t.Errorf("%s came back with %s (rows, greatest key, digest), recorded were %s", table, got, rows)
		}
	}
	ask("postgres", "-c", "create database bare")
	ask("bare", "-f", file)
	if got := ask("bare", "-c", rowsOf("restored.load_rows")); got != recorded["load_rows"] {
		t.Errorf("the table by itself came back with %s, recorded were %s", got, recorded["load_rows"])
	}
}

// farSite is another site: a directory with the program, a vault and its key, of another user, who has no network.
type farSite struct {
	dir, vault, key string
	uid, gid        int
}

func newFarSite(t *testing.T, vault, key string) farSite {
	t.Helper()
	there, err := os.MkdirTemp("/var/tmp", "holdfast-lab-nothing-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(there); err != nil {
			t.Error(err)
		}
	})
	raw, err := os.ReadFile(key)
	if err == nil {
		err = errors.Join(os.CopyFS(filepath.Join(there, "vault"), os.DirFS(vault)), os.WriteFile(filepath.Join(there, "key"), raw, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(there, "holdfast"), "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, uidErr := strconv.Atoi(owner.Uid)
	gid, gidErr := strconv.Atoi(owner.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(there, func(p string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Lchown(p, uid, gid)) })
	if err != nil {
		t.Fatal(err)
	}
	return farSite{dir: there, vault: "file://" + filepath.Join(there, "vault"), key: filepath.Join(there, "key"), uid: uid, gid: gid}
}

// run runs the program there, and gives what it says to both of its outputs.
func (e farSite) run(args ...string) ([]byte, error) {
	return e.exec(filepath.Join(e.dir, "holdfast"), args...)
}

// serve lets a server run on restored data until the test ends, which only those who reach the directory can talk to. It gives a
// way to let psql ask it as the superuser.
func (e farSite) serve(t *testing.T, binDir, data string) func(database string, args ...string) string {
	t.Helper()
	hba := filepath.Join(e.dir, "hba.conf")
	if err := os.WriteFile(hba, []byte("local all all trust\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const port = "5499"
	log := filepath.Join(e.dir, "server.log")
	control := func(args ...string) error {
		out, err := e.exec(filepath.Join(binDir, "pg_ctl"), append(args, "-D", data, "-t", "120", "-w")...)
		if err != nil {
			said, _ := os.ReadFile(log) // there may be none
			return fmt.Errorf("pg_ctl %s: %w\n%s\n%s", args[0], err, out, said)
		}
		return nil
	}
	if err := control("start", "-l", log, "-o", "-k "+e.dir+" -p "+port+" -c hba_file="+hba); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := control("stop", "-m", "fast"); err != nil {
			t.Error(err)
		}
	})
	return func(database string, args ...string) string {
		t.Helper()
		out, err := e.exec("psql", append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", e.dir, "-p", port, "-U", "holdfast", "-d", database}, args...)...)
		if err != nil {
			t.Fatalf("psql %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
}

// exec runs a program there, and gives what it says to both of its outputs.
func (e farSite) exec(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = e.dir, []string{"PATH=/usr/bin:/bin", "HOME=" + e.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(e.uid), Gid: uint32(e.gid)}, Cloneflags: syscall.CLONE_NEWNET}
	return cmd.CombinedOutput()
}
