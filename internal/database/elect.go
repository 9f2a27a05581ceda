package database

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// evidence that the primary of the record serves no more, and how long it must last before it counts.
type evidence struct {
	why      string
	patience time.Duration
	silence  bool // nobody says so, but nobody hears it
}

// watchPrimary judges whether the primary is lost, from this host's own point of view and from what the
// others say of theirs.
func (j *judgement) watchPrimary() {
	r := &j.v.Record
	if r.Phase == Creating || r.Phase == Recruiting {
		j.m.Lost = false
		return
	}
	e, lost := j.primaryLost()
	if !lost {
		j.m.Lost = false
		return
	}
	if !j.m.Lost {
		j.m.Lost, j.m.LostSince = true, j.v.Now
	}
	j.because("%s", e.why)
	if wait := e.patience - (j.v.Now - j.m.LostSince); wait > 0 {
		j.d.Wake = min(j.d.Wake, wait)
		return
	}
	j.startElection(e)
}

// primaryLost gives the evidence, if there is any.
func (j *judgement) primaryLost() (evidence, bool) {
	r := &j.v.Record
	if r.Primary == j.v.Self {
		return j.selfLost()
	}
	if r.Phase == Switching && j.phaseAge() < j.p.Times.Switch+j.p.Times.Stuck {
		return evidence{}, false // it stops on purpose, and resumes by itself if that goes wrong
	}
	if rep, ok := j.heard(r.Primary); ok {
		return j.reportedLost(rep)
	}
	if p, ok := j.peer(r.Primary); ok && p.Report != nil && p.AgentAge < j.p.Times.Reachable {
		if d := p.Report.Local.Disk; d.broken() { // not even its data directory can be read: nobody renews its lease
			e := evidence{why: r.Primary + " cannot tell how its server is: " + d.words(), patience: j.p.Times.Faulty}
			if j.p.OnTrouble > 0 {
				e.patience += time.Second // its own host goes first
			}
			return e, !j.waitsForHook()
		}
		return evidence{why: r.Primary + " cannot tell how its server is", patience: j.p.Times.Fence + j.p.Times.Stuck}, true
	}
	return j.silentLost()
}

// selfLost is the fastest way: the keeper of our own primary saw it exit.
func (j *judgement) selfLost() (evidence, bool) {
	r, l := &j.v.Record, &j.v.Local
	if r.Phase != Steady || !j.m.SawPrimary || l.Running || !l.TreeGone || len(j.ableVoters()) < max(r.E, 1) {
		return evidence{}, false
	}
	if j.restartFirst() != "" || j.waitsForHook() {
		return evidence{}, false // lead starts it in place, or has its host mended
	}
	return evidence{why: "our own server, the primary, has exited: " + l.Exit}, true
}

// reportedLost judges what the primary's own host says of it. A server that is neither gone nor serving is
// given time: it starts, recovers or promotes.
func (j *judgement) reportedLost(rep *Report) (evidence, bool) {
	r, l := &j.v.Record, &rep.Local
	if j.waitsForHook() {
		return evidence{}, false // its host is being mended; the limit is everybody's
	}
	switch {
	case rep.Epoch < r.Epoch && r.Phase == Promoting:
		return evidence{why: r.Primary + " was chosen and does not know it", patience: 3 * j.p.Times.Stuck}, true
	case rep.Epoch < r.Epoch, l.Running && l.Role == NoRole && r.Phase == Steady:
		return evidence{}, false
	case l.Role == Primary:
		what, patience := j.p.Times.unable(l)
		if what == "" || !r.Opened {
			return evidence{}, false
		}
		// Its own host ends it first; where even that hangs in the kernel, the others take over.
		return evidence{why: r.Primary + " says of its server: " + what, patience: patience + j.p.Times.Hung}, true
	}
	e := evidence{why: r.Primary + " says that its server does not serve as the primary", patience: j.p.Times.Stuck}
	switch {
	case l.Data != DataPresent:
		e.patience = 0
	case r.Phase != Steady:
		e.patience = 3 * j.p.Times.Stuck
	case !l.Running && l.TreeGone && l.Exit != "" && !l.ShutDown:
		e.patience = 0
	}
	return e, true
}

// silentLost suspects a host that nobody hears: every reachable voter, at least E of them, each by its own
// on-time clock. WAL that still advances on any of them is a veto for a while (DATABASE.md, Detection). Where the
// primary before could come back by itself, its word and nobody's denial suffice.
func (j *judgement) silentLost() (evidence, bool) {
	r, t := &j.v.Record, j.p.Times
	mine, _ := j.peer(r.Primary)
	after := j.suspectAfter(r.Primary)
	if !j.silent(mine.AgentAge, mine.GateAge, after) || j.v.Late {
		j.wakeWhen(min(mine.AgentAge, mine.GateAge), after)
		j.m.Quiet = false
		return evidence{}, false
	}
	observers, need := r.Voters, r.E
	if j.formerAble() {
		// The chosen one is among the voters and cannot be asked. Who could take over by itself is asked instead.
		observers, need = with(observers, r.Former), 1
	}
	agree, advancing := 0, false
	for _, v := range observers {
		if v.Host == j.v.Self && v.Incarnation == j.v.Local.Incarnation {
			agree++
			advancing = advancing || j.v.Advanced < t.Veto
			continue
		}
		rep, ok := j.heard(v.Host)
		if !ok || rep.Local.Incarnation != v.Incarnation {
			continue // not reachable: its word is not asked for
		}
		heard := slices.ContainsFunc(rep.Silent, func(s Silence) bool {
			return s.Host == r.Primary && !j.silent(s.Agent, s.Gate, after)
		})
		if heard || rep.Late {
			j.because("%s still hears %s, or cannot tell", v.Host, r.Primary)
			return evidence{}, false
		}
		agree++
		advancing = advancing || rep.Advanced < t.Veto
	}
	if agree < need {
		j.tooFew(fmt.Sprintf("%s is silent, but only %d of %d needed voters say so", r.Primary, agree, need))
		return evidence{}, false
	}
	if advancing {
		if !j.m.Quiet {
			j.m.Quiet, j.m.QuietSince = true, j.v.Now
		}
		if j.v.Now-j.m.QuietSince < t.VetoMax || mine.GateAge < t.Suspect {
			j.because("%s is silent, but its WAL still advances", r.Primary)
			j.wakeWhen(j.v.Advanced, t.Veto)
			return evidence{}, false
		}
	}
	if mine.AgentAge == Never || mine.GateAge == Never {
		// We have not listened for long: who has just started hears nobody.
		return evidence{why: fmt.Sprintf("nothing was heard of %s since we started, and %d voters agree", r.Primary, agree), patience: t.Suspect, silence: true}, true
	}
	silence := mine.AgentAge.Round(100 * time.Millisecond)
	return evidence{why: fmt.Sprintf("%s is silent for %s, and %d voters agree", r.Primary, silence, agree), silence: true}, true
}

// wakeWhen asks for a round at the moment when an age that grows by itself reaches a limit: nothing else wakes one then.
func (j *judgement) wakeWhen(age, limit time.Duration) {
	if age < limit {
		j.d.Wake = min(j.d.Wake, limit-age)
	}
}

// silent judges one observer's hearing of a host. An agent and a listener that are both silent are a host that is
// gone. A listener that still beats without its agent means that the host lives, and that nobody extends its
// primary's lease: once that must have run out, the agent's silence alone counts, as long as no WAL advances.
func (j *judgement) silent(agent, gate, after time.Duration) bool {
	return agent >= after && gate >= after || agent >= after+j.p.Times.Fence
}

// startElection raises the epoch, when enough voters could answer, in turn: the primary's own host first.
func (j *judgement) startElection(e evidence) {
	r, why := &j.v.Record, e.why
	if held := j.halted(); held != "" {
		j.because("no standby takes over: %s", held)
		return
	}
	if len(j.ableVoters()) < max(r.E, 1) && !j.formerAble() {
		j.tooFew(why)
		return
	}
	if wait := e.patience + time.Duration(j.turn())*j.p.Times.Stagger - (j.v.Now - j.m.LostSince); wait > 0 {
		j.d.Wake = min(j.d.Wake, wait)
		return
	}
	next := r.Clone()
	next.Epoch++
	next.Phase, next.Opened, next.Runner, next.Alone = Recruiting, false, j.v.Self, false
	next.SwitchTo = ""
	if end, ok := j.endOf(); ok {
		why += "; its own words: " + end.Text
	}
	next.Because = []string{why}
	if e.silence {
		next = j.withSilence(next, r.Primary)
	}
	next = j.withEnd(next)
	if next.Halt != nil && r.Halt == nil {
		j.halt(next, why)
		return
	}
	j.swap(unconfirmed(next, r), why)
}

// turn is how many others may begin an election before us: the primary's own host is the first, and the members follow
// in their order. A primary's host that is silent will begin none, so it holds no place.
func (j *judgement) turn() int {
	r := &j.v.Record
	if r.Primary == j.v.Self {
		return 0
	}
	others := slices.DeleteFunc(slices.Clone(r.Members), func(h string) bool { return h == r.Primary })
	turn := max(0, slices.Index(others, j.v.Self))
	if _, ok := j.heard(r.Primary); ok {
		turn++
	}
	return turn
}

// unconfirmed carries into a recruiting record what the epoch before it left open: a promotion that was never
// confirmed keeps its timeline number and the name of the primary before it.
func unconfirmed(next Record, before *Record) Record {
	if before.Phase == Promoting {
		next.Assigned = append(next.Assigned, Fork{Timeline: before.Timeline, Epoch: before.Epoch})
	}
	if before.Phase != Promoting || before.Alone && before.Former.Host == "" {
		next.Former = Voter{Host: before.Primary, Incarnation: before.Incarnation}
	}
	return next
}

// formerAble reports whether, in a promotion that was never confirmed, the primary before it could answer. It
// alone is enough: nothing was acknowledged after its own epoch, and it holds all of that.
func (j *judgement) formerAble() bool {
	r := &j.v.Record
	if r.Phase != Promoting || r.Former.Host == "" {
		return false
	}
	l, ok := j.localOf(r.Former.Host)
	return ok && l.Data == DataPresent && l.PromiseOK && l.Incarnation == r.Former.Incarnation && !l.Disk.broken()
}

// localOf is what a host says of its server, ours included, to be read only.
func (j *judgement) localOf(host string) (*Local, bool) {
	if host == j.v.Self {
		return &j.v.Local, j.v.Local.Known
	}
	rep, ok := j.heard(host)
	return &rep.Local, ok
}

// ableVoters are the voters that could answer a recruiting now, ourselves included.
func (j *judgement) ableVoters() []string {
	var able []string
	for _, v := range j.v.Record.Voters {
		l, ok := j.localOf(v.Host)
		if ok && l.Data == DataPresent && l.PromiseOK && l.Incarnation == v.Incarnation && !l.Disk.broken() {
			able = append(able, v.Host)
		}
	}
	return able
}

func (j *judgement) tooFew(why string) {
	r := &j.v.Record
	var missing []string
	able := j.ableVoters()
	for _, v := range r.Voters {
		if !slices.Contains(able, v.Host) {
			missing = append(missing, v.Host)
		}
	}
	silent := "Every standby that could acknowledge answers, but none can be chosen yet."
	if len(missing) > 0 {
		silent = strings.Join(missing, " and ") + " may hold commits that no other standby has."
	}
	j.problem(problem.Problem{
		Code: "database.no-candidate", Severity: problem.Critical, Title: "no standby may be promoted",
		Meaning: fmt.Sprintf("Writes wait. %s. %d of %d needed standbys answer. %s", why, len(able), r.E, silent),
		Remedy: "bring " + strings.Join(append(missing, r.Primary), " or ") + " back; the database then goes on by itself." +
			" If that cannot be, see what would be lost: holdfast database failover " + j.p.Name + " --force --dry-run",
	})
}

// recruit is one voter's answer in this epoch.
type recruit struct {
	voter Voter
	pos   Position
}

// elect chooses the primary of a recruiting epoch. Any member may; the write decides.
func (j *judgement) elect() {
	r := &j.v.Record
	if r.Phase != Recruiting {
		return
	}
	answers := j.willing(j.recruits())
	alone := false
	if former, ok := j.formerAnswer(); ok && len(answers) < max(r.E, 1) && j.phaseAge() > j.p.Times.Stuck {
		answers, alone = []recruit{former}, true
	}
	if len(answers) < max(r.E, 1) && !alone && r.Forced != nil {
		j.forcedChoice()
		return
	}
	if len(answers) < max(r.E, 1) && !alone {
		j.d.Wake = min(j.d.Wake, 250*time.Millisecond)
		if j.phaseAge() > j.p.Times.Stuck {
			j.tooFew(fmt.Sprintf("epoch %d has %d of %d promises", r.Epoch, len(answers), r.E))
		}
		return
	}
	turn := slices.Index(r.Members, j.v.Self)
	if r.Runner == j.v.Self {
		turn = 0
	} else {
		turn++
	}
	if wait := time.Duration(turn)*j.p.Times.Stagger - j.phaseAge(); wait > 0 {
		j.d.Wake = min(j.d.Wake, wait)
		return
	}
	best := slices.MaxFunc(answers, func(a, b recruit) int { return j.rank(a, b) })
	next := r.Clone()
	next.Phase, next.Alone, next.Runner = Promoting, alone, j.v.Self
	if alone {
		next.Former = Voter{}
	}
	next.Primary, next.Incarnation = best.voter.Host, best.voter.Incarnation
	next.Timeline = j.nextTimeline()
	why := fmt.Sprintf("%s holds the log up to %s on timeline %d, the furthest of %d answers (%d needed)",
		best.voter.Host, best.pos.LSN, best.pos.Timeline, len(answers), r.E)
	next.Because = append(next.Because, why)
	j.swap(next, why)
}

// formerAnswer is the answer of the last confirmed primary, which holds every acknowledged commit by itself.
func (j *judgement) formerAnswer() (recruit, bool) {
	r := &j.v.Record
	if r.Former.Host == "" || r.Has(r.Former) {
		return recruit{}, false
	}
	l, ok := j.localOf(r.Former.Host)
	if !ok || l.Incarnation != r.Former.Incarnation || !j.answered(l) {
		return recruit{}, false
	}
	return recruit{voter: r.Former, pos: l.Position}, true
}

// answered reports whether a server has promised this epoch and told a position on a history that is ours.
func (j *judgement) answered(l *Local) bool {
	r := &j.v.Record
	if l.Data != DataPresent || !l.PromiseOK || l.Promise.Epoch != r.Epoch || l.Position.Epoch != r.Epoch {
		return false
	}
	return kinship(r, l) == prefix || j.onAssigned(l)
}

// rank orders answers: newest timeline, then furthest position, then who does not come and go, then the plan's priority
// and order of hosts.
func (j *judgement) rank(a, b recruit) int {
	m := j.v.Record.Members
	return cmp.Or(
		cmp.Compare(j.timelineEpoch(a.pos.Timeline), j.timelineEpoch(b.pos.Timeline)),
		cmp.Compare(a.pos.LSN, b.pos.LSN),
		cmp.Compare(j.steadier(a.voter.Host), j.steadier(b.voter.Host)),
		cmp.Compare(j.promotes(a.voter.Host), j.promotes(b.voter.Host)),
		cmp.Compare(slices.Index(m, b.voter.Host), slices.Index(m, a.voter.Host)),
	)
}

// timelineEpoch is the epoch that made a timeline; numbers are assigned by the record, so it knows all.
func (j *judgement) timelineEpoch(timeline uint32) int64 {
	for _, f := range slices.Concat(j.v.Record.Forks, j.v.Record.Assigned) {
		if f.Timeline == timeline {
			return f.Epoch
		}
	}
	return 0
}

// recruits are the answers of voters that can be reached now: one that dies leaves the count and the maximum
// (A5). A history that is neither part of the committed chain nor one step beyond it on an assigned number is
// refused.
func (j *judgement) recruits() []recruit {
	var out []recruit
	for _, v := range j.v.Record.Voters {
		l, ok := j.localOf(v.Host)
		if ok && l.Incarnation == v.Incarnation && j.answered(l) {
			out = append(out, recruit{voter: v, pos: l.Position})
		}
	}
	return out
}

// onAssigned reports whether a server stands on a timeline whose number was assigned to a promotion that was
// never confirmed, made out of the committed chain.
func (j *judgement) onAssigned(l *Local) bool {
	r := &j.v.Record
	known := slices.ContainsFunc(r.Assigned, func(f Fork) bool { return f.Timeline == l.Position.Timeline })
	if !known || len(l.History) == 0 {
		return false
	}
	return sameForks(committed(r), l.History[:len(l.History)-1])
}

// nextTimeline is a number that no server can have used: above every confirmed and assigned one, and above our own,
// which the record may not know of.
func (j *judgement) nextTimeline() uint32 {
	highest := max(j.v.Record.Timeline, j.v.Local.Timeline, 1)
	for _, f := range slices.Concat(j.v.Record.Forks, j.v.Record.Assigned) {
		highest = max(highest, f.Timeline)
	}
	return highest + 1
}
