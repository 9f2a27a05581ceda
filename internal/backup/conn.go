package backup

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// StreamFrom reads the connection string of a server whose log a [Receiver] takes.
func StreamFrom(dsn string) (*pgconn.Config, error) {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the connection to the primary: %w", err)
	}
	return c, nil
}

// ReadFrom reads the connection string of the server beside the data directory that [Base] reads.
func ReadFrom(dsn string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the connection to the server here: %w", err)
	}
	return c, nil
}
