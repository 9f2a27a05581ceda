package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// hands start what a round asks for, each in a goroutine that its slot owns.
type hands struct {
	agent *Agent
	ctx   context.Context
}

// slot carries out the actions of one database: one at a time, and a kill beside it.
type slot struct {
	agent *Agent
	name  string
	done  sync.WaitGroup
	moved chan struct{}  // asks the observer for a look now
	phase database.Phase // of the last round; only rounds use it

	mu      sync.Mutex // guards what follows
	kinds   []database.Kind
	cancel  context.CancelFunc // of the action that is no kill
	gate    database.GateOrder // last order that the gate took, and when
	gateAt  time.Time
	gating  bool
	leasing bool
	read    database.ReadOrder // last order that the read-only listener took, and when
	readAt  time.Time
	reading bool
	slotsAt time.Time // when slots were last ordered
	slotted bool      // an order of slots is on its way
}

func (s *slot) busy() []database.Kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]database.Kind(nil), s.kinds...)
}

// Act starts one action.
func (h hands) Act(name string, a database.Action) {
	s := h.agent.slots[name]
	ctx, cancel := context.WithCancel(h.ctx)
	s.mu.Lock()
	s.kinds = append(s.kinds, a.Kind)
	if a.Kind != database.KindKill {
		s.cancel = cancel
	}
	s.mu.Unlock()
	s.done.Go(func() {
		defer cancel()
		s.run(ctx, a)
	})
}

func (s *slot) run(ctx context.Context, a database.Action) {
	cfg := s.agent.cfg
	log := cfg.Log.With("database", s.name, "epoch", a.Epoch)
	began := cfg.Clock.Now()
	to := database.Hands{
		Self: cfg.Self, Server: cfg.Servers[s.name], Records: Records(cfg.Store, s.name),
		Reach: func(host string) (database.Endpoint, error) { return cfg.Reach(s.name, host) },
	}
	if cfg.Trouble != nil {
		to.Hook = func(ctx context.Context, a database.Action) error { return cfg.Trouble(ctx, s.name, a) }
	}
	err := database.Act(ctx, to, a)
	took := cfg.Clock.Now().Sub(began)
	s.tell(log, a, took, err)
	switch {
	case a.Kind == database.KindSwap:
		if err != nil && !errors.Is(err, cluster.ErrConflict) {
			_ = s.agent.pause(ctx, retryPause, nil) // as below
		}
		s.agent.readNow(ctx)
	case err != nil:
		_ = s.agent.pause(ctx, retryPause, nil) // only slows the next try down
		fallthrough
	default:
		s.agent.look(ctx, s.name)
	}
	s.mu.Lock()
	for i, k := range s.kinds {
		if k == a.Kind {
			s.kinds = append(s.kinds[:i], s.kinds[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	s.agent.Wake()
}

// tell says how an action went, once.
func (s *slot) tell(log *slog.Logger, a database.Action, took time.Duration, err error) {
	cfg := s.agent.cfg
	var because []string
	if a.Why != "" {
		because = []string{a.Why}
	}
	what := cmp.Or(a.Told, a.String())
	if a.Record != nil && a.Told != "" && len(a.Record.Because) > 0 && a.Record.Phase != database.Steady {
		because = a.Record.Because
	}
	switch {
	case err == nil:
		log.Info("database action done", "action", a.String(), "why", a.Why, "took", took)
		cfg.Diary.Note("database", s.name, what, because, took)
	case errors.Is(err, context.Canceled), errors.Is(err, database.ErrStale), errors.Is(err, cluster.ErrConflict):
		log.Info("database action overtaken", "action", a.String(), "err", err, "took", took)
	default:
		log.Warn("database action did not succeed", "action", a.String(), "err", err, "took", took)
		cfg.Diary.Note("database", s.name, a.String()+" did not succeed: "+err.Error(), because, took)
	}
}

// retryPause keeps an action that fails at once from being tried in a tight loop.
const retryPause = 200 * time.Millisecond

// slowLook is worth a word to a developer: a look takes a few milliseconds.
const slowLook = 100 * time.Millisecond

// look observes a local server now, so that the round after an action sees what it did.
func (a *Agent) look(ctx context.Context, name string) {
	began := a.cfg.Clock.Now()
	local := a.cfg.Servers[name].Observe(ctx)
	if took := a.cfg.Clock.Now().Sub(began); took > slowLook {
		a.cfg.Log.Debug("slow look at the server", "database", name, "took", took, "why", local.Why)
	}
	if ctx.Err() == nil {
		a.board.observed(name, local, began)
	}
}

// readNow brings our own write into the facts before the next round, so that it is not judged twice.
func (a *Agent) readNow(ctx context.Context) {
	sent := a.cfg.Clock.Now()
	if entries, revision, err := a.cfg.Store.List(ctx, keyRoot); err == nil {
		a.board.agreed(entries, revision, sent)
	}
}

// Interrupt cancels the action under way.
func (h hands) Interrupt(name string) {
	s := h.agent.slots[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
}

// Lease extends the deadline of our primary, which its keeper holds, and the listener 0.5 s later. The time already spent on the way here is not counted
// twice: the keeper counts from when it hears, so the round's own age is taken off by the driver's caller.
func (h hands) Lease(name string, epoch int64, d time.Duration) {
	s := h.agent.slots[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leasing {
		return
	}
	s.leasing = true
	judged := h.agent.factsAt // ages were taken then: a process that stood still since has no more time for it
	s.done.Go(func() {
		ctx, cancel := context.WithTimeout(h.ctx, time.Second)
		defer cancel()
		left := d - h.agent.cfg.Clock.Now().Sub(judged)
		if left <= 0 { // it would take the listener's deadline away
			s.mu.Lock()
			s.leasing = false
			s.mu.Unlock()
			return
		}
		// Beside each other: the listener's deadline is there for a keeper that stands still, and must not wait for it.
		var server, gate error
		var both sync.WaitGroup
		both.Go(func() { server = h.agent.cfg.Servers[name].Extend(ctx, epoch, left.Milliseconds()) })
		both.Go(func() { gate = h.agent.cfg.Gates[name].Extend(ctx, epoch, left) })
		both.Wait()
		if err := errors.Join(server, gate); err != nil && ctx.Err() == nil {
			h.agent.cfg.Log.Debug("lease not extended", "database", name, "epoch", epoch, "err", err)
		}
		s.mu.Lock()
		s.leasing = false
		s.mu.Unlock()
	})
}

// gateEvery is how often an order that stands is given again: a listener that was started anew holds until it
// hears one.
const gateEvery = time.Second

// Gate gives the listener its order at each change, and again while it stands.
func (h hands) Gate(name string, o database.GateOrder) {
	s := h.agent.slots[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := h.agent.cfg.Clock.Now()
	if s.gating || s.gate == o && now.Sub(s.gateAt) < gateEvery {
		return
	}
	full := o
	if o.State == database.GateOpen {
		to, err := h.agent.cfg.Reach(name, o.Target.Host)
		if err != nil {
			h.agent.cfg.Log.Warn("listener not led", "database", name, "err", err)
			return
		}
		full.Target = to
	}
	s.gating = true
	repeated := s.gate == o
	s.done.Go(func() {
		ctx, cancel := context.WithTimeout(h.ctx, time.Second)
		defer cancel()
		err := h.agent.cfg.Gates[name].Order(ctx, full)
		s.mu.Lock()
		s.gating = false
		if err == nil {
			s.gate, s.gateAt = o, now
		}
		s.mu.Unlock()
		switch {
		case h.ctx.Err() != nil:
		case err != nil:
			h.agent.cfg.Log.Debug("listener order not taken", "database", name, "state", o.State, "err", err)
		case repeated:
		default:
			h.agent.Wake() // another order may have come meanwhile
		}
	})
}

// readEveryOrder is how often the read-only listener is told again: its members have a time, which goes on with each
// order.
const readEveryOrder = 500 * time.Millisecond

// Read gives the read-only listener its order at each change, and again while it stands.
func (h hands) Read(name string, o database.ReadOrder) {
	s := h.agent.slots[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	judged := h.agent.factsAt
	if s.reading || s.read.Equal(o) && judged.Sub(s.readAt) < readEveryOrder {
		return
	}
	full := o
	full.Members = slices.Clone(o.Members)
	for i, m := range full.Members {
		to, err := h.agent.cfg.Reach(name, m.Host)
		if err != nil {
			h.agent.cfg.Log.Warn("read-only listener not led", "database", name, "err", err)
			return
		}
		full.Members[i].To = to
	}
	s.reading = true
	repeated := s.read.Equal(o)
	s.done.Go(func() {
		ctx, cancel := context.WithTimeout(h.ctx, time.Second)
		defer cancel()
		for i := range full.Members {
			full.Members[i].For -= h.agent.cfg.Clock.Now().Sub(judged)
		}
		err := h.agent.cfg.Gates[name].Read(ctx, full)
		s.mu.Lock()
		s.reading = false
		if err == nil {
			s.read, s.readAt = o, judged
		}
		s.mu.Unlock()
		switch {
		case h.ctx.Err() != nil:
		case err != nil:
			h.agent.cfg.Log.Debug("order to the read-only listener not taken", "database", name, "err", err)
		case repeated:
		default:
			h.agent.Wake() // another order may have come meanwhile
		}
	})
}

// slotsEvery is how often a server's slots are moved: what is kept needlessly is what the others write in that time.
const slotsEvery = time.Second

// Slots has a server keep its slots.
func (h hands) Slots(name string, o database.SlotOrder) {
	s := h.agent.slots[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := h.agent.cfg.Clock.Now()
	if s.slotted || now.Sub(s.slotsAt) < slotsEvery {
		return
	}
	s.slotted, s.slotsAt = true, now
	s.done.Go(func() {
		err := h.agent.cfg.Servers[name].KeepSlots(h.ctx, o)
		if err != nil && h.ctx.Err() == nil {
			h.agent.cfg.Log.Debug("slots not kept", "database", name, "err", err)
		}
		s.mu.Lock()
		s.slotted = false
		s.mu.Unlock()
	})
}

// Answer settles requests.
func (h hands) Answer(name string, answers []database.Answer) {
	s := h.agent.slots[name]
	s.done.Go(func() {
		for _, x := range answers {
			h.agent.Settle(h.ctx, settledOf(askedWords(x, h.agent.Last().Agreed), h.agent.cfg.Self))
		}
	})
}

// settledOf is an answer as it lies in the store.
func settledOf(x database.Answer, host string) Settled {
	s := Settled{ID: x.ID, OK: x.OK, Text: x.Text, Host: host}
	if len(x.Spans) > 0 {
		s.Result, _ = json.Marshal(map[string]any{"spans": x.Spans}) // names and numbers: it cannot fail
	}
	return s
}

// Settle writes the answer to a request; the first answer stays.
func (a *Agent) Settle(ctx context.Context, s Settled) {
	value, err := json.Marshal(s)
	if err == nil {
		_, err = a.cfg.Store.Put(ctx, KeyAnswers+s.ID, value, 0)
	}
	if err != nil && !errors.Is(err, cluster.ErrConflict) && ctx.Err() == nil {
		a.cfg.Log.Warn("request not settled", "id", s.ID, "err", err)
	}
}

// NoteChore keeps how a chore of this host went; whoever has the duty next goes on from there.
func (a *Agent) NoteChore(ctx context.Context, c Chore) {
	if _, err := ChoreKey(c.Kind, c.Subject).Set(ctx, a.cfg.Store, c); err != nil && ctx.Err() == nil {
		a.cfg.Log.Warn("outcome of a chore not noted", "subject", c.Subject, "chore", c.Kind, "err", err)
	}
}

// endSlots waits for every goroutine that a round started.
func (a *Agent) endSlots() {
	for _, s := range a.slots {
		s.done.Wait()
	}
	a.tending.done.Wait()
}
