package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// fault is what befalls the primary, or a standby of it.
type fault string

const (
	crash      fault = "crash"      // kill -9 of the postmaster
	hostLoss   fault = "host-loss"  // kill -9 of every process of the host, which stays away for a while
	switchover fault = "switchover" // asked for by the operator
	// standbyLoss is kill -9 of every process of a host whose standby acknowledges commits; it stays away for a while.
	standbyLoss fault = "standby-loss"
)

var faults = []fault{crash, hostLoss, standbyLoss, switchover}

const (
	awayMin   = 10 * time.Second // how long a lost host stays away at least
	upMax     = 3 * time.Minute
	steadyMax = 2 * time.Minute
	outageMax = 2 * time.Minute
	again     = 2 * time.Minute // redundancy; then it is taken for gone
	look      = 200 * time.Millisecond
	before    = time.Second            // of steady writes
	settle    = 500 * time.Millisecond // until the silence after a kill is longer than [steadyPause], so that it is seen
	watched   = 3 * time.Second        // at least, after a fault: a late outage is one too
)

// system is a database with one primary and two standbys, of which one must have a commit before it is acknowledged.
type system interface {
	name() string
	up(context.Context) error // from nothing, to full redundancy
	down() error              // ends every process that up started
	// phase is the time over which the moment of a fault is spread: the system's own rhythm.
	phase() time.Duration
	// targets are the addresses that clients use, in turn.
	targets() []*pgx.ConnConfig
	// strike brings a fault about and returns when that is done. After a lost host, comeBack starts it again; else nil.
	strike(context.Context, fault) (comeBack func() error, err error)
	// redundant returns nil when both standbys stream and have on their disks the WAL up to a position.
	redundant(ctx context.Context, lsn string) error
}

// round is one fault on one system.
type round struct {
	system       string
	fault        fault
	outage       time.Duration // longest time between two acknowledgements
	acknowledged int
	lost         int           // acknowledged rows that are not there
	redundancy   time.Duration // from the fault, after a lost host from its return, to both standbys up to date
	away         time.Duration // how long the host was away
	err          error         // the round was not measured to its end
}

func (r round) String() string {
	if r.err != nil {
		return fmt.Sprintf("%-16s %-10s not measured: %v", r.system, r.fault, r.err)
	}
	return fmt.Sprintf("%-16s %-10s outage %6.2f s, redundant again after %5.1f s, acknowledged %d, lost %d",
		r.system, r.fault, r.outage.Seconds(), r.redundancy.Seconds(), r.acknowledged, r.lost)
}

// measure carries out one fault at a moment after writes are steady, and follows it until redundancy is back. Every
// acknowledgement goes to a log.
func measure(ctx context.Context, s system, f fault, moment time.Duration, first int, log string) round {
	r := round{system: s.name(), fault: f}
	r.err = r.run(ctx, s, moment, first, log)
	return r
}

func (r *round) run(ctx context.Context, s system, moment time.Duration, first int, log string) error {
	last, err := prepare(ctx, s)
	if err != nil {
		return fmt.Errorf("be steady before the fault: %w", err)
	}
	c := startClient(ctx, s.targets(), first, last)
	defer c.end()
	if err := pause(ctx, before+moment); err != nil {
		return err
	}
	if err := c.await(ctx, steadyMax); err != nil {
		return fmt.Errorf("write before the fault: %w", err)
	}

	began := time.Since(c.origin)
	comeBack, err := s.strike(ctx, r.fault)
	if err != nil {
		return fmt.Errorf("bring the fault about: %w", err)
	}
	struck := time.Since(c.origin)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	failed := c.await(ctx, outageMax)
	from := began
	if comeBack != nil {
		if err := pause(ctx, max(time.Second, struck+awayMin-time.Since(c.origin))); err != nil {
			return err
		}
		from = time.Since(c.origin)
		r.away = from - struck
		if err := comeBack(); err != nil {
			return fmt.Errorf("bring the host back: %w", err)
		}
	}
	if failed != nil {
		return fmt.Errorf("write after the fault: %w", failed)
	}
	var mark string
	err = await(ctx, outageMax, look, func() (err error) {
		mark, err = position(ctx, s)
		return err
	})
	if err != nil {
		return err
	}
	notAgain := await(ctx, again, look, func() error { return s.redundant(ctx, mark) })
	r.redundancy = time.Since(c.origin) - from
	if err := pause(ctx, max(before, struck+watched-time.Since(c.origin))); err != nil {
		return err
	}
	c.end()
	acks := c.noted()
	r.acknowledged, r.outage = len(acks), longestGap(acks, began, time.Since(c.origin))
	if err := c.writeLog(log); err != nil {
		return err
	}
	has, err := rowsSince(ctx, s.targets(), last)
	if err != nil {
		return err
	}
	r.lost = lost(acks, has)
	if notAgain != nil {
		return fmt.Errorf("be redundant again (outage %.2f s, lost %d rows): %w", r.outage.Seconds(), r.lost, notAgain)
	}
	return nil
}

// prepare waits for full redundancy and returns the highest id that was ever written.
func prepare(ctx context.Context, s system) (int64, error) {
	var last int64
	err := await(ctx, steadyMax, look, func() error {
		lsn, err := position(ctx, s)
		if err != nil {
			return err
		}
		return s.redundant(ctx, lsn)
	})
	if err != nil {
		return 0, err
	}
	return last, ask(ctx, s.targets(), func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, table); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM acks").Scan(&last)
	})
}

// position is how far the primary has flushed its WAL.
func position(ctx context.Context, s system) (string, error) {
	var lsn string
	err := ask(ctx, s.targets(), func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&lsn)
	})
	if err != nil {
		return "", fmt.Errorf("ask how far the primary is: %w", err)
	}
	return lsn, nil
}

// await waits until writes flow.
func (c *client) await(ctx context.Context, limit time.Duration) error {
	return await(ctx, limit, writePause, func() error {
		if !c.flows() {
			return errSilent
		}
		return nil
	})
}
