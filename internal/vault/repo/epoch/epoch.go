// Package epoch says which of a repository's index blobs count, and keeps them few. It speaks the protocol of kopia's epoch
// manager (kopia issue #1090), which needs of the place neither locks nor an order of what it lists.
//
// A mark xe<n> opens epoch n, and writers store their index blobs xn<n>_… under the epoch that is open. One ends after a day at the
// earliest. An epoch is settled when two more were opened: no writer stores in it any more, for one that took so long is told that it
// failed. A settled epoch is compacted into one set xs<n>_…, and many of them into a range checkpoint xr<a>_<b>_…; who reads, reads
// the longest chain of checkpoints, then of each epoch its set, or else its index blobs. A mark xw<unix seconds> is the watermark:
// contents deleted before it count as never stored.
//
// What is superseded is deleted when its replacement is older than any list may lag behind. state.go judges, manager.go acts.
//
// It differs from kopia 0.23.1 where that costs nothing and loses nothing: a write that took more than half an epoch is made
// again, for the mark that settled its epoch may not be listed yet; compaction passes over an epoch without index blobs, where
// kopia's stays for ever; a set or checkpoint proves which epoch is open where the mark is not listed, or lost; and an error of
// the place is told at once, not tried again for ever.
package epoch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Blob is one stored index blob or mark.
type Blob struct {
	Name string
	Size int64     // bytes
	Time time.Time // when it was stored, by the place's clock
}

// Place is where the index blobs lie. Many processes use it at once, and what they store or delete may be missing or left in a
// list for a while: much less than CleanupSafetyMargin and MinEpochDuration.
type Place interface {
	// List gives the blobs whose names begin with prefix, in any order. It may be called by several goroutines at once.
	List(ctx context.Context, prefix string, each func(Blob) error) error
	// Put stores a blob; the same one again is no error.
	Put(ctx context.Context, name string, content []byte) error
	// Delete removes a blob; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

// Parameters are those of the repository's format; the names of the fields are those that kopia's JSON has.
type Parameters struct {
	Enabled                               bool
	EpochRefreshFrequency                 time.Duration // for how long a state that was read is believed
	FullCheckpointFrequency               int           // a range checkpoint joins more epochs than that
	CleanupSafetyMargin                   time.Duration // how old a replacement is before what it stands for is deleted
	MinEpochDuration                      time.Duration // between the first and the last index blob of an epoch that ends
	EpochAdvanceOnCountThreshold          int           // index blobs that end an epoch
	EpochAdvanceOnTotalSizeBytesThreshold int64         // bytes of index blobs that end an epoch
	DeleteParallelism                     int           // deletes at a time
}

// ErrDisabled is returned for a repository without epochs: a format of kopia's that is older than its version 0.9.
var ErrDisabled = errors.New("the repository keeps no epochs")

// ErrTooSlow is returned by WriteIndexes when two epochs were opened before the index blobs were stored, or as much time went by: who
// reads may pass them over, and the packs that they tell of may have been deleted as nobody's.
var ErrTooSlow = errors.New("storing the index took so long that what it tells of may be gone")

// Compact merges index blobs into one set under outputPrefix: each of its blobs is named <outputPrefix><hash>-s<set>-c<count>, where
// count is how many blobs the set has, and set is random. It must err when one of the blobs is not there.
type Compact func(ctx context.Context, blobs []string, outputPrefix string) error

// Indexes is what counts at one moment.
type Indexes struct {
	Blobs      []Blob    // the complete set. One that is not there when it is read was superseded: Invalidate, and ask again
	Watermark  time.Time // contents that were deleted before count as never stored; zero = none
	WriteEpoch int       // the epoch that is open
}

// Manager keeps the epochs of one repository, for many goroutines. It starts no work of its own: whoever calls decides when
// epochs end, are compacted and are cleaned up.
type Manager struct {
	place   Place
	params  Parameters
	compact Compact
	clock   func() time.Time
	log     *slog.Logger
	lanes   int // lists at a time

	mu    sync.Mutex // guards state, and is held while it is read anew
	state *state     // nil = not known
}

// listLanes is how many lists are asked for at a time.
const listLanes = 8

// New needs nothing of the place yet. log may be nil.
func New(p Place, params Parameters, compact Compact, now func() time.Time, log *slog.Logger) *Manager {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Manager{place: p, params: params, compact: compact, clock: now, log: log, lanes: listLanes}
}

// now is the wall clock: the monotonic one stands still while a machine sleeps, and it is such sleep that makes what is known stale.
func (m *Manager) now() time.Time { return m.clock().Round(0) }
