package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// freshMax bounds how long a standby may take to replay the primary's checkpoint.
const freshMax = 2 * time.Minute

// freshen lets a backup from a standby begin at the present. A standby makes no checkpoints of its own: its
// backup begins at the last one of the primary's that it replayed (PostgreSQL manual, "Restartpoints"), which may be
// minutes old. Soon after the archive began, that is before the log that the vault holds, and no waiting would
// bring that log there.
func (r *baseRun) freshen(ctx context.Context, conn *pgx.Conn) (err error) {
	if r.o.Primary == nil {
		return nil
	}
	var standby bool
	if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil || !standby {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, freshMax)
	defer cancel()
	primary, err := pgx.ConnectConfig(ctx, r.o.Primary)
	if err != nil {
		return err
	}
	defer func() { _ = primary.Close(context.WithoutCancel(ctx)) }() // nothing is open in it
	if _, err := primary.Exec(ctx, "checkpoint"); err != nil {
		return err
	}
	var to string
	if err := primary.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&to); err != nil {
		return err
	}
	for {
		var there bool
		if err := conn.QueryRow(ctx, "select coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, true)", to).Scan(&there); err != nil {
			return err
		}
		if there {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until the standby has replayed %s: %w", to, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
