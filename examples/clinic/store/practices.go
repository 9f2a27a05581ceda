package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Practice is one dental practice.
type Practice struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	City string `json:"city"`
}

// Appointment is one patient's visit.
type Appointment struct {
	ID         int64      `json:"id"`
	PracticeID int64      `json:"practice_id"`
	Patient    string     `json:"patient"`
	StartsAt   time.Time  `json:"starts_at"`
	Note       string     `json:"note"`
	Reminded   *time.Time `json:"reminded_at,omitempty"`
	Cancelled  *time.Time `json:"cancelled_at,omitempty"`
}

// remindBefore is how long before an appointment its reminder is due.
const remindBefore = 24 * time.Hour

// Practices lists all practices by name.
func (s *Store) Practices(ctx context.Context) ([]Practice, error) {
	var list []Practice
	err := s.read(ctx, "list practices", func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT id, name, city FROM practices ORDER BY name, id`)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Practice])
		return err
	})
	return list, err
}

// Practice returns one practice, or ErrNotFound.
func (s *Store) Practice(ctx context.Context, id int64) (Practice, error) {
	var p Practice
	err := s.read(ctx, fmt.Sprintf("read practice %d", id), func(ctx context.Context, c *pgx.Conn) error {
		return found(c.QueryRow(ctx, `SELECT id, name, city FROM practices WHERE id = $1`, id).
			Scan(&p.ID, &p.Name, &p.City))
	})
	return p, err
}

// AddPractice stores a practice and returns it with its id. Equal keys mean the same request: repeating one
// returns what the first stored.
func (s *Store) AddPractice(ctx context.Context, key string, p Practice) (Practice, error) {
	err := s.write(ctx, "add a practice", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `INSERT INTO practices (name, city, request_key) VALUES ($1, $2, $3)
			ON CONFLICT (request_key) DO UPDATE SET request_key = EXCLUDED.request_key
			RETURNING id, name, city`, p.Name, p.City, key).Scan(&p.ID, &p.Name, &p.City)
	})
	return p, err
}

// Appointments lists a practice's appointments in the order of their time, cancelled ones included.
func (s *Store) Appointments(ctx context.Context, practice int64) ([]Appointment, error) {
	var list []Appointment
	what := fmt.Sprintf("list the appointments of practice %d", practice)
	err := s.read(ctx, what, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT id, practice_id, patient, starts_at, note, reminded_at, cancelled_at
			FROM appointments WHERE practice_id = $1 ORDER BY starts_at, id`, practice)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Appointment])
		return err
	})
	return list, err
}

// AddAppointment stores an appointment; keys as with AddPractice. ErrNotFound when the practice is not there.
func (s *Store) AddAppointment(ctx context.Context, key string, a Appointment) (Appointment, error) {
	err := s.write(ctx, "add an appointment", func(ctx context.Context, c *pgx.Conn) error {
		err := c.QueryRow(ctx, `INSERT INTO appointments (practice_id, patient, starts_at, note, remind_at, request_key)
			SELECT id, $2, $3, $4, $5, $6 FROM practices WHERE id = $1
			ON CONFLICT (request_key) DO UPDATE SET request_key = EXCLUDED.request_key
			RETURNING id, practice_id, patient, starts_at, note`,
			a.PracticeID, a.Patient, a.StartsAt, a.Note, a.StartsAt.Add(-remindBefore), key).
			Scan(&a.ID, &a.PracticeID, &a.Patient, &a.StartsAt, &a.Note)
		return found(err)
	})
	return a, err
}

// CancelAppointment marks an appointment as cancelled and returns its practice. Cancelling twice keeps the
// first time.
func (s *Store) CancelAppointment(ctx context.Context, id int64) (practice int64, err error) {
	err = s.write(ctx, fmt.Sprintf("cancel appointment %d", id), func(ctx context.Context, c *pgx.Conn) error {
		return found(c.QueryRow(ctx, `UPDATE appointments SET cancelled_at = coalesce(cancelled_at, now())
			WHERE id = $1 RETURNING practice_id`, id).Scan(&practice))
	})
	return practice, err
}

// found turns "no rows" into ErrNotFound.
func found(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
