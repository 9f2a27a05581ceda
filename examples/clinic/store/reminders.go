package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// reminderBatch bounds one round, so that a backlog does not hold its row locks for long.
const reminderBatch = 100

// SendReminders sends what is due, at most a batch, and returns how many. A message is one row of
// reminder_log, written in the same transaction that marks the appointment: a second instance, a repeated
// round, or an appointment put back from a backup never sends it again.
func (s *Store) SendReminders(ctx context.Context, instance string) (sent int64, err error) {
	err = s.write(ctx, "send reminders", func(ctx context.Context, c *pgx.Conn) error {
		tag, err := c.Exec(ctx, `WITH due AS (
				SELECT id FROM appointments
				WHERE remind_at <= now() AND starts_at > now() AND reminded_at IS NULL AND cancelled_at IS NULL
				ORDER BY remind_at LIMIT $2 FOR UPDATE SKIP LOCKED
			), marked AS (
				UPDATE appointments a SET reminded_at = now() FROM due WHERE a.id = due.id
				RETURNING a.id, a.patient, a.starts_at
			)
			INSERT INTO reminder_log (appointment_id, instance, patient, starts_at)
			SELECT id, $1, patient, starts_at FROM marked
			ON CONFLICT (appointment_id) DO NOTHING`, instance, reminderBatch)
		sent = tag.RowsAffected()
		return err
	})
	return sent, err
}
