package database

import (
	"slices"
	"time"
)

// lease says how long our running primary may go on before its keeper fences it. It bounds stale answers;
// acknowledged data need no lease (I3). Contact is either a linearizable read of the record that still names
// us, or W voters of ours that beat at our epoch: while they do, no election can have finished.
func (j *judgement) lease() {
	v, l := &j.v, &j.v.Local
	if !l.Known || l.Role != Primary {
		return
	}
	epoch := l.Promise.Epoch
	if v.Known && (v.Record.Epoch > epoch || v.Record.Primary != v.Self) {
		return
	}
	contact := Never
	switch {
	case v.Known && len(v.Record.Members) == 1:
		contact = 0 // nobody else holds a copy, so nobody else can have taken over
	case v.Known:
		contact = v.RecordAge
	}
	if age, ok := j.votersContact(epoch); ok {
		contact = min(contact, age)
	}
	if contact < j.p.Times.Fence {
		j.d.Lease, j.d.LeaseOf = j.p.Times.Fence-contact, epoch
		return
	}
	j.because("neither the agreed state nor %d standbys confirm us as the primary for %s", l.Names.W, contact.Round(100*time.Millisecond))
}

// votersContact is the age of the W-th youngest beat among the standbys that acknowledge our commits. It
// reads the names from the server itself, so it works with an agent that has not reached etcd since its start.
func (j *judgement) votersContact(epoch int64) (time.Duration, bool) {
	n := j.v.Local.Names
	if n.W == 0 || n.IsClosed() {
		return 0, false
	}
	var ages []time.Duration
	for _, p := range j.v.Peers {
		if p.Report == nil || p.Report.Local.Promise.Epoch != epoch {
			continue
		}
		if slices.Contains(n.List, StandbyName(p.Report.Local.Incarnation, epoch)) {
			ages = append(ages, p.Contact)
		}
	}
	if len(ages) < n.W {
		return 0, false
	}
	slices.Sort(ages)
	return ages[n.W-1], true
}
