package sim

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
)

// hands carry out what a round asks for. The embedded interface is nil: a world without services is never asked
// for any, and would panic if it were.
type hands struct {
	agent.Hands
	a *agentLife
}

// Act implements [agent.Hands].
func (x hands) Act(_ string, act database.Action) {
	a := x.a
	w, h := a.w, a.h
	w.note(h.name, "begins %s (%s)", act, act.Why)
	to := database.Hands{
		Self: h.name, Server: h.srv, Records: agent.Records(slowStore{h.store, h}, databaseName),
		Reach: func(host string) (database.Endpoint, error) { return database.Endpoint{Host: host}, nil },
		Hook:  x.hook,
	}
	if w.opt.Planted.AnyRevision {
		to.Records = anyRevision{to.Records, act.Revision}
	}
	if w.opt.Planted.ObeysBackup {
		to.Server = obedient{h.srv}
	}
	t := w.spawn(h, a.hold, func(ctx context.Context) error {
		err := x.planted(ctx, to, act)
		if errors.Is(err, errProcessGone) {
			return err
		}
		if act.Kind == database.KindSwap {
			a.readAfterSwap(ctx)
			return err
		}
		if err != nil {
			// Only slows the next try down; a cancelled wait is no news.
			_ = w.Wait(ctx, h.name, retryPause)
		}
		seen := a.see(ctx)
		// A cancelled look is no news either; one that comes is there before the next round.
		if w.Wait(ctx, h.name, a.lookTakes()) == nil {
			a.observed(seen)
		}
		return err
	}, func(t *task, err error) {
		a.ended(t, act, err)
	})
	a.running = append(a.running, running{act.Kind, t})
}

// anyRevision is the planted defect: whatever is read passes for what was judged.
type anyRevision struct {
	database.Records
	judged int64
}

// Read implements [database.Records].
func (r anyRevision) Read(ctx context.Context) (database.Record, int64, error) {
	record, _, err := r.Records.Read(ctx)
	return record, r.judged, err
}

func (a *agentLife) ended(t *task, act database.Action, err error) {
	a.running = slices.DeleteFunc(a.running, func(r running) bool { return r.task == t })
	if err != nil {
		a.w.note(a.h.name, "did not %s: %v", act.Kind, err)
	} else {
		a.w.note(a.h.name, "has done %s", act.Kind)
		if act.From == database.FromVault {
			a.w.refills++
		}
	}
	a.wakeIn(0)
}

// readAfterSwap brings our own write into the facts before the next round.
func (a *agentLife) readAfterSwap(ctx context.Context) {
	w, h := a.w, a.h
	sent := h.clock()
	if w.Wait(ctx, h.name, w.storeWay()) != nil || !w.learnsFrom(h) {
		return
	}
	r := a.readNow()
	if w.Wait(ctx, h.name, w.storeWay()) != nil || !w.learnsFrom(h) {
		return
	}
	a.contact = max(a.contact, sent)
	a.learn(r)
}

// Interrupt implements [agent.Hands].
func (x hands) Interrupt(string) {
	a := x.a
	for _, r := range slices.Backward(a.running) {
		if r.kind != database.KindKill {
			a.w.note(a.h.name, "interrupts %s", r.kind)
			r.task.interrupt()
			return
		}
	}
}

// Lease implements [agent.Hands].
func (x hands) Lease(_ string, epoch int64, d time.Duration) {
	// A server that is no primary any more refuses; the next round sees it.
	_ = x.a.h.srv.Extend(context.Background(), epoch, d.Milliseconds())
}

// slotsEvery is how often slots are moved.
const slotsEvery = time.Second

// Slots implements [agent.Hands].
func (x hands) Slots(_ string, o database.SlotOrder) {
	a := x.a
	if a.h.clock()-a.slotsAt < slotsEvery {
		return
	}
	a.slotsAt = a.h.clock()
	_ = a.h.srv.KeepSlots(context.Background(), o) // one that is not ready hears it again
}

// gateEvery is how often the agent repeats an order that stands.
const gateEvery = time.Second

// Gate implements [agent.Hands].
func (x hands) Gate(_ string, o database.GateOrder) {
	a := x.a
	again := a.h.clock()-a.gateAt >= gateEvery && !a.w.opt.Planted.OrderOnce
	if a.h.gate.down || o == a.gateOrder && !again {
		return
	}
	a.gateOrder, a.gateAt = o, a.h.clock()
	if a.h.gate.take(o) || a.w.opt.Planted.BehindIsHeard {
		a.h.gate.heard = a.gateAt
	}
}

// Read implements [agent.Hands].
func (x hands) Read(_ string, o database.ReadOrder) {
	a := x.a
	if a.h.gate.down || a.readOrder.Equal(o) && a.h.clock()-a.readAt < gateEvery/2 {
		return
	}
	a.readOrder, a.readAt = o, a.h.clock()
	a.h.gate.takeRead(a.h, o)
}

// Answer implements [agent.Hands].
func (x hands) Answer(_ string, answers []database.Answer) {
	a := x.a
	if !a.w.reachesStore(a.h) {
		return
	}
	for _, answer := range answers {
		a.w.settle(a.h, answer)
	}
}
