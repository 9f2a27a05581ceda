package database

import (
	"context"
	"errors"
	"fmt"
)

// Hands are what an action may touch on its host.
type Hands struct {
	Self    string
	Server  Server
	Records Records
	Reach   func(host string) (Endpoint, error)       // where a member's server answers
	Hook    func(ctx context.Context, a Action) error // runs the plan's on_trouble, for at most a.Limit; nil = the plan has none
}

// Act carries out one action. It re-checks the action's precondition against the agreed state where being wrong
// would matter, is harmless when repeated, and returns when the effect is there or an error says why not.
func Act(ctx context.Context, h Hands, a Action) error {
	err := act(ctx, h, a)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Kind, err)
	}
	return nil
}

func act(ctx context.Context, h Hands, a Action) error {
	switch a.Kind {
	case KindSwap:
		return h.Records.Swap(ctx, a.Revision, *a.Record)
	case KindInit:
		return h.Server.Init(ctx, a.Epoch)
	case KindStart:
		return h.Server.Start(ctx, a.Hot)
	case KindStop:
		return h.Server.StopFast(ctx)
	case KindKill:
		return h.Server.Kill(ctx, a.Why)
	case KindCheckpoint:
		return h.Server.Checkpoint(ctx)
	case KindAdmit:
		return h.Server.Admit(ctx, a.Clients)
	case KindReadOnly:
		return h.Server.ReadOnly(ctx, a.On)
	case KindRoles:
		return h.Server.EnsureRoles(ctx)
	case KindReload:
		return h.Server.Reload(ctx)
	case KindHook:
		if h.Hook == nil {
			return errors.New("the plan of this host has no such command")
		}
		return h.Hook(ctx, a)
	case KindRecruit:
		return recruitFor(ctx, h, a)
	}
	r, err := confirm(ctx, h, a)
	if err != nil {
		return err
	}
	switch a.Kind {
	case KindRemember:
		return h.Server.Remember(ctx, a.Epoch, r.Generation)
	case KindPromote:
		// Whoever serves in an epoch knows that it was agreed on, whatever the agreed state is put back to.
		if err := h.Server.Remember(ctx, a.Epoch, r.Generation); err != nil {
			return err
		}
		return h.Server.Promote(ctx, a.Epoch, a.Timeline, r.Forks)
	case KindNames:
		return h.Server.SetNames(ctx, a.Names)
	case KindBarrier:
		return h.Server.Barrier(ctx, a.Epoch)
	case KindPreserve:
		return h.Server.Preserve(ctx, a.Parted)
	case KindFollow, KindClone, KindRewind:
		return copyFrom(ctx, h, a, r)
	}
	return fmt.Errorf("no such action: %q", a.Kind)
}

// recruitFor promises an epoch that the agreed state really asks for: the record's own, or, for a primary that
// stopped for a switchover, the next one.
func recruitFor(ctx context.Context, h Hands, a Action) error {
	r, _, err := h.Records.Read(ctx)
	if err != nil {
		return err
	}
	own := r.Phase == Switching && r.Primary == h.Self && a.Epoch == r.Epoch+1
	if a.Epoch != r.Epoch && !own {
		return fmt.Errorf("promise epoch %d of %d: %w", a.Epoch, r.Epoch, ErrStale)
	}
	_, err = h.Server.Recruit(ctx, a.Epoch, r.Generation)
	return err
}

// confirm reads the record linearizably just before what must not happen under an older one.
func confirm(ctx context.Context, h Hands, a Action) (Record, error) {
	r, revision, err := h.Records.Read(ctx)
	if err != nil {
		return Record{}, err
	}
	if r.Epoch != a.Epoch {
		return Record{}, fmt.Errorf("judged in epoch %d, now %d: %w", a.Epoch, r.Epoch, ErrStale)
	}
	switch a.Kind {
	case KindPromote:
		if r.Primary != h.Self || r.Phase != Promoting && r.Phase != Creating || r.Phase == Promoting && r.Timeline != a.Timeline {
			return Record{}, fmt.Errorf("promote: the record names %s, %s, timeline %d: %w", r.Primary, r.Phase, r.Timeline, ErrStale)
		}
	case KindNames, KindBarrier:
		// Who may acknowledge hangs on V and E: names judged from an older record could widen S past them.
		if r.Primary != h.Self || revision != a.Revision {
			return Record{}, fmt.Errorf("the record names %s as the primary, at revision %d; judged at %d: %w", r.Primary, revision, a.Revision, ErrStale)
		}
	case KindClone: // from whom is only a matter of load: what it is a copy of is proved before it follows
		if r.Phase != Steady || a.From != FromVault && !r.Holds(a.From) {
			return Record{}, fmt.Errorf("the record is %s and names the members %v: %w", r.Phase, r.Members, ErrStale)
		}
	case KindFollow, KindRewind:
		if r.Primary != a.From && !(a.Kind == KindFollow && r.cascades(h.Self, a.From)) || r.Phase != Steady && r.Phase != Switching {
			return Record{}, fmt.Errorf("the record names %s, %s: %w", r.Primary, r.Phase, ErrStale)
		}
	}
	return r, nil
}

func copyFrom(ctx context.Context, h Hands, a Action, r Record) error {
	if a.Kind == KindClone {
		return clone(ctx, h, a, r)
	}
	from, err := h.Reach(a.From)
	if err != nil {
		return err
	}
	if a.Kind == KindRewind {
		return h.Server.Rewind(ctx, from, a.Epoch)
	}
	return h.Server.Follow(ctx, from, a.Epoch)
}

func clone(ctx context.Context, h Hands, a Action, r Record) error {
	primary, err := h.Reach(r.Primary)
	if err != nil {
		return err
	}
	if a.From == FromVault {
		return h.Server.Refill(ctx, primary, r.Timeline, r.Forks, a.Epoch)
	}
	from, err := h.Reach(a.From)
	if err != nil {
		return err
	}
	return h.Server.Clone(ctx, from, primary, a.Epoch)
}
