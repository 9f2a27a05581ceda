// Package probe asks instances whether they are well: HTTP, TCP and exec checks, each at its own pace with
// jitter. It only keeps verdicts; what follows from them is [service.DecideHost]'s to say.
package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/plan"
	"holdfast/internal/service"
)

// Target is one life of an instance with its checks.
type Target struct {
	ID      string
	Life    string // a new life starts with a clean slate
	Address string
	Port    int
	Live    *plan.Check // nil = none
	Ready   *plan.Check
	Env     service.Environment // of exec checks
	WorkDir string
	UID     int // 0 = as the agent
	GID     int
}

// Result is the verdict on one target; ages count to the moment of the call.
type Result struct {
	Life        string
	Live, Ready service.Health // zero where there is no check
}

const (
	everyDefault   = 2 * time.Second
	timeoutDefault = time.Second
	fallDefault    = 3
	riseDefault    = 2
	jitterShare    = 0.1 // of the pace, to either side, so that checks of many instances do not march in step
)

// Prober checks a changing set of targets.
type Prober struct {
	clock clock.Clock

	mu     sync.Mutex // guards what follows
	all    map[string]*probed
	closed bool
	wg     sync.WaitGroup // of all goroutines; Add only under mu and before closed
}

type probed struct {
	target Target
	cancel context.CancelFunc

	mu   sync.Mutex // guards what follows
	seen [2]verdict // live, ready
}

type verdict struct {
	health service.Health
	at     time.Time // when health was counted
}

// New gives a prober without targets. Close it.
func New(c clock.Clock) *Prober { return &Prober{clock: c, all: make(map[string]*probed)} }

// Set makes these the targets: new ones and new lives begin, others end, the rest go on undisturbed.
func (p *Prober) Set(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	want := make(map[string]bool, len(targets))
	for _, t := range targets {
		want[t.ID] = true
		was := p.all[t.ID]
		if was != nil && reflect.DeepEqual(was.target, t) {
			continue
		}
		if was != nil {
			was.cancel()
		}
		p.all[t.ID] = p.begin(t)
	}
	for id, t := range p.all {
		if !want[id] {
			t.cancel()
			delete(p.all, id)
		}
	}
}

// begin starts a goroutine for each check; they end with the target, and Close waits for them.
func (p *Prober) begin(t Target) *probed {
	ctx, cancel := context.WithCancel(context.Background())
	one := &probed{target: t, cancel: cancel}
	now := p.clock.Now()
	for i, c := range []*plan.Check{t.Live, t.Ready} {
		if c == nil {
			continue
		}
		check := withDefaults(*c)
		one.seen[i] = verdict{health: service.Health{State: service.HealthUnknown}, at: now}
		p.wg.Go(func() { p.loop(ctx, one, i, check) })
	}
	return one
}

func withDefaults(c plan.Check) plan.Check {
	for _, f := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&c.Every, everyDefault}, {&c.Timeout, timeoutDefault}} {
		if *f.d <= 0 {
			*f.d = f.def
		}
	}
	if c.Fall <= 0 {
		c.Fall = fallDefault
	}
	if c.Rise <= 0 {
		c.Rise = riseDefault
	}
	return c
}

// loop checks at once, then at the pace. While nothing is known yet it looks more often, so that a start is
// seen soon.
func (p *Prober) loop(ctx context.Context, one *probed, i int, c plan.Check) {
	for {
		err := p.once(ctx, one.target, c)
		if ctx.Err() != nil {
			return
		}
		state := one.count(p.clock.Now(), i, c, err)
		every := c.Every
		if state == service.HealthUnknown {
			every = min(every, c.Every/4)
		}
		timer := p.clock.NewTimer(time.Duration(float64(every) * (1 + jitterShare*(2*rand.Float64()-1))))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

func (p *Prober) once(ctx context.Context, t Target, c plan.Check) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no answer within %v", c.Timeout))
	defer cancel()
	var err error
	switch c.Kind {
	case "http":
		err = checkHTTP(ctx, t, c.Path)
	case "tcp":
		err = checkTCP(ctx, t)
	case "exec":
		err = checkExec(ctx, t, c.Argv)
	default:
		return fmt.Errorf("check of kind %q is not known", c.Kind)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

func (o *probed) count(now time.Time, i int, c plan.Check, err error) service.HealthState {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := &o.seen[i]
	why := ""
	if err != nil {
		why = err.Error()
	}
	v.health = service.NextHealth(c, v.health, now.Sub(v.at), err == nil, why)
	v.at = now
	return v.health.State
}

// Results gives the verdicts on all targets by ID.
func (p *Prober) Results() map[string]Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]Result, len(p.all))
	now := p.clock.Now()
	for id, o := range p.all {
		o.mu.Lock() // after p.mu, never before
		r := Result{Life: o.target.Life}
		if o.target.Live != nil {
			r.Live = o.seen[0].health.Aged(now.Sub(o.seen[0].at))
		}
		if o.target.Ready != nil {
			r.Ready = o.seen[1].health.Aged(now.Sub(o.seen[1].at))
		}
		o.mu.Unlock()
		out[id] = r
	}
	return out
}

// Close ends all checks and waits for them.
func (p *Prober) Close() {
	p.mu.Lock()
	p.closed = true
	for _, o := range p.all {
		o.cancel()
	}
	clear(p.all)
	p.mu.Unlock()
	p.wg.Wait()
}
