package lab_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
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

// A plan is applied under load, as an operator does it: another port for clients, one instance more, a setting that
// PostgreSQL takes over as it runs and one that it reads at its start. The restart is rolled out after it. No acknowledged
// row is lost, no request of the service fails, and until the primary moves no session of a listener is cut.
func TestAPlanIsAppliedUnderLoad(t *testing.T) {
	w := lab.New(t, "127.60.37")
	w.Start()
	load := w.Load("apply")
	load.Client.Mark("apply")
	before := instancesOf(w.Await("well", recoverMax, lab.Well), "web")
	written, err := os.ReadFile(w.Plan)
	if err != nil {
		t.Fatal(err)
	}
	plan := string(written)
	programs, release := nextRelease(t, filepath.Dir(w.Plan))
	if programs != "" {
		plan = strings.Replace(plan, "    standbys: ", "    bin_dir: "+programs+"\n    standbys: ", 1)
	}
	for was, is := range map[string]string{
		"listen: { write: 5432 }\n":             "listen: { write: 5442, read: 5443 }\n    parameters: { work_mem: 5MB, max_connections: 130 }\n",
		"run: bin/clinic web\n    instances: 2": "run: bin/clinic web\n    instances: 3",
		`full: "daily 01:00"`:                   `full: "daily 02:00"`,
	} {
		if !strings.Contains(plan, was) {
			t.Fatalf("the plan has no %q:\n%s", was, plan)
		}
		plan = strings.Replace(plan, was, is, 1)
	}
	if err := os.WriteFile(w.Plan, []byte(plan), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := w.Run("apply", w.Plan, "--dry-run")
	for _, says := range []string{"its port becomes 5442", "1 instance starts more", "max_connections: PostgreSQL reads it at start; shown as pending", "work_mem: taken over", "are made daily 02:00"} {
		if err != nil || !strings.Contains(out, says) {
			t.Fatalf("the dry run does not say %q: %v\n%s", says, err, out)
		}
	}
	if out, err := w.Run("apply", w.Plan, "--yes"); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	// setting asks a host's listener on a port, which leads to the primary.
	setting := func(name string) string {
		var all []string
		for _, h := range w.Hosts {
			all = append(all, settingAt(t, strings.Replace(w.DSN(h), ":5432/", ":5442/", 1), name))
		}
		slices.Sort(all)
		return strings.Join(slices.Compact(all), " ")
	}
	w.Await("the plan is followed", recoverMax, func(st api.Status) bool {
		web := instancesOf(st, "web") // the listener's port is in their environment: each is made anew, one after the other
		return lab.Well(st) && len(web) == 3 && !slices.ContainsFunc(web, func(id string) bool { return slices.Contains(before, id) }) && setting("work_mem") == "5MB" &&
			len(st.Databases[0].Servers) == 3 && !slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return len(s.Pending) == 0 })
	})
	load.Recovered()
	load.Client.Mark("restart")
	if out, err := w.Run("database", "restart", "records", "--pending", "--yes"); err != nil {
		t.Fatalf("restart: %v\n%s", err, out)
	}
	w.Await("nothing is pending", recoverMax, func(st api.Status) bool {
		return lab.Well(st) && setting("max_connections") == "130" &&
			!slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return len(s.Pending) > 0 })
	})
	st := w.Await("every server is of the release that was applied", recoverMax, func(st api.Status) bool {
		return programs == "" || !slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool { return s.Version != release })
	})
	t.Logf("servers run PostgreSQL %s", st.Databases[0].Servers[0].Version)
	load.Recovered()
	load.Client.Mark("after")
	for path, n := range failed(load.Client.Phases(), "apply") {
		t.Errorf("%d requests failed by %s while the plan was applied", n, path)
	}
	restart := failed(load.Client.Phases(), "restart")
	if n := restart["edge write"]; n > 0 {
		t.Errorf("%d writes failed by the edge", n)
	}
	if n := restart["edge read"]; n > 0 {
		t.Errorf("%d reads failed by the edge", n)
	}
	load.End()
}

// instancesOf are the copies of a service that status shows.
func instancesOf(st api.Status, name string) (ids []string) {
	for _, s := range st.Services {
		if s.Name != name {
			continue
		}
		for _, i := range s.Instances {
			ids = append(ids, i.ID)
		}
	}
	return ids
}

// nextRelease makes another minor release of Debian's PostgreSQL below dir: a copy of its programs that calls itself so,
// with the libraries of the one that there is. That proves the way of an upgrade, not what a real release changes. ""
// where PostgreSQL lies elsewhere.
func nextRelease(t *testing.T, dir string) (programs, release string) {
	t.Helper()
	major := cmp.Or(os.Getenv("HOLDFAST_TEST_POSTGRES"), "15")
	from := "/usr/lib/postgresql/" + major
	said, err := exec.Command(filepath.Join(from, "bin", "postgres"), "--version").Output()
	if errors.Is(err, fs.ErrNotExist) {
		return "", ""
	}
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(said), "(PostgreSQL) ")
	now := strings.Fields(rest)[0]
	last := now[len(now)-1] + 1
	if last > '9' {
		last = '8'
	}
	release = now[:len(now)-1] + string(last)
	to := filepath.Join(dir, "next", from)
	if err := os.MkdirAll(filepath.Join(to, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(filepath.Join(from, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		text, err := os.ReadFile(filepath.Join(from, "bin", e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, "bin", e.Name()), bytes.ReplaceAll(text, []byte(now), []byte(release)), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	share := filepath.Join(dir, "next", "usr/share/postgresql")
	if err := errors.Join(os.MkdirAll(share, 0o755), os.Symlink("/usr/share/postgresql/"+major, filepath.Join(share, major)), os.Symlink(filepath.Join(from, "lib"), filepath.Join(to, "lib"))); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "bin"), release
}

// settingAt is a setting of the server that an address leads to, or why it is not known.
func settingAt(t *testing.T, dsn, name string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close(ctx) }() // it was read already
	value := ""
	if err := conn.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
		return err.Error()
	}
	return value
}
