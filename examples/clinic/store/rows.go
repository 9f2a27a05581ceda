package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// AddRow stores the numbered row (client, number) once, however often it is asked to, and returns how often
// that was. It returns nil only after a commit that PostgreSQL acknowledged.
func (s *Store) AddRow(ctx context.Context, client string, number int64) (attempts int, err error) {
	err = s.write(ctx, fmt.Sprintf("add row %d of %s", number, client), func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `INSERT INTO numbered_rows (client, number) VALUES ($1, $2)
			ON CONFLICT (client, number) DO UPDATE SET attempts = numbered_rows.attempts + 1
			RETURNING attempts`, client, number).Scan(&attempts)
	})
	return attempts, err
}

// RowsAfter returns at most limit numbers of a client above after, in order.
func (s *Store) RowsAfter(ctx context.Context, client string, after int64, limit int) ([]int64, error) {
	var list []int64
	err := s.read(ctx, "list the rows of "+client, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT number FROM numbered_rows WHERE client = $1 AND number > $2
			ORDER BY number LIMIT $3`, client, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return list, err
}
