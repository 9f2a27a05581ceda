package database

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// closedPatience is how long the room is given to find a way that loses nothing before force is allowed beside
	// it: an election, or the primary's return, takes some seconds, and one that was cut short begins again.
	closedPatience = 30 * time.Second
	// askedMax is how long a forced failover may wait to be taken up: what it would lose was shown then, not now.
	askedMax = time.Minute
	// askedLong is the same by the wall clocks of two hosts, which may differ.
	askedLong = 10 * time.Minute
)

// Risk is what a forced failover would do now, and what it would lose, as far as one host can know.
type Risk struct {
	Refused string `json:"refused,omitempty"` // why it is refused, and which way loses nothing; "" = it would be carried out

	Primary string `json:"primary"` // that is given up
	Former  string `json:"former"`  // its incarnation
	Known   Known  `json:"known"`   // what was last heard of it

	Chosen     string        `json:"chosen"` // who would take over; "" = nobody can
	At         LSN           `json:"at"`     // the log of that one
	Counted    bool          `json:"counted"`
	Bytes      LSN           `json:"bytes"`  // of log that would be lost at least; only with Known.Heard
	Span       time.Duration `json:"span"`   // that these stand for; Never = unknown
	AckedBytes LSN           `json:"acked"`  // of them: clients had been told
	Others     []Other       `json:"others"` // every other member, sorted by host
	Waits      int           `json:"waits"`  // afterwards writes wait until so many standbys follow; 0 = they do not wait
	Avoid      []string      `json:"avoid"`  // what would have to come back for nothing to be lost
	Warn       []string      `json:"warn"`   // what else must be known before it is confirmed
}

// Other is a member that would not be the primary.
type Other struct {
	Host    string `json:"host"`
	Counted bool   `json:"counted"` // a voter
	Heard   bool   `json:"heard"`   // At is known
	Answers bool   `json:"answers"` // now
	At      LSN    `json:"at"`
	Why     string `json:"why"` // it is not chosen
}

// FailoverRisk judges a forced failover from one host's view, without asking for anything. closed is for how long no
// primary has been open (see [Decision.Closed]); to is the operator's wish, "" = whoever is furthest.
func FailoverRisk(p Policy, v View, closed time.Duration, to string) Risk {
	j := &judgement{p: p, v: v}
	return j.risk(closed, to)
}

// watchClosed notes since when no primary is open.
func (j *judgement) watchClosed() {
	r := &j.v.Record
	if r.Phase == Steady && r.Opened && !j.primaryAway() {
		j.m.Closed = false
		return
	}
	if !j.m.Closed {
		j.m.Closed, j.m.ClosedSince = true, j.v.Now
	}
	j.d.Closed = j.v.Now - j.m.ClosedSince
}

// primaryAway reports whether the record's primary neither is heard as one nor is ours.
func (j *judgement) primaryAway() bool {
	l, ok := j.localOf(j.v.Record.Primary)
	what, _ := j.p.Times.unable(l)
	return !ok || l.Role != Primary || what != ""
}

// given is the primary that a forced failover would give up: the last confirmed one.
func given(r *Record) Voter {
	if (r.Phase == Recruiting || r.Phase == Promoting) && r.Former.Host != "" {
		return r.Former
	}
	return Voter{Host: r.Primary, Incarnation: r.Incarnation}
}

func (j *judgement) risk(closed time.Duration, to string) Risk {
	r := &j.v.Record
	former := given(r)
	k := Risk{Primary: former.Host, Former: former.Incarnation, Span: Never}
	k.Known = j.knownOf(former)
	best, ok := j.candidate(to, &k)
	if ok {
		k.Chosen, k.At, k.Counted = best.voter.Host, best.pos.LSN, r.Has(best.voter)
		k.Waits = r.W
		if k.Known.Heard {
			k.Bytes, k.AckedBytes = beyond(k.Known.Flushed, k.At), beyond(k.Known.Acknowledged, k.At)
			k.Span = j.spanOf(best.voter.Host, k.Known.Age)
		}
	}
	j.avoidance(&k, former)
	k.Refused = j.refusal(k, former, closed, to, ok)
	return k
}

func beyond(a, b LSN) LSN {
	if a <= b {
		return 0
	}
	return a - b
}

// knownOf is the last word of a primary, however old.
func (j *judgement) knownOf(former Voter) Known {
	l, age, ok := j.lastWord(former.Host)
	if !ok || l.Incarnation != former.Incarnation || l.Flushed == 0 {
		return Known{}
	}
	return Known{Heard: true, Age: age, Flushed: l.Flushed, Acknowledged: acknowledgedUpTo(l)}
}

// lastWord is what a host last said of its server, and how long ago.
func (j *judgement) lastWord(host string) (*Local, time.Duration, bool) {
	if host == j.v.Self {
		return &j.v.Local, 0, j.v.Local.Known
	}
	p, ok := j.peer(host)
	if !ok || p.Report == nil || !p.Report.Local.Known {
		return &Local{}, 0, false
	}
	return &p.Report.Local, p.AgentAge, true
}

// acknowledgedUpTo is how far a primary's clients had been told by its own words: the W-th furthest of the standbys
// that count, or all of its log when nobody is waited for.
func acknowledgedUpTo(l *Local) LSN {
	if l.Names.IsClosed() || l.Role != Primary {
		return 0
	}
	if l.Names.W == 0 {
		return l.Flushed
	}
	var at []LSN
	for _, s := range l.Senders {
		if slices.Contains(l.Names.List, s.Name) {
			at = append(at, s.Flushed)
		}
	}
	if len(at) < l.Names.W {
		return 0
	}
	slices.Sort(at)
	return at[len(at)-l.Names.W]
}

// spanOf is for how long the old primary lived on after the candidate had received its last record.
func (j *judgement) spanOf(host string, heard time.Duration) time.Duration {
	still := j.v.Advanced
	if host != j.v.Self {
		rep, ok := j.heard(host)
		if !ok {
			return Never
		}
		still = rep.Advanced
	}
	if still == Never || heard == Never {
		return Never
	}
	return max(0, still-heard)
}

// candidate finds who would take over, and says of every other member why it would not.
func (j *judgement) candidate(to string, k *Risk) (recruit, bool) {
	r := &j.v.Record
	var best *recruit
	for _, host := range r.Members {
		if host == k.Primary {
			continue
		}
		o := Other{Host: host}
		l, _, heard := j.lastWord(host)
		if heard {
			o.Heard, o.At, o.Counted = l.Flushed != 0, l.Flushed, r.Has(Voter{Host: host, Incarnation: l.Incarnation})
		} else {
			o.Counted = slices.ContainsFunc(r.Voters, func(v Voter) bool { return v.Host == host })
		}
		pos, why := j.couldTakeOver(host)
		o.Answers, o.Why = why == "", why
		if why == "" {
			o.At, o.Heard = pos.LSN, true
			x := recruit{voter: Voter{Host: host, Incarnation: l.Incarnation}, pos: pos}
			if to == "" && (best == nil || j.forcedRank(x, *best) > 0) || to == host {
				best = &x
			}
		}
		k.Others = append(k.Others, o)
	}
	slices.SortFunc(k.Others, func(a, b Other) int { return cmp.Compare(a.Host, b.Host) })
	if best == nil {
		return recruit{}, false
	}
	k.Others = slices.DeleteFunc(k.Others, func(o Other) bool { return o.Host == best.voter.Host })
	for i := range k.Others {
		if k.Others[i].Why == "" {
			k.Others[i].Why = "it is not further than " + best.voter.Host
			if k.Others[i].At > best.pos.LSN {
				k.Others[i].Why = fmt.Sprintf("it is further than %s, which was asked for: what lies between would be lost too", best.voter.Host)
			}
		}
	}
	return *best, true
}

// forcedRank orders candidates: the furthest, then one that counts, then the plan's order.
func (j *judgement) forcedRank(a, b recruit) int {
	r := &j.v.Record
	counts := func(x recruit) int {
		if r.Has(x.voter) {
			return 1
		}
		return 0
	}
	return cmp.Or(j.reach(a, b), cmp.Compare(counts(a), counts(b)), j.rank(a, b))
}

// reach compares how far two logs go: newest timeline, then position.
func (j *judgement) reach(a, b recruit) int {
	return cmp.Or(cmp.Compare(j.timelineEpoch(a.pos.Timeline), j.timelineEpoch(b.pos.Timeline)), cmp.Compare(a.pos.LSN, b.pos.LSN))
}

// couldTakeOver gives how far a host's copy reaches, or why it cannot be the primary.
func (j *judgement) couldTakeOver(host string) (Position, string) {
	r := &j.v.Record
	l, ok := j.localOf(host)
	switch {
	case !ok:
		return Position{}, host + " does not answer"
	case l.Data != DataPresent:
		return Position{}, host + " holds no whole copy"
	case !l.PromiseOK:
		return Position{}, host + " may have forgotten what it promised"
	case l.Disk.broken():
		return Position{}, host + " can promise nothing: " + l.Disk.words()
	case l.Running && l.Role == Primary:
		return Position{}, host + " runs as a primary"
	}
	if l.Position.Epoch == 0 || l.Position.Epoch != l.Promise.Epoch {
		says := *l
		l = &says
		l.Position = Position{Timeline: l.Timeline, LSN: l.Flushed} // it streams, or did: as far as it says
	}
	if l.Position.LSN == 0 {
		return Position{}, host + " cannot say how far its copy reaches"
	}
	if kinship(r, l) != prefix && !j.onAssigned(l) {
		return Position{}, "the history of " + host + " went another way"
	}
	return l.Position, ""
}

// avoidance says whose return would make the loss unnecessary, and what must be sure before it is accepted.
func (j *judgement) avoidance(k *Risk, former Voter) {
	r := &j.v.Record
	var missing []string
	able := j.ableVoters()
	for _, v := range r.Voters {
		if !slices.Contains(able, v.Host) && v.Host != former.Host {
			missing = append(missing, v.Host)
		}
	}
	k.Avoid = []string{former.Host + " with its data"}
	if need := r.E - len(able); !r.Unsealed && r.W > 0 && need > 0 && need <= len(missing) {
		k.Avoid = append(k.Avoid, fmt.Sprintf("%d of %s", need, strings.Join(missing, ", ")))
	}
	var silent []string
	for _, host := range r.Members {
		if _, ok := j.localOf(host); !ok {
			silent = append(silent, host)
		}
	}
	if slices.Contains(silent, former.Host) {
		warn := former.Host + " does not answer: make sure that it is off, or it may answer clients that reach it for some seconds more"
		if len(silent) > 1 && r.W > 0 {
			warn = strings.Join(silent, " and ") + " do not answer: make sure that they are off. If they live and reach each other, they go on" +
				" acknowledging writes, and all of those will be lost too"
		}
		k.Warn = append(k.Warn, warn)
	}
	if !k.Known.Heard {
		k.Warn = append(k.Warn, "nobody who answers remembers how far "+former.Host+" was: how much would be lost is unknown")
	} else {
		k.Warn = append(k.Warn, fmt.Sprintf("what %s did after its last word is not known, nor how many commits lie in these bytes, before its disk is back", former.Host))
	}
	if k.Chosen != "" && !k.Counted && r.W > 0 {
		k.Warn = append(k.Warn, k.Chosen+" acknowledged nothing: it is a copy that writes did not wait for")
	}
	if k.Waits > 0 && k.Chosen != "" {
		k.Warn = append(k.Warn, fmt.Sprintf("afterwards writes wait until %d of the others follow %s; reads go on", k.Waits, k.Chosen))
	}
}

// refusal says why force is not allowed now, with the way that loses nothing; "" = it is.
func (j *judgement) refusal(k Risk, former Voter, closed time.Duration, to string, found bool) string {
	r := &j.v.Record
	switch {
	case j.v.Revision == 0 || r.Phase == Creating:
		return "this database is still being made: nothing can be lost, and nobody else holds a copy"
	case j.v.Stopping:
		return "the application is being stopped"
	case j.v.RecordAge >= closedPatience:
		return fmt.Sprintf("%s does not reach the agreed state (etcd): without its majority nothing can be decided; see holdfast cluster recover", j.v.Self)
	}
	if host, p := j.promisedMore(); host != "" {
		return fmt.Sprintf("%s promised epoch %d, but the agreed state says %d: it is an old backup, which must be mended first", host, p.Epoch, r.Epoch)
	}
	l, ok := j.localOf(former.Host)
	if what, _ := j.p.Times.unable(l); ok && l.Role == Primary && what == "" && r.Phase == Steady {
		return former.Host + " serves as the primary: a switchover moves it and loses nothing"
	}
	if who := j.stillHeard(former.Host); who != "" && r.Phase == Steady && r.Opened {
		return fmt.Sprintf("%s still hears %s: it may well serve clients; mend the links, or stop it there first", who, former.Host)
	}
	if able := len(j.ableVoters()); able >= max(r.E, 1) && closed < closedPatience {
		return fmt.Sprintf("%d of %d needed standbys answer: an election loses nothing, and is given %s", able, max(r.E, 1), closedPatience)
	}
	if ok && l.Data == DataPresent && l.Incarnation == former.Incarnation && !l.Disk.broken() && closed < closedPatience {
		return fmt.Sprintf("%s answers and holds its data: it comes back by itself and loses nothing, and is given %s", former.Host, closedPatience)
	}
	switch {
	case to == former.Host:
		return to + " is the primary that would be given up"
	case to != "" && !found:
		return j.whyNot(to)
	case !found:
		return "no other copy answers that could take over"
	}
	return ""
}

func (j *judgement) whyNot(host string) string {
	if !j.v.Record.Holds(host) {
		return host + " holds no copy of this database"
	}
	_, why := j.couldTakeOver(host)
	return why
}

// stillHeard names a reachable host that hears another one, or "".
func (j *judgement) stillHeard(host string) string {
	for _, p := range j.v.Peers {
		rep, ok := j.heard(p.Host)
		if !ok || p.Host == host || rep.Late {
			continue
		}
		if slices.ContainsFunc(rep.Silent, func(s Silence) bool { return s.Host == host && s.Agent < j.p.Times.Suspect }) {
			return p.Host
		}
	}
	return ""
}
