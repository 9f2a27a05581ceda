// Package copies makes one store of several equal ones. A write is durable in the first copy that takes it, and reaches
// the others by [Store.Follow]; reads are answered by the first copy that has what is asked. A copy that is away is
// passed over and filled when it is back: it degrades the vault and never stops it. Start at [Open].
package copies

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/clock"
	"holdfast/internal/vault/store"
)

// Policy says what the blobs mean. All functions are asked from many goroutines.
type Policy struct {
	// Passing names what belongs to one copy alone, and is never carried to another.
	Passing func(name string) bool
	// Changing names what is replaced on purpose. Everything else is stored once and for ever.
	Changing func(name string) bool
	// Needed leaves out what something newer has taken the place of. names are those of all copies together.
	Needed func(names []string) []string
	// Bulk names what a copy may refuse with [store.ErrReserve] while it takes everything else.
	Bulk func(name string) bool
	// Light names what does no harm when it comes back after it was deleted: it may be deleted while a copy is away.
	Light func(name string) bool
	// Order is the round in which a blob is carried: what names others comes after them. The last round is only
	// begun when all before it has arrived.
	Order func(name string) int
	// Refresh is called before everything is compared, so that Needed and Check know the latest. nil = nothing is read.
	Refresh func(context.Context) error
	// Check says whether content can be what name stands for. nil = it is, or nothing is known of it.
	Check func(name string, content []byte) error
	// Newer chooses between two contents of a changing blob: it reports whether b is to replace a.
	Newer func(name string, a, b []byte) bool
	// Rotten is told once of each blob of a copy that is not what it should be. nil = nobody is.
	Rotten func(copied, name string, err error)
}

// Place is one copy that is to be opened.
type Place struct {
	Name    string
	Address string // for people, while it is not open
	Open    func(context.Context) (store.Store, error)
}

const (
	// openMax bounds how long the opening of one copy may take.
	openMax = 20 * time.Second
	// lookMax bounds a look at a copy that is not needed for the answer alone, listMax a list of it.
	lookMax = 20 * time.Second
	listMax = 2 * time.Minute
	// restFor is how long a copy that did not answer is left alone while another one does.
	restFor = 15 * time.Second
	// queueMax bounds how many blobs a copy may lack before it is compared as a whole instead.
	queueMax = 20_000
)

// Store is several copies as one. It implements [store.Store].
type Store struct {
	policy  Policy
	clock   clock.Clock
	members []*member
	first   atomic.Int32 // the member that reads ask first

	insisted atomic.Int32 // how many want every copy to have a part in each answer
}

// member is one copy.
type member struct {
	place Place
	wake  chan struct{} // told when something waits to be carried here

	mu       sync.Mutex // guards what follows; never held while a store is asked
	store    store.Store
	err      error     // why it is passed over; nil = it is used
	full     error     // why it is passed over for writing alone
	rest     time.Time // until when it is passed over
	reserve  error     // why it took no bulk when that was last offered; nil = it did
	spares   time.Time // until when no bulk is carried to it
	waiting  map[string]bool
	since    time.Time           // when the oldest of those was stored elsewhere; zero = none
	rotten   map[string]error    // blobs that are not what they should be, by name, and why
	outdated map[string][]string // blobs that may be deleted here as soon as another one has come, by that one's name
	whole    bool                // a comparison of everything is due
	compared time.Time           // when the last one ended well; zero = never
}

// Open opens all places at once; c nil = the real clock. One that does not open is away until it does; an error is
// returned when none does, and it is the first place's own.
func Open(ctx context.Context, policy Policy, c clock.Clock, places []Place) (*Store, error) {
	if c == nil {
		c = clock.Real()
	}
	s := &Store{policy: policy, clock: c}
	var g errgroup.Group
	for _, p := range places {
		m := &member{place: p, wake: make(chan struct{}, 1), waiting: map[string]bool{}, rotten: map[string]error{}, outdated: map[string][]string{}, whole: true}
		s.members = append(s.members, m)
		g.Go(func() error { s.open(ctx, m); return nil })
	}
	_ = g.Wait() // each member keeps its own error
	var first error
	for _, m := range s.members {
		if m.err == nil {
			return s, nil
		}
		if first == nil {
			first = m.err
		}
	}
	if first == nil {
		first = errors.New("no copy is named")
	}
	return nil, first
}

// open tries to reach a copy that is not open.
func (s *Store) open(ctx context.Context, m *member) {
	ctx, done := context.WithTimeoutCause(ctx, openMax, errSlow)
	defer done()
	opened, err := m.place.Open(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if err != nil {
		m.rest = s.clock.Now().Add(restFor)
		return
	}
	if m.store != nil { // another caller was quicker
		closeStore(opened)
		return
	}
	m.store, m.rest, m.full = opened, time.Time{}, nil
}

var errSlow = errors.New("the copy answers too slowly")

func closeStore(s store.Store) {
	if c, ok := s.(interface{ Close() }); ok {
		c.Close()
	}
}

// Close lets go of all copies. Follow must have ended.
func (s *Store) Close() {
	for _, m := range s.members {
		m.mu.Lock()
		if m.store != nil {
			closeStore(m.store)
		}
		m.mu.Unlock()
	}
}

// Address implements [store.Store].
func (s *Store) Address() string {
	var all []string
	for _, m := range s.members {
		all = append(all, m.address())
	}
	return strings.Join(all, " and ")
}

func (m *member) address() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.store != nil {
		return m.store.Address()
	}
	return m.place.Address
}

// up is the copy's store when it may be used now.
func (m *member) up(now time.Time, writing bool) (store.Store, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.store == nil:
		return nil, m.err
	case m.err != nil && now.Before(m.rest):
		return nil, m.err
	case writing && m.full != nil && now.Before(m.rest):
		return nil, m.full
	}
	return m.store, nil
}

// note keeps what a call to a copy came to.
func (s *Store) note(m *member, err error, writing bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.err = nil
		if writing {
			m.full = nil
		}
	case writing && m.err == nil:
		m.full, m.rest = err, s.clock.Now().Add(restFor)
	default:
		m.err, m.rest = err, s.clock.Now().Add(restFor)
	}
}

// reserves keeps that a copy took bulk, err nil, or answered [store.ErrReserve]. That is no trouble: it takes all else.
func (s *Store) reserves(m *member, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reserve, m.spares = err, s.clock.Now().Add(restFor)
}

// mayCarry errs while a copy is not to be offered a blob that it would refuse: each offer reads it from another copy.
func (s *Store) mayCarry(ctx context.Context, m *member, name string) error {
	if !s.policy.Bulk(name) || store.MayUseReserve(ctx) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.clock.Now().Before(m.spares) {
		return m.reserve
	}
	return nil
}

// answers reports whether an error is a copy's answer, and not a copy in trouble.
func answers(err error) bool {
	return err == nil || errors.Is(err, store.ErrShort) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrDiffers) || errors.Is(err, store.ErrLocked)
}

// able are the copies that may be asked now, in order. When none may, all that are open are: a caller that would
// otherwise get nothing may as well try.
func (s *Store) able(writing bool) (use []*member, away []error) {
	now := s.clock.Now()
	for _, m := range s.members {
		if _, err := m.up(now, writing); err != nil {
			away = append(away, m.named(err))
		} else {
			use = append(use, m)
		}
	}
	if len(use) > 0 {
		return use, away
	}
	for _, m := range s.members {
		m.mu.Lock()
		if m.store != nil {
			use = append(use, m)
		}
		m.mu.Unlock()
	}
	return use, nil
}

func (m *member) named(err error) error { return fmt.Errorf("copy %s: %w", m.place.Name, err) }

// Put implements [store.Store]: the first copy that takes it has it durably. One that keeps the rest of its room for the log
// is owed it.
func (s *Store) Put(ctx context.Context, name string, data store.Data) error {
	return s.write(ctx, name, func(to store.Store) error { return to.Put(ctx, name, data) })
}

// Replace implements [store.Store].
func (s *Store) Replace(ctx context.Context, name string, data store.Data) error {
	return s.write(ctx, name, func(to store.Store) error { return to.Replace(ctx, name, data) })
}

func (s *Store) write(ctx context.Context, name string, do func(store.Store) error) error {
	use, errs := s.able(true)
	for _, m := range s.complete(name, use) {
		err := do(m.store)
		switch {
		case err == nil:
			s.note(m, nil, true)
			if s.policy.Bulk(name) {
				s.reserves(m, nil)
			}
			s.owe(name, m)
			return nil
		case answers(err), ctx.Err() != nil:
			return err
		case errors.Is(err, store.ErrReserve):
			s.reserves(m, err)
			errs = append(errs, m.named(err))
			continue
		}
		s.note(m, err, true)
		errs = append(errs, m.named(err))
	}
	return errors.Join(errs...)
}

// complete puts copies that took no bulk last for what names bulk: there it comes after that, as when it is carried.
func (s *Store) complete(name string, use []*member) []*member {
	if s.policy.Changing(name) || s.policy.Order(name) == 0 {
		return use
	}
	var first, last []*member
	for _, m := range use {
		m.mu.Lock()
		lacks := m.reserve != nil
		m.mu.Unlock()
		if lacks {
			last = append(last, m)
		} else {
			first = append(first, m)
		}
	}
	return append(first, last...)
}

// owe remembers that every copy but from lacks a blob.
func (s *Store) owe(name string, from *member) {
	if s.policy.Passing(name) {
		return
	}
	for _, m := range s.members {
		if m != from {
			m.want(name, s.clock.Now())
			select {
			case m.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (m *member) want(name string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		m.since = now
	}
	if len(m.waiting) >= queueMax {
		clear(m.waiting)
		m.whole = true
	}
	m.waiting[name] = true
}

// Delete implements [store.Store]. What is stored for ever is only deleted when every copy answers: otherwise it would
// come back from the one that does not. The rest is deleted where it can be. It is [store.ErrLocked] only when nothing but
// locks was in the way.
func (s *Store) Delete(ctx context.Context, name string) error {
	use, away := s.able(false)
	if err := s.Whole(); err != nil && !s.policy.Passing(name) && !s.policy.Changing(name) && !s.policy.Light(name) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	for _, m := range s.members {
		m.mu.Lock()
		delete(m.waiting, name)
		m.mu.Unlock()
	}
	var locked, errs []error
	for _, m := range use {
		switch err := m.store.Delete(ctx, name); {
		case errors.Is(err, store.ErrLocked):
			locked = append(locked, m.named(err))
		case err != nil:
			errs = append(errs, m.named(err))
		}
	}
	switch {
	case len(use) == 0:
		return errors.Join(away...)
	case len(errs) == 0:
		return errors.Join(locked...)
	case len(locked) > 0: // told, but no lock: something else is wrong as well
		errs = append(errs, errors.New(errors.Join(locked...).Error()))
	}
	return errors.Join(errs...)
}

// Member is one copy by itself.
type Member struct {
	Name  string
	Store store.Store // nil while it is not open
	Away  error       // why it is passed over
}

// Members gives each copy that is open, by itself. Whoever writes to one alone must know why.
func (s *Store) Members() []Member {
	var out []Member
	for _, m := range s.members {
		m.mu.Lock()
		if m.store != nil {
			out = append(out, Member{Name: m.place.Name, Store: m.store, Away: m.err})
		}
		m.mu.Unlock()
	}
	return out
}

// Away gives the copies that cannot be read now, as far as is known, and why.
func (s *Store) Away() []error {
	var out []error
	for _, m := range s.members {
		m.mu.Lock()
		if m.err != nil {
			out = append(out, m.named(m.err))
		}
		m.mu.Unlock()
	}
	return out
}

// ErrCopyAway is returned when something needs every copy and one does not answer.
var ErrCopyAway = errors.New("a copy of the vault is away")

// Whole is nil when every copy answers as far as is known, and [ErrCopyAway] with the reason otherwise.
func (s *Store) Whole() error {
	for _, m := range s.members {
		m.mu.Lock()
		err := m.err
		if err == nil {
			err = m.full
		}
		m.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCopyAway, m.named(err))
		}
	}
	return nil
}

var _ store.Store = (*Store)(nil)
