package epoch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Refresh reads the state anew.
func (m *Manager) Refresh(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refresh(ctx)
}

// Invalidate forgets the state: the next question reads it anew.
func (m *Manager) Invalidate() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = nil
}

// Current is what counts, as it was read at most EpochRefreshFrequency ago.
func (m *Manager) Current(ctx context.Context) (Indexes, error) {
	s, err := m.known(ctx, 0)
	if err != nil {
		return Indexes{}, err
	}
	out := Indexes{Watermark: s.watermark, WriteEpoch: s.writeEpoch}
	for _, c := range s.chain {
		out.Blobs = append(out.Blobs, c.blobs...)
	}
	out.Blobs = append(out.Blobs, s.blobs(s.next(), math.MaxInt)...)
	return out, nil
}

// writeAttempts bounds how often WriteIndexes begins again because the state grew old meanwhile.
const writeAttempts = 10

const (
	// clocksDiffer bounds how far the clocks of a writer and of the place are taken to differ, where that decides something.
	clocksDiffer = 24 * time.Hour
	// withdrawAfter bounds how long withdrawing may take, which is done whatever becomes of the caller's context.
	withdrawAfter = time.Minute
)

// writing is one call of WriteIndexes.
type writing struct {
	shards map[string][]byte // contents by the name that follows the prefix
	by     time.Time
	tried  map[string]bool // names under which storing was begun; true = the place said that it is stored
}

// WriteIndexes stores sealed index blobs in the epoch that is open, and gives their names. shards has their contents by the name that
// follows the prefix: <hash>-<session>. When it returns nil, whoever refreshes from now on (and a list's lag later) finds them.
//
// by is until when what they tell of is sure to be there, by this process' clock: none is stored after it. One that arrived long after
// it all the same, as when the machine slept meanwhile, is deleted again; one that arrived in time stays, for others may rely on it.
// Zero = for ever. ErrTooSlow: that, or they may not count. After any other error they may be stored all the same, which does no harm.
func (m *Manager) WriteIndexes(ctx context.Context, shards map[string][]byte, by time.Time) ([]string, error) {
	w := &writing{shards: shards, by: by, tried: map[string]bool{}}
	names, err := m.write(ctx, w)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawAfter)
	defer cancel()
	if m.late(w) {
		err = errors.Join(err, m.withdrawLate(ctx, w))
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		delete(w.tried, name)
	}
	m.withdraw(ctx, slices.Sorted(maps.Keys(w.tried))) // not before the others count: whoever saw these relies on them
	return names, nil
}

func (m *Manager) late(w *writing) bool { return !w.by.IsZero() && m.now().After(w.by) }

func (m *Manager) write(ctx context.Context, w *writing) ([]string, error) {
	for range writeAttempts + len(w.shards) {
		s, err := m.known(ctx, 3*m.params.EpochRefreshFrequency/4)
		if err != nil {
			return nil, err
		}
		names, err := m.store(ctx, s, w)
		if err != nil {
			return nil, err
		}
		if len(names) < len(w.shards) {
			continue
		}
		counts, err := m.stillOpen(ctx, s.writeEpoch, s.until.Add(-m.params.EpochRefreshFrequency))
		if err != nil {
			return nil, fmt.Errorf("store the index in epoch %d: %w", s.writeEpoch, err)
		}
		if counts {
			return names, nil
		}
	}
	return nil, fmt.Errorf("store %d index blobs: each takes longer than the %v for which the epoch is known", len(w.shards), m.params.EpochRefreshFrequency)
}

// store stores those of the shards that are not yet, and gives the names of all that are. It stops where the state is too old for the
// next one.
func (m *Manager) store(ctx context.Context, s *state, w *writing) (names []string, err error) {
	for _, rest := range slices.Sorted(maps.Keys(w.shards)) {
		name := uncompactedPrefix(s.writeEpoch) + rest
		if !w.tried[name] {
			if !m.believed(s, 1) {
				return names, nil
			}
			if m.late(w) {
				return nil, fmt.Errorf("store the index %s: %w", name, ErrTooSlow)
			}
			w.tried[name] = false
			if err := m.place.Put(ctx, name, w.shards[rest]); err != nil {
				return nil, fmt.Errorf("store the index %s: %w", name, err)
			}
			w.tried[name] = true
		}
		names = append(names, name)
	}
	return names, nil
}

// stillOpen asks the place whether what was stored in an epoch that was open at a moment is in time to be found. false = that cannot
// be told, and it has to be stored again: so much time went by that two more epochs may have been opened, and the second mark may
// not be listed yet. Less than half the time that one epoch lasts is no such case, nor is one in which not even the first mark is there.
func (m *Manager) stillOpen(ctx context.Context, epoch int, seen time.Time) (bool, error) {
	m.Invalidate()
	s, err := m.known(ctx, 0)
	if err != nil {
		return false, fmt.Errorf("look whether epoch %d is still open: %w", epoch, err)
	}
	if s.writeEpoch >= epoch+unsettled {
		return false, ErrTooSlow
	}
	return s.writeEpoch == epoch || m.now().Sub(seen).Abs() < m.params.MinEpochDuration/2, nil
}

// withdrawLate deletes what arrived so late that what it tells of may be gone, by the place's clock. What is not listed yet is as late.
func (m *Manager) withdrawLate(ctx context.Context, w *writing) error {
	var late []string
	for _, name := range slices.Sorted(maps.Keys(w.tried)) {
		there, err := m.list(ctx, name)
		if err != nil {
			return err
		}
		if len(there) == 0 || there[0].Time.After(w.by.Add(clocksDiffer)) {
			late = append(late, name)
		}
	}
	if len(late) == 0 {
		return nil
	}
	m.withdraw(ctx, late)
	return fmt.Errorf("%d index blobs arrived too late: %w", len(late), ErrTooSlow)
}

// withdraw deletes index blobs that were stored too slowly.
func (m *Manager) withdraw(ctx context.Context, names []string) {
	for _, name := range names {
		if err := m.place.Delete(ctx, name); err != nil {
			m.log.WarnContext(ctx, "an index blob that was stored too slowly stays", "blob", name, "err", err)
		}
	}
}

// CompactOne makes one set of the oldest settled epoch that has none. false = there is no such epoch.
func (m *Manager) CompactOne(ctx context.Context) (bool, error) {
	s, err := m.known(ctx, m.params.EpochRefreshFrequency/4)
	if err != nil {
		return false, err
	}
	n, ok := s.toCompact()
	if !ok {
		return false, nil
	}
	m.log.DebugContext(ctx, "index epoch is compacted", "epoch", n, "blobs", len(s.loose[n]))
	if err := m.compact(ctx, namesOf(s.loose[n]), singlePrefix(n)); err != nil {
		return false, fmt.Errorf("compact the indexes of epoch %d: %w", n, err)
	}
	m.Invalidate()
	return true, nil
}

// MaybeAdvance opens the next epoch when the one that is open has lasted long enough and has enough index blobs.
func (m *Manager) MaybeAdvance(ctx context.Context) error {
	s, err := m.known(ctx, 0)
	if err != nil || !s.ended(m.params) {
		return err
	}
	if err := m.place.Put(ctx, openingName(s.writeEpoch+1), []byte("epoch-marker")); err != nil {
		return fmt.Errorf("open epoch %d: %w", s.writeEpoch+1, err)
	}
	m.Invalidate()
	return nil
}

// MaybeCheckpoint makes one set of all settled epochs for which no checkpoint stands, when they are more than
// FullCheckpointFrequency. false = they are not.
func (m *Manager) MaybeCheckpoint(ctx context.Context) (bool, error) {
	s, err := m.known(ctx, m.params.EpochRefreshFrequency/4)
	if err != nil {
		return false, err
	}
	first, last, ok := s.toJoin(m.params.FullCheckpointFrequency)
	if !ok {
		return false, nil
	}
	blobs := s.blobs(first, last)
	if len(blobs) == 0 {
		return false, nil
	}
	m.log.DebugContext(ctx, "index epochs are joined", "first", first, "last", last, "blobs", len(blobs))
	if err := m.compact(ctx, namesOf(blobs), checkpointPrefix(first, last)); err != nil {
		return false, fmt.Errorf("join the indexes of the epochs %d to %d: %w", first, last, err)
	}
	m.Invalidate()
	return true, nil
}

// AdvanceWatermark makes contents that were deleted before t count as never stored. It never goes back: an earlier t changes nothing.
func (m *Manager) AdvanceWatermark(ctx context.Context, t time.Time) error {
	s, err := m.known(ctx, 0)
	if err != nil {
		return err
	}
	if !s.watermark.IsZero() && t.Unix() <= s.watermark.Unix() {
		return nil
	}
	if err := m.place.Put(ctx, watermarkName(t), []byte("deletion-watermark")); err != nil {
		return fmt.Errorf("move the deletion watermark to %s: %w", t.UTC().Format(time.RFC3339), err)
	}
	m.Invalidate()
	return nil
}

// CleanupMarkers deletes marks that say nothing any more.
func (m *Manager) CleanupMarkers(ctx context.Context) error {
	s, err := m.known(ctx, 0)
	if err != nil {
		return err
	}
	before, ok := m.replacedBefore(s)
	if !ok {
		return nil
	}
	return m.delete(ctx, s.oldMarks(before))
}

// CleanupSuperseded deletes the index blobs of writers in epochs that have a set, or a checkpoint, for longer than
// CleanupSafetyMargin; and the sets of epochs that have a checkpoint for so long.
func (m *Manager) CleanupSuperseded(ctx context.Context) error {
	s, err := m.known(ctx, 0)
	if err != nil {
		return err
	}
	before, ok := m.replacedBefore(s)
	if !ok {
		return nil
	}
	all, err := m.lists(ctx, uncompacted, singles)
	if err != nil {
		return err
	}
	return m.delete(ctx, s.superseded(all[0], all[1], before))
}

// replacedBefore is the moment, by the place's clock, before which a replacement was stored that everybody has seen. false = the
// place has told no time.
func (m *Manager) replacedBefore(s *state) (time.Time, bool) {
	now := s.clock()
	return now.Add(-m.params.CleanupSafetyMargin), !now.IsZero()
}

// delete deletes what it can, and tells of all that it cannot.
func (m *Manager) delete(ctx context.Context, blobs []Blob) error {
	sortByName(blobs)
	return inLanes(min(m.params.DeleteParallelism, m.lanes), len(blobs), func(n int) error {
		if err := m.place.Delete(ctx, blobs[n].Name); err != nil {
			return fmt.Errorf("delete the index %s: %w", blobs[n].Name, err)
		}
		return nil
	})
}
