package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
)

// Each standby streams through a slot of its own on the primary. A slot serves one connection at a time, so that a
// walsender whose link was cut and that lives on can never count beside the new one of the same standby: with
// ANY 2 one standby would acknowledge as if it were two. What a slot keeps of the log is a welcome extra, and
// bounded by max_slot_wal_keep_size.
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

// reserveSlot makes sure that the primary has our slot.
func (s *Server) reserveSlot(ctx context.Context, primary database.Endpoint, slot string) error {
	conn, err := s.connectPeer(ctx, primary)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	_, err = conn.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true)
		WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, slot)
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

// releaseSlots drops the slots of standbys that may no longer acknowledge and do not stream: they would keep log
// for nobody. One that becomes a standby again reserves its slot anew.
func (s *Server) releaseSlots(ctx context.Context, conn *pgx.Conn, n database.Names) error {
	keep := make([]string, 0, len(n.List))
	for _, name := range n.List {
		incarnation, _, _ := strings.Cut(name, "@")
		keep = append(keep, slotPrefix+incarnation)
	}
	_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
		WHERE starts_with(slot_name, $1) AND NOT active AND NOT slot_name = ANY(string_to_array($2, ' '))`,
		slotPrefix, strings.Join(keep, " "))
	if err != nil {
		return fmt.Errorf("release slots: %w", err)
	}
	return nil
}
