// Package cluster is what hosts agree on: a small key-value store with compare-and-swap and watches, typed
// keys over it, and the election of a controller. Start at [Store]; [Key] gives a key its type.
//
// The store is never the failure detector: no key here is bound to a lease that the store itself expires
// (docs/decisions/0001). Time is always "unchanged for so long on my own clock", see [Election].
package cluster

import (
	"context"
	"errors"
)

// Entry is one key as the store holds it.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64 // store revision of the key's last change; 0 = the key is absent
}

// Change is one step in the history of a prefix.
type Change struct {
	Entry
	// Deleted says that the key is gone since Revision; Value is then empty.
	Deleted bool
	// Lost says that history was compacted away before it could be told: the reader lists again. The
	// watch itself goes on with changes after Revision, so the reader lists and then skips changes at or
	// below the revision of its list.
	Lost bool
}

// ErrConflict means that a compare-and-swap lost: the key's revision was another. Nothing was written.
var ErrConflict = errors.New("another write came first")

// ErrUnavailable means that no answer came within the deadline, or that the caller's context ended first;
// the cause is wrapped beside it. A write that ends so may or may not have happened: read before repeating.
var ErrUnavailable = errors.New("no answer from the cluster store")

// Store is what hosts agree on. Get, List, Put, Set and Delete are linearizable, answer within a bounded time
// of their own even if ctx has no deadline, and fail with [ErrUnavailable] when that passes. Implementations
// may repeat a read; they never repeat a write whose outcome is unknown. Keys are non-empty.
type Store interface {
	// Get reads one key. An absent key is an Entry with Revision 0, and no error.
	Get(ctx context.Context, key string) (Entry, error)

	// List reads every key that starts with prefix, sorted by key, and tells the store's revision at that
	// moment: Watch(ctx, prefix, revision) continues without a gap.
	List(ctx context.Context, prefix string) ([]Entry, int64, error)

	// Put writes key only if its revision is still ifRevision (0 = it must be absent) and returns the new
	// one; otherwise ErrConflict.
	Put(ctx context.Context, key string, value []byte, ifRevision int64) (int64, error)

	// Set writes unconditionally: for facts that have one writer.
	Set(ctx context.Context, key string, value []byte) (int64, error)

	// Delete removes key if its revision is still ifRevision; otherwise ErrConflict. Deleting an absent key
	// with ifRevision 0 is no error.
	Delete(ctx context.Context, key string, ifRevision int64) error

	// Watch tells every change under prefix after the revision `after`, in order, each once. It outlives
	// outages by itself, and the channel closes only when ctx ends or the store is closed. The reader must
	// keep reading: nothing is dropped for a slow one.
	Watch(ctx context.Context, prefix string, after int64) <-chan Change

	// Close ends every watch and releases connections. Calls after it fail with ErrUnavailable.
	Close() error
}
