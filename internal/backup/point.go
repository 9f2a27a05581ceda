package backup

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// MarkPoint writes a restore point of a name into the log of a primary. It gives the position behind it, and in whose log on
// which timeline that is: another timeline that forked below has the same positions and not the point. When it returns the
// log up to there is on the primary's disk, and its segment is ended, so that it is stored without waiting for more.
func MarkPoint(ctx context.Context, conf *pgx.ConnConfig, name string) (p vault.Point, err error) {
	p.ID = name
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return p, fmt.Errorf("note restore point %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var position, segment, system string
	if err := conn.QueryRow(ctx, "select at::text, pg_walfile_name(at), (select system_identifier::text from pg_control_system()) from pg_create_restore_point($1) as at",
		name).Scan(&position, &segment, &system); err != nil {
		return p, fmt.Errorf("note restore point %s: %w", name, err)
	}
	if _, err := conn.Exec(ctx, "select pg_switch_wal()"); err != nil { // the note alone would wait in memory
		return p, fmt.Errorf("store restore point %s: %w", name, err)
	}
	if p.LSN, err = wal.ParseLSN(position); err != nil {
		return p, fmt.Errorf("read where restore point %s is: %w", name, err)
	}
	timeline, err := strconv.ParseUint(segment[:min(8, len(segment))], 16, 32) // a primary writes one for as long as it is one
	if err == nil {
		p.Timeline = uint32(timeline)
		p.SystemID, err = strconv.ParseUint(system, 10, 64)
	}
	if err != nil {
		return p, fmt.Errorf("read in whose log restore point %s is: %w", name, err)
	}
	return p, nil
}
