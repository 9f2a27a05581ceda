package repo

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"holdfast/internal/vault/repo/epoch"
	"holdfast/internal/vault/store"
)

// Blob is a stored blob of the repository; its time is by the place's clock.
type Blob = epoch.Blob

// What follows is for who cleans the repository up: everybody else speaks of contents and objects.

// EachBlob gives the blobs whose names begin with prefix, in no order.
func (r *Repository) EachBlob(ctx context.Context, prefix string, each func(Blob) error) error {
	return place{r.blobs}.List(ctx, prefix, each)
}

// StatBlob describes one blob.
func (r *Repository) StatBlob(ctx context.Context, name string) (Blob, error) {
	i, err := r.blobs.Stat(ctx, blobDir+name)
	return Blob{Name: name, Size: i.Size, Time: i.ModTime}, err
}

// ReadBlob gives all of a blob. store.ErrNotFound: it is not there.
func (r *Repository) ReadBlob(ctx context.Context, name string) ([]byte, error) {
	return store.Read(ctx, r.blobs, blobDir+name)
}

// ReplaceBlob stores a blob whatever was there: one of those that are meant to change.
func (r *Repository) ReplaceBlob(ctx context.Context, name string, content []byte) error {
	if err := r.mayWrite(ctx); err != nil {
		return err
	}
	return r.blobs.Replace(ctx, blobDir+name, store.Bytes(content))
}

// DeleteBlob deletes a blob; one that is not there is no error. Where deleting is denied, the markers of sessions stay, and that is
// no error: they only keep a clean-up from what is being written.
func (r *Repository) DeleteBlob(ctx context.Context, name string) error {
	if r.options.ReadOnly {
		return ErrReadOnly
	}
	err := r.blobs.Delete(ctx, blobDir+name)
	if errors.Is(err, store.ErrDenied) && strings.HasPrefix(name, markerPrefix) {
		return nil
	}
	return err
}

// isGone reports whether a blob is not there for certain.
func isGone(err error) bool {
	return errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnseen)
}

// Now is the time by the clock that the repository was opened with.
func (r *Repository) Now() time.Time { return r.options.Now() }

// Log is where the repository tells of itself. Never nil.
func (r *Repository) Log() *slog.Logger { return r.options.Log }

// MaxPackSize is from how many bytes on a pack is full.
func (r *Repository) MaxPackSize() int { return r.format.now().MaxPackSize() }

// Dropped gives the entry of a content that was deleted so long ago that it counts as not there; false = it counts, or no index knows
// of it.
func (r *Repository) Dropped(id ContentID) (Info, bool) {
	i, counts, ok := r.known.find(id)
	return i, ok && !counts
}
