package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/vault/store"
)

const (
	// wholeEvery is how often Follow compares everything, whatever it carried meanwhile: other hosts write too.
	wholeEvery = 20 * time.Minute
	// gather is how long Follow waits for more before it carries what came.
	gather = 300 * time.Millisecond
	// lanes is how many blobs are carried to one copy at a time.
	lanes = 4
)

// Status is one copy as this process knows it.
type Status struct {
	Name     string
	Address  string
	Away     error     // why it is passed over; nil = it is used
	Waiting  int       // blobs known to be lacking there
	Since    time.Time // when the oldest of them was stored elsewhere; zero = none
	Compared time.Time // when everything was last compared; zero = not yet by this process
	Reserve  error     // why it takes no bulk now, only the log and what is small; nil = it took the last
	Rotten   []string  // blobs that were read and are not what they should be; the other copies were read instead
}

// Status says of each copy how it stands, without asking it.
func (s *Store) Status() []Status {
	var out []Status
	for _, m := range s.members {
		address := m.address()
		m.mu.Lock()
		x := Status{Name: m.place.Name, Address: address, Away: m.err, Waiting: len(m.waiting), Since: m.since, Compared: m.compared, Reserve: m.reserve, Rotten: slices.Sorted(maps.Keys(m.rotten))}
		if x.Away == nil {
			x.Away = m.full
		}
		m.mu.Unlock()
		out = append(out, x)
	}
	return out
}

// Follow carries to each copy what it lacks, until ctx ends. A copy that is away is tried again and again.
func (s *Store) Follow(ctx context.Context) {
	var g sync.WaitGroup
	for _, m := range s.members {
		g.Go(func() { s.follow(ctx, m) })
	}
	g.Wait()
}

func (s *Store) follow(ctx context.Context, m *member) {
	for wait := gather; ; wait = restFor {
		tick := s.clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C():
		case <-m.wake:
			tick.Stop()
			if !s.sleep(ctx, gather) {
				return
			}
		}
		s.round(ctx, m)
	}
}

func (s *Store) sleep(ctx context.Context, d time.Duration) bool {
	t := s.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C():
		return true
	}
}

// round reaches one copy and gives it what it lacks.
func (s *Store) round(ctx context.Context, m *member) {
	if !s.reach(ctx, m) {
		return
	}
	names, whole, since := m.take(s.clock.Now())
	if whole {
		s.lookAgain(ctx, m)
		lack, err := s.lacking(ctx, m)
		if err != nil {
			m.giveBack(nil, true, since)
			s.note(m, err, false)
			return
		}
		names = append(names, lack.names()...)
	} else if len(names) == 0 {
		return
	}
	left, _, errs := s.carryAll(ctx, m, names)
	m.giveBack(left, whole && len(left) > 0, since)
	if len(errs) == 0 && whole {
		m.mu.Lock()
		m.compared = s.clock.Now()
		m.mu.Unlock()
	}
}

// lookAgain forgets the rotten blobs that have been mended since.
func (s *Store) lookAgain(ctx context.Context, m *member) {
	m.mu.Lock()
	names := slices.Sorted(maps.Keys(m.rotten))
	m.mu.Unlock()
	for _, n := range names {
		content, err := store.Read(ctx, m.store, n)
		if err == nil {
			err = s.policy.Check(n, content)
		}
		if err == nil || errors.Is(err, store.ErrNotFound) {
			s.judge(m, n, nil)
		}
	}
}

// Drain carries what this process stored and has not carried yet, once, to the copies that answer. The rest is found by
// whoever compares everything next.
func (s *Store) Drain(ctx context.Context) {
	var g sync.WaitGroup
	for _, m := range s.members {
		g.Go(func() {
			m.mu.Lock()
			names, usable := slices.Sorted(maps.Keys(m.waiting)), m.store != nil && m.err == nil && m.full == nil
			m.mu.Unlock()
			if !usable || len(names) == 0 {
				return
			}
			left, _, _ := s.carryAll(ctx, m, names)
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, n := range names {
				if !slices.Contains(left, n) {
					delete(m.waiting, n)
				}
			}
			if len(m.waiting) == 0 {
				m.since = time.Time{}
			}
		})
	}
	g.Wait()
}

// reach opens a copy that is not open, and asks one that is passed over whether it is back.
func (s *Store) reach(ctx context.Context, m *member) bool {
	m.mu.Lock()
	open, bad, rest := m.store != nil, m.err != nil || m.full != nil, m.rest
	m.mu.Unlock()
	if bad && s.clock.Now().Before(rest) {
		return false
	}
	if !open {
		s.open(ctx, m)
	} else if bad {
		ctx, done := context.WithTimeoutCause(ctx, lookMax, errSlow)
		_, err := m.store.Names(ctx, "")
		done()
		s.note(m, err, false)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store != nil && m.err == nil
}

// take empties the list of what waits. A comparison of everything is due at first, and from time to time; it would find the
// same again while the copy takes no bulk.
func (m *member) take(now time.Time) (names []string, whole bool, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	late := wholeEvery + rand.N(wholeEvery/4)
	whole = m.whole || m.compared.IsZero() || now.Sub(m.compared) > late
	if whole && m.reserve != nil && now.Before(m.spares) {
		whole, m.whole = false, true
	} else {
		m.whole = false
	}
	names, since = slices.Sorted(maps.Keys(m.waiting)), m.since
	m.waiting, m.since = map[string]bool{}, time.Time{}
	return names, whole, since
}

// giveBack puts what could not be carried on the list again.
func (m *member) giveBack(names []string, whole bool, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.whole = m.whole || whole
	if len(names) == 0 && !whole {
		return
	}
	if m.since.IsZero() || !since.IsZero() && since.Before(m.since) {
		m.since = since
	}
	for _, n := range names {
		if len(m.waiting) < queueMax {
			m.waiting[n] = true
		} else {
			m.whole = true
		}
	}
}

// Carried is what a Sync brought to one copy.
type Carried struct {
	Copy    string
	Blobs   int
	Bytes   int64
	Left    int      // could not be brought
	Suspect []string // sizes that differ: a repair must read them
	Away    error
	Trouble []error // why some are left; at most a few
}

// Sync brings every copy that answers up to date with all others, once.
func (s *Store) Sync(ctx context.Context) ([]Carried, error) {
	for _, m := range s.members {
		s.reach(ctx, m)
	}
	var out []Carried
	for _, m := range s.members {
		c := Carried{Copy: m.place.Name}
		m.mu.Lock()
		open, err := m.store != nil, m.err
		m.mu.Unlock()
		if !open || err != nil {
			c.Away = err
			out = append(out, c)
			continue
		}
		l, err := s.lacking(ctx, m)
		if ctx.Err() != nil {
			return out, err
		}
		if err != nil {
			c.Away = err
			out = append(out, c)
			continue
		}
		names := l.names()
		slices.Sort(names)
		left, sum, errs := s.carryAll(ctx, m, slices.Compact(names))
		c.Blobs, c.Bytes, c.Left, c.Suspect, c.Trouble = sum.blobs, sum.bytes, len(left), l.Suspect, errs
		out = append(out, c)
		if err := ctx.Err(); err != nil {
			return out, err
		}
	}
	return out, nil
}

type sum struct {
	blobs int
	bytes int64
}

// carryAll brings blobs to one copy, round by round, in each bulk last: the log does not wait for it. left are those that did
// not arrive, and all of later rounds.
func (s *Store) carryAll(ctx context.Context, m *member, names []string) (left []string, done sum, errs []error) {
	rounds := map[int][]string{}
	for _, n := range names {
		o := s.policy.Order(n)
		rounds[o] = append(rounds[o], n)
	}
	var mu sync.Mutex // guards left, done and errs
	for _, o := range slices.Sorted(maps.Keys(rounds)) {
		if len(left) > 0 {
			left = append(left, rounds[o]...)
			continue
		}
		var g errgroup.Group
		g.SetLimit(lanes)
		slices.SortStableFunc(rounds[o], func(a, b string) int {
			switch x, y := s.policy.Bulk(a), s.policy.Bulk(b); {
			case x == y:
				return 0
			case x:
				return 1
			}
			return -1
		})
		for _, n := range rounds[o] {
			g.Go(func() error {
				size, moved, err := s.carry(ctx, m, n)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					left = append(left, n)
					if len(errs) < 5 {
						errs = append(errs, err)
					}
				case moved:
					done.blobs++
					done.bytes += size
				}
				return nil
			})
		}
		_ = g.Wait() // each keeps its own error
	}
	return left, done, errs
}

// carry brings one blob to m from another copy whose content is what it should be: of a changing blob the newest, else
// the first. What exists nowhere any more needs not be brought; what may exist in a copy that is away waits for it.
func (s *Store) carry(ctx context.Context, m *member, name string) (size int64, moved bool, err error) {
	if up, err := m.up(s.clock.Now(), true); up == nil || err != nil {
		return 0, false, m.named(err)
	}
	if err := s.mayCarry(ctx, m, name); err != nil {
		return 0, false, m.named(err)
	}
	var best []byte
	found := false
	use, errs := s.able(false)
	for _, from := range use {
		if from == m || found && !s.policy.Changing(name) {
			continue
		}
		content, err := store.Read(ctx, from.store, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err == nil {
			err = s.policy.Check(name, content)
		}
		if err != nil {
			errs = append(errs, from.named(fmt.Errorf("read %s: %w", name, err)))
			continue
		}
		if !found || s.policy.Newer(name, best, content) {
			best, found = content, true
		}
	}
	if !found {
		return 0, false, errors.Join(errs...)
	}
	if moved, err = s.give(ctx, m, name, best); err != nil {
		return 0, false, m.named(err)
	}
	s.came(ctx, m, name)
	return int64(len(best)), moved, nil
}

// give stores content in m unless that has it.
func (s *Store) give(ctx context.Context, m *member, name string, content []byte) (bool, error) {
	if !s.policy.Changing(name) {
		err := m.store.Put(ctx, name, store.Bytes(content))
		if errors.Is(err, store.ErrDiffers) {
			own, readErr := store.Read(ctx, m.store, name)
			if readErr == nil {
				readErr = s.policy.Check(name, own)
			}
			if readErr == nil {
				return false, nil // sealed twice: other bytes, the same content
			}
			return false, fmt.Errorf("%w; holdfast vault repair compares them: %w", err, readErr)
		}
		s.given(ctx, m, name, err)
		return err == nil, err
	}
	own, err := store.Read(ctx, m.store, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	if err == nil && (bytes.Equal(own, content) || !s.policy.Newer(name, own, content)) {
		return false, nil
	}
	if err := m.store.Replace(ctx, name, store.Bytes(content)); err != nil {
		s.given(ctx, m, name, err)
		return false, err
	}
	return true, nil
}

// given keeps what the carrying of a blob came to.
func (s *Store) given(ctx context.Context, m *member, name string, err error) {
	switch {
	case err == nil && s.policy.Bulk(name), errors.Is(err, store.ErrReserve):
		s.reserves(m, err)
	case err != nil && ctx.Err() == nil:
		s.note(m, err, true)
	}
}
