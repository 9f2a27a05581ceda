package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault/wal"
)

// archived is how it is known how far an archive holds the log.
type archived struct {
	reached func() wal.LSN // nil = there is none
	look    time.Duration  // how often that is asked
	pid     int            // of its process, which the server did not begin; 0 = there is none
}

// writers commit rows, and mark some commits to see when the archive has them.
type writers struct {
	b       *bench
	way     archived
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

func (b *bench) startWriters(ctx context.Context, way archived) (*writers, error) {
	asking, err := pgx.Connect(ctx, b.server.dsn())
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	w := &writers{b: b, way: way, cancel: cancel, asking: asking}
	for range logWriters {
		w.wg.Go(func() { w.note(w.write(run)) })
	}
	w.wg.Go(func() { w.note(w.mark(run)) }) // where there is no archive too: asking the server is a load of its own
	if way.reached != nil {
		w.wg.Go(func() {
			for sleepFor(run, way.look) {
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
	for turn := time.Now(); ctx.Err() == nil; {
		if turn = w.b.pace(turn); !sleepUntil(ctx, turn) {
			return nil
		}
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
		if w.timing && w.way.reached != nil {
			w.open = append(w.open, marked{at, lsn})
		}
		w.mu.Unlock()
	}
	return nil
}

// look settles the marks that the archive has reached.
func (w *writers) look() {
	at, now := w.way.reached(), time.Now()
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
	server, archiver, err := w.used()
	if err != nil {
		return err
	}
	began, before := time.Now(), w.commits.Load()
	sleepFor(ctx, d)
	took, commits := time.Since(began).Seconds(), w.commits.Load()-before
	serverThen, archiverThen, err := w.used()
	if err != nil {
		return err
	}
	to, err := w.position(ctx)
	out.tps, out.arrival = float64(commits)/took, float64(to-from)/1e6/took
	out.server, out.archiver = (serverThen-server)/time.Duration(max(commits, 1)), (archiverThen-archiver)/time.Duration(max(commits, 1))
	return errors.Join(append(w.failed(), err, ctx.Err())...)
}

// used is the processor time of the server and of what takes its log beside it, so far.
func (w *writers) used() (server, archiver time.Duration, err error) {
	if server, err = usedByAll(w.b.server.pid); err == nil && w.way.pid != 0 {
		archiver, err = usedBy(w.way.pid)
	}
	return server, archiver, err
}

// pace is when a session commits next, when it was to commit last at that time.
func (b *bench) pace(last time.Time) time.Time {
	if b.logRate == 0 {
		return last
	}
	return last.Add(time.Second * logWriters / time.Duration(b.logRate))
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
	if w.way.reached == nil {
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
