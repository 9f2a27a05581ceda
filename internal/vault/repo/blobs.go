package repo

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"holdfast/internal/vault/repo/epoch"
)

// Blob is a stored blob of the repository; its time is by the place's clock.
type Blob = epoch.Blob

// What follows is for who cleans the repository up: everybody else speaks of contents and objects.

// EachBlob gives the blobs whose names begin with prefix, in no order.
func (r *Repository) EachBlob(ctx context.Context, prefix string, each func(Blob) error) error {
	return errors.New("not yet")
}

// StatBlob describes one blob.
func (r *Repository) StatBlob(ctx context.Context, name string) (Blob, error) {
	return Blob{}, errors.New("not yet")
}

// ReadBlob gives all of a blob. store.ErrNotFound: it is not there.
func (r *Repository) ReadBlob(ctx context.Context, name string) ([]byte, error) {
	return nil, errors.New("not yet")
}

// ReplaceBlob stores a blob whatever was there: one of those that are meant to change.
func (r *Repository) ReplaceBlob(ctx context.Context, name string, content []byte) error {
	return errors.New("not yet")
}

// DeleteBlob deletes a blob; one that is not there is no error.
func (r *Repository) DeleteBlob(ctx context.Context, name string) error {
	return errors.New("not yet")
}

// Now is the time by the clock that the repository was opened with.
func (r *Repository) Now() time.Time { return time.Time{} }

// Log is where the repository tells of itself. Never nil.
func (r *Repository) Log() *slog.Logger { return nil }

// MaxPackSize is from how many bytes on a pack is full.
func (r *Repository) MaxPackSize() int { return 0 }
