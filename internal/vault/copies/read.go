package copies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"holdfast/internal/vault/store"
)

// Get implements [store.Store]. Where there is more than one copy nothing is handed on before all of it came, and a whole
// blob, stored for ever, whose content cannot be what its name stands for is read from the next copy. When no copy has a good one the first
// is handed on, for its reader knows best what to say of it. A part of a blob proves nothing here: whoever finds it bad asks
// [Store.Examine].
func (s *Store) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	if len(s.members) == 1 {
		return s.ask(ctx, name, func(ctx context.Context, _ *member, from store.Store, _ bool) error {
			return from.Get(ctx, name, offset, length, to)
		})
	}
	var bad buffer // the first content that is not what it should be
	var found bool
	err := s.ask(ctx, name, func(ctx context.Context, m *member, from store.Store, _ bool) error {
		var b buffer
		if err := from.Get(ctx, name, offset, length, &b); err != nil {
			return err
		}
		if offset == 0 && length < 0 && !s.policy.Changing(name) {
			err := s.policy.Check(name, b)
			s.judge(m, name, err)
			if err != nil {
				if !found {
					bad, found = b, true
				}
				return rotten{err}
			}
		}
		_, err := to.Write(b)
		return err
	})
	if found && err != nil && ctx.Err() == nil {
		_, err = to.Write(bad)
	}
	return err
}

// rotten is the answer of a copy that works and holds a bad blob.
type rotten struct{ error }

func (r rotten) Unwrap() error { return r.error }

// rottenMax bounds how many bad blobs of one copy are remembered: a scrub lists them all.
const rottenMax = 1000

// judge remembers whether a copy's blob is what it should be.
func (s *Store) judge(m *member, name string, err error) {
	m.mu.Lock()
	_, known := m.rotten[name]
	switch {
	case err == nil:
		delete(m.rotten, name)
	case len(m.rotten) < rottenMax:
		m.rotten[name] = err
	}
	m.mu.Unlock()
	if err != nil && !known && s.policy.Rotten != nil {
		s.policy.Rotten(m.place.Name, name, err)
	}
}

func (m *member) isRotten(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rotten[name] != nil
}

// Examine reads a blob from every copy that may be asked, and remembers which have it bad: those are asked last from now
// on. It reports whether any has it bad and another good.
func (s *Store) Examine(ctx context.Context, name string) (bool, error) {
	use, _ := s.able(false)
	good, bad := 0, 0
	for _, m := range use {
		content, err := store.Read(ctx, m.store, name)
		if ctx.Err() != nil {
			return false, err
		}
		if errors.Is(err, store.ErrNotFound) || err != nil && !answers(err) {
			continue
		}
		if err == nil {
			err = s.policy.Check(name, content)
		}
		s.judge(m, name, err)
		if err == nil {
			good++
		} else {
			bad++
		}
	}
	return good > 0 && bad > 0, nil
}

// Mistrust tells that what was read of a blob is bad, by whoever can tell: the copy that was asked for it first is asked last from
// now on. It reports whether another copy, of which nobody has said that, has the blob.
func (s *Store) Mistrust(ctx context.Context, name string, why error) bool {
	use, _ := s.able(false)
	told := false
	for _, m := range s.order(use, name) {
		if m.isRotten(name) {
			continue
		}
		if _, err := m.store.Stat(ctx, name); err != nil {
			continue // it did not give it, and cannot
		}
		if told {
			return true
		}
		s.judge(m, name, why)
		told = true
	}
	return false
}

// Prefer makes reads ask the copies from the i-th on first, and those before it after them.
func (s *Store) Prefer(i int) { s.first.Store(int32(i)) }

// order is in which order copies are asked for a blob: the preferred first, those that are known to have it bad last.
func (s *Store) order(use []*member, name string) []*member {
	first := int(s.first.Load()) % len(s.members)
	rank := map[*member]int{}
	for i, m := range s.members {
		rank[m] = (i - first + len(s.members)) % len(s.members)
		if m.isRotten(name) {
			rank[m] += len(s.members)
		}
	}
	use = slices.Clone(use)
	slices.SortStableFunc(use, func(a, b *member) int { return rank[a] - rank[b] })
	return use
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }

// Stat implements [store.Store].
func (s *Store) Stat(ctx context.Context, name string) (info store.Info, err error) {
	err = s.ask(ctx, name, func(ctx context.Context, _ *member, from store.Store, last bool) error {
		if !last {
			var done context.CancelFunc
			ctx, done = context.WithTimeoutCause(ctx, lookMax, errSlow)
			defer done()
		}
		info, err = from.Stat(ctx, name)
		return err
	})
	return info, err
}

// ask asks one copy after the other until one has it.
func (s *Store) ask(ctx context.Context, name string, do func(ctx context.Context, m *member, from store.Store, last bool) error) error {
	use, errs := s.able(false)
	use = s.order(use, name)
	away := len(errs)
	var missing error
	for i, m := range use {
		err := do(ctx, m, m.store, i == len(use)-1)
		_, bad := errors.AsType[rotten](err)
		switch {
		case err == nil:
			s.note(m, nil, false)
			return nil
		case errors.Is(err, store.ErrNotFound):
			missing = err
			continue
		case ctx.Err() != nil:
			return err
		case bad, errors.Is(err, store.ErrShort): // the copy answers; what it holds is no good
			if !bad {
				s.judge(m, name, err)
			}
			errs = append(errs, m.named(fmt.Errorf("read %s: %w", name, err)))
			continue
		}
		s.note(m, err, false)
		errs = append(errs, m.named(err))
		away++
	}
	switch {
	case missing != nil && away > 0:
		return s.unseen(name, missing, errs)
	case missing != nil:
		return errors.Join(append([]error{missing}, errs...)...)
	}
	return errors.Join(errs...)
}

// unseen says that the copies that answer do not have a blob, and that not all answer. Whoever insists on all of them does not
// hear that it is not there.
func (s *Store) unseen(name string, missing error, errs []error) error {
	why := errors.Join(errs...)
	if s.insisted.Load() > 0 {
		return fmt.Errorf("read %s: %w: %w: %w", name, store.ErrUnseen, ErrCopyAway, why)
	}
	return fmt.Errorf("%w: %w, and not all were asked: %w", missing, store.ErrUnseen, why)
}

// Insist makes a list, or the answer that something is not there, an error from now on while any copy has no part in it. It ends
// with done. Whoever decides what goes insists from its first look on: what only a copy that is away knows must count.
func (s *Store) Insist() (done func()) {
	s.insisted.Add(1)
	return sync.OnceFunc(func() { s.insisted.Add(-1) })
}

// partial is nil unless somebody insists on every copy, and one had no part in a list.
func (s *Store) partial(what string, errs []error) error {
	if len(errs) == 0 || s.insisted.Load() == 0 {
		return nil
	}
	return fmt.Errorf("list %s: %w: %w", what, ErrCopyAway, errors.Join(errs...))
}

// List implements [store.Store]: what any copy has, as the first that has it describes it.
func (s *Store) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	use, errs := s.able(false)
	if err := s.partial(prefix, errs); err != nil {
		return err
	}
	if len(use) == 1 {
		err := use[0].store.List(ctx, prefix, each)
		return err
	}
	seen := map[string]bool{}
	listed := 0
	for i, m := range use {
		all, err := listAll(ctx, m.store, prefix, i > 0 && listed > 0)
		if err != nil && ctx.Err() != nil {
			return err
		}
		s.note(m, err, false)
		if err != nil {
			errs = append(errs, m.named(err))
			if err := s.partial(prefix, errs); err != nil {
				return err
			}
			continue
		}
		listed++
		for _, info := range all {
			if seen[info.Name] {
				continue
			}
			seen[info.Name] = true
			if err := each(info); err != nil {
				return err
			}
		}
	}
	if listed == 0 {
		return errors.Join(errs...)
	}
	return nil
}

func listAll(ctx context.Context, from store.Store, prefix string, bounded bool) ([]store.Info, error) {
	if bounded {
		var done context.CancelFunc
		ctx, done = context.WithTimeoutCause(ctx, listMax, errSlow)
		defer done()
	}
	var all []store.Info
	err := from.List(ctx, prefix, func(i store.Info) error { all = append(all, i); return nil })
	return all, err
}

// Names implements [store.Store].
func (s *Store) Names(ctx context.Context, dir string) ([]string, error) {
	use, errs := s.able(false)
	seen := map[string]bool{}
	var out []string
	listed := 0
	for _, m := range use {
		names, err := m.store.Names(ctx, dir)
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		s.note(m, err, false)
		if err != nil {
			errs = append(errs, m.named(err))
			continue
		}
		listed++
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	if listed == 0 {
		return nil, errors.Join(errs...)
	}
	if err := s.partial(dir, errs); err != nil {
		return nil, err
	}
	return out, nil
}
