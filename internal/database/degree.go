package database

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/problem"
)

// The degree is W. The record's W never exceeds what the server waits for:
//
//	raise W: names with the new W -> barrier -> record: W, lower E
//	lower W: record: W, higher E -> voters have kept the generation -> names with the new W
//	W 0 -> 1: closed, and a commit is seen waiting -> names of one standby -> barrier -> record: V, E, W
//	W 1 -> 0: record: no voters, so only the primary may be promoted -> names empty
//
// Where the record says W = 0 it has no voters: nobody can be elected, so whoever acknowledges is safe.

// usable are the voters, or the standbys that the names of a record without voters hold, that the plan wants and that
// have not been without a stream for long; x is left out.
func (j *judgement) usable(x Voter) []Voter {
	return slices.DeleteFunc(j.counted(), func(v Voter) bool {
		gone := slices.ContainsFunc(j.m.Unfit, func(u Unfit) bool {
			return u.Voter == v && (j.v.Now-u.Since >= j.p.Times.Remove || j.replaced(v))
		})
		return v == x || gone
	})
}

// counted are the voters; where there are none, the standbys in the names.
func (j *judgement) counted() []Voter {
	if j.v.Record.W == 0 {
		return j.named()
	}
	return slices.Clone(j.v.Record.Voters)
}

// named are the standbys that the server's names hold, as far as they are known: voters, or members by their report.
func (j *judgement) named() []Voter {
	r, l := &j.v.Record, &j.v.Local
	var out []Voter
	known := func(v Voter) bool {
		return v.Incarnation != "" && slices.Contains(l.Names.List, StandbyName(v.Incarnation, r.Epoch)) &&
			!slices.ContainsFunc(out, func(x Voter) bool { return x.Incarnation == v.Incarnation })
	}
	for _, v := range r.Voters {
		if known(v) {
			out = append(out, v)
		}
	}
	for _, host := range r.Members {
		rep, ok := j.heard(host)
		if v := (Voter{Host: host, Incarnation: rep.Local.Incarnation}); ok && host != j.v.Self && known(v) {
			out = with(out, v)
		}
	}
	return out
}

// wantedDegree is the W that shall be: the plan's, as far as there are standbys for it. What the record has is never
// given up for want of standbys unless the policy is relaxed.
func (j *judgement) wantedDegree() int {
	r, plan := &j.v.Record, j.p.AcknowledgedBy
	able := len(j.usable(Voter{}))
	had := len(r.Voters) >= r.W || j.phaseAge() > cutLimit // a new database is given time to get its standbys
	switch {
	case j.p.Relaxed && able < r.W && had:
		return min(plan, able)
	case plan > r.W:
		return max(r.W, min(plan, able))
	}
	return plan
}

// degreeChanges reports whether the names are those of a change of W that is under way.
func (j *judgement) degreeChanges(full Names) bool {
	r, n := &j.v.Record, j.v.Local.Names
	if r.W > 0 {
		return n.W > r.W && n.W <= len(r.Voters) && slices.Equal(n.List, full.List)
	}
	suffix := StandbyName("", r.Epoch)
	ours := !slices.ContainsFunc(n.List, func(name string) bool { return !strings.HasSuffix(name, suffix) })
	return n.IsClosed() || n.W > 0 && len(n.List) > 0 && ours
}

// wider reports whether the server waits for more standbys than the record promises.
func (j *judgement) wider() bool {
	return j.degreeChanges(namesFor(j.v.Record.Voters, j.v.Record.W, j.v.Record.Epoch))
}

// raiseDegree begins to raise W: the server first.
func (j *judgement) raiseDegree(want int) bool {
	r := &j.v.Record
	if want <= r.W || j.healthyWithout(Voter{}) < want {
		return false
	}
	j.do(Action{Kind: KindNames, Names: namesFor(r.Voters, want, r.Epoch), Why: fmt.Sprintf("the plan wants a commit on %d standbys, not on %d", want, r.W)})
	return true
}

// lowerDegree begins to lower W: the agreed state first. At 0 nobody can be elected any more.
func (j *judgement) lowerDegree(want int) {
	r := &j.v.Record
	next := r.Clone()
	next.W = want
	next.E = electors(&next)
	why := fmt.Sprintf("the plan wants a commit on %d standbys, not on %d", want, r.W)
	if want < j.p.AcknowledgedBy {
		why = fmt.Sprintf("%d of %d standbys are left, and the policy is relaxed", want, r.W)
	}
	if want == 0 {
		next.Voters, next.E = nil, len(r.Voters)+1
		why += "; only the primary may be promoted from now on"
	}
	j.swap(next, why)
}

// finishDegree ends a change of W that is under way, or takes it back.
func (j *judgement) finishDegree(full Names) {
	r, l := &j.v.Record, &j.v.Local
	if j.wantedDegree() >= l.Names.W && len(j.usable(Voter{})) >= l.Names.W {
		j.publish(l.Names.W, r.Voters)
		return
	}
	if !j.keptBy(r.Voters) {
		return
	}
	j.do(Action{Kind: KindNames, Names: full, Why: fmt.Sprintf("a commit is acknowledged by %d from now on", r.W)})
}

// publish lowers E, and raises W to what the server waits for, once a barrier has passed.
func (j *judgement) publish(w int, voters []Voter) {
	r := &j.v.Record
	if !j.barrierBegun() {
		j.do(Action{Kind: KindBarrier, Why: "before fewer recruits suffice, every earlier commit must be where they find it"})
		return
	}
	if !j.barrierPassed() {
		j.because("acknowledged by %d once as many standbys hold everything up to %s", w, j.v.Local.Force.Mark)
		j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
		return
	}
	next := r.Clone()
	next.W, next.Voters, next.E, next.Unsealed = w, voters, recruitsNeeded(len(voters), w), false
	j.swap(next, fmt.Sprintf("%d standbys hold everything: a commit is acknowledged by %d", w, w))
}

// keptBy reports whether those voters that stream have persisted the record's generation: an older agreed state that
// is put back then meets somebody who knows better (A10).
func (j *judgement) keptBy(voters []Voter) bool {
	reach := slices.DeleteFunc(slices.Clone(voters), func(v Voter) bool { return !j.connected(v) || !j.follows(v) })
	need := min(j.v.Local.Names.W, len(reach))
	if have := j.remembered(reach); have < need {
		j.because("acknowledged by %d once %d standbys have kept generation %d; %d have", j.v.Record.W, need, j.v.Record.Generation, have)
		j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
		return false
	}
	return true
}

// adjustFromNothing looks after a database of which no standby need hold a commit, and leads it back to more.
func (j *judgement) adjustFromNothing() {
	l := &j.v.Local
	empty := l.Names.Equal(Names{})
	if empty && (j.paused() || j.planMembers()) {
		return
	}
	x, ready := j.joinable()
	wanted, usable := j.p.AcknowledgedBy > 0, j.usable(Voter{})
	switch {
	case empty && wanted && ready:
		j.do(Action{Kind: KindNames, Names: Closed(), Why: x.Host + " is level: commits wait until it has joined"})
	case empty:
		j.forgetMember()
	case l.Names.IsClosed() && wanted && ready:
		j.do(Action{Kind: KindNames, Names: namesFor([]Voter{x}, 1, j.v.Record.Epoch), Why: x.Host + " may acknowledge from now on"})
	case !l.Names.IsClosed() && wanted && len(usable) >= l.Names.W && len(usable) < len(l.Names.List):
		j.do(Action{Kind: KindNames, Names: namesFor(usable, l.Names.W, j.v.Record.Epoch), Why: "who does not stream cannot be a voter"})
	case !l.Names.IsClosed() && wanted && len(usable) >= l.Names.W:
		j.publish(l.Names.W, usable)
	case !l.Names.IsClosed() && !j.keptBy(j.named()):
	default:
		j.do(Action{Kind: KindNames, Names: Names{}, Why: "no standby need hold a commit: it is agreed that only this primary may be promoted"})
	}
}

// degraded says that commits are acknowledged by fewer standbys than the plan wants.
func (j *judgement) degraded() {
	r := &j.v.Record
	if r.W >= j.p.AcknowledgedBy || !r.Opened {
		return
	}
	p := problem.Problem{
		Code: "database.acknowledged-by-fewer", Severity: problem.Degraded,
		Title:   fmt.Sprintf("a commit is acknowledged by %d standbys, and the plan wants %d", r.W, j.p.AcknowledgedBy),
		Meaning: "Writes go on. The next faults may take more than the plan allows for.",
		Remedy:  "none if standbys are coming back: it is raised again by itself",
	}
	if r.W == 0 {
		p.Severity = problem.Critical
		p.Meaning = "Writes go on, held by the primary's disk alone. No standby takes over by itself, for it may lack commits."
		p.Remedy = "bring a standby back; it is raised again by itself"
	}
	j.problem(p)
}

// wrongDegree is the decision's own check of I2, or "": in one epoch of a steady primary E is lowered, V shrunk and W
// raised only behind a barrier, and without W nobody can be elected.
func (j *judgement) wrongDegree(next Record) string {
	now := &j.v.Record
	same := next.Epoch == now.Epoch && next.Phase == Steady && now.Phase == Steady
	switch {
	case !same:
		return ""
	case next.W == 0 && now.W > 0 && (len(next.Voters) > 0 || next.E <= len(now.Voters)):
		return fmt.Sprintf("W 0 with %d voters and E %d", len(next.Voters), next.E)
	case next.W == 0:
		return ""
	case next.W > now.W && next.W > j.v.Local.Names.W:
		return fmt.Sprintf("W %d, and the server waits for %d", next.W, j.v.Local.Names.W)
	case (next.E < now.E || next.W > now.W || len(next.Voters) < len(now.Voters)) && !j.barrierPassed():
		return fmt.Sprintf("W %d of %d, E %d of %d, without a barrier", next.W, now.W, next.E, now.E)
	}
	return ""
}
