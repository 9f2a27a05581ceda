package database

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/problem"
)

// The primary's host alone makes the agreed members and voters what the plan asks for, one crash-safe step at a
// time: each is one write of the record or one change of its server's names, and any host that becomes the primary
// in the middle goes on from what it finds.

// adjust takes one such step: it finishes the one that is under way, else begins another.
func (j *judgement) adjust() {
	r := &j.v.Record
	j.unplannedPrimary()
	if r.W == 0 {
		j.adjustFromNothing()
		return
	}
	full := namesFor(r.Voters, r.W, r.Epoch)
	if v, ok := j.between(full); ok {
		j.finishStep(v, full)
		return
	}
	if j.wider() {
		j.finishDegree(full)
		return
	}
	if !j.v.Local.Names.Equal(full) || j.paused() {
		return
	}
	if !j.oneBefore() {
		j.settle()
	}
}

// oneBefore begins what must not wait: a voter that is gone, the plan's members, who joins, and who leaves.
func (j *judgement) oneBefore() bool {
	leaving, leaves := j.removable()
	if leaves && j.replaced(leaving) {
		j.leave(leaving) // before its successor joins: a voter that never answers again only raises E
		return true
	}
	if j.planMembers() {
		return true
	}
	if x, ok := j.joinable(); ok {
		j.join(x)
		return true
	}
	want := j.wantedDegree()
	if want < j.v.Record.W {
		j.lowerDegree(want)
		return true
	}
	if v, ok := j.unwanted(); ok {
		j.leave(v)
		return true
	}
	if leaves {
		j.leave(leaving)
		return true
	}
	return j.raiseDegree(want)
}

// join makes a standby a voter; the names follow. E never goes down here.
func (j *judgement) join(x Voter) {
	next := j.v.Record.Clone()
	next.Voters = with(next.Voters, x)
	next.E = max(next.E, electors(&next))
	j.swap(next, x.Host+" streams and is level: it becomes a voter")
}

// settle does what can wait until the voters are as they shall be: it lowers an E that is larger than needed, and
// lets go of members that the plan does not want.
func (j *judgement) settle() {
	r := &j.v.Record
	if need := recruitsNeeded(len(r.Voters), r.W); len(r.Voters) >= r.W && r.E > need {
		j.publish(r.W, r.Voters)
		return
	}
	j.forgetMember()
}

// planMembers takes the plan's new members and standings into the record.
func (j *judgement) planMembers() bool {
	r := &j.v.Record
	wanted := j.p.members()
	if len(wanted) == 0 || !r.Opened {
		return false
	}
	var added []string
	for _, host := range wanted {
		if !r.Holds(host) {
			added = append(added, host)
		}
	}
	standings := j.p.standings()
	for _, s := range r.Standings { // who leaves keeps its standing until it is gone
		if !j.p.wants(s.Host) && r.Holds(s.Host) {
			standings = append(standings, s)
		}
	}
	slices.SortFunc(standings, func(a, b Standing) int { return cmp.Compare(a.Host, b.Host) })
	if len(added) == 0 && slices.Equal(standings, r.Standings) {
		return false
	}
	next := r.Clone()
	next.Members, next.Standings = slices.Clone(wanted), standings
	for _, host := range r.Members {
		if !slices.Contains(next.Members, host) {
			next.Members = append(next.Members, host)
		}
	}
	why := "the plan says otherwise how standbys take part"
	if len(added) > 0 {
		why = "the plan wants a copy on " + strings.Join(added, " and ")
	}
	j.swap(next, why)
	return true
}

// forgetMember takes a host out of the members once nothing hangs on it: it is not the primary and no voter. Its
// own host then stops its server and keeps its data. The primary always stays, so the last copy never goes.
func (j *judgement) forgetMember() {
	r := &j.v.Record
	if len(j.p.members()) == 0 || !r.Opened {
		return
	}
	for _, host := range r.Members {
		voter := slices.ContainsFunc(r.Voters, func(v Voter) bool { return v.Host == host })
		if host == r.Primary || voter || j.p.wants(host) || j.replacing(host) {
			continue
		}
		next := r.Clone()
		next.Members = slices.DeleteFunc(next.Members, func(m string) bool { return m == host })
		next.Standings = slices.DeleteFunc(next.Standings, func(s Standing) bool { return s.Host == host || s.Follows == host && !j.p.wants(s.Host) })
		j.swap(next, "the plan wants no copy on "+host+" any more: it is stopped there, and its data are kept")
		return
	}
}

// notMember is the duty of a host that the agreed members do not name: whatever runs of the database is stopped,
// and its data are kept.
func (j *judgement) notMember() {
	l := &j.v.Local
	foreign := l.Data == DataForeign || l.SystemID != 0 && j.v.Record.SystemID != 0 && l.SystemID != j.v.Record.SystemID
	if !l.Running || foreign {
		return
	}
	if l.Role == Primary {
		j.kill("this host is no member of the database any more, and its server takes writes")
		return
	}
	j.d.Interrupt = slices.ContainsFunc(j.v.Busy, func(k Kind) bool {
		return slices.Contains([]Kind{KindClone, KindRewind, KindFollow, KindStart, KindRecruit}, k)
	})
	j.do(Action{Kind: KindStop, Why: "the plan wants no copy on this host any more; its data are kept"})
}

// mayVote reports whether the plan lets a standby be a voter.
func (j *judgement) mayVote(v Voter) bool {
	if len(j.p.members()) == 0 {
		return true
	}
	return j.p.wants(v.Host) && standingOf(j.p.Standings, v.Host).Votes()
}

// otherName reports whether the same data directory is a voter under another host's name. It must leave under the
// one before it may join under the other: two entries would count one copy twice.
func (j *judgement) otherName(x Voter) bool {
	return slices.ContainsFunc(j.v.Record.Voters, func(v Voter) bool { return v.Incarnation == x.Incarnation && v.Host != x.Host })
}

// unwanted is a voter that the plan does not want as one, once the others can do without it. While it streams, it
// stays until those that are being made in its place have joined.
func (j *judgement) unwanted() (Voter, bool) {
	r := &j.v.Record
	for _, v := range r.Voters {
		if j.mayVote(v) || len(r.Voters)-1 < r.W || len(j.usable(v)) < r.W || j.healthyWithout(v) < r.W {
			continue
		}
		if j.connected(v) && j.successorComes(v) {
			j.because("%s stays until the copy that replaces it is level", v.Host)
			continue
		}
		return v, true
	}
	return Voter{}, false
}

// successorComes reports whether a standby that the plan wants as a voter is on its way.
func (j *judgement) successorComes(leaving Voter) bool {
	for _, host := range j.p.members() {
		rep, ok := j.heard(host)
		if host == j.v.Self || !ok || !standingOf(j.p.Standings, host).Votes() {
			continue
		}
		x := Voter{Host: host, Incarnation: rep.Local.Incarnation}
		if !j.v.Record.Has(x) && x.Incarnation != leaving.Incarnation {
			return true
		}
	}
	return false
}

// replacing reports whether a member that is to go still serves: standbys that stream stay until those that the
// plan wants in their place do.
func (j *judgement) replacing(host string) bool {
	return j.healthy(host) && slices.ContainsFunc(j.p.members(), func(m string) bool {
		_, heard := j.heard(m)
		return m != j.v.Self && heard && !j.healthy(m)
	})
}

// healthy reports whether a standby does what its standing asks for.
func (j *judgement) healthy(host string) bool {
	rep, ok := j.heard(host)
	if !ok || rep.Local.Incarnation == "" {
		return false
	}
	s, v := j.v.Record.Standing(host), Voter{Host: host, Incarnation: rep.Local.Incarnation}
	switch {
	case s.Votes():
		return j.v.Record.W == 0 && j.connected(v) || j.v.Record.Has(v) && j.connected(v)
	case s.Follows != "":
		return rep.Local.Role == Standby && rep.Local.Receiving && rep.Local.Following == j.v.Record.Epoch
	default:
		return j.connected(v)
	}
}

// unplannedPrimary says that the plan does not want the host that is the primary.
func (j *judgement) unplannedPrimary() {
	if len(j.p.members()) == 0 || j.p.wants(j.v.Self) {
		return
	}
	j.problem(problem.Problem{
		Code: "database.primary-unplanned", Severity: problem.Degraded,
		Title:   "the plan wants no copy on " + j.v.Self + ", which is the primary",
		Meaning: "It goes on serving; a primary is never taken away without a move.",
		Remedy:  "move it when a pause of about a second suits: holdfast database switchover " + j.p.Name + " --to HOST",
	})
}

// redundancy says what the database lacks of what the plan asks for.
func (j *judgement) redundancy() {
	r := &j.v.Record
	need := max(r.W, min(j.v.Local.Names.W, len(r.Voters)))
	streaming, healthy := 0, 0
	var missing []string
	for _, v := range r.Voters {
		if j.connected(v) {
			streaming++
		}
	}
	for _, host := range r.Members {
		switch {
		case host == j.v.Self:
		case j.healthy(host):
			healthy++
		default:
			missing = append(missing, host)
		}
	}
	slices.SortFunc(missing, cmp.Compare)
	if streaming >= need {
		j.m.Short = false
	} else if !j.m.Short {
		j.m.Short, j.m.ShortSince = true, j.v.Now
	}
	if j.m.Short && j.v.Now-j.m.ShortSince < j.p.Times.Reachable {
		return // a barrier makes every standby reconnect once
	}
	j.degraded()
	if j.m.Short {
		j.problem(problem.Problem{
			Code: "database.writes-wait", Severity: problem.Critical,
			Title:   fmt.Sprintf("writes wait: %d of %d standbys that must hold a commit stream", streaming, need),
			Meaning: "Reads go on. A commit is not acknowledged before enough standbys hold it, so none can be lost.",
			Remedy:  fmt.Sprintf("bring back %v; nothing else is needed", missing),
		})
		return
	}
	if len(missing) > 0 {
		j.problem(problem.Problem{
			Code: "database.redundancy", Severity: problem.Degraded,
			Title:   fmt.Sprintf("%d of %d standbys stream; missing: %v", healthy, len(r.Members)-1, missing),
			Meaning: "Nothing is lost and writes go on, with less margin against the next fault.",
			Remedy:  "none if the host is coming back: Holdfast makes the copy again by itself",
		})
	}
}
