package agent

import (
	"context"
	"sync"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/service"
)

// tending carries out what rounds ask for services: one order at a time for each instance.
type tending struct {
	agent *Agent
	done  sync.WaitGroup
	look  chan struct{} // asks for a look at the instances now

	mu   sync.Mutex // guards what follows
	busy map[string]bool
	held map[string]bool
}

func newTending(a *Agent) *tending {
	return &tending{agent: a, look: make(chan struct{}, 1), busy: map[string]bool{}, held: map[string]bool{}}
}

// orderMax bounds how long a runtime may take to accept an order.
const orderMax = 10 * time.Second

// claim marks an instance in set as being worked on.
func (t *tending) claim(set map[string]bool, id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if set[id] {
		return false
	}
	set[id] = true
	return true
}

func (t *tending) release(set map[string]bool, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(set, id)
}

// Service starts one order.
func (h hands) Service(a service.Action) {
	t := h.agent.tending
	if !t.claim(t.busy, a.ID) {
		return
	}
	t.done.Go(func() {
		defer t.release(t.busy, a.ID)
		ctx, cancel := context.WithTimeout(h.ctx, orderMax)
		defer cancel()
		began := h.agent.cfg.Clock.Now()
		err := t.order(ctx, a)
		took := h.agent.cfg.Clock.Now().Sub(began)
		select {
		case t.look <- struct{}{}:
		default:
		}
		what := string(a.Verb) + " " + a.ID
		switch {
		case h.ctx.Err() != nil:
			return
		case err != nil:
			h.agent.cfg.Log.Warn("service order did not succeed", "order", what, "because", a.Because, "err", err)
			_ = h.agent.pause(ctx, retryPause, nil) // only slows the next try down
		default:
			h.agent.cfg.Log.Info("service order done", "order", what, "because", a.Because, "took", took)
			h.agent.cfg.Diary.Note("service", a.ID, what, []string{a.Because}, took)
		}
	})
}

func (t *tending) order(ctx context.Context, a service.Action) error {
	runtime := t.agent.cfg.Runtime
	switch a.Verb {
	case service.Start:
		in, err := t.instance(a.ID)
		if err != nil {
			return err
		}
		return runtime.Start(ctx, in)
	case service.Stop:
		return runtime.Stop(ctx, a.ID, a.Grace)
	default:
		return runtime.Forget(ctx, a.ID)
	}
}

// instance is everything that an assignment of ours needs to run.
func (t *tending) instance(id string) (service.Instance, error) {
	last := t.agent.Last()
	f := last.Facts
	for _, placed := range f.Services.Agreed {
		for _, x := range placed.Assignments {
			if x.ID != id {
				continue
			}
			in, err := t.agent.cfg.Instance(x)
			if in.Deadline > 0 && last.Outcome.Singletons < database.Never {
				in.Confirmed = last.At.Add(-last.Outcome.Singletons)
			}
			return in, err
		}
	}
	return service.Instance{}, service.ErrNotRunning
}

// Hold extends a singleton's deadline, counted from the proof.
func (h hands) Hold(id string, contact time.Duration) {
	t := h.agent.tending
	if !t.claim(t.held, id) {
		return
	}
	sent := h.agent.factsAt.Add(-contact)
	t.done.Go(func() {
		defer t.release(t.held, id)
		ctx, cancel := context.WithTimeout(h.ctx, time.Second)
		defer cancel()
		if err := h.agent.cfg.Runtime.Extend(ctx, id, sent, SingletonDeadline); err != nil && h.ctx.Err() == nil {
			h.agent.cfg.Log.Debug("singleton not extended", "id", id, "err", err)
		}
	})
}
