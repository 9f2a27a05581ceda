// Package store says what a vault needs of the place where its blobs lie. Each kind of place is a driver in a
// folder beside this one, and passes storetest.
package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"time"
)

// ErrDiffers is returned by Put when a blob of that name exists with other bytes. What is stored stays.
var ErrDiffers = errors.New("stored already with other bytes")

// ErrNotFound is returned for a blob that does not exist. Reading what was never there, or is there no longer, is
// always this and never an empty blob.
var ErrNotFound = fs.ErrNotExist

// ErrUnseen is returned beside ErrNotFound for a blob that is in none of the places that answer, while others could not be asked:
// it may be there. Whoever deletes, or says that something is lost, must not take it for ErrNotFound alone.
var ErrUnseen = errors.New("it is in none of the copies that answer")

// ErrNoPlace is returned when what should hold the blobs is not there itself, such as a bucket. It is never made here.
var ErrNoPlace = errors.New("the place does not exist")

// ErrDenied is returned when a place does not let us: wrong credentials, or too few rights.
var ErrDenied = errors.New("the place refuses these credentials")

// ErrShort is returned by Get for a blob that ends before the bytes that were asked for: the blob is damaged or not the
// one that was meant, and the place itself is well.
var ErrShort = errors.New("it ends before")

// ErrLocked is returned by Delete for a blob that the place keeps until a date that has not come.
var ErrLocked = errors.New("locked by the place")

// ErrReserve is returned for bulk that is not taken although there is room: it is kept for the log, and for what frees space.
var ErrReserve = errors.New("the rest of the disk is kept for the log and for what frees space")

type reserveKey struct{}

// UseReserve lets what is stored under a context use the room that is kept: whoever frees space needs some first.
func UseReserve(ctx context.Context) context.Context {
	return context.WithValue(ctx, reserveKey{}, true)
}

// MayUseReserve reports whether what is stored under a context may use the room that is kept.
func MayUseReserve(ctx context.Context) bool { return ctx.Value(reserveKey{}) != nil }

type lettingGoKey struct{}

// LettingGo is [UseReserve] for what has to be written so that something can go: where a place has no byte left, it gives up
// what it holds back for that moment.
func LettingGo(ctx context.Context) context.Context {
	return context.WithValue(UseReserve(ctx), lettingGoKey{}, true)
}

// IsLettingGo reports whether a context is one of [LettingGo].
func IsLettingGo(ctx context.Context) bool { return ctx.Value(lettingGoKey{}) != nil }

// Info is what is known of a blob without reading it.
type Info struct {
	Name    string // slash-separated, relative to the store's root
	Size    int64
	ModTime time.Time // when it was stored, by the store's own clock
}

// Data is what is stored: it can be read more than once, for a write may have to be tried again. kopia's own
// blob.Bytes is one.
type Data interface {
	Length() int
	Reader() io.ReadSeekCloser
}

// Store keeps blobs by name. Names are clean relative paths (io/fs.ValidPath). Every method may be called from many
// goroutines and by many processes on many hosts; what one wrote, all others can read when the call has returned.
type Store interface {
	// Put stores data under name for ever. The same bytes again are no error; other bytes are ErrDiffers, whatever
	// another writer does at the same moment. When it returns nil the blob survives a power cut.
	Put(ctx context.Context, name string, data Data) error

	// Replace stores data under name whatever was there. It is for the few blobs that are meant to change.
	Replace(ctx context.Context, name string, data Data) error

	// Get writes length bytes from offset on; length below 0 means all of it. Fewer bytes than asked are ErrShort.
	Get(ctx context.Context, name string, offset, length int64, to io.Writer) error

	// Stat describes one blob.
	Stat(ctx context.Context, name string) (Info, error)

	// List gives each blob whose name begins with prefix, in no order. A blob that is stored or deleted meanwhile
	// may be given or not. An error of each ends the list and is returned.
	List(ctx context.Context, prefix string, each func(Info) error) error

	// Names gives what lies directly in a folder ("" = the root): blobs, and folders that hold any, each by the last
	// part of its name. A folder that does not exist is empty.
	Names(ctx context.Context, dir string) ([]string, error)

	// Delete removes a blob; one that is not there is no error.
	Delete(ctx context.Context, name string) error

	// Address says where the store is, for people. It holds no secret.
	Address() string
}

// Deleted is a blob that was deleted, and that its place still has.
type Deleted struct {
	Info
	At time.Time // when it was deleted
	ID string    // which of several of that name, as the place calls it
}

// Trash is a place that keeps for a while what was deleted, or replaced by nobody's wish. No list shows it.
type Trash interface {
	// Deleted gives what was deleted and whose name begins with prefix, in no order. ErrNoTrash: this place keeps nothing.
	Deleted(ctx context.Context, prefix string, each func(Deleted) error) error

	// GetDeleted writes all of it.
	GetDeleted(ctx context.Context, d Deleted, to io.Writer) error
}

// Expunger is a place whose trash is emptied by us, and by no rule of its own.
type Expunger interface {
	// Expunge ends what was deleted longer ago than the place keeps; anything younger it refuses.
	Expunge(ctx context.Context, d Deleted) error

	// Keeps is how long the place keeps what was deleted; 0 = not at all.
	Keeps() time.Duration
}

// ErrNoTrash is returned by a place that keeps nothing of what is deleted.
var ErrNoTrash = errors.New("the place keeps nothing of what is deleted")

// Bytes is data in memory.
type Bytes []byte

// Length implements [Data].
func (b Bytes) Length() int { return len(b) }

// Reader implements [Data].
func (b Bytes) Reader() io.ReadSeekCloser { return closing{bytes.NewReader(b)} }

type closing struct{ *bytes.Reader }

func (closing) Close() error { return nil }

// Read gives all of a blob.
func Read(ctx context.Context, s Store, name string) ([]byte, error) {
	var b bytes.Buffer
	if err := s.Get(ctx, name, 0, -1, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
