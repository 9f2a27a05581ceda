package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
)

// Practice is a practice that the client made.
type Practice struct {
	ID           int64
	Name         string
	Appointments []int64 // ids
}

// upload is a document that the application said it stored.
type upload struct {
	id     int64
	sha256 string // hex, of the bytes that were sent
}

// parallelCalls bounds how many preparing requests are on their way at once.
const parallelCalls = 8

// Seed makes practices with appointments in the coming weeks, through the edge, and returns them. What fails
// is tried again until ctx ends.
func (c *Client) Seed(ctx context.Context, practices, appointmentsEach int) ([]Practice, error) {
	list := make([]Practice, practices)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelCalls)
	for i := range list {
		g.Go(func() error {
			p := &list[i]
			p.Name = fmt.Sprintf("Practice %d of %s", i+1, c.cfg.Client)
			var err error
			if p.ID, err = c.add(ctx, "/api/practices", map[string]any{"name": p.Name, "city": "Musterstadt"}); err != nil {
				return fmt.Errorf("make practice %d: %w", i+1, err)
			}
			p.Appointments = make([]int64, appointmentsEach)
			for j := range p.Appointments {
				starts := time.Now().Add(48*time.Hour + time.Duration(j)*30*time.Minute).Truncate(time.Minute)
				p.Appointments[j], err = c.add(ctx, "/api/appointments", map[string]any{
					"practice_id": p.ID, "starts_at": starts,
					"patient": fmt.Sprintf("Patient %d-%d", i+1, j+1), "note": "check-up",
				})
				if err != nil {
					return fmt.Errorf("make appointment %d of practice %d: %w", j+1, i+1, err)
				}
			}
			return nil
		})
	}
	return list, g.Wait()
}

// UploadAttachments stores count documents of sizeBytes random bytes for a practice, and remembers what the
// application acknowledged.
func (c *Client) UploadAttachments(ctx context.Context, practice int64, count, sizeBytes int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelCalls)
	for i := range count {
		g.Go(func() error {
			content := make([]byte, sizeBytes)
			if _, err := rand.Read(content); err != nil {
				return fmt.Errorf("make random bytes: %w", err)
			}
			sum := sha256.Sum256(content)
			u := upload{sha256: hex.EncodeToString(sum[:])}
			query := url.Values{"practice": {fmt.Sprint(practice)}, "name": {fmt.Sprintf("document-%d.bin", i+1)}, "sha256": {u.sha256}}
			answer, err := c.callUntil(ctx, http.MethodPost, "/api/attachments?"+query.Encode(), http.StatusCreated, rand.Text(), content)
			if err != nil {
				return fmt.Errorf("upload attachment %d: %w", i+1, err)
			}
			if u.id, err = idIn(answer); err != nil {
				return fmt.Errorf("upload attachment %d: %w", i+1, err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.uploads = append(c.uploads, u)
			return nil
		})
	}
	return g.Wait()
}

// ReadAttachments reads every uploaded document back through the edge and compares its bytes with those that
// were sent. It returns how many are whole; the error names every one that is not.
func (c *Client) ReadAttachments(ctx context.Context) (whole int, err error) {
	c.mu.Lock()
	uploads := append([]upload(nil), c.uploads...)
	c.mu.Unlock()
	if len(uploads) == 0 {
		return 0, errors.New("read attachments back: none was uploaded")
	}
	var wrong []error
	for _, u := range uploads {
		content, err := c.callUntil(ctx, http.MethodGet, fmt.Sprintf("/api/attachments/%d", u.id), http.StatusOK, "", nil)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("read attachment %d back: %w", u.id, err))
			continue
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != u.sha256 {
			wrong = append(wrong, fmt.Errorf("read attachment %d back: it has hash %x, sent was %s", u.id, sum, u.sha256))
			continue
		}
		whole++
	}
	return whole, errors.Join(wrong...)
}

// add posts one JSON object until it is stored and returns its id.
func (c *Client) add(ctx context.Context, path string, value any) (int64, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return 0, fmt.Errorf("write the request: %w", err)
	}
	answer, err := c.callUntil(ctx, http.MethodPost, path, http.StatusCreated, rand.Text(), body)
	if err != nil {
		return 0, err
	}
	return idIn(answer)
}

func idIn(answer []byte) (int64, error) {
	var got struct{ ID int64 }
	if err := json.Unmarshal(answer, &got); err != nil || got.ID <= 0 {
		return 0, fmt.Errorf("read the id in %q: %w", answer, errors.Join(err, errNoID))
	}
	return got.ID, nil
}

var errNoID = errors.New("the answer holds no id")
