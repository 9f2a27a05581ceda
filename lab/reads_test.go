package lab_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
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
	run(t, write, "CREATE TABLE notes (n int); CREATE TABLE ticks (n int)")
	ticks := startTicks(t, w)
	load := startReaders(t, w, ticks)

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

	t.Run("as read_url opens a session for a fallback, it writes nothing on a primary either", func(t *testing.T) {
		conn := session(t, w.DSN(primary)+"&options=-c%20default_transaction_read_only%3Don")
		_, err := conn.Exec(t.Context(), "INSERT INTO notes VALUES (-3)")
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != readOnlyTransaction {
			t.Errorf("a write on it: %v", err)
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
		ends(t, its) // the listener that it came through may see it a moment later than the host that told the status
		for range 4 {
			if at := serverOf(t, session(t, w.ReadDSN(behind))); at != w.Address[level] {
				t.Errorf("a reader was led to %s", at)
			}
		}
		last := sessionOn(t, w, level)
		replay(t, w, level, "pg_wal_replay_pause")
		w.Await("nobody is read", recoverMax, func(st api.Status) bool { return len(readFrom(st)) == 0 && raised(st, "database.no-reader") })
		ends(t, last) // by then its listener leads nobody anywhere
		if conn, err := pgx.Connect(t.Context(), w.ReadDSN(level)); err == nil {
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

	t.Run("the listener of a host whose agent hangs follows a change of primary", func(t *testing.T) {
		st := w.Await("well", recoverMax, func(st api.Status) bool { return lab.Well(st) && len(readFrom(st)) == 2 })
		to, hangs := readFrom(st)[0], readFrom(st)[1]
		load.excuse(hangs)
		pid := w.PID(hangs, "agent.pid")
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}()
		if out, err := w.Run("database", "switchover", "records", "--to", to, "--yes"); err != nil {
			t.Fatalf("switchover: %v\n%s", err, out)
		}
		began := time.Now()
		for deadline := began.Add(recoverMax); ; pauseFor(t.Context(), 100*time.Millisecond) {
			conn, err := pgx.Connect(t.Context(), w.DSN(hangs))
			if err == nil {
				_, err = conn.Exec(t.Context(), "INSERT INTO notes VALUES (-4)")
				_ = conn.Close(t.Context()) // the answer is what counts
			}
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("its listener leads to no primary: %v", err)
			}
		}
		t.Logf("its listener led to %s %.1f s after the switchover", to, time.Since(began).Seconds())
		load.excuse("") // from here on it knows
	})

	load.end(t)
	ticks.stop()
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

// openMax is how long one listener may lag behind what another host's status says, on a busy machine.
const openMax = 20 * time.Second

func session(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	for deadline := time.Now().Add(openMax); err != nil && time.Now().Before(deadline); conn, err = pgx.Connect(t.Context(), dsn) {
		pauseFor(t.Context(), 50*time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // its server may be gone
	return conn
}

// sessionOn is a reader's session that was led to one host.
func sessionOn(t *testing.T, w *lab.World, host string) *pgx.Conn {
	t.Helper()
	for deadline := time.Now().Add(openMax); time.Now().Before(deadline); pauseFor(t.Context(), 50*time.Millisecond) {
		conn := session(t, w.ReadDSN(host))
		if serverOf(t, conn) == w.Address[host] {
			return conn
		}
	}
	t.Fatalf("no reader is led to %s", host)
	return nil
}

// ends waits until a session has been cut.
func ends(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for deadline := time.Now().Add(openMax); time.Now().Before(deadline); pauseFor(t.Context(), 20*time.Millisecond) {
		if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
			return
		}
	}
	t.Error("a session goes on that should have been cut")
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
	run(t, session(t, administrator(w, host)), "SELECT "+function+"()")
}

// administrator leads to the server of one host, whatever its role, as PostgreSQL's administrator, by its own socket.
func administrator(w *lab.World, host string) string {
	dir := filepath.Join(w.Root, "hosts", host, "db", "records", "run")
	return fmt.Sprintf("host=%s port=7430 user=holdfast dbname=postgres sslmode=disable", dir)
}

// ticks commits one number after the other, and notes when each was acknowledged.
type ticks struct {
	stop func()
	mu   sync.Mutex // guards acks
	acks []tick
}

type tick struct {
	number int
	at     time.Time
}

func startTicks(t *testing.T, w *lab.World) *ticks {
	ctx, cancel := context.WithCancel(t.Context())
	x := &ticks{}
	var done sync.WaitGroup
	done.Go(func() {
		number := 0
		for i := 0; ctx.Err() == nil; i++ {
			conn, err := pgx.Connect(ctx, w.DSN(w.Hosts[i%len(w.Hosts)]))
			for ; err == nil; pauseFor(ctx, 50*time.Millisecond) {
				number++
				if _, err = conn.Exec(ctx, "INSERT INTO ticks VALUES ($1)", number); err == nil {
					x.mu.Lock()
					x.acks = append(x.acks, tick{number, time.Now()})
					x.mu.Unlock()
				}
			}
			if conn != nil {
				_ = conn.Close(context.Background()) // broken, or done with
			}
			pauseFor(ctx, 50*time.Millisecond)
		}
	})
	x.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(x.stop)
	return x
}

// behind is how long a number had been acknowledged that an answer did not show which was asked for at a moment.
func (x *ticks) behind(shown int, asked time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := sort.Search(len(x.acks), func(i int) bool { return x.acks[i].number > shown })
	if i == len(x.acks) {
		return 0
	}
	return max(0, asked.Sub(x.acks[i].at))
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// readOnlyTransaction is PostgreSQL's code for a write that may not be.
const readOnlyTransaction = "25006"

// readers try through every read-only listener, all the time, what must never succeed.
type readers struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	mu      sync.Mutex // guards what follows
	answers int
	behind  time.Duration // the most that an answer was behind what had been acknowledged when it was asked for
	wrong   []string
	excused string // a listener that cannot have heard who is the primary: docs/handbook/listener.md tells this limit
}

// excuse names the listener whose host may lead readers to a new primary, for it has not heard of it; "" = none.
func (r *readers) excuse(listener string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.excused = listener
}

func startReaders(t *testing.T, w *lab.World, told *ticks) *readers {
	ctx, cancel := context.WithCancel(t.Context())
	r := &readers{stop: cancel}
	for _, h := range w.Hosts {
		dsn := w.ReadDSN(h)
		r.done.Go(func() {
			for ; ctx.Err() == nil; pauseFor(ctx, 20*time.Millisecond) {
				if conn, err := pgx.Connect(ctx, dsn); err == nil {
					r.session(ctx, h, conn, told)
					_ = conn.Close(context.Background()) // broken, or done with
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); r.done.Wait() })
	return r
}

// session reads and tries to write on one session, and leaves it after a while so that others are tried too.
func (r *readers) session(ctx context.Context, listener string, conn *pgx.Conn, told *ticks) {
	r.mu.Lock()
	excused := r.excused == listener // when it began: it is cut when the listener hears of the change
	r.mu.Unlock()
	for range 50 {
		var recovering bool
		shown, asked := 0, time.Now()
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery(), coalesce(max(n), 0) FROM ticks").Scan(&recovering, &shown); err != nil {
			return
		}
		behind := told.behind(shown, asked)
		_, err := conn.Exec(ctx, "INSERT INTO notes VALUES (-2)")
		refused, ok := errors.AsType[*pgconn.PgError](err)
		r.mu.Lock()
		r.answers++
		r.behind = max(r.behind, behind)
		if excused || r.excused == listener {
			r.mu.Unlock()
			pauseFor(ctx, 20*time.Millisecond)
			continue
		}
		if !recovering {
			r.wrong = append(r.wrong, listener+" led a reader to a primary")
		}
		if err == nil {
			r.wrong = append(r.wrong, listener+" let a write through")
		}
		r.mu.Unlock()
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
	t.Logf("%d answers; one was %.1f s behind what had been acknowledged, with max_lag 4 s and a failover between", r.answers, r.behind.Seconds())
}
