package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Verify reads this client's rows from the database at dsn and compares them with what was acknowledged. It
// reads the tables themselves, not their indexes, so that a broken index cannot hide a row or a twin. The
// client may go on writing. An error means that nothing was compared; the verdict is in [Verdict.Err].
func (c *Client) Verify(ctx context.Context, dsn string) (Verdict, error) {
	acknowledged := map[Path]map[int64]bool{EdgeWrite: {}, ListenerWrite: {}}
	c.mu.Lock()
	for _, o := range c.outcomes {
		if set := acknowledged[o.Path]; set != nil && o.Acknowledged() {
			set[o.Number] = true
		}
	}
	before := maps.Clone(c.sent)
	c.mu.Unlock()

	stored, err := c.stored(ctx, dsn)
	if err != nil {
		return Verdict{}, fmt.Errorf("read back the rows of %s: %w", c.cfg.Client, err)
	}
	c.mu.Lock()
	after := maps.Clone(c.sent)
	c.mu.Unlock()

	var v Verdict
	for _, p := range c.Paths() {
		if p != EdgeRead {
			v.Paths = append(v.Paths, compare(p, acknowledged[p], before[p], after[p], stored[p]))
		}
	}
	return v, nil
}

// stored reads the numbers that each writing path left, in one snapshot.
func (c *Client) stored(ctx context.Context, dsn string) (numbers map[Path][]int64, err error) {
	pc, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the connection string: %w", err)
	}
	pc.DialFunc = c.cfg.Dial
	conn, err := pgx.ConnectConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	numbers = map[Path][]int64{}
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, snapshot, func(tx pgx.Tx) error {
		for _, setting := range []string{"enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"} {
			if _, err := tx.Exec(ctx, "SET LOCAL "+setting+" = off"); err != nil {
				return fmt.Errorf("set %s: %w", setting, err)
			}
		}
		for path, table := range map[Path]string{EdgeWrite: "numbered_rows", ListenerWrite: "load_rows"} {
			if !slices.Contains(c.Paths(), path) {
				continue
			}
			rows, err := tx.Query(ctx, "SELECT number FROM "+table+" WHERE client = $1", c.cfg.Client)
			if err != nil {
				return fmt.Errorf("read %s: %w", table, err)
			}
			if numbers[path], err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
				return fmt.Errorf("read %s: %w", table, err)
			}
		}
		return nil
	})
	return numbers, err
}
