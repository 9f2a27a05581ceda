package lab_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/examples/clinic/client"
	"holdfast/internal/api"
	"holdfast/lab"
)

// Scenario 32, as an operator and an application meet it.
func TestReadsAreSpreadOverStandbysAndNothingIsWritten(t *testing.T) {
	w := lab.NewAs(t, "127.60.32", lab.Shape{Plan: func(text string) string {
		return strings.Replace(text, "listen: { write: 5432 }", "listen: { write: 5432, read: 5433, max_lag: 4s }", 1)
	}})
	w.Start()
	st := w.Await("both standbys are read", recoverMax, func(st api.Status) bool { return len(readFrom(st)) == 2 })
	primary, standbys := st.Databases[0].Primary, readFrom(st)
	write := session(t, w.DSN(primary))
	run(t, write, "CREATE TABLE notes (n int, at timestamptz DEFAULT clock_timestamp())")
	load := startReaders(t, w)
	ticks := startTicks(t, w)

	t.Run("sessions are spread evenly", func(t *testing.T) {
		counts := map[string]int{}
		for range 10 {
			counts[serverOf(t, session(t, w.ReadDSN(primary)))]++
		}
		for _, h := range standbys {
			if n := counts[w.Address[h]]; n < 4 { // the readers of this test move on meanwhile
				t.Errorf("10 sessions were spread as %v", counts)
			}
		}
	})

	t.Run("a token waits for what was written", func(t *testing.T) {
		read := session(t, w.ReadDSN(primary))
		for n := range 20 {
			run(t, write, "INSERT INTO notes VALUES ($1)", n)
			token, err := client.TokenOf(t.Context(), write)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.WaitForToken(t.Context(), read, token, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			var there bool
			if err := read.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM notes WHERE n = $1)", n).Scan(&there); err != nil || !there {
				t.Fatalf("row %d is not there after its token (%v)", n, err)
			}
		}
	})

	behind, level := standbys[0], standbys[1]
	t.Run("one that does not replay is left within max_lag, and comes back", func(t *testing.T) {
		its := sessionOn(t, w, behind)
		began := time.Now()
		replay(t, w, behind, "pg_wal_replay_pause")
		out := w.Await(behind+" is not read", recoverMax, func(st api.Status) bool { return len(readFrom(st)) == 1 })
		t.Logf("%s was left %.1f s after its replay stood", behind, time.Since(began).Seconds())
		if why := readOf(out, behind).Why; !strings.Contains(why, "behind") {
			t.Errorf("status says %q", why)
		}
		if _, err := its.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("a session on it goes on")
		}
		for range 4 {
			if at := serverOf(t, session(t, w.ReadDSN(behind))); at != w.Address[level] {
				t.Errorf("a reader was led to %s", at)
			}
		}
		replay(t, w, level, "pg_wal_replay_pause")
		w.Await("nobody is read", recoverMax, func(st api.Status) bool { return len(readFrom(st)) == 0 && raised(st, "database.no-reader") })
		if conn, err := pgx.Connect(t.Context(), w.ReadDSN(primary)); err == nil {
			_ = conn.Close(t.Context()) // it should not be there
			t.Error("a reader was led somewhere though nobody may be read")
		}
		replay(t, w, behind, "pg_wal_replay_resume")
		replay(t, w, level, "pg_wal_replay_resume")
		w.Await("both are read again", recoverMax, func(st api.Status) bool { return len(readFrom(st)) == 2 })
	})

	t.Run("a failover ends the sessions on the standby that is promoted, and readers go on elsewhere", func(t *testing.T) {
		before := map[string]*pgx.Conn{}
		for _, h := range standbys {
			before[h] = sessionOn(t, w, h)
		}
		was := w.Await("well", recoverMax, lab.Well).Databases[0]
		w.Kill(w.PID(was.Primary, "db/records/pgdata/postmaster.pid"))
		now := w.Await("well again, and two are read", recoverMax, func(st api.Status) bool {
			return lab.Well(st) && st.Databases[0].Epoch > was.Epoch && len(readFrom(st)) == 2
		})
		promoted := now.Databases[0].Primary
		if promoted == was.Primary {
			t.Fatalf("%s is still the primary", promoted)
		}
		if _, err := before[promoted].Exec(t.Context(), "SELECT 1"); err == nil {
			t.Error("a session of before is on the new primary")
		}
		for _, h := range w.Hosts {
			if at := serverOf(t, session(t, w.ReadDSN(h))); at == w.Address[promoted] {
				t.Errorf("a reader of %s was led to the primary", h)
			}
		}
	})

	ticks()
	load.end(t)
}

// readFrom are the standbys that are read, as status says.
func readFrom(st api.Status) (hosts []string) {
	for _, d := range st.Databases {
		for _, s := range d.Servers {
			if s.Read != nil && s.Read.In {
				hosts = append(hosts, s.Host)
			}
		}
	}
	return hosts
}

func readOf(st api.Status, host string) api.ReadStatus {
	for _, s := range st.Databases[0].Servers {
		if s.Host == host && s.Read != nil {
			return *s.Read
		}
	}
	return api.ReadStatus{}
}

func raised(st api.Status, code string) bool {
	for _, p := range st.Problems {
		if p.Code == code {
			return true
		}
	}
	return false
}

func session(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // its server may be gone
	return conn
}

// sessionOn is a reader's session that was led to one host.
func sessionOn(t *testing.T, w *lab.World, host string) *pgx.Conn {
	t.Helper()
	for range 20 {
		conn := session(t, w.ReadDSN(host))
		if serverOf(t, conn) == w.Address[host] {
			return conn
		}
	}
	t.Fatalf("no reader is led to %s", host)
	return nil
}

func serverOf(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var at string
	if err := conn.QueryRow(t.Context(), "SELECT host(inet_server_addr())").Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

func run(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// replay calls a function of PostgreSQL's administrator on a standby, on its own socket.
func replay(t *testing.T, w *lab.World, host, function string) {
	t.Helper()
	dir := filepath.Join(w.Root, "hosts", host, "db", "records", "run")
	run(t, session(t, fmt.Sprintf("host=%s port=7430 user=holdfast dbname=postgres sslmode=disable", dir)), "SELECT "+function+"()")
}

// startTicks commits the time again and again, and gives what ends it.
func startTicks(t *testing.T, w *lab.World) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	for _, h := range w.Hosts {
		done.Go(func() {
			for ; ctx.Err() == nil; pauseFor(ctx, 100*time.Millisecond) {
				conn, err := pgx.Connect(ctx, w.DSN(h))
				for ; err == nil; pauseFor(ctx, 100*time.Millisecond) {
					_, err = conn.Exec(ctx, "INSERT INTO notes VALUES (-1)")
				}
				if conn != nil {
					_ = conn.Close(context.Background()) // broken, or done with
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// readers try through every read-only listener, all the time, what must never succeed.
type readers struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	mu      sync.Mutex // guards what follows
	answers int
	oldest  time.Duration // age of the newest row that an answer showed, as long as rows are written
	wrong   []string
}

func startReaders(t *testing.T, w *lab.World) *readers {
	ctx, cancel := context.WithCancel(t.Context())
	r := &readers{stop: cancel}
	for _, h := range w.Hosts {
		dsn := w.ReadDSN(h)
		r.done.Go(func() {
			for ; ctx.Err() == nil; pauseFor(ctx, 20*time.Millisecond) {
				if conn, err := pgx.Connect(ctx, dsn); err == nil {
					r.session(ctx, h, conn)
					_ = conn.Close(context.Background()) // broken, or done with
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); r.done.Wait() })
	return r
}

// session reads and tries to write on one session, and leaves it after a while so that others are tried too.
func (r *readers) session(ctx context.Context, listener string, conn *pgx.Conn) {
	for range 50 {
		var recovering bool
		var age *float64
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery(), extract(epoch FROM clock_timestamp() - max(at))::float8 FROM notes").Scan(&recovering, &age); err != nil {
			return
		}
		_, err := conn.Exec(ctx, "INSERT INTO notes VALUES (-2)")
		refused, ok := errors.AsType[*pgconn.PgError](err)
		r.mu.Lock()
		r.answers++
		if age != nil {
			r.oldest = max(r.oldest, time.Duration(*age*float64(time.Second)))
		}
		if !recovering {
			r.wrong = append(r.wrong, listener+" led a reader to a primary")
		}
		if err == nil {
			r.wrong = append(r.wrong, listener+" let a write through")
		}
		r.mu.Unlock()
		const readOnlyTransaction = "25006"
		if !ok || refused.Code != readOnlyTransaction {
			return
		}
		pauseFor(ctx, 20*time.Millisecond)
	}
}

func (r *readers) end(t *testing.T) {
	t.Helper()
	r.stop()
	r.done.Wait()
	for _, wrong := range r.wrong {
		t.Error(wrong)
	}
	if r.answers < 100 {
		t.Errorf("only %d answers were looked at", r.answers)
	}
	t.Logf("%d answers; the newest row of one was %.1f s old, with max_lag 4 s and a failover between", r.answers, r.oldest.Seconds())
}
