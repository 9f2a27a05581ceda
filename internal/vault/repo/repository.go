// Package repo is the repository of a vault: contents under their own hash in packs, indexes that say where each lies, objects
// made of contents, and manifests that name objects. Its blobs are those of the kopia program, repository format 3, which can
// read what is written here. Start at [Open] and [Repository.Write].
package repo

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/store"
)

// ErrNotInitialized is returned by [Open] where no format blob lies.
var ErrNotInitialized = errors.New("the repository was never initialised")

// ErrWrongPassword is returned by [Open] for a password that does not open the format blob.
var ErrWrongPassword = errors.New("the password does not open the repository")

// ErrContentNotFound is returned for a content that no index knows, or that is deleted where a deleted one does not count.
var ErrContentNotFound = errors.New("content not found")

// ContentID names a content: its hash, behind a letter for what is no data of files.
type ContentID = index.ID

// Info is what the index says of a content.
type Info = index.Info

// Options is how a repository is opened. The zero value is good.
type Options struct {
	Host, User string        // who writes, for session markers
	ReadOnly   bool          // no writer can be made
	FormatKept time.Duration // how long the format blob is trusted before it is read again; 0 = 15 minutes
	Fatal      func(error)   // told once when a format appeared that asks for more than this program can; later writes fail
	Log        *slog.Logger
	Now        func() time.Time
}

// Repository is an open repository. It may be used by many goroutines.
type Repository struct {
	manifests committedManifests
}

// Initialize writes a new repository into an empty store.
func Initialize(ctx context.Context, s store.Store, password string) error {
	return errors.New("not yet")
}

// Open opens the repository of a store.
func Open(ctx context.Context, s store.Store, password string, o Options) (*Repository, error) {
	return nil, errors.New("not yet")
}

// Close lets go of what is kept in memory. Writers are closed before.
func (r *Repository) Close(ctx context.Context) error { return nil }

// Refresh learns what others have written.
func (r *Repository) Refresh(ctx context.Context) error { return errors.New("not yet") }

// DeriveKey derives a key for another purpose from the repository's own.
func (r *Repository) DeriveKey(purpose string, n int) ([]byte, error) {
	return nil, errors.New("not yet")
}

// Rewrapped gives the format blob as it is under another password.
func (r *Repository) Rewrapped(password string) ([]byte, error) { return nil, errors.New("not yet") }
