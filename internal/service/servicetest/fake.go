package servicetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/service"
)

// Behaviour is what a fake program does.
type Behaviour string

// Programs of a fake: Argv[0] names the behaviour.
const (
	RunsUntilStopped Behaviour = "long"
	EndsAtOnce       Behaviour = "short"
	RunsUntilKilled  Behaviour = "stubborn"
	CannotStart      Behaviour = "missing"
)

// Fake is a host's runtime without processes. Time comes from its clock alone, and it starts no goroutine:
// whatever is due happens when it is asked the next time.
type Fake struct {
	clock clock.Clock
	host  string

	mu    sync.Mutex // guards what follows
	lives int
	all   map[string]*fakeInstance
}

type fakeInstance struct {
	service.Observed
	does    Behaviour
	began   time.Time
	ended   time.Time
	killAt  time.Time // zero = not stopping
	fenceAt time.Time // zero = no deadline
}

// NewFake gives an empty host.
func NewFake(c clock.Clock, host string) *Fake {
	return &Fake{clock: c, host: host, all: make(map[string]*fakeInstance)}
}

// settle lets happen what is due.
func (f *Fake) settle(now time.Time) {
	for _, in := range f.all {
		if in.State == service.Exited {
			continue
		}
		switch {
		case !in.fenceAt.IsZero() && !now.Before(in.fenceAt):
			in.Fenced = true
			in.end(in.fenceAt, "fenced: the deadline passed")
		case in.does == EndsAtOnce:
			in.end(in.began, "ended by itself; exit status 1")
		case in.State == service.Stopping && in.does != RunsUntilKilled:
			in.end(now, "stopped as asked")
		case in.State == service.Stopping && !now.Before(in.killAt):
			in.end(in.killAt, "stopped as asked; its grace passed")
		}
	}
}

func (in *fakeInstance) end(at time.Time, why string) {
	in.State, in.Why, in.ended, in.PID = service.Exited, why, at, 0
}

// Observe implements service.Runtime.
func (f *Fake) Observe(context.Context) ([]service.Observed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	f.settle(now)
	out := make([]service.Observed, 0, len(f.all))
	for _, in := range f.all {
		o := in.Observed
		o.Age = now.Sub(in.began)
		if o.State == service.Exited {
			o.Age = now.Sub(in.ended)
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b service.Observed) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Start implements service.Runtime.
func (f *Fake) Start(_ context.Context, in service.Instance) error {
	if err := errors.Join(service.CheckID(in.ID), service.CheckID(in.Service)); err != nil {
		return fmt.Errorf("start instance %q: %w", in.ID, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	f.settle(now)
	if was := f.all[in.ID]; was != nil && was.State != service.Exited {
		if was.State == service.Unknown {
			return fmt.Errorf("start instance %s: its keeper is lost, stop it first", in.ID)
		}
		return nil
	}
	if in.Deadline > 0 && now.Sub(in.Confirmed) >= in.Deadline {
		return fmt.Errorf("start instance %s: %w", in.ID, service.ErrDeadlinePassed)
	}
	if len(in.Argv) == 0 {
		return fmt.Errorf("start instance %s: argv is empty", in.ID)
	}
	f.lives++
	life := &fakeInstance{
		Observed: service.Observed{
			ID: in.ID, Service: in.Service, Host: f.host, Version: in.Version, State: service.Running,
			Life: fmt.Sprintf("life-%d", f.lives), PID: 1000 + f.lives,
		},
		does: Behaviour(in.Argv[0]), began: now,
	}
	if in.Deadline > 0 {
		life.fenceAt = in.Confirmed.Add(in.Deadline)
	}
	f.all[in.ID] = life
	if life.does == CannotStart {
		life.end(now, "its start failed")
		return fmt.Errorf("start instance %s: no such program", in.ID)
	}
	return nil
}

// Stop implements service.Runtime.
func (f *Fake) Stop(_ context.Context, id string, grace time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	f.settle(now)
	in := f.all[id]
	switch {
	case in == nil || in.State == service.Exited:
	case in.State == service.Unknown:
		in.end(now, "the keeper died without a report")
	case in.State == service.Running || now.Add(grace).Before(in.killAt):
		in.State, in.killAt = service.Stopping, now.Add(grace)
	}
	return nil
}

// Extend implements service.Runtime.
func (f *Fake) Extend(_ context.Context, id string, sentAt time.Time, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(f.clock.Now())
	in := f.all[id]
	switch {
	case in == nil || in.State == service.Exited || in.State == service.Unknown:
		return fmt.Errorf("extend instance %s: %w", id, service.ErrNotRunning)
	case in.fenceAt.IsZero():
		return fmt.Errorf("extend instance %s: it has no deadline", id)
	}
	if until := sentAt.Add(d); until.After(in.fenceAt) {
		in.fenceAt = until
	}
	return nil
}

// Forget implements service.Runtime.
func (f *Fake) Forget(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(f.clock.Now())
	if in := f.all[id]; in != nil && in.State != service.Exited {
		return fmt.Errorf("forget instance %s: it is %s", id, in.State)
	}
	delete(f.all, id)
	return nil
}

// Crash ends a running instance by itself.
func (f *Fake) Crash(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in := f.all[id]; in != nil && in.State != service.Exited {
		in.end(f.clock.Now(), "ended by itself; signal: killed")
	}
}

// Lose kills an instance's keeper: what of it runs is unknown until it is stopped.
func (f *Fake) Lose(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in := f.all[id]; in != nil && in.State != service.Exited {
		in.State, in.Why = service.Unknown, "its keeper is lost"
	}
}

// Down is the host's death: everything has ended at once, and was never told.
func (f *Fake) Down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range f.all {
		if in.State != service.Exited {
			in.end(f.clock.Now(), "the host went down")
		}
	}
}
