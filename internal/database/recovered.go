package database

import (
	"cmp"
	"fmt"
	"slices"
)

// Distances that a record is moved by when the agreed state was rebuilt after the loss of a majority. The hosts that
// are gone may have agreed on epochs, generations and timelines that nobody who is left has heard of; a number that
// two of them could have used must not be given out again. All three are only ever compared, never counted.
const (
	epochStride    = 1000
	timelineStride = 16
)

// Recovered is a database's record after the agreed state was rebuilt: an epoch above everything that is known to
// have been promised, in which nobody is the primary yet. What happens then is what the rules say of any such epoch:
// the former primary, if it is left, comes back by itself; voters wait for a forced failover. A database that nobody
// had made yet stays as it is.
func Recovered(r Record, promises []Promise, by, why string) Record {
	if r.Phase == Creating {
		return r.Clone()
	}
	next := r.Clone()
	if r.Phase != Recruiting {
		next = unconfirmed(next, &r)
	}
	for _, p := range promises {
		next.Epoch, next.Generation = max(next.Epoch, p.Epoch), max(next.Generation, p.Generation)
	}
	next.Epoch += epochStride
	next.Generation += epochStride
	next.Phase, next.Opened, next.Alone = Recruiting, false, false
	next.SwitchTo, next.Switch, next.Runner = "", "", by
	// What is left may lack the last that was agreed: a voter that joined, fewer whose word sufficed. So nobody is elected
	// by this record's count before a primary has passed a barrier, and a loss is accepted by who sees this one.
	next.Forced = nil
	if next.Unsealed = next.W > 0; next.Unsealed {
		next.E = electors(&next)
	}
	next.Because = []string{why}
	highest := max(r.Timeline, 1)
	for _, f := range slices.Concat(r.Forks, r.Assigned) {
		highest = max(highest, f.Timeline)
	}
	next.Assigned = append(next.Assigned, Fork{Timeline: highest + timelineStride, Epoch: r.Epoch})
	return writtenOffOf(next, by)
}

// rebuilt names the loss that stands for whatever was acknowledged after the agreed state that a rebuilding began with.
// Its fork has no parent, for nobody who is left knows where the histories part.
func (l Loss) rebuilt() bool { return l.Fork.Timeline != 0 && l.Fork.Parent == 0 }

// writtenOffOf notes the members that a rebuilding went on without: one of them may have been the primary since, and
// hold acknowledged commits that the survivor never had. What such a server holds alone waits for a person, as after a
// forced failover; one that holds nothing beyond ours follows.
func writtenOffOf(r Record, survivor string) Record {
	l := Loss{Request: fmt.Sprintf("rebuilt-%d", r.Epoch), By: "the rebuilding on " + survivor, Epoch: r.Epoch, W: r.W,
		Fork: Fork{Timeline: r.Assigned[len(r.Assigned)-1].Timeline, Epoch: r.Epoch}}
	for _, host := range r.Members {
		if host != survivor {
			l.Left = append(l.Left, Left{Voter: Voter{Host: host}, Primary: host == given(&r).Host,
				Counted: slices.ContainsFunc(r.Voters, func(v Voter) bool { return v.Host == host })})
		}
	}
	slices.SortFunc(l.Left, func(a, b Left) int { return cmp.Compare(a.Host, b.Host) })
	if len(l.Left) > 0 {
		r.Losses = append(r.Losses, l)
	}
	return r
}

// writtenOff is all that a host does whose agreed state counts no more, because the others rebuilt theirs without
// it: its server ends, whatever it was, for as a primary it would be a second one and as a standby it would
// acknowledge for another that is; its listener leads nowhere. Nothing of its data is touched.
func (j *judgement) writtenOff() {
	r, why := &j.v.Record, j.v.WrittenOff
	j.d.Lease, j.d.LeaseOf = 0, 0
	if j.v.Revision != 0 { // a listener that was never told an epoch leads nowhere anyway
		j.d.Gate = GateOrder{Epoch: r.Epoch, Generation: r.Generation, State: GateHold, Why: why}
	}
	j.because("%s", why)
	if j.v.Local.Running {
		j.kill(why)
	}
	j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
}
