package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault/wal"
)

// MarkPoint writes a restore point of a name into the log of a primary and gives the position behind it. When it returns
// the log up to there is on the primary's disk, and its segment is ended, so that it is stored without waiting for more.
func MarkPoint(ctx context.Context, conf *pgx.ConnConfig, name string) (lsn wal.LSN, err error) {
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return 0, fmt.Errorf("note restore point %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var text string
	if err := conn.QueryRow(ctx, "select pg_create_restore_point($1)::text", name).Scan(&text); err != nil {
		return 0, fmt.Errorf("note restore point %s: %w", name, err)
	}
	if _, err := conn.Exec(ctx, "select pg_switch_wal()"); err != nil { // the note alone would wait in memory
		return 0, fmt.Errorf("store restore point %s: %w", name, err)
	}
	return wal.ParseLSN(text)
}
