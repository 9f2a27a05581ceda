package database

import "time"

// returnAfter is how long a member must have streamed well before the standbys that follow it by the plan, and that
// fell back to the primary, go back to it.
const returnAfter = 5 * time.Second

// source is where our stream comes from: the primary, or the member that the plan has us follow while that one
// streams well. A voter streams from the primary alone (DATABASE.md, A7).
func (j *judgement) source() string {
	r := &j.v.Record
	from := r.Standing(j.v.Self).Follows
	if from == "" || from == r.Primary || from == j.v.Self || !r.cascades(j.v.Self, from) {
		return r.Primary
	}
	rep, ok := j.heard(from)
	l := rep.Local
	if ok && l.Role == Standby && l.Ready && l.Receiving && l.Following == r.Epoch && l.Source == r.Primary {
		return from
	}
	return r.Primary
}

// changeSource leads a stream elsewhere: at once away from a member that went, later back to it.
func (j *judgement) changeSource() bool {
	l, to := &j.v.Local, j.source()
	if l.Source == "" || l.Source == to {
		j.m.Astray = false
		return false
	}
	if !j.m.Astray {
		j.m.Astray, j.m.AstrayAt = true, j.v.Now
	}
	wait := refollowAfter // a source that only reconnects is not left
	if to != j.v.Record.Primary {
		wait = returnAfter
	}
	if j.v.Now-j.m.AstrayAt < wait {
		return false
	}
	j.m.Astray = false
	j.do(Action{Kind: KindFollow, From: to, Why: "it streams from " + to + " now, not from " + l.Source})
	return true
}
