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

// WriteIndexes stores sealed index blobs in the epoch that is open, and gives their names. shards has their contents by the name that
// follows the prefix: <hash>-<session>. When it returns nil, whoever refreshes from now on (and a list's lag later) finds them.
// ErrTooSlow: it took so long that they may not count. After any error they may be stored all the same, which does no harm.
func (m *Manager) WriteIndexes(ctx context.Context, shards map[string][]byte) ([]string, error) {
	written, epoch := map[string]bool{}, -1
	for range writeAttempts + len(shards) {
		s, err := m.known(ctx, 3*m.params.EpochRefreshFrequency/4)
		if err != nil {
			return nil, err
		}
		if s.writeEpoch != epoch {
			m.withdraw(ctx, written)
			clear(written)
			epoch = s.writeEpoch
		}
		whole, err := m.store(ctx, s, shards, written)
		if err != nil {
			return nil, err
		}
		if !whole {
			continue
		}
		counts, err := m.stillOpen(ctx, epoch, s.until.Add(-m.params.EpochRefreshFrequency))
		switch {
		case errors.Is(err, ErrTooSlow):
			m.withdraw(ctx, written)
			return nil, fmt.Errorf("store the index in epoch %d: %w", epoch, err)
		case err != nil:
			return nil, err
		case counts:
			return slices.Sorted(maps.Keys(written)), nil
		}
	}
	return nil, fmt.Errorf("store %d index blobs: each takes longer than the %v for which the epoch is known", len(shards), m.params.EpochRefreshFrequency)
}

// store stores those of the shards that are not yet. It gives false when the state grew too old for the next one.
func (m *Manager) store(ctx context.Context, s *state, shards map[string][]byte, written map[string]bool) (bool, error) {
	for _, rest := range slices.Sorted(maps.Keys(shards)) {
		name := uncompactedPrefix(s.writeEpoch) + rest
		if written[name] {
			continue
		}
		if !m.now().Before(s.until) {
			return false, nil
		}
		if err := m.place.Put(ctx, name, shards[rest]); err != nil {
			return false, fmt.Errorf("store the index %s: %w", name, err)
		}
		written[name] = true
	}
	return true, nil
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
	return s.writeEpoch == epoch || m.now().Sub(seen) < m.params.MinEpochDuration/2, nil
}

// withdraw deletes index blobs that are stored anew under another epoch. Those that may not be deleted say what others say too.
func (m *Manager) withdraw(ctx context.Context, names map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := m.place.Delete(ctx, name); err != nil {
			m.log.DebugContext(ctx, "an index blob that was stored too slowly stays", "blob", name, "err", err)
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
// CleanupSafetyMargin.
func (m *Manager) CleanupSuperseded(ctx context.Context) error {
	s, err := m.known(ctx, 0)
	if err != nil {
		return err
	}
	before, ok := m.replacedBefore(s)
	if !ok {
		return nil
	}
	all, err := m.list(ctx, uncompacted)
	if err != nil {
		return err
	}
	return m.delete(ctx, s.superseded(all, before))
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
