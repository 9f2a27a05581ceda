package copies

import (
	"context"
	"errors"
	"slices"

	"holdfast/internal/vault/store"
)

// Supersede deletes a blob in each copy that has what takes its place, by. A copy that lacks that still needs the blob,
// should the others be lost: there it goes as soon as by has come. What is not deleted because this process ends comes up
// again with the next blob that takes its place.
func (s *Store) Supersede(ctx context.Context, name, by string) error {
	use, away := s.able(false)
	if len(use) == 0 {
		return errors.Join(away...)
	}
	var errs []error
	for _, m := range s.members {
		if !slices.Contains(use, m) {
			m.later(name, by)
			continue
		}
		_, err := m.store.Stat(ctx, by)
		switch {
		case errors.Is(err, store.ErrNotFound):
			m.later(name, by)
			continue
		case err == nil:
			err = m.store.Delete(ctx, name)
		}
		if err != nil {
			errs = append(errs, m.named(err))
			continue
		}
		m.mu.Lock()
		delete(m.waiting, name)
		m.mu.Unlock()
	}
	return errors.Join(errs...)
}

// outdatedMax bounds how many blobs one copy remembers to delete.
const outdatedMax = 1000

// later remembers what goes when by has come. What name itself was to take the place of goes then too.
func (m *member) later(name, by string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := append(m.outdated[name], name)
	delete(m.outdated, name)
	delete(m.waiting, name) // by is carried instead
	for _, n := range all {
		if !slices.Contains(m.outdated[by], n) && len(m.outdated) < outdatedMax {
			m.outdated[by] = append(m.outdated[by], n)
		}
	}
}

// came deletes in one copy what a blob that has come takes the place of.
func (s *Store) came(ctx context.Context, m *member, by string) {
	m.mu.Lock()
	names := m.outdated[by]
	delete(m.outdated, by)
	m.mu.Unlock()
	for _, n := range names {
		if err := m.store.Delete(ctx, n); err != nil && !errors.Is(err, store.ErrDenied) { // it stays, and every reader passes it over
			s.note(m, err, false)
			return
		}
	}
}
