package database

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// serveForce takes up a failover that an operator forces. Only the host whose view the operator saw begins it; from
// then on the record says what is under way, and any host goes on with it.
func (j *judgement) serveForce() {
	r := &j.v.Record
	for _, q := range j.v.Requests {
		if q.Kind != "failover" || q.ID == "" {
			continue
		}
		if r.Answered.ID == q.ID {
			j.d.Answers = append(j.d.Answers, r.Answered)
			continue
		}
		under := r.Forced != nil && r.Forced.Request == q.ID || slices.ContainsFunc(r.Losses, func(l Loss) bool { return l.Request == q.ID })
		if under || q.Via != j.v.Self {
			continue
		}
		j.beginForce(q)
		return
	}
}

func (j *judgement) beginForce(q Request) {
	r := &j.v.Record
	if j.m.Asked != q.ID {
		j.m.Asked, j.m.AskedSince = q.ID, j.v.Now
	}
	if since := j.v.Now - j.m.AskedSince; since > askedMax {
		j.answer(q, false, fmt.Sprintf("it could not be begun within %s, and what it would lose was shown that long ago: look again", askedMax))
		return
	}
	if q.Timed && -q.In > askedLong { // an agent that was away counts anew
		j.answer(q, false, fmt.Sprintf("it was asked for %s ago, and what it would lose was shown then: look again", (-q.In).Round(time.Second)))
		return
	}
	k := j.risk(j.d.Closed, q.To)
	switch {
	case k.Refused != "":
		j.answer(q, false, k.Refused)
		return
	case k.Former != q.Former:
		j.answer(q, false, "another primary has served since the loss was shown: look again")
		return
	case k.At < q.Floor:
		j.answer(q, false, fmt.Sprintf("%s holds the log up to %s, less than the %s that was shown: look again", k.Chosen, k.At, q.Floor))
		return
	}
	next := r.Clone()
	next.Epoch++
	next.Phase, next.Opened, next.Runner, next.Alone = Recruiting, false, j.v.Self, false
	next.SwitchTo = ""
	next.Forced = &Forced{Request: q.ID, By: cmp.Or(q.By, "an operator"), To: q.To, Floor: q.Floor, Known: k.Known}
	why := fmt.Sprintf("%s forced a failover from %s, and accepted what that loses", next.Forced.By, k.Primary)
	next.Because = []string{why}
	if r.Phase != Recruiting {
		next = unconfirmed(next, r)
	}
	j.swap(next, why)
}

// refuseForce answers while nothing at all may be done here.
func (j *judgement) refuseForce() {
	for _, q := range j.v.Requests {
		if q.Kind == "failover" && q.Via == j.v.Self {
			j.answer(q, false, j.v.Self+" takes no part in decisions now: see its problems in holdfast status")
		}
	}
}

// forcedChoice goes ahead with whoever has answered, once the others have had their time.
func (j *judgement) forcedChoice() {
	r, f := &j.v.Record, j.v.Record.Forced
	if wait := j.p.Times.Stuck - j.phaseAge(); wait >= 0 {
		j.d.Wake = min(j.d.Wake, wait+1)
		return
	}
	answers := j.everyAnswer()
	best, ok := j.furthest(answers, f.To)
	if !ok || best.pos.LSN < f.Floor {
		if j.phaseAge() > 3*j.p.Times.Stuck {
			next := r.Clone()
			next.Forced = nil
			next.Answered = Answer{ID: f.Request, Text: fmt.Sprintf("nobody answered who holds the log up to %s, as was shown: nothing was given up; look again", f.Floor)}
			j.swap(next, next.Answered.Text)
		}
		return
	}
	j.swap(j.giveUp(answers, best), fmt.Sprintf("%s holds the log up to %s on timeline %d, the furthest that may be had: the failover is forced",
		best.voter.Host, best.pos.LSN, best.pos.Timeline))
}

// everyAnswer are the members that have promised this epoch and told a position on our history, counted or not.
func (j *judgement) everyAnswer() []recruit {
	var out []recruit
	for _, host := range j.v.Record.Members {
		if l, ok := j.localOf(host); ok && j.answered(l) && !(l.Running && l.Role == Primary) {
			out = append(out, recruit{voter: Voter{Host: host, Incarnation: l.Incarnation}, pos: l.Position})
		}
	}
	return out
}

func (j *judgement) furthest(answers []recruit, to string) (recruit, bool) {
	if to != "" {
		answers = slices.DeleteFunc(slices.Clone(answers), func(a recruit) bool { return a.voter.Host != to })
	}
	if len(answers) == 0 {
		return recruit{}, false
	}
	return slices.MaxFunc(answers, j.forcedRank), true
}

// giveUp is the record of a forced choice. Voters are only those that answered and hold no more than the chosen one:
// nothing of what the others acknowledged counts from here on, and none of them is asked again.
func (j *judgement) giveUp(answers []recruit, best recruit) Record {
	r := &j.v.Record
	next := r.Clone()
	next.Phase, next.Runner = Promoting, j.v.Self
	next.Primary, next.Incarnation = best.voter.Host, best.voter.Incarnation
	next.Timeline = j.nextTimeline()
	loss := Loss{Request: r.Forced.Request, By: r.Forced.By, Epoch: r.Epoch, Chosen: best.voter, From: best.pos.LSN, Known: r.Forced.Known, W: r.W}
	next.Voters = nil
	former := given(r)
	for _, host := range r.Members {
		i := slices.IndexFunc(answers, func(a recruit) bool { return a.voter.Host == host })
		if i >= 0 && j.reach(answers[i], best) <= 0 && answers[i].voter != former {
			if r.W > 0 && (r.Has(answers[i].voter) || answers[i].voter == best.voter) {
				next.Voters = with(next.Voters, answers[i].voter)
			}
			continue
		}
		loss.Left = append(loss.Left, j.leftBehind(host, former))
	}
	slices.SortFunc(loss.Left, func(a, b Left) int { return cmp.Compare(a.Host, b.Host) })
	next.Losses = append(next.Losses, loss)
	next.Unsealed = r.W > 0
	next.E = max(1, len(next.Voters)) // nothing is acknowledged in this epoch yet, and none of them may be missed
	next.Forced = nil
	next.Because = append(next.Because, fmt.Sprintf("%s holds the log up to %s; left behind: %s", best.voter.Host, best.pos.LSN, leftNames(loss.Left)))
	return next
}

func (j *judgement) leftBehind(host string, former Voter) Left {
	r := &j.v.Record
	x := Left{Voter: Voter{Host: host}, Primary: host == former.Host}
	if x.Primary {
		x.Incarnation = former.Incarnation
	}
	for _, v := range r.Voters {
		if v.Host == host {
			x.Counted = true
			x.Incarnation = cmp.Or(x.Incarnation, v.Incarnation)
		}
	}
	if l, _, ok := j.lastWord(host); ok {
		x.Incarnation = cmp.Or(x.Incarnation, l.Incarnation)
		x.Heard, x.At = l.Flushed != 0, l.Flushed
	}
	return x
}
