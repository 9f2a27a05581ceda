// Package epoch says which of a repository's index blobs count, and keeps them few.
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

// Place is where the index blobs lie. Many processes use it at once.
type Place interface {
	List(ctx context.Context, prefix string, each func(Blob) error) error
	Put(ctx context.Context, name string, content []byte) error
	Delete(ctx context.Context, name string) error
}

// Parameters are those of the repository's format; the names in JSON are kopia's.
type Parameters struct {
	Enabled                               bool
	EpochRefreshFrequency                 time.Duration // for how long a state that was read is believed
	FullCheckpointFrequency               int           // epochs that one range checkpoint joins at least
	CleanupSafetyMargin                   time.Duration // how old a replacement is before what it stands for is deleted
	MinEpochDuration                      time.Duration
	EpochAdvanceOnCountThreshold          int   // index blobs in an epoch
	EpochAdvanceOnTotalSizeBytesThreshold int64 // bytes of index blobs in an epoch
	DeleteParallelism                     int
}

// ErrTooSlow is returned by WriteIndexes when the epoch was closed before the index blobs were stored: nobody would read them.
var ErrTooSlow = errors.New("storing the index took more than two epochs")

// Compact merges index blobs into one set under outputPrefix: every blob is named <prefix><hash>-s<set>-c<count>. It must err when a
// blob is not there.
type Compact func(ctx context.Context, blobs []string, outputPrefix string) error

// Indexes is what counts at one moment.
type Indexes struct {
	Blobs      []Blob    // the complete set
	Watermark  time.Time // contents that were deleted before count as never stored; zero = none
	WriteEpoch int
}

// Manager keeps the epochs of one repository. It starts no work of its own.
type Manager struct {
	mu sync.Mutex
}

func New(p Place, params Parameters, compact Compact, now func() time.Time, log *slog.Logger) *Manager {
	return &Manager{}
}

// Refresh reads the state anew.
func (m *Manager) Refresh(ctx context.Context) error { return errors.New("not yet") }

// Invalidate forgets the state: the next question reads it anew.
func (m *Manager) Invalidate() {}

// Current is what counts, as it was read at most EpochRefreshFrequency ago.
func (m *Manager) Current(ctx context.Context) (Indexes, error) {
	return Indexes{}, errors.New("not yet")
}

// WriteIndexes stores sealed index blobs in the epoch that is open. shards gives their content by the name that follows the
// prefix (<hash>-<session>). It gives the blobs' names. ErrTooSlow: nothing of it counts.
func (m *Manager) WriteIndexes(ctx context.Context, shards map[string][]byte) ([]string, error) {
	return nil, errors.New("not yet")
}

func (m *Manager) CompactOne(ctx context.Context) (bool, error) { return false, errors.New("not yet") }
func (m *Manager) MaybeAdvance(ctx context.Context) error       { return errors.New("not yet") }
func (m *Manager) MaybeCheckpoint(ctx context.Context) (bool, error) {
	return false, errors.New("not yet")
}
func (m *Manager) AdvanceWatermark(ctx context.Context, t time.Time) error {
	return errors.New("not yet")
}
func (m *Manager) CleanupMarkers(ctx context.Context) error    { return errors.New("not yet") }
func (m *Manager) CleanupSuperseded(ctx context.Context) error { return errors.New("not yet") }
