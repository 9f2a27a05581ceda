package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault/wal"
)

const (
	logWriters = 4                      // sessions that commit one row after the other
	markEvery  = 50 * time.Millisecond  // how often a commit's way into the archive is timed
	lookEvery  = 20 * time.Millisecond  // how often the archive's end is looked at, on processors that the server shares
	logSettle  = 2 * time.Minute        // how long the last commit may take into the archive
	pushAfter  = "5s"                   // archive_timeout of pgBackRest's rounds: it takes whole segments alone
	nobody     = "no archive"           // the system of rounds in which nothing takes the log
	returnPoll = 100 * time.Millisecond // how often it is looked whether what was held up has arrived
)

// logged is one round of archiving the log.
type logged struct {
	system    string
	tps       float64
	lags      []time.Duration // of each marked commit, until its log was durable in the archive
	arrival   float64         // log written, 10^6 bytes a second
	drain     float64         // with the vault back: log stored, in the same unit; 0 = not measured
	drainTook time.Duration
	backlog   float64 // 10^6 bytes when it came back
}

// playLog measures what archiving the log costs the primary and how long a commit is on its way, by each system, in an
// order of chance; and how fast Holdfast catches up when its vault was away.
func (b *bench) playLog(ctx context.Context) error {
	if b.logTime == 0 {
		return nil
	}
	dice := rand.New(rand.NewPCG(b.seed, 1))
	conn, err := pgx.Connect(ctx, b.server.dsn())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "create table if not exists log_load (id bigserial primary key, body text not null)")
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	ways := []system{{name: nobody}}
	for _, s := range b.systems {
		if s.name == ours || s.name == pgBackRest {
			ways = append(ways, s)
		}
	}
	for round := range b.rounds {
		for _, i := range dice.Perm(len(ways)) {
			l, err := b.logRound(ctx, ways[i])
			if err != nil {
				return fmt.Errorf("round %d: archive the log by %s: %w", round+1, ways[i].name, err)
			}
			b.logs = append(b.logs, l)
			p50, p99 := quantile(l.lags, 0.5), quantile(l.lags, 0.99)
			fmt.Fprintf(b.out, "round %d: log         %-16s %6.0f commits/s %5.1f MB/s lag p50 %s p99 %s\n", round+1, l.system, l.tps, l.arrival, p50.Round(time.Millisecond), p99.Round(time.Millisecond))
			if l.drain > 0 {
				fmt.Fprintf(b.out, "round %d: drain       %-16s %5.1f MB waited, %.1f MB/s while %.1f MB/s arrived: %s\n", round+1, l.system, l.backlog, l.drain, l.arrival, l.drainTook.Round(10*time.Millisecond))
			}
		}
	}
	return nil
}

// logRound loads the server while one system takes its log.
func (b *bench) logRound(ctx context.Context, s system) (out logged, err error) {
	out.system = s.name
	command, timeout := "/bin/true", "0"
	var reached func() wal.LSN // how far the archive holds the log
	switch s.name {
	case ours:
		if err := b.fresh(ctx, s); err != nil {
			return out, err
		}
		a, err := b.startArchive(ctx, s.repo)
		if err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, a.stop()) }()
		reached = a.reached
	case pgBackRest:
		if err := b.fresh(ctx, s); err != nil {
			return out, err
		}
		command, timeout = fmt.Sprintf("pgbackrest --config=%s --stanza=main archive-push %%p", filepath.Join(b.dir, "pgbackrest.conf")), pushAfter
		conn, err := pgx.Connect(ctx, b.server.dsn())
		if err != nil {
			return out, err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it only asked
		reached = pushed(ctx, conn)
	}
	if err := b.server.archiveBy(ctx, command, timeout); err != nil {
		return out, err
	}
	defer func() {
		err = errors.Join(err, b.server.archiveBy(context.WithoutCancel(ctx), "cp %p "+b.server.archive+"/%f", "0"))
	}()
	load, err := b.startWriters(ctx, reached)
	if err != nil {
		return out, err
	}
	defer load.end()
	sleepFor(ctx, 2*time.Second) // what begins slowly is not counted
	if err := load.count(ctx, b.logTime, &out); err != nil {
		return out, err
	}
	if s.name == ours {
		if err := load.settle(ctx); err != nil { // the vault's absence is no part of a commit's way
			return out, err
		}
		if err := b.drain(ctx, s.repo, load, reached, &out); err != nil {
			return out, err
		}
	}
	load.end()
	out.lags, err = load.result(ctx, timeout != "0")
	return out, err
}

// archiveBy changes what takes closed segments.
func (s *server) archiveBy(ctx context.Context, command, timeout string) error {
	conn, err := pgx.Connect(ctx, s.dsn())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // each statement has told its own error
	quoted := strings.ReplaceAll(command, "'", "''")
	for _, q := range []string{"alter system set archive_command = '" + quoted + "'", "alter system set archive_timeout = '" + timeout + "'", "select pg_reload_conf()", "select pg_switch_wal()"} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("set what archives: %w", err)
		}
	}
	return nil
}

// archiving is a process of Holdfast's that takes the log.
type archiving struct {
	cmd *exec.Cmd
	out io.ReadCloser
	in  io.WriteCloser
	at  atomic.Uint64
	wg  sync.WaitGroup
	bad error // of reading its output; set before wg is done
}

func (b *bench) startArchive(ctx context.Context, repo string) (*archiving, error) {
	a := &archiving{cmd: exec.CommandContext(ctx, b.program, "-step", "log", "-vault", repo, "-conn", b.server.dsn(), "-to", filepath.Join(b.server.home, "spool"))}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.server.cred, Setpgid: true}
	a.cmd.Stderr = os.Stderr
	a.cmd.Dir = b.server.home
	a.cmd.Env = append(os.Environ(), "HOME="+b.server.home)
	var err error
	if a.out, err = a.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	a.wg.Go(func() {
		lines := bufio.NewScanner(a.out)
		for lines.Scan() {
			at, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				a.bad = fmt.Errorf("read how far the archive is: %w", err)
				return
			}
			a.at.Store(at)
		}
		a.bad = lines.Err()
	})
	return a, nil
}

func (a *archiving) reached() wal.LSN { return wal.LSN(a.at.Load()) }

// stop lets it bring the rest and waits until it has ended.
func (a *archiving) stop() error {
	err := a.in.Close() // that is how it is told
	a.wg.Wait()
	return errors.Join(err, a.bad, a.cmd.Wait())
}

// pushed is how far whole segments have been taken; 0 before the first.
func pushed(ctx context.Context, conn *pgx.Conn) func() wal.LSN {
	var at wal.LSN
	return func() wal.LSN {
		var name *string
		if err := conn.QueryRow(ctx, "select last_archived_wal from pg_stat_archiver").Scan(&name); err == nil && name != nil && len(*name) == 24 {
			if _, start, err := wal.ParseSegmentName(*name, wal.DefaultSegmentSize); err == nil {
				at = max(at, start+wal.DefaultSegmentSize)
			}
		}
		return at
	}
}

// writers commit rows, and mark some commits to see when the archive has them.
type writers struct {
	b       *bench
	reached func() wal.LSN
	commits atomic.Int64
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	once    sync.Once

	mu     sync.Mutex // guards what follows
	errs   []error
	open   []marked
	lags   []time.Duration
	timing bool // commits are marked now
	asking *pgx.Conn
}

type marked struct {
	at  time.Time
	lsn wal.LSN
}

func (b *bench) startWriters(ctx context.Context, reached func() wal.LSN) (*writers, error) {
	asking, err := pgx.Connect(ctx, b.server.dsn())
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	w := &writers{b: b, reached: reached, cancel: cancel, asking: asking}
	for range logWriters {
		w.wg.Go(func() { w.note(w.write(run)) })
	}
	if reached != nil {
		w.wg.Go(func() { w.note(w.mark(run)) })
		w.wg.Go(func() {
			for sleepFor(run, lookEvery) {
				w.look()
			}
		})
	}
	return w, nil
}

func (w *writers) note(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.errs = append(w.errs, err)
	}
}

func (w *writers) write(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, w.b.server.dsn())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // each statement has told its own error
	if _, err := conn.Exec(ctx, "set synchronous_commit = on"); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if _, err := conn.Exec(ctx, "insert into log_load (body) select string_agg(md5(random()::text), '') from generate_series(1, 30)"); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		w.commits.Add(1)
	}
	return nil
}

// mark notes when a commit returned, and where the log was then.
func (w *writers) mark(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, w.b.server.dsn())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // each statement has told its own error
	for sleepFor(ctx, markEvery) {
		var text string
		if err := conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		at := time.Now()
		lsn, err := wal.ParseLSN(text)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.timing {
			w.open = append(w.open, marked{at, lsn})
		}
		w.mu.Unlock()
	}
	return nil
}

// look settles the marks that the archive has reached.
func (w *writers) look() {
	at, now := w.reached(), time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = slices.DeleteFunc(w.open, func(m marked) bool {
		if m.lsn > at {
			return false
		}
		w.lags = append(w.lags, now.Sub(m.at))
		return true
	})
}

// position is how far the server has written.
func (w *writers) position(ctx context.Context) (wal.LSN, error) {
	var text string
	if err := w.asking.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return 0, err
	}
	return wal.ParseLSN(text)
}

// count measures for a while.
func (w *writers) count(ctx context.Context, d time.Duration, out *logged) error {
	set := func(on bool) {
		w.mu.Lock()
		w.timing = on
		w.mu.Unlock()
	}
	from, err := w.position(ctx)
	if err != nil {
		return err
	}
	set(true)
	defer set(false)
	began, before := time.Now(), w.commits.Load()
	sleepFor(ctx, d)
	took := time.Since(began).Seconds()
	to, err := w.position(ctx)
	out.tps, out.arrival = float64(w.commits.Load()-before)/took, float64(to-from)/1e6/took
	return errors.Join(append(w.failed(), err, ctx.Err())...)
}

func (w *writers) failed() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

func (w *writers) end() {
	w.once.Do(func() {
		w.cancel()
		w.wg.Wait()
	})
}

// settle waits until the archive has reached all marks.
func (w *writers) settle(ctx context.Context) error {
	for end := time.Now().Add(logSettle); ; {
		w.look()
		w.mu.Lock()
		left := len(w.open)
		w.mu.Unlock()
		if left == 0 {
			return nil
		}
		if time.Now().After(end) || !sleepFor(ctx, lookEvery) {
			return fmt.Errorf("%d commits have not come into the archive", left)
		}
	}
}

// result gives what the marks came to. pushing = only whole segments are taken: the last is closed for them.
func (w *writers) result(ctx context.Context, pushing bool) ([]time.Duration, error) {
	defer func() { _ = w.asking.Close(context.WithoutCancel(ctx)) }() // it only asked
	if w.reached == nil {
		return nil, errors.Join(w.failed()...)
	}
	if pushing {
		if _, err := w.asking.Exec(ctx, "select pg_switch_wal()"); err != nil {
			return nil, err
		}
	}
	err := w.settle(ctx)
	return w.lags, errors.Join(append(w.failed(), err)...)
}

// drain takes the vault away, brings it back, and measures how what waited and what still comes are stored.
func (b *bench) drain(ctx context.Context, repo string, w *writers, reached func() wal.LSN, out *logged) error {
	if err := os.Rename(repo, repo+".away"); err != nil {
		return err
	}
	sleepFor(ctx, b.logAway)
	if err := os.Rename(repo+".away", repo); err != nil {
		return err
	}
	began, from := time.Now(), reached()
	target, err := w.position(ctx)
	if err != nil {
		return err
	}
	out.backlog = float64(target-from) / 1e6
	for reached() < target {
		if time.Since(began) > logSettle {
			return fmt.Errorf("what waited has not arrived in %s", logSettle)
		}
		if !sleepFor(ctx, returnPoll) {
			return ctx.Err()
		}
	}
	out.drainTook = time.Since(began)
	out.drain = float64(reached()-from) / 1e6 / out.drainTook.Seconds()
	return nil
}

func sleepFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// quantile is the least value that a share of them does not exceed; 0 of none.
func quantile(v []time.Duration, share float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(int(share*float64(len(v))), len(v)-1)]
}
