package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Where the plan has etcd's members elsewhere than they are, whoever is to keep one asks for it as a learner, which votes
// on nothing; the leader lets it vote once it has caught up, and then removes the member whose place it takes; and
// whoever is to keep none any more ends it once it is removed.

// step is what the leader does next so that etcd's members are those that the plan wants.
type step struct {
	Promote []string // names of learners that vote from now on, if they have caught up
	Remove  *etcd.Seat
}

// nextStep brings the members to the wanted hosts, one at a time, and never so that fewer that serve vote than wanted: a
// learner votes before the member leaves whose place it takes. One that is not wanted and silent leaves first: etcd adds
// nobody while a voter is away, and without it those that are left survive no less. host names a member's host; one that has
// not run yet is known by its address alone.
func nextStep(seats []etcd.Seat, wanted []string, host func(etcd.Seat) string, silent func(etcd.Seat) bool) step {
	voters := 0
	var extra, ready []etcd.Seat
	for _, s := range seats {
		known := slices.Contains(wanted, host(s))
		switch {
		case !known && !s.Learner && silent(s):
			return step{Remove: &s}
		case s.Learner && !known:
			return step{Remove: &s} // nothing hangs on it
		case s.Learner && s.Name != "":
			ready = append(ready, s)
		case !s.Learner:
			voters++
			if !known {
				extra = append(extra, s)
			}
		}
	}
	byName := func(a, b etcd.Seat) int { return cmp.Compare(host(a), host(b)) }
	slices.SortFunc(extra, byName)
	slices.SortFunc(ready, byName)
	switch {
	case len(extra) > 0 && voters > len(wanted):
		return step{Remove: &extra[0]}
	case len(extra) > 0 && len(ready) > 0 && voters == len(wanted): // with fewer they come in twos, as after a loss
		return step{Promote: []string{ready[0].Name}}
	}
	return step{Promote: seatNow(seats)}
}

// arrangeSeats does the next step, if this host has the list of hosts that is agreed on. The members are read before the
// plan is: whoever asked to be one did so by a plan that is no newer.
func (h *Host) arrangeSeats(ctx context.Context) error {
	seats, err := h.store.Seats(ctx)
	if err != nil {
		return err
	}
	next := step{Promote: seatNow(seats)}
	if follows, err := h.followsAgreed(ctx); err != nil {
		return err
	} else if follows {
		next = nextStep(seats, Founders(h.cfg.Plan), h.seatHost, h.silentSeat(ctx, seats)) // whoever would found by this plan is who keeps a member by it
	}
	var errs []error
	for _, name := range next.Promote {
		err := h.store.Promote(ctx, name)
		errs = append(errs, err)
		if err == nil {
			h.diary.Note("cluster", name, "its etcd member votes now", []string{"it has caught up"}, 0)
		}
	}
	if next.Remove != nil {
		errs = append(errs, h.removeSeat(ctx, *next.Remove, seats))
	}
	return errors.Join(errs...)
}

// silentLooks is how many looks in a row a member must not answer before it counts as silent: it may be starting.
const silentLooks = 3

// silentSeat notes which members answer, and tells of each whether it has not for some time. Only keepMembers calls it.
func (h *Host) silentSeat(ctx context.Context, seats []etcd.Seat) func(etcd.Seat) bool {
	now := map[uint64]int{}
	for _, s := range seats {
		if !h.serves(ctx, s) {
			now[s.ID] = h.silentSeats[s.ID] + 1
		}
	}
	h.silentSeats = now
	return func(s etcd.Seat) bool { return now[s.ID] >= silentLooks }
}

// serves reports whether a member answers for itself, and has a leader.
func (h *Host) serves(ctx context.Context, s etcd.Seat) bool {
	p, err := h.askSeat(ctx, s)
	return err == nil && p.ClusterID == h.store.ClusterID() && p.Leader != 0
}

// followsAgreed reports whether the plan that is agreed on is the one that this host adopted, with the hosts that this life
// has.
func (h *Host) followsAgreed(ctx context.Context) (bool, error) {
	e, err := h.store.Get(ctx, agent.KeyPlan)
	if err != nil {
		return false, err
	}
	h.applied.mu.Lock()
	same := h.applied.text == string(e.Value)
	h.applied.mu.Unlock()
	list := h.applied.listOf()
	return same && list != nil && plan.SameHosts(h.cfg.Plan, list), nil
}

// removeSeat takes a member away that the plan does not want, unless those that are left could not agree then.
func (h *Host) removeSeat(ctx context.Context, gone etcd.Seat, seats []etcd.Seat) error {
	name := h.seatHost(gone)
	if !gone.Learner {
		voters, serve := 0, 0
		for _, s := range seats {
			if s.ID == gone.ID || s.Learner {
				continue
			}
			voters++
			if h.serves(ctx, s) {
				serve++
			}
		}
		if serve <= voters/2 {
			return fmt.Errorf("remove the member of %s: only %d of the %d that would be left serve", name, serve, voters)
		}
	}
	if err := h.store.Remove(ctx, gone.ID); err != nil {
		return fmt.Errorf("remove the member of %s: %w", name, err)
	}
	h.diary.Note("cluster", name, "its etcd member is removed", []string{"the plan has the members elsewhere"}, 0)
	return nil
}

// keepSeat brings this host's own member to the plan: it asks for one that it is to keep and has not, and ends one that was
// removed.
func (h *Host) keepSeat(ctx context.Context) error {
	switch {
	case h.self.Etcd && h.etcd == nil:
		return h.askForSeat(ctx)
	case !h.self.Etcd && h.etcd != nil:
		return h.endMember(ctx)
	}
	return nil
}

// orderLooks is how many looks in a row a learner of this host must be there before it asks for another: an operator may have asked for
// it (cluster replace), and the order to enter with it be under way for as long as that command waits.
const orderLooks = 12

// mayAsk reports whether this host may be given a seat, where has says that own is one already. Only keepMembers calls it.
func (h *Host) mayAsk(own etcd.Seat, has bool) bool {
	switch {
	case h.works.ending(): // it was told its place, or its hosts have changed: the next life sees to it
		return false
	case !has:
		h.learner, h.learnerLooks = 0, 0
		return true
	case !own.Learner:
		return false
	case own.ID != h.learner:
		h.learner, h.learnerLooks = own.ID, 0
	}
	h.learnerLooks++
	return h.learnerLooks > orderLooks
}

// askForSeat has the cluster add a learner for this host, and tells the next life of this agent to start it. A seat that
// has voted is not given to an empty member unasked: its data may still come back.
func (h *Host) askForSeat(ctx context.Context) error {
	follows, err := h.followsAgreed(ctx)
	if err != nil || !follows {
		return err
	}
	var r agent.Recovery
	snap := h.agent.Last()
	if e, ok := snap.Agreed[agent.KeyRecovery]; ok {
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return err
		}
	}
	if r.Number != h.recovery || snap.Facts.WrittenOff() != "" {
		return nil // it belongs to a cluster of before: an operator takes it in
	}
	seats, err := h.store.Seats(ctx)
	if err != nil {
		return err
	}
	if own, has := seatOf(seats, h.cfg.Self, peerURL(h.cfg.Plan, h.self)); !h.mayAsk(own, has) {
		return nil
	}
	order, err := h.giveSeat(ctx, h.self, seats, "the plan gives this host a member")
	if err != nil {
		return err
	}
	return h.Join(ctx, order)
}

// endMember ends this host's member once the cluster does not have it any more, puts its data aside, and begins anew
// without it.
func (h *Host) endMember(ctx context.Context) error {
	if gone, err := h.seatGone(ctx); err != nil || !gone {
		return err
	}
	h.stopEtcd()
	if err := h.etcd.stop(ctx, stopGrace); err != nil {
		return fmt.Errorf("stop the etcd member: %w", err)
	}
	if err := forgetMember(h.cfg.Dir, h.clock.Now()); err != nil {
		return err
	}
	h.diary.Note("cluster", h.cfg.Self, "its etcd member has ended", []string{"it was removed; its data are put aside"}, 0)
	return h.endLife(ctx, errHosts)
}

// forgetMember leaves nothing of a member that was removed that could start again; its data are put aside.
func forgetMember(dir string, now time.Time) error {
	f, err := readFounding(dir)
	if err != nil {
		return err
	}
	f.Members, f.Join, f.Seat = nil, false, 0
	if err := f.write(dir); err != nil {
		return err
	}
	if err := os.Remove(specFile(dir, "etcd")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the member's orders: %w", err)
	}
	if !hasMember(dir) {
		return nil
	}
	return putAside(dir, now)
}

// seatProblems says that the plan gives this host a member, and it has none yet.
func (h *Host) seatProblems() []problem.Problem {
	if !h.self.Etcd || h.etcd != nil {
		return nil
	}
	return []problem.Problem{{
		Code: "cluster.seat-waits", Subject: h.cfg.Self, Severity: problem.Degraded, Title: "the plan gives it a member of etcd, and it keeps none yet",
		Meaning: "The others agree meanwhile as before. It asks for its place by itself, and votes once it has caught up.",
		Remedy:  strings.Join([]string{"nothing, for a minute", "else see who serves: holdfast cluster status", "and take it in: holdfast cluster replace " + h.cfg.Self}, "; "),
	}}
}
