package database

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/problem"
)

// levelBytes is how far behind a standby may be to be taken into the voters: one WAL segment.
const levelBytes = LSN(16 << 20)

// lead is the duty of the host that the record names as the primary.
func (j *judgement) lead() {
	switch j.v.Record.Phase {
	case Creating:
		j.create()
	case Promoting:
		j.promote()
	case Switching:
		j.switchOver()
	case Recruiting:
		j.standAside()
	case Steady:
		if j.v.Local.Role == Primary {
			j.maintain()
			return
		}
		if j.v.Local.Running && j.v.Local.Role == NoRole {
			j.because("our server runs and does not say what it is")
			return
		}
		j.resume("our server, the primary, does not run")
	}
}

// create makes the first server.
func (j *judgement) create() {
	r, l := &j.v.Record, &j.v.Local
	switch {
	case l.Data == DataAbsent || l.Data == DataPartial:
		j.do(Action{Kind: KindInit, Why: "the first copy of a new database"})
	case l.Promise.Epoch < r.Epoch || !l.PromiseOK:
		j.recruit("a new server starts under the first epoch")
	case !l.Running:
		j.do(Action{Kind: KindStart, Hot: true})
	case l.Role == Standby:
		j.do(Action{Kind: KindPromote, Timeline: j.nextTimeline()})
	case l.Role != Primary || !l.Ready:
		j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
	case !l.RolesReady:
		j.do(Action{Kind: KindRoles})
	case r.W == 0 && l.Names.W != 0:
		j.do(Action{Kind: KindNames, Names: Names{}, Why: "the plan asks for no standby to acknowledge"})
	case !historyRead(l):
		j.because(historyUnread)
	default:
		next := r.Clone()
		next.Phase, next.SystemID, next.Incarnation = Steady, l.SystemID, l.Incarnation
		next.Timeline, next.Forks = l.Timeline, j.confirmed(l)
		j.swap(next, "the first server is ready")
	}
}

// confirmed is a server's own history as the committed chain, each fork with the epoch that assigned it.
func (j *judgement) confirmed(l *Local) []Fork {
	r := &j.v.Record
	chain := slices.Clone(l.History)
	for i := range chain {
		chain[i].Epoch = j.timelineEpoch(chain[i].Timeline)
		if chain[i].Timeline == l.Timeline && chain[i].Epoch == 0 {
			chain[i].Epoch = r.Epoch
		}
	}
	return chain
}

// resume brings a stopped primary back: by an election when we saw it serve and standbys can take over, else
// alone, as the record names us and we hold every commit of our epoch (DATABASE.md, Election).
func (j *judgement) resume(what string) {
	r, l := &j.v.Record, &j.v.Local
	first := j.restartFirst()
	if kind, why := j.endedAgain(); kind != "" && (j.waitsForHook() || j.climb(kind, why)) {
		return
	}
	if j.m.SawPrimary && len(j.ableVoters()) >= max(r.E, 1) && r.Phase == Steady && r.Halt == nil && first == "" {
		return // watchPrimary starts the election
	}
	if rests := j.haltRests(); rests != "" {
		j.because("%s, and rests: %s", what, rests)
		return
	}
	if (l.Disk.full() || l.Disk.broken()) && !l.Running {
		return // watchDisk says so; a start would only end again
	}
	if why := j.notAlone(); why != "" {
		j.because("%s, and may not come back by itself: %s", what, why)
		j.tooFew(what)
		return
	}
	if l.Role == Primary {
		return
	}
	next := r.Clone()
	next.Epoch++
	next.Phase, next.Opened, next.Alone, next.Runner = Promoting, false, true, j.v.Self
	next.SwitchTo = ""
	if own := (Voter{Host: r.Primary, Incarnation: r.Incarnation}); r.Phase != Recruiting || r.Former == own {
		next.Former = Voter{}
	}
	next.Timeline = j.nextTimeline()
	why := what + "; it holds every commit of its epoch, so it may come back by itself"
	if first != "" {
		why += "; " + first
	}
	if end, ok := j.endOf(); ok {
		why += "; its own words: " + end.Text
	}
	next.Because = []string{why}
	next = j.withEnd(next)
	if next.Halt != nil && r.Halt == nil && r.Phase == Steady {
		j.halt(next, why)
		return
	}
	if r.Halt != nil && r.Phase == Steady {
		next = tried(next)
	}
	j.swap(next, why)
}

// notAlone says why our stopped primary must not take the next epoch by itself, or "".
func (j *judgement) notAlone() string {
	r, l := &j.v.Record, &j.v.Local
	switch {
	case l.Data != DataPresent:
		return "its data directory is " + string(l.Data)
	case l.Incarnation != r.Incarnation:
		return "its data are not those of the primary that stopped"
	case !l.PromiseOK:
		return "its promise cannot be trusted"
	case l.Disk.broken():
		return l.Disk.words()
	case r.Phase == Promoting:
		return "a promotion is under way"
	case r.W > 0 && !l.ShutDown && j.m.WasAlone && j.v.Now-j.m.AloneAt < j.aloneAgain():
		return "it did so " + (j.v.Now - j.m.AloneAt).Round(time.Second).String() + " ago"
	}
	return ""
}

// aloneAgain is how long after one restart in place another must wait. While others can take over, they shall;
// when nobody else can, or an election has got nowhere, waiting helps nobody, and only a tight loop is avoided.
func (j *judgement) aloneAgain() time.Duration {
	if j.v.Record.Phase != Recruiting && len(j.ableVoters()) >= max(j.v.Record.E, 1) {
		return j.p.Times.Alone
	}
	return 3 * j.p.Times.Stuck
}

// standAside is what the former primary does while voters elect: it stays stopped, keeps its promise, and
// comes back by itself only if the election gets nowhere.
func (j *judgement) standAside() {
	r, l := &j.v.Record, &j.v.Local
	if l.Data != DataPresent {
		return
	}
	if j.phaseAge() > j.p.Times.Stuck && len(j.recruits()) < max(r.E, 1) {
		j.resume("too few standbys can answer")
		return
	}
	if l.Promise.Epoch < r.Epoch || !l.PromiseOK {
		j.recruit(fmt.Sprintf("epoch %d asks for a promise", r.Epoch))
	}
}

// promote makes our server the primary of this epoch and confirms it.
func (j *judgement) promote() {
	r, l := &j.v.Record, &j.v.Local
	if l.Data != DataPresent || l.Incarnation != r.Incarnation {
		j.because("our data are not those that were chosen: another election must follow")
		return
	}
	voters := j.votersAfterPromotion()
	want := namesFor(voters, r.W, r.Epoch)
	end, ended := j.endOf()
	switch {
	case l.Promise.Epoch < r.Epoch || !l.PromiseOK:
		j.recruit("our own promise comes before our promotion")
	case ended && j.haltRests() != "":
		j.because("our promotion was cut short, and our server rests: %s", j.haltRests())
	case ended:
		j.cutShort("our server ended in the middle of its promotion; its own words: " + end.Text)
	case !l.Running:
		j.do(Action{Kind: KindStart, Hot: !r.Alone, Why: "chosen as the primary"})
	case !historyRead(l):
		j.because(historyUnread) // a promotion now could be a second one, and nothing true can be confirmed
	case l.Role != Primary && l.Timeline >= r.Timeline:
		j.cutShort("our promotion was cut short, and each promotion has its own epoch")
	case l.Role != Primary:
		j.do(Action{Kind: KindPromote, Timeline: r.Timeline, Why: "chosen as the primary"})
	case !l.Ready:
		j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
	case !l.Names.Equal(want) || !l.NamesOK:
		j.do(Action{Kind: KindNames, Names: want, Why: "confirmed in this epoch"})
	default:
		next := r.Clone()
		next.Phase, next.Voters = Steady, voters
		next.Forks, next.Assigned = j.confirmed(l), nil
		next.Timeline = l.Timeline
		j.swap(j.parted(next), "promoted; its history is the agreed one now")
	}
}

// cutShort begins another election in place of our own promotion.
func (j *judgement) cutShort(why string) {
	r := &j.v.Record
	next := j.withEnd(unconfirmed(r.Clone(), r))
	next.Epoch++
	next.Phase, next.Alone, next.Runner = Recruiting, false, j.v.Self
	next.Because = []string{why}
	if r.Halt != nil {
		next = tried(next)
	}
	j.swap(next, why)
}

// votersAfterPromotion is V' = V + former primary - itself.
func (j *judgement) votersAfterPromotion() []Voter {
	r := &j.v.Record
	if r.Phase != Promoting || r.W == 0 {
		return r.Voters
	}
	v := without(r.Voters, Voter{Host: r.Primary, Incarnation: r.Incarnation})
	if r.Former.Host != "" && r.Former.Incarnation != "" && !givesUp(r) {
		v = with(v, r.Former)
	}
	return v
}

// maintain keeps a serving primary in order: names as agreed, open when that is allowed, every standby that
// streams a voter, and none that does not.
func (j *judgement) maintain() {
	r, l := &j.v.Record, &j.v.Local
	j.trackStandbys()
	if !l.Names.Equal(j.m.Names) {
		j.m.Names, j.m.NamesAt = l.Names, l.Flushed
	}
	if j.unableToWrite() {
		return
	}
	if !l.Ready {
		j.because("our server does not answer yet")
		return
	}
	if !j.ownNames() {
		return
	}
	if !r.Opened {
		j.open()
	}
	j.adjust()
	if !l.RolesReady {
		j.do(Action{Kind: KindRoles})
	}
	j.spareDisk()
	j.settings()
	j.forgetEnds()
	j.settleLosses()
	j.serveRequests()
	j.redundancy()
	j.keepGeneration()
}

// ownNames puts synchronous_standby_names back if somebody else wrote them.
func (j *judgement) ownNames() bool {
	r, l := &j.v.Record, &j.v.Local
	full := namesFor(r.Voters, r.W, r.Epoch)
	if slices.Contains(j.v.Busy, KindNames) {
		return true // between two states, and nothing else is begun meanwhile
	}
	if l.NamesOK && (l.Names.Equal(full) || j.oneStepFrom(full) || j.degreeChanges(full)) {
		return true
	}
	j.problem(problem.Problem{
		Code: "database.names-changed", Severity: problem.Critical,
		Title:   "synchronous_standby_names is not what Holdfast set: " + l.Names.String(),
		Meaning: "Commits could be acknowledged that no standby holds. The listener waits until it is set back.",
		Remedy:  "do not change it by hand; set acknowledged_by in the plan",
	})
	j.do(Action{Kind: KindNames, Names: full, Why: "somebody else changed them"})
	return false
}

// oneStepFrom reports whether our names lack exactly one voter: a voter that joins or leaves.
func (j *judgement) oneStepFrom(full Names) bool {
	_, ok := j.between(full)
	return ok
}

// between finds the one voter that the names lack.
func (j *judgement) between(full Names) (Voter, bool) {
	r, l := &j.v.Record, &j.v.Local
	if l.Names.Equal(full) {
		return Voter{}, false
	}
	for _, v := range r.Voters {
		if l.Names.Equal(namesFor(without(r.Voters, v), r.W, r.Epoch)) {
			return v, true
		}
	}
	return Voter{}, false
}

// open lets clients in, by the opening rule (DATABASE.md, Fencing and opening): the old primary is attested
// gone, or has promised this epoch, or the wait is over. A primary that came back alone first sees W standbys
// pass a barrier, so that nobody is shown a commit that only it holds.
func (j *judgement) open() {
	r, l := &j.v.Record, &j.v.Local
	if r.Alone && r.W > 0 && !j.barrierPassed() {
		if !j.barrierBegun() {
			j.do(Action{Kind: KindBarrier, Why: "what only we hold must reach the standbys before anybody sees it"})
		}
		j.because("closed until %d standbys hold all that we hold", r.W)
		return
	}
	why := j.mayOpen()
	if why == "" {
		if !l.Admits {
			j.do(Action{Kind: KindAdmit, Clients: true, Why: "listeners hold clients until it is opened, and shall not wait for this then"})
		}
		wait := j.p.Times.Open - (j.v.Now - j.m.AgreedAt)
		j.because("closed until %s attests that its server is gone, or for %s", r.Former.Host, wait)
		j.d.Wake = min(j.d.Wake, max(wait, 0))
		return
	}
	if !l.Admits {
		j.do(Action{Kind: KindAdmit, Clients: true, Why: why})
		return
	}
	next := r.Clone()
	next.Opened = true
	next.Pace = j.pace(next)
	j.swap(next, why)
}

// mayOpen says why the listener may lead to us, or "" if it may not yet.
func (j *judgement) mayOpen() string {
	r := &j.v.Record
	if r.Former.Host == "" || r.Former.Host == j.v.Self {
		return "no other server can serve an older epoch"
	}
	if rep, ok := j.heard(r.Former.Host); ok && rep.Local.Role != Primary {
		if !rep.Local.Running && rep.Local.TreeGone {
			return r.Former.Host + " attests that its old server is gone"
		}
		if rep.Local.Promise.Epoch >= r.Epoch {
			return r.Former.Host + " has promised this epoch"
		}
	}
	// Memory counts from when this host knew of the E-th promise, which is later than the promise itself and than the
	// agreement on the epoch: never shorter than the rule asks.
	if j.m.Agreed && j.v.Now-j.m.AgreedAt >= j.p.Times.Open {
		return fmt.Sprintf("%s has been fenced by its own deadline: %s have passed", r.Former.Host, j.p.Times.Open)
	}
	return ""
}

// barrierBegun reports whether the last barrier is one for the names that stand now. That it was for equal names
// is not enough: they may have been others in between, and walsenders of that time may still act on them. Every
// barrier writes a record, so the mark of a later one lies beyond what was flushed when these names appeared.
func (j *judgement) barrierBegun() bool {
	f := j.v.Local.Force
	return f.Mark != 0 && f.Epoch == j.v.Record.Epoch && f.Names.Equal(j.v.Local.Names) && f.Mark > j.m.NamesAt
}

// barrierPassed reports whether W members of the names in force hold all up to the mark: streaming, counted by
// PostgreSQL, connected after the barrier began, and their own agent says that they follow this epoch.
func (j *judgement) barrierPassed() bool {
	r, l := &j.v.Record, &j.v.Local
	if !j.barrierBegun() {
		return false
	}
	passed := 0
	for _, v := range j.named() {
		s, ok := sender(l, StandbyName(v.Incarnation, r.Epoch))
		if ok && s.State == "streaming" && s.Sync == "quorum" && s.Fresh && s.Flushed >= l.Force.Mark && j.follows(v) {
			passed++
		}
	}
	return passed >= max(l.Names.W, 1)
}

// follows reports whether a standby's own agent says that it follows this epoch with this incarnation.
func (j *judgement) follows(v Voter) bool {
	rep, ok := j.heard(v.Host)
	return ok && rep.Local.Incarnation == v.Incarnation && rep.Local.PromiseOK &&
		rep.Local.Promise.Epoch == j.v.Record.Epoch && rep.Local.Following == j.v.Record.Epoch
}

func sender(l *Local, name string) (Sender, bool) {
	for _, s := range l.Senders {
		if s.Name == name {
			return s, true
		}
	}
	return Sender{}, false
}

// streams reports whether a standby streams from us under its name of this epoch and is level.
func (j *judgement) streams(v Voter) bool {
	l := &j.v.Local
	s, ok := sender(l, StandbyName(v.Incarnation, j.v.Record.Epoch))
	return ok && s.State == "streaming" && s.Flushed+levelBytes >= l.Flushed
}

// leaveBytes is how far behind a voter may fall before it counts as not streaming: much more than to join, so
// that a bulk load does not make it leave and join in turn.
const leaveBytes = 64 * levelBytes

// connected reports whether a voter streams from us at all, however far behind within reason.
func (j *judgement) connected(v Voter) bool {
	l := &j.v.Local
	s, ok := sender(l, StandbyName(v.Incarnation, j.v.Record.Epoch))
	return ok && s.State == "streaming" && s.Flushed+leaveBytes >= l.Flushed
}

// trackStandbys notes since when each voter does not stream.
func (j *judgement) trackStandbys() {
	var unfit []Unfit
	for _, v := range j.counted() {
		if j.connected(v) {
			continue
		}
		u := Unfit{Voter: v, Since: j.v.Now}
		for _, old := range j.m.Unfit {
			if old.Voter == v {
				u = old
			}
		}
		unfit = append(unfit, u)
	}
	j.m.Unfit = unfit
}

// leave begins the removal of a voter; finishStep ends it.
func (j *judgement) leave(v Voter) {
	r := &j.v.Record
	why := v.Host + " does not stream: it leaves the voters"
	if !j.mayVote(v) {
		why = "the plan does not count " + v.Host + " any more: it leaves the voters"
	}
	j.do(Action{Kind: KindNames, Names: namesFor(without(r.Voters, v), r.W, r.Epoch), Why: why})
}

// replaced reports whether a voter's host, ours too, says that it holds another incarnation now: this one is gone for ever.
func (j *judgement) replaced(v Voter) bool {
	l, ok := j.localOf(v.Host)
	return ok && l.Incarnation != "" && l.Incarnation != v.Incarnation
}

// finishStep ends a join or a removal: v is a voter that the names lack.
func (j *judgement) finishStep(v Voter, full Names) {
	r, l := &j.v.Record, &j.v.Local
	// Without enough others it cannot leave, gone or not: with full names somebody else can join.
	if len(j.usable(v)) < r.W || j.streams(v) && j.follows(v) && j.mayVote(v) {
		// Whoever could elect under the record of before must meet one who knows this one (A10): W of the voters
		// of before, or all of them while they are fewer.
		before := without(r.Voters, v)
		need := min(r.W, len(before))
		if have := j.remembered(before); have < need {
			j.because("%s joins once %d voters have kept generation %d; %d have", v.Host, need, r.Generation, have)
			j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
			return
		}
		j.do(Action{Kind: KindNames, Names: full, Why: v.Host + " may acknowledge from now on"})
		return
	}
	if !j.barrierBegun() {
		j.do(Action{Kind: KindBarrier, Why: fmt.Sprintf("before %s leaves, the others must hold all that it may have acknowledged", v.Host)})
		return
	}
	if !j.barrierPassed() {
		j.because("%s leaves once %d of the others hold everything up to %s", v.Host, r.W, l.Force.Mark)
		j.d.Wake = min(j.d.Wake, j.p.Times.Stagger)
		return
	}
	next := r.Clone()
	next.Voters, next.Unsealed = without(next.Voters, v), false
	next.E = electors(&next)
	j.swap(next, v.Host+" has left the voters: the others hold everything")
}

// remembered counts those of voters that have persisted the record's generation, or that can elect nobody any
// more because their host has replaced them.
func (j *judgement) remembered(voters []Voter) int {
	r, n := &j.v.Record, 0
	for _, v := range voters {
		rep, ok := j.heard(v.Host)
		if j.replaced(v) || ok && rep.Local.Promise.Epoch == r.Epoch && rep.Local.Promise.Generation >= r.Generation {
			n++
		}
	}
	return n
}

// joinable is a member that streams, is level, and is no voter yet.
func (j *judgement) joinable() (Voter, bool) {
	r := &j.v.Record
	for _, host := range r.Members {
		rep, ok := j.heard(host)
		if !ok || host == j.v.Self {
			continue
		}
		v := Voter{Host: host, Incarnation: rep.Local.Incarnation}
		if v.Incarnation != "" && !r.Has(v) && (j.mayVote(v) || j.standsIn(v)) && !j.otherName(v) && j.streams(v) && j.follows(v) {
			return v, true
		}
	}
	return Voter{}, false
}

// standsIn reports whether a member becomes a voter although the plan counts it no more. While too few voters are left for a
// single write, who is there already comes before who still has to copy everything; and a primary that came back alone takes
// no other member in before it is open, which it cannot be before somebody holds what it holds. It begins only where it can
// end at once, for other ways out (fewer that must hold a commit) wait for it. Besides, a copy takes the place of the one that
// its host counted with before. Each leaves in good order once the plan's own are there.
func (j *judgement) standsIn(x Voter) bool {
	r := &j.v.Record
	before := slices.ContainsFunc(r.Voters, func(v Voter) bool { return v.Host == x.Host && j.replaced(v) })
	ends := j.remembered(r.Voters) >= min(r.W, len(r.Voters))
	return (before || !r.Opened && ends) && r.Standing(x.Host).Votes() && len(j.usable(Voter{})) < r.W
}

// removable is a voter that has not streamed for long enough, as long as enough others stay.
func (j *judgement) removable() (Voter, bool) {
	r := &j.v.Record
	if len(r.Voters)-1 < r.W {
		return Voter{}, false
	}
	for _, u := range j.m.Unfit {
		if (j.v.Now-u.Since >= j.p.Times.Remove || j.replaced(u.Voter)) && j.healthyWithout(u.Voter) >= r.W {
			return u.Voter, true
		}
	}
	return Voter{}, false
}

// healthyWithout counts the voters that stream when x is left out.
func (j *judgement) healthyWithout(x Voter) int {
	n := 0
	for _, v := range j.v.Record.Voters {
		if v != x && j.streams(v) {
			n++
		}
	}
	return n
}
