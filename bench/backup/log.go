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
	lookEvery  = 50 * time.Millisecond  // how often the archive's end is looked at, on processors that the server shares
	pushedLook = 250 * time.Millisecond // how often the server is asked how far pgBackRest is: a question takes the server's time
	logSettle  = 2 * time.Minute        // how long the last commit may take into the archive
	pushAfter  = "5s"                   // archive_timeout of pgBackRest's slices: it takes whole segments alone
	nobody     = "no archive"           // the system of slices in which nothing takes the log
	returnPoll = 100 * time.Millisecond // how often it is looked whether what was held up has arrived
	slowBegin  = 2 * time.Second        // of a slice, which is not counted
)

// logged is one slice of archiving the log.
type logged struct {
	system    string
	slice     int // slices of one number were measured one behind the other, one of each system
	tps       float64
	server    time.Duration   // processor time of the server's processes and what they began, a commit
	archiver  time.Duration   // that of a process beside the server which takes the log, a commit
	lags      []time.Duration // of each marked commit, until its log was durable in the archive
	arrival   float64         // log written, 10^6 bytes a second
	drain     float64         // with the vault back: log stored, in the same unit; 0 = not measured
	drainTook time.Duration
	backlog   float64 // 10^6 bytes when it came back
}

// playLog measures what archiving the log costs the primary and how long a commit is on its way, in short slices of each
// system one behind the other, in an order of chance; and once a round how fast Holdfast catches up when its vault was away.
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
	for slice := range b.rounds * b.logSlices {
		last := (slice+1)%b.logSlices == 0 // of its round
		for _, i := range dice.Perm(len(ways)) {
			l, err := b.logSlice(ctx, ways[i], last)
			if err != nil {
				return fmt.Errorf("slice %d: archive the log by %s: %w", slice+1, ways[i].name, err)
			}
			l.slice = slice
			b.logs = append(b.logs, l)
			b.tellSlice(l)
		}
	}
	return nil
}

func (b *bench) tellSlice(l logged) {
	p50, p99 := quantile(l.lags, 0.5), quantile(l.lags, 0.99)
	_, _ = fmt.Fprintf(b.out, "slice %d: log         %-16s %6.0f commits/s %5.1f MB/s processor %3d us a commit in the server, %2d beside it; lag p50 %s p99 %s\n",
		l.slice+1, l.system, l.tps, l.arrival, l.server.Microseconds(), l.archiver.Microseconds(), p50.Round(time.Millisecond), p99.Round(time.Millisecond)) // standard output
	if l.drain > 0 {
		_, _ = fmt.Fprintf(b.out, "slice %d: drain       %-16s %5.1f MB waited, %.1f MB/s while %.1f MB/s arrived: %s\n",
			l.slice+1, l.system, l.backlog, l.drain, l.arrival, l.drainTook.Round(10*time.Millisecond)) // standard output
	}
}

// logSlice loads the server while one system takes its log. drained = afterwards it is Holdfast's turn to catch up.
func (b *bench) logSlice(ctx context.Context, s system, drained bool) (out logged, err error) {
	out.system = s.name
	command, timeout := "/bin/true", "0"
	way := archived{look: lookEvery}
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
		way.reached, way.pid = a.reached, a.cmd.Process.Pid
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
		way.reached, way.look = pushed(ctx, conn), pushedLook
	}
	if err := b.server.archiveBy(ctx, command, timeout); err != nil {
		return out, err
	}
	defer func() {
		err = errors.Join(err, b.server.archiveBy(context.WithoutCancel(ctx), "cp %p "+b.server.archive+"/%f", "0"))
	}()
	load, err := b.startWriters(ctx, way)
	if err != nil {
		return out, err
	}
	defer load.end()
	sleepFor(ctx, slowBegin)
	if err := load.count(ctx, b.logTime, &out); err != nil {
		return out, err
	}
	if s.name == ours && drained {
		if err := load.settle(ctx); err != nil { // the vault's absence is no part of a commit's way
			return out, err
		}
		if err := b.drain(ctx, s.repo, load, way.reached, &out); err != nil {
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
	if b.profile != "" {
		a.cmd.Args = append(a.cmd.Args, "-profile", b.profile)
	}
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

// sleepUntil waits for a time, which may be past.
func sleepUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	return d <= 0 || sleepFor(ctx, d)
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
func quantile[T time.Duration | float64](v []T, share float64) T {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(int(share*float64(len(v))), len(v)-1)]
}
