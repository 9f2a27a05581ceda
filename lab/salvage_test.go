package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
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

// Three databases lose the same commits, and their plan says three things about them: a command takes them back, they
// are exported, they are discarded. Nobody is asked, and each old primary comes back.
func TestThePlanSalvagesLostCommits(t *testing.T) {
	lab.Long(t)
	lost := t.TempDir()
	if err := os.Chmod(lost, 0o755); err != nil {
		t.Fatal(err)
	}
	taker, marks := filepath.Join(lost, "taker"), filepath.Join(lost, "marks")
	must(t, os.Mkdir(marks, 0o700))
	must(t, os.Chmod(marks, 0o777)) // the command runs as nobody
	tried := filepath.Join(marks, "tried")
	must(t, os.WriteFile(taker, []byte(`#!/bin/sh
if [ ! -e "`+tried+`" ]; then touch "`+tried+`"; echo "not yet"; exit 3; fi
psql "$DATABASE_URL" -q -f "$HOLDFAST_SALVAGE/rows.sql" && psql "$DATABASE_URL" -q -f "$HOLDFAST_SALVAGE/rows.sql"
`), 0o755))
	must(t, os.Chmod(filepath.Dir(lost), 0o755))
	exports := filepath.Join(lost, "exports")
	one := func(major, name, salvage string, port int) string {
		return fmt.Sprintf("  %s:\n    postgres: %s\n    standbys: 1\n    acknowledged_by: 0\n    salvage: %s\n    listen: { write: %d }\n    roles:\n"+
			"      clinic: { password: \"file:${root}/secrets/clinic.password\", owns: [clinic] }\n", name, major, salvage, port)
	}
	w := lab.NewApartAs(t, lab.Shape{Plan: func(text string) string {
		before, after, _ := strings.Cut(text, "databases:\n")
		_, rest, _ := strings.Cut(after, "postgres: ")
		major, _, _ := strings.Cut(rest, "\n")
		_, after, _ = strings.Cut(after, "vaults:\n")
		return before + "databases:\n" + one(major, "records", "{ command: ["+taker+"], timeout: 2m }", 5432) + one(major, "second", "{ export: "+exports+" }", 5433) +
			one(major, "third", "{ discard: third }", 5434) + "vaults:\n" + after
	}})
	w.Launch()
	names := []string{"records", "second", "third"}
	st := w.Await("each has a standby", 2*recoverMax, func(st api.Status) bool { return followers(st) == 3 })
	was := st.Databases[0].Primary
	dsn := map[string]func(string) string{"records": w.DSN, "second": w.ReadDSN, "third": func(h string) string { return strings.Replace(w.DSN(h), ":5432/", ":5434/", 1) }}
	told := map[string]int{}
	beside := map[string]*pgx.Conn{}
	for i, name := range names {
		if st.Databases[i].Primary != was {
			t.Fatalf("%s has its primary on %s, not %s", name, st.Databases[i].Primary, was)
		}
		beside[name] = insideBy(t, w, was, dsn[name](was))
		must(t, execute(t, beside[name], "CREATE TABLE visits (id int PRIMARY KEY, what text)"))
		write(t, beside[name], 1)
	}
	for i, name := range names { // the table reaches the standby, which nothing waits for
		var text string
		must(t, beside[name].QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&text))
		end, err := database.ParseLSN(text)
		must(t, err)
		w.Await("the standby has the table", recoverMax, func(st api.Status) bool {
			return slices.ContainsFunc(st.Databases[i].Servers, func(s api.ServerStatus) bool {
				at, err := database.ParseLSN(s.LSN)
				return s.Role == "standby" && err == nil && at >= end
			})
		})
	}
	w.Net.Isolate(was)
	for _, name := range names {
		for id := 100; id < 150; id++ {
			if _, err := tryWrite(t, beside[name], id); err != nil {
				break
			}
			told[name]++
		}
		if told[name] == 0 {
			t.Fatalf("nothing of %s was acknowledged beside the primary that was cut off", name)
		}
	}
	for _, name := range names {
		for deadline := time.Now().Add(2 * recoverMax); ; time.Sleep(time.Second) {
			out, err := w.Run("database", "failover", name, "--force", "--yes")
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err, out)
			}
		}
	}
	w.Net.Heal()
	w.Await("each old primary follows", 4*recoverMax, func(st api.Status) bool { return followers(st) == 3 })
	w.Await("nothing waits", recoverMax, func(st api.Status) bool {
		text, _ := json.Marshal(st.Problems) // plain data
		return !strings.Contains(string(text), "database.salvage")
	})
	now, err := w.Status()
	must(t, err)
	count := func(i int) int {
		var n int
		to := now.Databases[i]
		conn := insideBy(t, w, to.Primary, dsn[to.Name](to.Primary))
		must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM visits WHERE id >= 100").Scan(&n))
		return n
	}
	if n := count(0); n < told["records"] {
		t.Errorf("the command took back %d of %d rows", n, told["records"])
	}
	for i, name := range names[1:] {
		if n := count(i + 1); n >= told[name] {
			t.Errorf("%s has %d rows, and %d were given up", name, n, told[name])
		}
	}
	found, err := filepath.Glob(filepath.Join(exports, "second-*", "rows.sql"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("exported: %v", found)
	}
	text, err := os.ReadFile(found[0])
	must(t, err)
	if n := strings.Count(string(text), "insert into"); n < told["second"]-count(1) {
		t.Errorf("%d rows are exported, %d are missing", n, told["second"]-count(1))
	}
	out, err := w.Run("database", "salvage", "list", "third", "--output", "json")
	must(t, err, out)
	if !strings.Contains(out, "discarded") || !strings.Contains(out, "as the plan says") {
		t.Errorf("the list does not say that they were discarded: %s", out)
	}
	if out, err = w.Run("history"); err != nil || !strings.Contains(out, "not yet") {
		t.Errorf("the history lacks what the command said when it failed: %v\n%s", err, out)
	}
}
