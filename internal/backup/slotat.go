package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault/wal"
)

// archiveSlot is the slot of a [Receiver] that is given no other name.
const archiveSlot = "holdfast_archive"

// Queue is what a primary says of the log that it keeps for the vault, whether anybody streams it now or not.
type Queue struct {
	At   wal.LSN // the vault holds all before this, or a second place does; 0 = nothing is kept for it
	Lost bool    // the server has let go of log that the vault did not hold
}

// QueueAt asks a primary where the archive's slot stands. The slot follows what the vault has confirmed, or a second place
// holds, and outlives whoever archives, so it is known while the vault is away and nobody has seen yet what it holds.
func QueueAt(ctx context.Context, cfg *pgx.ConnConfig) (q Queue, err error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return q, fmt.Errorf("ask the primary how much log waits for the vault: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // nothing was written
	var at *string
	err = conn.QueryRow(ctx, "SELECT restart_lsn::text, coalesce(wal_status = 'lost', false) FROM pg_replication_slots WHERE slot_name = $1 AND NOT pg_is_in_recovery()", archiveSlot).Scan(&at, &q.Lost)
	if errors.Is(err, pgx.ErrNoRows) {
		return q, nil
	}
	if err == nil && at != nil {
		q.At, err = wal.ParseLSN(*at)
	}
	if err != nil {
		return Queue{}, fmt.Errorf("ask the primary how much log waits for the vault: %w", err)
	}
	return q, nil
}
