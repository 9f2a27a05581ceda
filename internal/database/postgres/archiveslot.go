package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/clock"
	"holdfast/internal/database"
)

// ArchiveSlot is the slot that keeps what the vault lacks of the log. On the primary the archive streams through it; on
// a standby nobody does, and it is moved to where the primary's stands, so that whoever is promoted still has that log.
const ArchiveSlot = "holdfast_archive"

// KeptForArchive is how a standby keeps log for the archive.
type KeptForArchive struct {
	From database.LSN // the slot keeps the log from here on
	Anew bool         // the server had let go of what the slot was to keep, or it stood too far ahead: it was made anew

	Apart int64 // bytes of log that the server's settings let come between two restart points
}

const (
	// archiveBack is how long an archive that has left a busy server for a while is waited for: about two of its rounds.
	archiveBack = 2 * time.Second
	// archiveLook is how often it is looked for meanwhile: several times within one of its visits.
	archiveLook = 15 * time.Millisecond
)

// ArchiveConfirmed is how far the vault holds the log, as the archive has told the primary; 0 = no archive streams from
// there at the moment. A position of another timeline's end cannot come out: the archive says where it stands on this
// server's own history before anything else, and a slot of which it has said nothing yet does not count. An archive only visits
// a server that commits often, so it is waited for a little where it has a slot.
func (s *Server) ArchiveConfirmed(ctx context.Context, primary database.Endpoint) (database.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	conn, err := s.connectPeer(ctx, primary)
	if err != nil {
		return 0, err
	}
	defer closeSession(conn)
	at, err := confirmed(ctx, s.clock, func() (database.LSN, bool, error) {
		var at *string
		var there bool
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND restart_lsn IS NOT NULL AND NOT pg_is_in_recovery()),
 (SELECT least(s.restart_lsn, r.flush_lsn)::text FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
 WHERE s.slot_name = $1 AND r.flush_lsn IS NOT NULL AND s.restart_lsn IS NOT NULL AND NOT pg_is_in_recovery())`, ArchiveSlot).Scan(&there, &at)
		if err != nil {
			return 0, false, err
		}
		lsn, err := parseLSN(at)
		return lsn, there, err
	})
	if err != nil {
		return 0, fmt.Errorf("ask %s how far the archive is: %w", primary.Host, err)
	}
	return at, nil
}

// confirmed asks until the archive has said where it is: for archiveBack at most, and while it has a slot there.
func confirmed(ctx context.Context, c clock.Clock, ask func() (at database.LSN, there bool, err error)) (database.LSN, error) {
	for begun := c.Now(); ; {
		at, there, err := ask()
		if err != nil || at != 0 || !there || c.Now().Sub(begun) >= archiveBack {
			return at, err
		}
		if err := pause(ctx, archiveLook); err != nil {
			return 0, err
		}
	}
}

// KeepForArchive has our standby keep the log from at on; 0 = from where it keeps it now. It makes the slot where there is
// none, and anew where the server has given it up or it stands too far ahead (its data were another history's). The log
// before the last restart point cannot be reserved afterwards, so a slot that is made late begins behind at.
func (s *Server) KeepForArchive(ctx context.Context, at database.LSN) (KeptForArchive, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	var kept KeptForArchive
	err := s.within(ctx, func(conn *pgx.Conn) (err error) {
		kept, err = keepForArchive(ctx, conn, at)
		return err
	})
	if err != nil {
		return KeptForArchive{}, fmt.Errorf("keep the log from %s on for the archive: %w", at, err)
	}
	return kept, nil
}

func keepForArchive(ctx context.Context, conn *pgx.Conn, at database.LSN) (kept KeptForArchive, err error) {
	// Whole segments are kept: an archive that begins its last segment anew is not behind.
	dropped, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots,
 (SELECT $2::pg_lsn AS at, redo_lsn, pg_size_bytes(current_setting('wal_segment_size'))::numeric AS segment FROM pg_control_checkpoint()) x
 WHERE slot_name = $1 AND NOT active AND pg_is_in_recovery() AND (wal_status = 'lost'
 OR at <> '0/0' AND restart_lsn > redo_lsn AND div(restart_lsn - '0/0'::pg_lsn, segment) > div(at - '0/0'::pg_lsn, segment))`, ArchiveSlot, at.String())
	if err != nil {
		return kept, fmt.Errorf("drop the slot that serves no more: %w", err)
	}
	kept.Anew = dropped.RowsAffected() > 0
	if _, err := conn.Exec(ctx, reserve+" AND pg_is_in_recovery()", ArchiveSlot); err != nil {
		return kept, fmt.Errorf("make the slot: %w", err)
	}
	// What we have not replayed ourselves cannot be let go.
	_, err = conn.Exec(ctx, `SELECT pg_replication_slot_advance(slot_name, to_lsn) FROM pg_replication_slots, (SELECT least($2::pg_lsn, pg_last_wal_replay_lsn()) AS to_lsn) x
 WHERE slot_name = $1 AND NOT active AND wal_status <> 'lost' AND restart_lsn < to_lsn AND pg_is_in_recovery()`, ArchiveSlot, at.String())
	if err != nil {
		return kept, fmt.Errorf("move the slot: %w", err)
	}
	var from *string
	err = conn.QueryRow(ctx, `SELECT (SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1),
 pg_size_bytes(current_setting('max_wal_size'))`, ArchiveSlot).Scan(&from, &kept.Apart)
	if err != nil {
		return kept, fmt.Errorf("see where the slot stands: %w", err)
	}
	kept.From, err = parseLSN(from)
	return kept, err
}

// ForgetArchive lets go of the log that our server keeps for the archive. It is refused while an archive streams it. Where
// it is only the standby that need not keep it, the slot of a server that was promoted since stays: it is the archive's.
func (s *Server) ForgetArchive(ctx context.Context, standbyOnly bool) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err := s.within(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE slot_name = $1 AND (NOT $2 OR pg_is_in_recovery())`, ArchiveSlot, standbyOnly)
		return err
	})
	if err != nil {
		return fmt.Errorf("let go of the log that is kept for the archive: %w", err)
	}
	return nil
}

// restartPointWithin bounds how long a restart point is waited for; the server goes on with it after that.
const restartPointWithin = time.Minute

// RestartPoint has our standby remove now what nobody needs of its log, as far as the primary's checkpoints that it has
// replayed allow; without a new one there is nothing to do. A primary is left alone. It takes no turn among our
// operations: a takeover must not wait for it.
func (s *Server) RestartPoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restartPointWithin)
	defer cancel()
	err := s.within(ctx, func(conn *pgx.Conn) error {
		var standby bool
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil || !standby {
			return err
		}
		_, err := conn.Exec(ctx, "CHECKPOINT")
		return err
	})
	if err != nil {
		return fmt.Errorf("make a restart point: %w", err)
	}
	return nil
}
