package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/clock"
)

// Election keeps one holder of a role at a time with nothing but compare-and-swap: the holder rewrites the
// record before each third of TTL has passed; another takes the record only after it saw the very same
// revision for a whole TTL on its own monotonic clock. No wall clock and no lease of the store is involved.
//
// Why it is safe: a renewal that the store applied was sent before a taker could see it. The holder counts its
// time from the sending, the taker from the seeing, and the holder stops a quarter of TTL earlier, which covers
// clocks that run at different speeds. A holder that hangs between asking Leading and acting is not covered by
// any clock: what it writes must be conditional too, on a revision or on [Election.Term].
//
// A record that is gone is no role that was given back: its holder may live and lead. Whoever has seen one waits for a
// whole TTL as if it were held, and goes on from the highest term that it saw itself.
type Election struct {
	store Store
	key   Key[office]
	self  string
	ttl   time.Duration
	clock clock.Clock
	log   *slog.Logger

	changed chan struct{}

	mu      sync.Mutex // guards what follows; never held during a store call
	sent    time.Time  // when the last answered renewal was sent; zero = not the holder
	term    int64
	holder  string    // as last seen, "" = nobody
	highest int64     // highest term seen
	seenRev int64     // revision last seen in the store
	seenAt  time.Time // when seenRev was first seen
}

// office is the record of a role.
type office struct {
	Holder  string `json:"holder"` // empty: given back
	Term    int64  `json:"term"`   // raised by each taking, never lowered
	Counter int64  `json:"counter"`
}

// Campaign prepares to take part in the election of key; [Election.Run] does so. self must be unique to this
// life of the process (host name and a random part): a restarted process waits like any other, for it cannot
// know that its former life has ended. A zero ttl means 6 s.
func Campaign(s Store, key, self string, ttl time.Duration, c clock.Clock, log *slog.Logger) *Election {
	if ttl <= 0 {
		ttl = 6 * time.Second
	}
	return &Election{
		store: s, key: Key[office](key), self: self, ttl: ttl, clock: c,
		log: log.With("role", key), changed: make(chan struct{}, 1),
	}
}

// Leading says whether this process holds the role now: its last answered renewal was sent less than three
// quarters of TTL ago.
func (e *Election) Leading() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leading(e.clock.Now())
}

// Term is the number of the holding: every taking has a higher one. 0 while not leading.
func (e *Election) Term() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.leading(e.clock.Now()) {
		return 0
	}
	return e.term
}

// ErrNotHolder says that somebody else holds the role, or nobody, as far as can be told.
var ErrNotHolder = errors.New("this process does not hold the role")

// Confirm asks the store itself whether this process still holds the role, in the same holding as it believes: for a step
// that cannot be made conditional where it happens. nil = it did when the store answered.
func (e *Election) Confirm(ctx context.Context) error {
	term := e.Term()
	rec, _, err := e.key.Load(ctx, e.store)
	if err != nil {
		return err
	}
	if term == 0 || rec.Holder != e.self || rec.Term != term || e.Term() != term {
		return fmt.Errorf("confirm %s: %w", e.key, ErrNotHolder)
	}
	return nil
}

// Holder is who held the role when the store was last read; "" = nobody, or never read.
func (e *Election) Holder() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holder
}

// Changed receives when leadership was gained or lost, or another holder was seen. A leadership that runs out
// in silence is told at the next step, so callers still ask Leading before they act.
func (e *Election) Changed() <-chan struct{} { return e.changed }

// Run takes part until ctx ends, then gives the role back if it is held, so that another need not wait.
func (e *Election) Run(ctx context.Context) error {
	t := e.clock.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			e.resign(context.WithoutCancel(ctx))
			return nil
		case <-t.C():
			t.Reset(e.Step(ctx))
		}
	}
}

// Step does one turn (one read, at most one write) and says how long to wait before the next. Run is a timer
// around it; the simulator calls it by hand. It must not be called by two goroutines at once.
func (e *Election) Step(ctx context.Context) time.Duration {
	was, before := e.Leading(), e.Holder()
	err := e.turn(ctx)
	now, holder := e.Leading(), e.Holder()
	if was != now {
		e.log.InfoContext(ctx, "leadership changed", "leading", now, "holder", holder)
	}
	if was != now || before != holder {
		e.wake()
	}
	pause := e.ttl / 4
	if !now {
		pause = e.ttl / 6 // a taker looks more often than the holder writes, so it adds little to the wait
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		e.log.DebugContext(ctx, "election turn", "err", err)
		pause = e.ttl / 8
	}
	return pause
}

func (e *Election) turn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.ttl/3) // a turn that is late is better begun anew
	defer cancel()
	rec, rev, err := e.key.Load(ctx, e.store)
	if err != nil {
		return err
	}
	seen := e.clock.Now()
	e.mu.Lock()
	if rev != e.seenRev || e.seenAt.IsZero() {
		e.seenRev, e.seenAt = rev, seen
	}
	e.holder, e.highest = rec.Holder, max(e.highest, rec.Term)
	gone := rev == 0 && e.highest > 0 // the whole record, which nobody who gives the role back does
	rec.Term = e.highest
	waited := seen.Sub(e.seenAt)
	if rec.Holder != e.self {
		e.sent = time.Time{}
	}
	e.mu.Unlock()

	switch {
	case rec.Holder == e.self:
		rec.Counter++
	case rec.Holder == "" && !gone || waited >= e.ttl:
		rec = office{Holder: e.self, Term: rec.Term + 1}
	default:
		return nil
	}
	sent := e.clock.Now()
	next, err := e.key.Swap(ctx, e.store, rev, rec)
	if err != nil {
		// Lost, or unknown: an unknown one shows itself as our own record at the next read.
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent, e.term, e.holder, e.highest = sent, rec.Term, e.self, max(e.highest, rec.Term)
	e.seenRev, e.seenAt = next, e.clock.Now()
	return nil
}

// resign gives the role back. It is a courtesy: if it fails, the others wait their TTL.
func (e *Election) resign(ctx context.Context) {
	e.mu.Lock()
	held := !e.sent.IsZero()
	e.sent = time.Time{} // first: from here on this process acts no more
	term, rev := e.term, e.seenRev
	e.mu.Unlock()
	if !held {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.ttl/3)
	defer cancel()
	if _, err := e.key.Swap(ctx, e.store, rev, office{Term: term}); err != nil {
		e.log.DebugContext(ctx, "role not given back", "err", err)
	}
	e.wake()
}

// leading needs mu.
func (e *Election) leading(now time.Time) bool {
	return !e.sent.IsZero() && now.Sub(e.sent) < e.ttl-e.ttl/4
}

func (e *Election) wake() {
	select {
	case e.changed <- struct{}{}:
	default: // one wake-up is already waiting
	}
}
