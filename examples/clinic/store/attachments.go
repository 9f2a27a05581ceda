package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Attachment describes one stored document.
type Attachment struct {
	ID            int64     `json:"id"`
	PracticeID    int64     `json:"practice_id"`
	AppointmentID *int64    `json:"appointment_id,omitempty"`
	Name          string    `json:"name"`
	ContentType   string    `json:"content_type"`
	SizeBytes     int64     `json:"size_bytes"`
	SHA256        string    `json:"sha256"` // hex
	CreatedAt     time.Time `json:"created_at"`
}

const attachmentColumns = `id, practice_id, appointment_id, name, content_type, octet_length(content),
	encode(sha256, 'hex'), created_at`

// Attachments lists a practice's documents, oldest first, without their content.
func (s *Store) Attachments(ctx context.Context, practice int64) ([]Attachment, error) {
	var list []Attachment
	what := fmt.Sprintf("list the attachments of practice %d", practice)
	err := s.read(ctx, what, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT `+attachmentColumns+` FROM attachments WHERE practice_id = $1 ORDER BY id`, practice)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Attachment])
		return err
	})
	return list, err
}

// AddAttachment stores a document with the hash of its content; keys as with AddPractice. ErrNotFound when
// the practice is not there.
func (s *Store) AddAttachment(ctx context.Context, key string, a Attachment, content []byte) (Attachment, error) {
	sum := sha256.Sum256(content)
	err := s.write(ctx, "add an attachment", func(ctx context.Context, c *pgx.Conn) error {
		row := c.QueryRow(ctx, `INSERT INTO attachments
				(practice_id, appointment_id, name, content_type, sha256, content, request_key)
			SELECT id, $2, $3, $4, $5, $6, $7 FROM practices WHERE id = $1
			ON CONFLICT (request_key) DO UPDATE SET request_key = EXCLUDED.request_key
			RETURNING `+attachmentColumns, a.PracticeID, a.AppointmentID, a.Name, a.ContentType, sum[:], content, key)
		return found(scanAttachment(row, &a))
	})
	return a, err
}

// Attachment returns one document and its content, or ErrNotFound. Content that no longer matches its hash
// is an error, never served.
func (s *Store) Attachment(ctx context.Context, id int64) (Attachment, []byte, error) {
	var a Attachment
	var content []byte
	err := s.read(ctx, fmt.Sprintf("read attachment %d", id), func(ctx context.Context, c *pgx.Conn) error {
		row := c.QueryRow(ctx, `SELECT `+attachmentColumns+`, content FROM attachments WHERE id = $1`, id)
		return found(scanAttachment(row, &a, &content))
	})
	if err != nil {
		return Attachment{}, nil, err
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != a.SHA256 {
		return Attachment{}, nil, fmt.Errorf("read attachment %d: content has hash %x, stored as %s", id, sum, a.SHA256)
	}
	return a, content, nil
}

func scanAttachment(row pgx.Row, a *Attachment, more ...any) error {
	return row.Scan(append([]any{&a.ID, &a.PracticeID, &a.AppointmentID, &a.Name, &a.ContentType, &a.SizeBytes,
		&a.SHA256, &a.CreatedAt}, more...)...)
}
