package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	writePause   = 10 * time.Millisecond // 100 a second
	writeMax     = 5 * time.Second       // how long the client waits for an answer
	connectMax   = 3 * time.Second
	table        = "CREATE TABLE IF NOT EXISTS acks (id bigint NOT NULL)" // no unique constraint: it would slow the writes
	warningKey   = "failover.warning"
	verifyMax    = time.Minute
	verifyPause  = 100 * time.Millisecond
	steadyPause  = 300 * time.Millisecond // a longer silence is an outage
	resumedAfter = 20                     // acknowledgements in a row without one, and writes are back
)

// ack is one row of which the client was told that it is committed.
type ack struct {
	id int64
	at time.Duration // since the client's origin, on the monotonic clock
}

// client writes rows in one session, each with an id never used before, and opens the next session at the next address
// when one breaks.
type client struct {
	targets []*pgx.ConnConfig
	origin  time.Time
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu   sync.Mutex // guards what follows
	acks []ack
	errs int
}

// startClient writes ids after last until [client.end], beginning with one of the targets.
func startClient(ctx context.Context, targets []*pgx.ConnConfig, first int, last int64) *client {
	ctx, stop := context.WithCancel(ctx)
	c := &client{targets: targets, origin: time.Now(), stop: stop}
	c.done.Go(func() { c.run(ctx, first, last) })
	return c
}

func (c *client) end() {
	c.stop()
	c.done.Wait()
}

func (c *client) run(ctx context.Context, target int, id int64) {
	var conn *pgx.Conn
	defer func() { hangUp(ctx, conn) }()
	tick := time.NewTicker(writePause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if conn == nil {
			if conn, err = pgx.ConnectConfig(ctx, c.targets[target%len(c.targets)]); err != nil {
				conn = nil
			}
		}
		if err == nil {
			id++ // an id is never sent twice: nobody knows what became of one that failed
			err = c.write(ctx, conn, id)
		}
		if err != nil && ctx.Err() == nil {
			hangUp(ctx, conn)
			conn = nil
			target++
			c.mu.Lock()
			c.errs++
			c.mu.Unlock()
		}
	}
}

// errWarned is a commit whose wait for a standby was given up: it is no acknowledgement.
var errWarned = errors.New("the server warned")

// write commits one row and notes the acknowledgement. It is carried to its end when ctx ends meanwhile.
func (c *client) write(ctx context.Context, conn *pgx.Conn, id int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeMax)
	defer cancel()
	data := conn.PgConn().CustomData()
	delete(data, warningKey)
	if _, err := conn.Exec(ctx, "INSERT INTO acks VALUES ($1)", id); err != nil {
		return err
	}
	at := time.Since(c.origin)
	if w, warned := data[warningKey]; warned {
		return fmt.Errorf("%w: %v", errWarned, w)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acks = append(c.acks, ack{id, at})
	return nil
}

// noted is a copy of every acknowledgement up to now.
func (c *client) noted() []ack {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]ack(nil), c.acks...)
}

// flows reports whether writes are acknowledged steadily now.
func (c *client) flows() bool {
	a := c.noted()
	return flows(a, time.Since(c.origin))
}

func flows(a []ack, now time.Duration) bool {
	if len(a) < resumedAfter {
		return false
	}
	before := now
	for i := len(a) - 1; i >= len(a)-resumedAfter; i-- {
		if before-a[i].at > steadyPause {
			return false
		}
		before = a[i].at
	}
	return true
}

// longestGap is the longest time without an acknowledgement of which any part lies between since and until.
func longestGap(a []ack, since, until time.Duration) time.Duration {
	var longest, last time.Duration
	for _, one := range a {
		if one.at >= since {
			longest = max(longest, one.at-last)
		}
		last = one.at
	}
	return max(longest, until-last)
}

// lost counts acknowledged rows that the database has not.
func lost(a []ack, has map[int64]bool) int {
	n := 0
	for _, one := range a {
		if !has[one.id] {
			n++
		}
	}
	return n
}

// writeLog keeps every acknowledgement: its id, and nanoseconds since the client began.
func (c *client) writeLog(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("keep the acknowledgements: %w", err)
	}
	w := bufio.NewWriter(f)
	for _, a := range c.noted() {
		fmt.Fprintf(w, "%d %d\n", a.id, a.at.Nanoseconds()) // Flush tells of errors
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("keep the acknowledgements: %w", err)
	}
	return nil
}

// target reads a connection string and sets what the client needs.
func target(dsn string) (*pgx.ConnConfig, error) {
	pc, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read a connection string: %w", err)
	}
	pc.ConnectTimeout = connectMax
	pc.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.CustomData()[warningKey] = n.Message
		}
	}
	return pc, nil
}

// errStandby: for a moment after a change of primary a balancer leads to who was it.
var errStandby = errors.New("a standby answered")

// ask puts one question to the primary, in a session of its own, through the first target that leads there.
func ask(ctx context.Context, targets []*pgx.ConnConfig, do func(context.Context, *pgx.Conn) error) error {
	var errs []error
	for _, t := range targets {
		ctx, cancel := context.WithTimeout(ctx, writeMax)
		conn, err := pgx.ConnectConfig(ctx, t)
		if err == nil {
			err = onPrimary(ctx, conn, do)
			hangUp(ctx, conn)
		}
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func onPrimary(ctx context.Context, conn *pgx.Conn, do func(context.Context, *pgx.Conn) error) error {
	var standby bool
	if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return err
	}
	if standby {
		return errStandby
	}
	return do(ctx, conn)
}

// rowsSince reads the ids after one from the database, again until it answers.
func rowsSince(ctx context.Context, targets []*pgx.ConnConfig, last int64) (map[int64]bool, error) {
	var has map[int64]bool
	err := await(ctx, verifyMax, verifyPause, func() error {
		return ask(ctx, targets, func(ctx context.Context, conn *pgx.Conn) error {
			has = map[int64]bool{}
			rows, err := conn.Query(ctx, "SELECT id FROM acks WHERE id > $1", last)
			if err != nil {
				return err
			}
			var id int64
			_, err = pgx.ForEachRow(rows, []any{&id}, func() error { has[id] = true; return nil })
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the rows back: %w", err)
	}
	return has, nil
}

func hangUp(ctx context.Context, conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // broken or done with: its goodbye does not matter
}
