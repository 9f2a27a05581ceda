package gate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fenceGrace is how much later than the keeper's deadline the gate's own falls: the keeper, which can also
// kill, goes first, and the gate fences only if the keeper has not.
const fenceGrace = 500 * time.Millisecond

// ErrCutMeanwhile is returned when a fence came while an order to open was being written to disk.
var ErrCutMeanwhile = errors.New("cut by a fence meanwhile")

// Obey carries out o. What an order closes is closed before anything is written, so that a slow disk
// delays no fence; what it opens is opened only once the epoch is on disk, so that a restarted gate can
// never fall behind an epoch that it has served.
func (g *Gate) Obey(ctx context.Context, o Order) error {
	g.orders.Lock()
	defer g.orders.Unlock()

	g.mu.Lock()
	if err := g.led.judge(o); err != nil {
		g.mu.Unlock()
		return fmt.Errorf("order %s: %w", o.State, err)
	}
	before, was, target := g.led.Last, g.state, g.target
	g.led = g.led.take(o)
	g.closeFor(before, o)
	led, cuts := g.led, g.cuts
	g.mu.Unlock()

	if err := errors.Join(g.follow(), g.keep(led)); err != nil {
		return fmt.Errorf("order %s in epoch %d: %w", o.State, o.Epoch, err)
	}
	if o.State == Open {
		to := roadTo(o.Target)
		g.mu.Lock()
		g.road = to
		if g.cuts != cuts {
			g.mu.Unlock()
			return fmt.Errorf("order %s in epoch %d: %w", o.State, o.Epoch, ErrCutMeanwhile)
		}
		g.set(Open, o.Target, o.Reason)
		g.leadOn()
		g.mu.Unlock()
		if err := g.follow(); err != nil {
			return fmt.Errorf("order %s in epoch %d: %w", o.State, o.Epoch, err)
		}
	}
	if was != o.State || target != o.Target || before.Epoch != o.Epoch {
		g.log.InfoContext(ctx, "gate "+string(o.State), "epoch", o.Epoch, "generation", o.Generation, "target", o.Target, "reason", o.Reason)
	}
	return nil
}

// closeFor does the part of o, which came after before, that takes something away. Callers hold g.mu, and call follow
// when they do not any more.
func (g *Gate) closeFor(before, o Order) {
	g.fenced = ""
	if o.Epoch > before.Epoch {
		g.fenceAt = time.Time{} // a deadline belongs to its epoch
	}
	defer g.wakeTime()
	g.drainAt = time.Time{}
	switch {
	case o.State == Shut:
		g.fenceAt = time.Time{}
		g.set(Shut, o.Target, o.Reason)
		g.closeLinks()
	case o.Epoch > before.Epoch, o.State == Open && o.Target != g.target:
		g.set(Hold, "", o.Reason)
		g.closeLinks()
	case o.State == Hold && o.DrainFor > 0:
		g.drainAt = g.cfg.Clock.Now().Add(time.Duration(o.DrainFor))
		g.set(Hold, g.target, o.Reason) // the target stays known: an order back to it keeps the connections
		g.unlead()
	case o.State == Hold:
		g.set(Hold, g.target, o.Reason)
		g.closeLinks()
	}
}

// set changes the state and wakes whoever waits for that. Callers hold g.mu.
func (g *Gate) set(s State, target, reason string) {
	if g.state != s {
		g.since = g.cfg.Clock.Now()
	}
	moved := g.state != s || g.target != target
	g.state, g.target, g.reason = s, target, reason
	if moved {
		close(g.changed)
		g.changed = make(chan struct{})
		g.dropDialled()
	}
	for _, m := range g.read.members {
		if s == Open && m.Target == target {
			m.cut() // where writes lead nobody only reads: the order to write there is the newer word
		}
	}
}

// Cut is the keeper's fence: every connection is reset before it returns, and the gate stays shut until an
// order of a higher epoch or generation. Cutting an epoch below the present one changes nothing, for its
// connections are gone already; epoch 0 means whatever is now. The disk is not waited for.
func (g *Gate) Cut(epoch uint64, reason string) {
	g.mu.Lock()
	stale := epoch != 0 && epoch < g.led.Last.Epoch
	if !stale {
		g.cutNow(reason)
	}
	g.mu.Unlock()
	if stale {
		return
	}
	if err := g.follow(); err != nil { // keepTime tries again until it succeeds
		g.log.Error("rules in the kernel still lead to a former primary", "err", err)
	}
}

// cutNow shuts and resets; the rules in the kernel follow when the caller, or keepTime, which it wakes, calls follow.
// Callers hold g.mu.
func (g *Gate) cutNow(reason string) {
	g.led.Cut, g.led.CutReason = true, reason
	g.cuts++
	g.unkept = true
	g.fenceAt, g.drainAt = time.Time{}, time.Time{}
	g.set(Shut, "", reason)
	g.closeLinks()
	g.wakeTime()
}

// Extend sets the deadline of the primary on this host: the gate fences by itself when remaining and a
// grace of 0.5 s have passed without another call. Zero or less takes the deadline away (a planned stop of
// the one who extends). Only the present epoch can be extended, and not one that was cut: nor one whose deadline has passed
// while this process stood still.
func (g *Gate) Extend(epoch uint64, remaining time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fenceIfDue(g.cfg.Clock.Now())
	if epoch != g.led.Last.Epoch || g.led.Cut {
		return fmt.Errorf("extend the deadline: %w", g.led.stale(epoch, g.led.Last.Generation))
	}
	g.fenceAt = time.Time{}
	if remaining > 0 {
		g.fenceAt = g.cfg.Clock.Now().Add(remaining + fenceGrace)
	}
	g.wakeTime()
	return nil
}

// fenceIfDue fences when the deadline has passed, and says whether it did. Callers hold g.mu. Besides the
// timer each new connection asks, so that a process which slept through its deadline opens nothing on waking.
func (g *Gate) fenceIfDue(now time.Time) bool {
	if g.fenceAt.IsZero() || now.Before(g.fenceAt) {
		return false
	}
	g.fenced = "the primary's deadline passed and its keeper had not fenced"
	g.cutNow(g.fenced)
	return true
}

func (g *Gate) wakeTime() {
	select {
	case g.alarmSet <- struct{}{}:
	default: // it is awake already
	}
}

// keepTime ends drains, holds the deadline and puts fences on disk, until ctx ends.
func (g *Gate) keepTime(ctx context.Context) error {
	const retryDisk = time.Second
	timer := g.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, unkept := g.tick(ctx)
		if unkept {
			if err := g.keepFence(); err != nil {
				g.log.ErrorContext(ctx, "fence not on disk", "err", err)
				wait = min(wait, retryDisk)
			} else {
				continue
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-g.alarmSet:
		case <-timer.C():
		}
	}
}

// tick does what is due, and says how long nothing will be and whether a fence waits for the disk.
func (g *Gate) tick(ctx context.Context) (wait time.Duration, unkept bool) {
	wait, unkept = g.due(ctx)
	if err := g.follow(); err != nil {
		g.log.ErrorContext(ctx, "rules in the kernel still lead to a former primary", "err", err)
		wait = min(wait, owedPause)
	}
	return wait, unkept
}

// due is the part of tick that waits for nothing.
func (g *Gate) due(ctx context.Context) (wait time.Duration, unkept bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.cfg.Clock.Now()
	if g.fenceIfDue(now) {
		g.log.ErrorContext(ctx, "gate fenced by itself", "epoch", g.led.Last.Epoch, "reason", g.fenced)
	}
	if !g.drainAt.IsZero() && !now.Before(g.drainAt) {
		g.drainAt = time.Time{}
		g.log.InfoContext(ctx, "drain ended", "cut", len(g.links), "epoch", g.led.Last.Epoch)
		g.closeLinks()
	}
	wait = time.Hour
	for _, at := range []time.Time{g.drainAt, g.fenceAt, g.expireReads(now)} {
		if !at.IsZero() {
			wait = min(wait, at.Sub(now))
		}
	}
	return wait, g.unkept
}

// keepFence writes a fence to disk when one is not there yet.
func (g *Gate) keepFence() error {
	g.orders.Lock()
	defer g.orders.Unlock()
	g.mu.Lock()
	led, unkept, cuts := g.led, g.unkept, g.cuts
	g.mu.Unlock()
	if !unkept {
		return nil
	}
	if err := g.keep(led); err != nil {
		return err
	}
	g.mu.Lock()
	g.unkept = g.cuts != cuts
	g.mu.Unlock()
	return nil
}
