package sim

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

// changePlan is an operator who applies another plan: other standbys, another W, one of them asynchronous or
// cascading, the policy relaxed. Hosts hear of it with their steady reads. It is taken back by the
// first plan.
func (f *faults) changePlan() func() {
	w := f.w
	next := f.first
	hosts := slices.Clone(next.Hosts)
	w.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	next.Hosts, next.Standings = hosts, nil
	next.Standbys = 1 + w.rng.IntN(len(hosts)-1)
	voting := next.Standbys
	if voting > 1 && w.chance(2) {
		aside := database.Standing{Host: hosts[next.Standbys], Async: true}
		if w.chance(2) {
			aside.Follows = hosts[1]
		}
		next.Standings = append(next.Standings, aside)
		voting--
	}
	if w.chance(3) {
		next.Standings = append(next.Standings, database.Standing{Host: hosts[0], Promote: database.PromoteNever})
	}
	next.AcknowledgedBy = w.rng.IntN(voting + 1)
	next.Relaxed = w.chance(4)
	f.apply(next)
	return func() { f.apply(f.first) }
}

func (f *faults) apply(p database.Policy) {
	w := f.w
	p.Settings = w.nameOf(w.setting)
	w.policy = p
	w.planned++
	w.note("", "applied: %d standbys on %v, acknowledged by %d, %+v, relaxed=%t", p.Standbys, p.Hosts, p.AcknowledgedBy, p.Standings, p.Relaxed)
}

// planted are the defects of a change of W that a test plants: what the act really does.
func (x hands) planted(ctx context.Context, to database.Hands, act database.Action) error {
	a := x.a
	p, r := a.w.opt.Planted, a.record
	switch {
	case p.NamesBeforeRecord && act.Kind == database.KindSwap && act.Record.W > 0 && act.Record.W < r.W && act.Record.Epoch == r.Epoch:
		n := a.h.srv.Observe(ctx).Names
		n.W = act.Record.W
		if err := a.h.srv.SetNames(ctx, n); err != nil {
			return err
		}
	case p.NoCompare && act.Kind == database.KindSwap:
		_, revision, err := to.Records.Read(ctx)
		if err != nil {
			return err
		}
		return to.Records.Swap(ctx, revision, *act.Record)
	case p.NoBarrier && act.Kind == database.KindBarrier && r.W > 0 && a.local.Names.W > r.W:
		next := r.Clone()
		next.Generation++
		next.W, next.E = a.local.Names.W, max(1, len(r.Voters)-a.local.Names.W+1)
		return to.Records.Swap(ctx, a.revision, next)
	case p.AsyncCounts && act.Kind == database.KindNames && act.Names.W > 0 && !act.Names.IsClosed():
		for _, s := range r.Standings {
			name := database.StandbyName(a.w.host(s.Host).srv.Incarnation(), r.Epoch)
			if s.Async && !slices.Contains(act.Names.List, name) {
				act.Names.List = append(slices.Clone(act.Names.List), name)
			}
		}
		slices.Sort(act.Names.List)
	}
	return database.Act(ctx, to, act)
}

// obeyBackup is the planted defect: whoever promised more in this epoch than the record knows of is taken to have promised
// just that.
func obeyBackup(f *agent.Facts) {
	d := &f.Databases[0]
	hide := func(l *database.Local) {
		if l.Promise.Epoch == d.Record.Epoch {
			l.Promise.Generation = min(l.Promise.Generation, d.Record.Generation)
		}
	}
	hide(&d.Local)
	for i, p := range f.Peers {
		if p.Report == nil {
			continue
		}
		r := *p.Report
		r.Databases = maps.Clone(r.Databases)
		x := *r.Databases[databaseName]
		hide(&x.Local)
		r.Databases[databaseName] = &x
		f.Peers[i].Report = &r
	}
}

// obedient is the same defect in the driver.
type obedient struct{ *databasetest.Server }

// Recruit implements [database.Server].
func (s obedient) Recruit(ctx context.Context, epoch, generation int64) (database.Position, error) {
	return s.Server.Recruit(ctx, epoch, max(generation, s.Observe(ctx).Promise.Generation))
}

// applied is the plan that a host knows.
type applied struct {
	number  int
	policy  database.Policy
	setting wanted
}

// wanted is what a plan wants of every server's file.
type wanted struct {
	number  int // 0 = it was never changed
	value   int
	refused bool // PostgreSQL does not take it
}

// nameOf is what the policy and the drivers call it.
func (w *World) nameOf(s wanted) string {
	if s.number == 0 || w.opt.Planted.NoNameOfSettings {
		return ""
	}
	return strconv.Itoa(s.number)
}

// want tells the driver of a host what a newer plan wants.
func (h *host) want(s wanted) {
	if s.number > h.setting {
		h.setting = s.number
		h.srv.Want(h.w.nameOf(s), s.value, s.refused)
	}
}

// ApplySetting is an operator who applies a plan with another setting. Each host hears of it with its own reads, writes
// its file when its server runs, and the operator asks for the restarts that it takes: at once, later or never, and also
// while some have not heard of the plan. Now and then PostgreSQL takes no such value.
const ApplySetting FaultKind = "apply setting"

func (f *faults) applySetting() func() {
	w := f.w
	f.want(wanted{value: 50 + 50*w.rng.IntN(4), refused: w.chance(5)})
	wants, pending := w.wants, !w.chance(4)
	if !w.chance(3) {
		w.at(w.between(0, 8*time.Second), func() { f.askRestart(pending, wants) })
	}
	if w.chance(2) {
		return nil
	}
	return func() {
		f.want(wanted{value: databasetest.SettingAtFirst})
		if wants := w.wants; w.chance(2) {
			f.askRestart(true, wants)
		}
	}
}

func (f *faults) want(s wanted) {
	w := f.w
	w.wants++
	s.number = w.wants
	w.setting = s
	w.note("", "applied: setting %d, refused=%t", s.value, s.refused)
	f.apply(w.policy)
}
