package epoch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// refreshAttempts bounds how often a state is read that is too old when it is there.
const refreshAttempts = 5

// known gives the state, read anew unless it will be believed for at least that long still.
func (m *Manager) known(ctx context.Context, atLeast time.Duration) (*state, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil || !m.believed(m.state, atLeast) {
		if err := m.refresh(ctx); err != nil {
			return nil, err
		}
	}
	return m.state, nil
}

// believed reports whether a state is believed for at least that long still. One that would be for longer than any was read before the
// clock was set back: nobody knows how old it is.
func (m *Manager) believed(s *state, atLeast time.Duration) bool {
	left := s.until.Sub(m.now())
	return left >= atLeast && left <= m.params.EpochRefreshFrequency
}

// refresh reads the state anew; m.mu is held. What took longer to read than it may be believed could mix what was before a
// cleanup with what was after it, so it is read again.
func (m *Manager) refresh(ctx context.Context) error {
	if !m.params.Enabled {
		return ErrDisabled
	}
	for range refreshAttempts {
		until := m.now().Add(m.params.EpochRefreshFrequency)
		s, err := m.read(ctx)
		if err != nil {
			return fmt.Errorf("look which indexes count: %w", err)
		}
		if s.until = until; m.now().Before(until) {
			m.state = s
			return nil
		}
	}
	return fmt.Errorf("look which indexes count: listing them takes longer than %v", m.params.EpochRefreshFrequency)
}

func (m *Manager) read(ctx context.Context) (*state, error) {
	marked, err := m.lists(ctx, openings, singles, checkpoints, watermarks)
	if err != nil {
		return nil, err
	}
	s := marks(marked[0], marked[1], marked[2], marked[3])
	// The index blobs of writers come behind the sets: what a cleanup takes away meanwhile was superseded long before.
	prefixes := s.prefixes()
	loose, err := m.lists(ctx, prefixes...)
	if err != nil {
		return nil, err
	}
	s.loose = map[int][]Blob{}
	for _, blobs := range loose {
		for n, blobs := range byEpoch(blobs, uncompacted) {
			if s.needed(n) {
				s.loose[n] = blobs
			}
		}
	}
	return s, nil
}

// aloneMax is for how many epochs the index blobs are listed by themselves. More than that are listed with all that were superseded.
const aloneMax = 16

// prefixes is what has to be listed to find the index blobs of writers that count: those of the epochs that lack a set, up to the one
// behind the epoch that is open, which somebody may have opened meanwhile.
func (s *state) prefixes() (out []string) {
	for n := s.next(); n <= s.writeEpoch+1; n++ {
		if !s.needed(n) {
			continue
		}
		if len(out) == aloneMax {
			return []string{uncompacted}
		}
		out = append(out, uncompactedPrefix(n))
	}
	return out
}

// lists gives, for each prefix, what is listed, sorted by name.
func (m *Manager) lists(ctx context.Context, prefixes ...string) ([][]Blob, error) {
	out := make([][]Blob, len(prefixes))
	return out, inLanes(m.lanes, len(prefixes), func(n int) (err error) {
		out[n], err = m.list(ctx, prefixes[n])
		return err
	})
}

func (m *Manager) list(ctx context.Context, prefix string) (out []Blob, err error) {
	err = m.place.List(ctx, prefix, func(b Blob) error { out = append(out, b); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the indexes %s*: %w", prefix, err)
	}
	sortByName(out)
	return out, nil
}

// inLanes does n things, that many at a time, and gives the errors of all. One lane is the caller's own goroutine.
func inLanes(lanes, n int, do func(n int) error) error {
	errs := make([]error, n)
	if lanes <= 1 {
		for i := range n {
			errs[i] = do(i)
		}
		return errors.Join(errs...)
	}
	var g errgroup.Group
	g.SetLimit(lanes)
	for i := range n {
		g.Go(func() error { errs[i] = do(i); return nil })
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}
