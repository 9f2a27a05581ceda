package copies

import (
	"context"
	"errors"
	"io"

	"holdfast/internal/vault/store"
)

// Get implements [store.Store]. Where there is more than one copy nothing is handed on before all of it came.
func (s *Store) Get(ctx context.Context, name string, offset, length int64, to io.Writer) error {
	return s.ask(ctx, func(ctx context.Context, from store.Store, last bool) error {
		if last && len(s.members) == 1 {
			return from.Get(ctx, name, offset, length, to)
		}
		var b buffer
		if err := from.Get(ctx, name, offset, length, &b); err != nil {
			return err
		}
		_, err := to.Write(b)
		return err
	})
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }

// Stat implements [store.Store].
func (s *Store) Stat(ctx context.Context, name string) (info store.Info, err error) {
	err = s.ask(ctx, func(ctx context.Context, from store.Store, last bool) error {
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
func (s *Store) ask(ctx context.Context, do func(ctx context.Context, from store.Store, last bool) error) error {
	use, errs := s.able(false)
	var missing error
	for i, m := range use {
		err := do(ctx, m.store, i == len(use)-1)
		switch {
		case err == nil:
			s.note(m, nil, false)
			return nil
		case errors.Is(err, store.ErrNotFound):
			missing = err
			continue
		case ctx.Err() != nil:
			return err
		}
		s.note(m, err, false)
		errs = append(errs, m.named(err))
	}
	if missing != nil {
		return errors.Join(append([]error{missing}, errs...)...)
	}
	return errors.Join(errs...)
}

// List implements [store.Store]: what any copy has, as the first that has it describes it.
func (s *Store) List(ctx context.Context, prefix string, each func(store.Info) error) error {
	use, errs := s.able(false)
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
	return out, nil
}
