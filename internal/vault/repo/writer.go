package repo

import (
	"context"
	"errors"

	"holdfast/internal/vault/repo/epoch"
)

// WriteOptions is how a writer works.
type WriteOptions struct {
	Purpose  string      // for the log
	OnUpload func(int64) // told of each blob that was stored, with its size in bytes
}

// Writer is a session of writing. It may be used by many goroutines.
type Writer struct {
	repo      *Repository
	manifests sessionManifests
}

// NewWriter begins a session.
func (r *Repository) NewWriter(ctx context.Context, o WriteOptions) (*Writer, error) {
	return nil, errors.New("not yet")
}

// Write runs f in a session of its own, and flushes it when f errs not.
func (r *Repository) Write(ctx context.Context, o WriteOptions, f func(ctx context.Context, w *Writer) error) error {
	return errors.New("not yet")
}

// Repository is what the session writes to.
func (w *Writer) Repository() *Repository { return w.repo }

// Store stores one content unless it is there.
func (w *Writer) Store(ctx context.Context, p []byte, prefix string, compress bool) (ContentID, error) {
	return ContentID{}, errors.New("not yet")
}

// Content is [Repository.Content], and sees what this session stored.
func (w *Writer) Content(ctx context.Context, id ContentID) ([]byte, error) {
	return nil, errors.New("not yet")
}

// ContentInfo is [Repository.ContentInfo], and sees what this session stored.
func (w *Writer) ContentInfo(ctx context.Context, id ContentID) (Info, error) {
	return Info{}, errors.New("not yet")
}

// Delete marks a content as deleted.
func (w *Writer) Delete(ctx context.Context, id ContentID) error { return errors.New("not yet") }

// Undelete takes that mark away.
func (w *Writer) Undelete(ctx context.Context, id ContentID) error { return errors.New("not yet") }

// Rewrite stores a content again in a new pack.
func (w *Writer) Rewrite(ctx context.Context, id ContentID) error { return errors.New("not yet") }

// Recover reads what a pack says of itself.
func (w *Writer) Recover(ctx context.Context, pack string, size int64, commit bool) ([]Info, error) {
	return nil, errors.New("not yet")
}

// EachContentOf is [Repository.EachContentOf], and sees what this session stored.
func (w *Writer) EachContentOf(ctx context.Context, prefix string, deletedToo bool, each func(Info) error) error {
	return errors.New("not yet")
}

// revision changes with whatever this session stores, flushes or learns.
func (w *Writer) revision() int64 { return 0 }

// Flush stores what is not stored yet.
func (w *Writer) Flush(ctx context.Context) error { return errors.New("not yet") }

// Close ends the session without a flush.
func (w *Writer) Close(ctx context.Context) error { return nil }

// Indexes is how the indexes of the repository are joined.
func (w *Writer) Indexes() *epoch.Manager { return nil }

// SessionOf is the session in the name of a pack or marker; "" = none.
func SessionOf(blob string) string { return "" }
