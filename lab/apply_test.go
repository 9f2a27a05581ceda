package lab_test

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/examples/clinic/client"
	"holdfast/internal/api"
	"holdfast/lab"
)

// Scenarios 21 to 23 as an operator does them: the plan is changed and applied, again and again, while a client writes
// through every listener. No acknowledged row is lost, and no request fails.
func TestStandbysChangeWhileTheDatabaseRuns(t *testing.T) {
	w := lab.NewAs(t, "127.60.21", lab.Shape{Hosts: 4})
	w.Start()
	first := w.Await("well", recoverMax, lab.Well).Databases[0]
	listeners := []string{}
	for _, h := range w.Hosts {
		listeners = append(listeners, w.DSN(h))
	}
	load := startWriting(t, client.Config{Client: "apply", Listeners: listeners, LogFile: filepath.Join(t.TempDir(), "acknowledged")})

	written, err := os.ReadFile(w.Plan)
	if err != nil {
		t.Fatal(err)
	}
	const was = "    standbys: 2\n    acknowledged_by: 1\n"
	if !strings.Contains(string(written), was) {
		t.Fatalf("the plan has no %q:\n%s", was, written)
	}
	// counts reports whether exactly these standbys count, with so many needed for a commit.
	counts := func(acknowledgedBy int, members int, hosts ...string) func(api.Status) bool {
		return func(st api.Status) bool {
			d := st.Databases[0]
			var have []string
			for _, s := range d.Servers {
				if s.Counts && s.State == "streams" {
					have = append(have, s.Host)
				}
			}
			slices.Sort(have)
			return d.Open && d.AcknowledgedBy == acknowledgedBy && len(d.Servers) == members && slices.Equal(have, hosts) &&
				d.ElectionNeeds == max(1, len(hosts)-acknowledgedBy+1)
		}
	}
	for _, step := range []struct {
		name, plan string
		says       string
		done       func(api.Status) bool
	}{
		{"a third standby", "    standbys: 3\n    acknowledged_by: 1\n", "a standby is made on h4", counts(1, 4, "h2", "h3", "h4")},
		{"two must hold a commit", "    standbys: 3\n    acknowledged_by: 2\n", "a commit is acknowledged by 2 (was 1)", counts(2, 4, "h2", "h3", "h4")},
		{"one suffices again", "    standbys: 3\n    acknowledged_by: 1\n", "a commit is acknowledged by 1 (was 2)", counts(1, 4, "h2", "h3", "h4")},
		{"one is taken away", "    standbys: 2\n    acknowledged_by: 1\n    hosts: [h1, h2, h4]\n", "its copy on h3 is stopped, data kept", counts(1, 3, "h2", "h4")},
		{"one becomes asynchronous", "    standbys: 2\n    acknowledged_by: 1\n    hosts: [h1, h2, h4]\n    members: { h4: { mode: async } }\n",
			"as a standby h4 is asynchronous", counts(1, 3, "h2")},
		{"one follows the other", "    standbys: 2\n    acknowledged_by: 1\n    hosts: [h1, h2, h4]\n    members: { h2: {}, h4: { follows: h2 } }\n",
			"as a standby h4 is asynchronous, following h2", func(st api.Status) bool {
				return counts(1, 3, "h2")(st) && slices.ContainsFunc(st.Databases[0].Servers, func(s api.ServerStatus) bool {
					return s.Host == "h4" && strings.HasSuffix(s.State, "asynchronous from h2")
				})
			}},
		{"nobody need hold a commit", "    standbys: 2\n    acknowledged_by: 0\n    hosts: [h1, h2, h4]\n", "a commit is acknowledged by 0",
			func(st api.Status) bool { return st.Databases[0].AcknowledgedBy == 0 && st.Databases[0].Open }},
		{"two must, with one that was away", "    standbys: 2\n    acknowledged_by: 2\n    hosts: [h1, h3, h4]\n", "a standby is made on h3", counts(2, 3, "h3", "h4")},
	} {
		t.Run(step.name, func(t *testing.T) {
			if err := os.WriteFile(w.Plan, []byte(strings.Replace(string(written), was, step.plan, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := w.Run("apply", w.Plan, "--dry-run"); err != nil || !strings.Contains(out, step.says) {
				t.Fatalf("dry run: %v\n%s", err, out)
			}
			began := time.Now()
			if out, err := w.Run("apply", w.Plan, "--yes"); err != nil {
				t.Fatalf("apply: %v\n%s", err, out)
			}
			w.Await(step.name, recoverMax, step.done)
			t.Logf("%s: %s", step.name, time.Since(began).Round(10*time.Millisecond))
			ctx, cancel := context.WithTimeout(t.Context(), recoverMax)
			defer cancel()
			if err := load.Recovered(ctx); err != nil {
				t.Fatalf("writes do not go on: %v", err)
			}
		})
	}
	t.Run("a role that owns another database, and is let go of", func(t *testing.T) {
		now, err := os.ReadFile(w.Plan)
		if err != nil {
			t.Fatal(err)
		}
		const mine = "owns: [clinic] }\n"
		more := mine + "      shop: { password: \"file:${root}/secrets/shop.password\", owns: [shop] }\n"
		with := strings.Replace(string(now), mine, more, 1)
		write := func(path, text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(w.Plan, with)
		if out, err := w.Run("apply", w.Plan, "--yes"); err == nil || !strings.Contains(out, "database.password-unread") {
			t.Fatalf("without its password it is not refused: %v\n%s", err, out)
		}
		write(filepath.Join(w.Root, "secrets", "shop.password"), "of the shop")
		if out, err := w.Run("apply", w.Plan, "--yes"); err != nil || !strings.Contains(out, "role shop is made, and owns shop") {
			t.Fatalf("%v\n%s", err, out)
		}
		u, err := url.Parse(w.DSN("h1"))
		if err != nil {
			t.Fatal(err)
		}
		u.User, u.Path = url.UserPassword("shop", "of the shop"), "/shop"
		logsIn := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, u.String())
			if err == nil {
				_, err = conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS basket (n int)")
				err = errors.Join(err, conn.Close(ctx))
			}
			return err
		}
		w.Await("it logs in through a listener", recoverMax, func(api.Status) bool { return logsIn() == nil })
		write(w.Plan, string(now))
		if out, err := w.Run("apply", w.Plan, "--yes"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.Await("it does so no more", recoverMax, func(api.Status) bool {
			err := logsIn()
			return err != nil && strings.Contains(err.Error(), "not permitted to log in")
		})
	})
	t.Run("what cannot be applied is refused by name, and changes nothing", func(t *testing.T) {
		bad := strings.Replace(string(written), w.Address["h4"], "127.60.21.99", 1)
		if err := os.WriteFile(w.Plan, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := w.Run("apply", w.Plan, "--yes"); err == nil || !strings.Contains(out, "plan.not-at-run-time") {
			t.Fatalf("not refused: %v\n%s", err, out)
		}
	})
	data := filepath.Join(w.Root, "hosts", "h2", "db", "records", "pgdata")
	st := w.Await("the server that was taken away is stopped", recoverMax, func(api.Status) bool {
		_, err := os.Stat(filepath.Join(data, "postmaster.pid"))
		return errors.Is(err, fs.ErrNotExist)
	})
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		t.Errorf("the data of h2 are not kept: %v", err)
	}
	if d := st.Databases[0]; d.Epoch != first.Epoch || d.Primary != first.Primary {
		t.Errorf("the primary moved from %s (epoch %d) to %s (epoch %d)", first.Primary, first.Epoch, d.Primary, d.Epoch)
	}
	endWriting(t, load, w.DSN(first.Primary))
}

// writing is a client that writes through every listener until it is ended.
type writing struct {
	*client.Client
	end func()
}

func startWriting(t *testing.T, cfg client.Config) writing {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	w := writing{Client: c, end: func() {
		once.Do(func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("the client ended: %v", err)
			}
		})
	}}
	t.Cleanup(w.end)
	return w
}

// endWriting checks that every acknowledged row is there, and that no request failed.
func endWriting(t *testing.T, w writing, dsn string) {
	t.Helper()
	w.end()
	v, err := w.Verify(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Err(); err != nil {
		t.Errorf("acknowledged and lost: %v", err)
	}
	if v.Acknowledged() == 0 {
		t.Error("nothing was acknowledged, so nothing was checked")
	}
	for _, p := range w.Phases() {
		if gap, failed, _ := p.Worst(); failed > 0 {
			t.Errorf("%d requests failed: %+v", failed, p.Paths)
		} else {
			t.Logf("%d rows acknowledged, longest gap %s", v.Acknowledged(), gap)
		}
	}
}
