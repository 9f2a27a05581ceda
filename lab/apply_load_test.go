package lab_test

import (
	"context"
	"os"
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
	next := pretended(t, filepath.Dir(w.Plan))
	if next.programs != "" {
		plan = next.inPlan(plan)
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
	rollOut(t, w, load, "restart", next.version)
	w.Await("the setting that waited for it is in force", recoverMax, func(api.Status) bool { return setting("max_connections") == "130" })
	for path, n := range failed(load.Client.Phases(), "apply") {
		t.Errorf("%d requests failed by %s while the plan was applied", n, path)
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
