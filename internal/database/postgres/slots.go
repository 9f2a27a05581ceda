package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
)

// Each standby streams through a slot of its own on the primary. A slot serves one connection at a time, so that a
// walsender whose link was cut and that lives on can never count beside the new one of the same standby: with
// ANY 2 one standby would acknowledge as if it were two. Standbys keep slots for the other members, too, so that
// whoever is promoted has the log that they lack; nobody streams through those. The room says how long and how much
// may be kept, and max_slot_wal_keep_size bounds it in any case.
const slotPrefix = "holdfast_standby_"

// slotOf is the slot of the standby whose stream conninfo describes; "" when it describes none.
func slotOf(conninfo string) string {
	_, rest, ok := strings.Cut(conninfo, "application_name='")
	incarnation, _, found := strings.Cut(rest, "@")
	if !ok || !found || incarnation == "" {
		return ""
	}
	return slotPrefix + incarnation
}

// reserve makes a slot that keeps the log from now on, where there is none of that name.
const reserve = `SELECT pg_create_physical_replication_slot($1, true)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`

// reserveWithin bounds how long a primary may take to make our slot. Who is about to follow it cannot vote meanwhile, so one that
// dies within the question must not hold up what comes after its death: it is found dead in about the same time.
const reserveWithin = 3 * time.Second

// reserveSlot makes sure that the primary has our slot.
func (s *Server) reserveSlot(ctx context.Context, primary database.Endpoint, slot string) error {
	ctx, cancel := context.WithTimeout(ctx, reserveWithin)
	defer cancel()
	conn, err := s.connectPeer(ctx, primary)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	// One that the server has given up serves nobody any more.
	_, err = conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND wal_status = 'lost' AND NOT active", slot)
	if err == nil {
		_, err = conn.Exec(ctx, reserve, slot)
	}
	if err != nil {
		return fmt.Errorf("reserve the slot %s on %s: %w", slot, primary.Host, err)
	}
	return nil
}

// giveUpSlot releases a slot that was reserved for nothing. Where it cannot, the primary does so by itself after a
// while.
func (s *Server) giveUpSlot(primary database.Endpoint, slot string) {
	ctx, cancel := context.WithTimeout(s.background, 5*time.Second)
	defer cancel()
	conn, err := s.connectPeer(ctx, primary)
	if err == nil {
		defer closeSession(conn)
		_, err = conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active", slot)
	}
	if err != nil {
		s.log.Info("slot not released", "slot", slot, "primary", primary.Host, "err", err)
	}
}

// KeepSlots makes, moves and drops slots of ours, in a session that lasts from one call to the next.
func (s *Server) KeepSlots(ctx context.Context, o database.SlotOrder) error {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if err := s.keepSlots(ctx, o); err != nil {
		s.slots.drop()
		return fmt.Errorf("keep the slots of other members: %w", err)
	}
	return nil
}

// slotKeeper keeps the session that slots are kept by.
type slotKeeper struct {
	mu   sync.Mutex // one order at a time; guards conn
	conn *pgx.Conn
}

func (k *slotKeeper) drop() {
	if k.conn != nil {
		closeSession(k.conn)
		k.conn = nil
	}
}

func (k *slotKeeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
}

func (s *Server) keepSlots(ctx context.Context, o database.SlotOrder) error {
	if s.slots.conn == nil || s.slots.conn.IsClosed() {
		conn, err := s.connect(ctx, "postgres")
		if err != nil {
			return err
		}
		s.slots.conn = conn
	}
	conn := s.slots.conn
	for _, incarnation := range o.Drop {
		_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active", slotPrefix+incarnation)
		if err != nil {
			return fmt.Errorf("drop the slot of %s: %w", incarnation, err)
		}
	}
	for _, k := range o.Keep {
		if _, err := conn.Exec(ctx, reserve, slotPrefix+k.Incarnation); err != nil {
			return fmt.Errorf("make a slot for %s: %w", k.Incarnation, err)
		}
		if k.At == 0 {
			continue
		}
		// Where it stands already is no error for PostgreSQL only if it is not behind; what we have not replayed
		// ourselves cannot be let go.
		_, err := conn.Exec(ctx, `SELECT pg_replication_slot_advance(slot_name, to_lsn) FROM pg_replication_slots,
 (SELECT least($2::pg_lsn, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END) AS to_lsn) x
 WHERE slot_name = $1 AND NOT active AND wal_status <> 'lost' AND restart_lsn < to_lsn`, slotPrefix+k.Incarnation, k.At.String())
		if err != nil {
			return fmt.Errorf("move the slot of %s to %s: %w", k.Incarnation, k.At, err)
		}
	}
	return nil
}

// observeSlots lists the slots of ours.
func observeSlots(ctx context.Context, conn *pgx.Conn) ([]database.Slot, error) {
	rows, err := conn.Query(ctx, `SELECT substr(slot_name, $2::int), active, coalesce(wal_status = 'lost', true), restart_lsn::text,
 coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint
 FROM pg_replication_slots WHERE starts_with(slot_name, $1) ORDER BY slot_name`, slotPrefix, len(slotPrefix)+1)
	if err != nil {
		return nil, fmt.Errorf("list the slots: %w", err)
	}
	slots, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (database.Slot, error) {
		var x database.Slot
		var at *string
		if err := row.Scan(&x.Incarnation, &x.Active, &x.Lost, &at, &x.Kept); err != nil {
			return x, err
		}
		x.Kept = max(0, x.Kept)
		var err error
		x.At, err = parseLSN(at)
		return x, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the slots: %w", err)
	}
	return slots, nil
}
