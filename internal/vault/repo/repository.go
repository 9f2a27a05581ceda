// Package repo is the repository of a vault: contents under their own hash in packs, indexes that say where each lies, objects
// made of contents, and manifests that name objects. Its blobs are those of the kopia program, repository format 3, which can
// read what is written here. Start at [Open] and [Repository.Write].
package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/vault/repo/compression"
	"holdfast/internal/vault/repo/epoch"
	"holdfast/internal/vault/repo/format"
	"holdfast/internal/vault/repo/index"
	"holdfast/internal/vault/store"
)

// ErrNotInitialized is returned by [Open] where no format blob lies.
var ErrNotInitialized = errors.New("the repository was never initialised")

// ErrInitialized is returned by [Initialize] where a format blob lies already.
var ErrInitialized = errors.New("the repository is there already")

// ErrWrongPassword is returned by [Open] for a password that does not open the format blob.
var ErrWrongPassword = format.ErrWrongPassword

// ErrContentNotFound is returned for a content that no index knows, or that is deleted where a deleted one does not count.
var ErrContentNotFound = errors.New("content not found")

// ErrReadOnly is returned for writing to a repository that was opened read-only.
var ErrReadOnly = errors.New("the repository was opened for reading alone")

// ContentID names a content: its hash, behind a letter for what is no data of files.
type ContentID = index.ID

// Info is what the index says of a content.
type Info = index.Info

// What new repositories have; docs/decisions/0004 says why. Everything else is fixed by the format.
const (
	newSplitter = "FIXED-1M"
	newPackSize = 20 << 20 // bytes
)

const (
	blobDir     = "repository/" // before the name of every blob of a repository
	formatBlob  = "kopia.repository"
	formatKept  = 15 * time.Minute
	indexesKept = 15 * time.Minute // for how long the indexes are believed before they are read again

	// indexesMoment is how old indexes may be at most where what they say turned out not to be so.
	indexesMoment = 30 * time.Second
)

// Options is how a repository is opened. The zero value is good.
type Options struct {
	Host, User string          // who writes, for session markers
	ReadOnly   bool            // no writer can be made
	FormatKept time.Duration   // how long the format blob is trusted before it is read again; 0 = 15 minutes
	Keys       *format.Keyring // remembers what passwords give; nil = each opening takes a quarter of a second
	Fatal      func(error)     // told once when a format appeared that asks for more than this program can; later writes fail
	Log        *slog.Logger
	Now        func() time.Time
}

func (o Options) filled() Options {
	if o.FormatKept == 0 {
		o.FormatKept = formatKept
	}
	if o.Fatal == nil {
		o.Fatal = func(error) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Repository is an open repository. It may be used by many goroutines.
type Repository struct {
	blobs     store.Store
	options   Options
	format    *knownFormat
	seal      *format.Sealer
	zip       *compression.Compressor
	epochs    *epoch.Manager
	scratch   sync.Pool // of *[]byte: room for one content on its way
	manifests committedManifests

	refreshing sync.Mutex // held while the indexes are read
	known      knownIndexes
}

// Initialize writes a new repository into an empty store. What the password gives is remembered in keys; nil = nowhere.
// ErrInitialized: there is one.
func Initialize(ctx context.Context, s store.Store, password string, keys *format.Keyring) error {
	_, err := s.Stat(ctx, blobDir+formatBlob)
	switch {
	case err == nil:
		return ErrInitialized
	case !errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrUnseen):
		return fmt.Errorf("look for a repository: %w", err)
	}
	raw, err := keys.Make(password, format.New{Splitter: newSplitter, MaxPackSize: newPackSize}, rand.Reader)
	if err == nil {
		err = s.Replace(ctx, blobDir+formatBlob, store.Bytes(raw))
	}
	if err != nil {
		return fmt.Errorf("initialise the repository: %w", err)
	}
	return nil
}

// Open opens the repository of a store and reads its indexes. Errors: [ErrNotInitialized], [ErrWrongPassword], [format.ErrTooNew],
// [format.ErrDamaged], an [*IndexError], and what the store errs.
func Open(ctx context.Context, s store.Store, password string, o Options) (*Repository, error) {
	raw, err := store.Read(ctx, s, blobDir+formatBlob)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("open the repository: %w: %w", ErrNotInitialized, err)
	case err != nil:
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	f, err := o.Keys.Read(raw, password)
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	return openWith(ctx, s, f, raw, password, o)
}

// openWith is [Open] with a format blob that was opened.
func openWith(ctx context.Context, s store.Store, f *format.Format, raw []byte, password string, o Options) (r *Repository, err error) {
	r = &Repository{blobs: s, options: o.filled()}
	r.format = &knownFormat{password: password, raw: raw, current: f, readAt: r.now()}
	if r.seal, err = f.Sealer(); err == nil {
		r.zip, err = compression.New()
	}
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	r.epochs = epoch.New(place{s}, epoch.Parameters(f.Epochs()), r.joinIndexes, r.options.Now, r.options.Log)
	if err := r.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	return r, nil
}

// Close lets go of what is kept in memory. Writers are closed before.
func (r *Repository) Close(context.Context) error {
	r.known.forget()
	return nil
}

// DeriveKey derives a key of n bytes for another purpose from the repository's own. The same purpose gives the same key for as
// long as the repository lives, whatever its password.
func (r *Repository) DeriveKey(purpose string, n int) ([]byte, error) {
	key, err := r.format.now().DeriveKey(purpose, n)
	if err != nil {
		return nil, fmt.Errorf("derive a key for %s: %w", purpose, err)
	}
	return key, nil
}

// Rewrapped gives the format blob as it is under another password. Nothing is stored.
func (r *Repository) Rewrapped(password string) ([]byte, error) {
	raw, err := r.format.now().Rewrap(password)
	if err != nil {
		return nil, fmt.Errorf("put the repository under another password: %w", err)
	}
	return raw, nil
}

// now is the wall clock: the other one stands still while a host sleeps, and what is known grows old in that time.
func (r *Repository) now() time.Time { return r.options.Now().Round(0) }

// room gives a buffer for one content, empty; giveBack takes it again.
func (r *Repository) room() *[]byte {
	if b, ok := r.scratch.Get().(*[]byte); ok {
		*b = (*b)[:0]
		return b
	}
	return new([]byte)
}

func (r *Repository) giveBack(b *[]byte) { r.scratch.Put(b) }
