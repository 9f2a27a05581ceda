package epoch

import (
	"context"
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
	if m.state == nil || m.now().Add(atLeast).After(m.state.until) {
		if err := m.refresh(ctx); err != nil {
			return nil, err
		}
	}
	return m.state, nil
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
	if m.lanes == 1 {
		for n, prefix := range prefixes {
			blobs, err := m.list(ctx, prefix)
			if err != nil {
				return nil, err
			}
			out[n] = blobs
		}
		return out, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(m.lanes)
	for n, prefix := range prefixes {
		g.Go(func() (err error) {
			out[n], err = m.list(ctx, prefix)
			return err
		})
	}
	return out, g.Wait()
}

func (m *Manager) list(ctx context.Context, prefix string) (out []Blob, err error) {
	err = m.place.List(ctx, prefix, func(b Blob) error { out = append(out, b); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the indexes %s*: %w", prefix, err)
	}
	sortByName(out)
	return out, nil
}
