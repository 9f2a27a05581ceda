package database

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/problem"
)

// Decision is what one host does next for one database, and why.
type Decision struct {
	Actions   []Action // at most one; a kill comes alone
	Interrupt bool     // the long action under way serves an epoch that is over: cancel it
	Gate      GateOrder
	Read      *ReadOrder    // nil = none: the plan has no read-only listener, or nothing is known
	Behind    time.Duration // our own standby is at most so far behind the primary; Never if unknown
	BehindOf  int64         // epoch of that primary
	Lease     time.Duration // > 0: our primary may run that long from now without being fenced
	LeaseOf   int64         // its epoch
	Answers   []Answer      // requests that are settled
	Closed    time.Duration // for how long this host has seen no primary open; 0 = one is
	Because   []string
	Problems  []problem.Problem
	Wake      time.Duration // judge again no later than this
	Slots     *SlotOrder    // nil = they stay as they are
	Pause     *Pause        // nil = nothing is paused
}

// Answer settles an operator's request.
type Answer struct {
	ID   string `json:"id"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`

	Spans []Span `json:"spans,omitempty"` // of the change of primary that was asked for
}

// Memory is what one host remembers between judgements. The zero value is a host that has just started.
// Instants are on View.Now's clock.
type Memory struct {
	ReadMemory
	SlotMemory
	DiskMemory
	HaltMemory
	HookMemory

	SilencesSeen []SilenceSeen // of the record's silences
	Flushed      LSN           // primary: how far its log was last seen to reach
	Epoch        int64
	Phase        Phase
	PhaseSince   time.Duration // when this host first saw Epoch in Phase
	Agreed       bool          // Epoch was seen with its E promises, or past its recruiting, which nobody ends without them
	AgreedAt     time.Duration // when that was first seen
	SawPrimary   bool          // our own server was seen as the primary of Epoch
	Lost         bool          // the primary looks lost
	LostSince    time.Duration
	Quiet        bool // silence alone would suspect, but WAL advances
	QuietSince   time.Duration
	WasAlone     bool
	AloneAt      time.Duration // when this host last saw itself begin an epoch alone
	Names        Names         // primary: as last seen
	NamesAt      LSN           // primary: flushed when they were first seen
	Unfit        []Unfit       // primary: voters that do not stream, sorted by host and incarnation
	Cut          bool          // standby: the stream is configured and does not come
	CutSince     time.Duration
	Refollowed   time.Duration // how long it had been cut when it was last set up once more
	CopyAt       time.Duration // when the last copy was begun
	CopyTries    int           // since the last that succeeded
	CopyFailed   []string      // sources that failed to give it since then; not all that there are
	Prepared     string        // id of the switchover whose checkpoint was made
	Unready      string        // id of the switchover that no standby was fit for, and since when
	UnreadySince time.Duration
	Old          Promise       // that somebody made, above the record; zero = nobody did
	OldSince     time.Duration // when this very promise was first heard of
	Hung         bool          // primary: it cannot write to its disk
	HungSince    time.Duration
	Killed       bool // our own server was ended by us in this epoch
	Short        bool // primary: fewer standbys stream than must acknowledge
	ShortSince   time.Duration
	Stopped      time.Duration // switchover: phase age when our server was seen stopped, and when it was seen to have promised
	Promised     time.Duration
	PauseID      string        // of the pause that stands; "" = none
	PauseAt      time.Duration // when this host first saw it
	PauseFor     time.Duration // how long it lasts from then

	Astray   bool // standby: it streams from elsewhere than it should
	AstrayAt time.Duration

	Closed      bool // no primary is open
	ClosedSince time.Duration
	Asked       string // id of the newest forced failover that this host was asked for, and since when
	AskedSince  time.Duration
}

// Unfit says since when a voter does not stream.
type Unfit struct {
	Voter Voter
	Since time.Duration
}

// judgement is one call of Decide on its way.
type judgement struct {
	p Policy
	v View
	m Memory
	d Decision
}

// Decide says what this host does next. It never lets a server acknowledge what an election could forget,
// and never names a primary that may lack an acknowledged commit: better no primary than that. Equal
// arguments, equal result.
func Decide(p Policy, v View, m Memory) (Decision, Memory) {
	j := &judgement{p: p, v: v, m: m}
	j.m.Unfit = slices.Clone(m.Unfit)
	j.d.Wake = time.Second
	if v.WrittenOff != "" {
		j.writtenOff()
		return j.d, j.m
	}
	j.lease()
	j.hear()
	if !v.Known {
		j.d.Behind = Never
		j.because("the agreed state has not been read yet: what runs goes on as it is")
		return j.d, j.m
	}
	j.remember()
	j.pause()
	j.gate()
	j.measure()
	j.reads()
	j.judge()
	j.verify()
	return j.d, j.m
}

func (j *judgement) because(format string, args ...any) {
	j.d.Because = append(j.d.Because, fmt.Sprintf(format, args...))
}

func (j *judgement) problem(pr problem.Problem) {
	pr.Subject = j.p.Name
	j.d.Problems = append(j.d.Problems, pr)
}

// do asks for one action, unless another is under way.
func (j *judgement) do(a Action) {
	if len(j.d.Actions) > 0 {
		return
	}
	if len(j.v.Busy) > 0 {
		j.because("%s waits for %s", a.Kind, j.v.Busy[0])
		return
	}
	if what := j.held(a); what != "" {
		j.hold(what, a.Why)
		return
	}
	if a.Epoch == 0 {
		a.Epoch = j.v.Record.Epoch
	}
	if a.Kind == KindNames || a.Kind == KindBarrier {
		a.Revision = j.v.Revision
	}
	j.d.Actions = []Action{a}
	if a.Why != "" {
		j.because("%s: %s", a.Kind, a.Why)
	}
}

// kill fences our own server, whatever else is under way.
func (j *judgement) kill(why string) {
	j.d.Interrupt = len(j.v.Busy) > 0
	j.d.Lease = 0
	if slices.Contains(j.v.Busy, KindKill) {
		j.d.Interrupt = false
		return
	}
	j.m.Killed = true
	j.d.Actions = []Action{{Kind: KindKill, Epoch: j.v.Record.Epoch, Why: why}}
	j.because("kill: %s", why)
}

// swap asks to write the next record. Every write raises the generation (A10).
func (j *judgement) swap(next Record, why string) {
	next.Generation = j.v.Record.Generation + 1
	next = unforced(j.v.Record, next, why)
	next.Spans = j.spans(next)
	j.do(Action{Kind: KindSwap, Epoch: next.Epoch, Revision: j.v.Revision, Record: &next, Told: j.changeWords(next), Why: why})
}

// remember notes when phases began, by this host's own clock.
func (j *judgement) remember() {
	r := &j.v.Record
	if j.m.Epoch != r.Epoch || j.m.Phase != r.Phase {
		if j.m.Epoch != r.Epoch {
			j.m.SawPrimary, j.m.Agreed, j.m.Flushed, j.m.Killed = false, false, 0, false
			if r.Alone && r.Primary == j.v.Self {
				j.m.WasAlone, j.m.AloneAt = true, j.v.Now
			}
		}
		j.m.Epoch, j.m.Phase, j.m.PhaseSince = r.Epoch, r.Phase, j.v.Now
		j.m.Lost, j.m.Cut, j.m.Hung = false, false, false
		j.m.Stopped, j.m.Promised = 0, 0
		j.m.LifeBefore = ""
		if l, ok := j.localOf(r.Primary); ok && l.Ended != nil {
			j.m.LifeBefore = l.Ended.Life
		}
	}
	if j.v.Local.Role == Primary && r.Primary == j.v.Self && j.v.Local.Promise.Epoch == r.Epoch {
		j.m.SawPrimary = true
		j.m.Flushed = max(j.v.Local.Flushed, j.m.Flushed)
	}
	if !j.m.Agreed && (r.Phase != Recruiting || len(j.recruits()) >= max(r.E, 1)) {
		j.m.Agreed, j.m.AgreedAt = true, j.v.Now
	}
	j.rememberEnds()
	j.rememberSilences()
	j.rememberHooks()
	j.watchClosed()
}

func (j *judgement) phaseAge() time.Duration { return j.v.Now - j.m.PhaseSince }

// switchDrain lets the primary's own fast stop end the sessions, which tells clients why; the listener cuts
// those that a stop does not reach.
const switchDrain = time.Second

// gate says where this host's listener leads.
func (j *judgement) gate() {
	r := &j.v.Record
	if j.v.Revision == 0 {
		return
	}
	j.d.Gate = GateOrder{Epoch: r.Epoch, Generation: r.Generation, State: GateHold, Why: "no primary is open in epoch " + strconv.FormatInt(r.Epoch, 10)}
	if r.Phase == Switching {
		j.d.Gate.Drain = switchDrain
	}
	serving := r.Phase == Steady && r.Opened
	if l := &j.v.Local; serving && r.Primary == j.v.Self && l.Known && (!l.Running || l.Role == Standby || !j.namesOurs()) {
		serving = false
		j.d.Gate.Why = "our own server does not serve as the primary"
	}
	// A promise of a later epoch means that this one is over, whoever wins: its primary may be a standby by now, and
	// answer whoever only wants to read.
	if host, p := j.promisedMore(); serving && host != "" && p.Epoch > r.Epoch {
		serving = false
		j.d.Gate.Why = fmt.Sprintf("%s promised epoch %d, and who is the primary there has not been read yet", host, p.Epoch)
	}
	if serving {
		j.d.Gate.State, j.d.Gate.Target, j.d.Gate.Why = GateOpen, Endpoint{Host: r.Primary}, r.Primary+" is the primary"
	}
}

// namesOurs reports whether our names are what Holdfast wrote; while it writes them they are between two states.
func (j *judgement) namesOurs() bool {
	l := &j.v.Local
	return l.NamesOK || l.Role != Primary || slices.Contains(j.v.Busy, KindNames)
}

// judge applies the rules in order of safety; the first that asks for an action wins.
func (j *judgement) judge() {
	v, r := &j.v, &j.v.Record
	if v.Revision == 0 {
		j.found()
		return
	}
	j.d.Interrupt = j.hookOver()
	if !r.Holds(v.Self) {
		j.serveForce() // an operator may have looked from here
	}
	if !v.Local.Known {
		j.watchFault()
		j.blind()
		return
	}
	if !r.Holds(v.Self) {
		j.notMember()
		return
	}
	if v.Local.Role == Primary && !j.mayBePrimary() {
		j.kill(fmt.Sprintf("epoch %d names %s as the primary; ours promised %d", r.Epoch, r.Primary, v.Local.Promise.Epoch))
		return
	}
	if l := v.Local; l.Running && l.KeeperSilent >= j.p.Times.Keeper && !v.Late {
		j.kill(fmt.Sprintf("its keeper is silent for %s and would fence nothing", l.KeeperSilent.Round(100*time.Millisecond)))
		return
	}
	if j.refuses() {
		j.refuseForce()
		return
	}
	j.d.Interrupt = j.d.Interrupt || len(v.Busy) > 0 && j.outdated()
	if v.Stopping {
		j.stop()
		return
	}
	j.serveForce()
	j.watchHalt()
	j.watchDisk()
	j.serveHook()
	if r.Primary == v.Self {
		j.lead()
	}
	j.watchPrimary()
	j.elect()
	if r.Primary != v.Self {
		j.follow() // after the election: it must not wait for a stream that cannot come
	}
	j.keepSlots()
}

// mayBePrimary reports whether a running primary of ours is the one that the record confirms or promotes.
func (j *judgement) mayBePrimary() bool {
	r, l := &j.v.Record, &j.v.Local
	switch {
	case l.Promise.Epoch == 0 && r.Primary == j.v.Self && r.Phase != Recruiting:
		return true // not read this time; without a promise there is no lease, and the keeper's deadline fences
	case r.Primary != j.v.Self || l.Promise.Epoch != r.Epoch || r.Phase == Recruiting:
		return false
	case r.Phase == Creating:
		return true
	case l.Incarnation == "" || l.Timeline == 0:
		return true // not read this time: nothing says that it is not the one
	default:
		promoting := slices.Contains(j.v.Busy, KindPromote) // the number is settled when that ends
		return (promoting || l.Timeline == r.Timeline) && (r.Incarnation == "" || l.Incarnation == r.Incarnation)
	}
}

// refuses handles data and promises that do not belong here. Nothing of them is touched.
func (j *judgement) refuses() bool {
	r, l := &j.v.Record, &j.v.Local
	foreign := ""
	switch {
	case l.Data == DataForeign:
		foreign = cmp.Or(l.Why, "nobody knows what")
	case l.Data == DataPresent && r.SystemID != 0 && l.SystemID != 0 && l.SystemID != r.SystemID:
		foreign = fmt.Sprintf("its system identifier is %d, that of this database is %d", l.SystemID, r.SystemID)
	}
	if foreign != "" {
		j.problem(problem.Problem{
			Code: "database.foreign-data", Severity: problem.Critical,
			Title:   j.v.Self + " holds data of something else: " + foreign,
			Meaning: "Nothing of it is touched, and this host takes no part in this database.",
			Remedy:  "move the data directory away, or correct the plan; the host then makes its copy by itself",
		})
		return true
	}
	return j.recordIsOld()
}

// recordIsOld refuses a record that somebody has promised more than, ourselves or a peer: either we have not read
// the newest one yet, and then nothing that we could write would stand, or the agreed state is an old backup. A read
// that was sent after the promise was known tells which.
func (j *judgement) recordIsOld() bool {
	r := &j.v.Record
	host, p := j.promisedMore()
	if host == "" || j.v.Stopping { // a stop in good order forgets nothing
		j.m.Old = Promise{}
		return false
	}
	if j.m.Old != p { // a read that was sent after an earlier promise says nothing of this one
		j.m.Old, j.m.OldSince = p, j.v.Now
	}
	why := fmt.Sprintf("%s promised epoch %d of generation %d, but the agreed state says %d of %d", host, p.Epoch, p.Generation, r.Epoch, r.Generation)
	j.because("%s", why)
	if j.v.RecordAge < j.v.Now-j.m.OldSince {
		j.problem(problem.Problem{
			Code: "database.agreed-state-old", Severity: problem.Critical, Title: why,
			Meaning: "The agreed state looks like an old backup. No automatic move happens, so nothing is forgotten.",
			Remedy:  "restore the newest agreed state, or see what a forced failover would lose: holdfast status",
		})
	}
	return true
}

// promisedMore finds who has promised more than the record asks for; "" if nobody is known to have.
func (j *judgement) promisedMore() (string, Promise) {
	if l := &j.v.Local; l.Known && j.promised(j.v.Self, l) {
		return j.v.Self, l.Promise
	}
	for i := range j.v.Peers {
		p := &j.v.Peers[i]
		if p.Report != nil && p.AgentAge < j.p.Times.Reachable && p.Report.Local.Known && j.promised(p.Host, &p.Report.Local) {
			return p.Host, p.Report.Local.Promise
		}
	}
	return "", Promise{}
}

// promised reports whether a member has promised more than the record asks for. It is asked for every host, several
// times a round, so nothing is copied.
func (j *judgement) promised(host string, l *Local) bool {
	r := &j.v.Record
	if !l.PromiseOK || l.Data != DataPresent || r.SystemID != 0 && l.SystemID != r.SystemID || !r.Holds(host) {
		return false
	}
	switched := r.Phase == Switching && r.Primary == host && l.Promise.Epoch == r.Epoch+1 && l.Promise.Generation <= r.Generation
	return !switched && (l.Promise.Epoch > r.Epoch || l.Promise.Generation > r.Generation)
}

// keepGeneration persists what is agreed beside the primary's own promise, so that it, too, knows an older agreed
// state when it sees one.
func (j *judgement) keepGeneration() {
	r, l := &j.v.Record, &j.v.Local
	if l.PromiseOK && l.Promise.Epoch == r.Epoch && l.Promise.Generation < r.Generation {
		j.do(Action{Kind: KindRemember, Why: fmt.Sprintf("generation %d is agreed", r.Generation)})
	}
}

// outdated reports whether the action under way can only serve an epoch that is over.
func (j *judgement) outdated() bool {
	if j.m.Epoch == 0 || j.phaseAge() > 0 {
		return false
	}
	long := []Kind{KindClone, KindRewind, KindFollow, KindStart, KindBarrier, KindPromote, KindCheckpoint, KindRoles, KindNames, KindHook}
	return slices.ContainsFunc(j.v.Busy, func(k Kind) bool { return slices.Contains(long, k) })
}

// stop ends our server in an order that lets every standby have the whole WAL of the primary.
func (j *judgement) stop() {
	v, r := &j.v, &j.v.Record
	if !v.Local.Running {
		return
	}
	if r.Primary == v.Self {
		j.do(Action{Kind: KindStop, Why: "the application is being stopped"})
		return
	}
	pr, ok := j.peer(r.Primary)
	if ok && pr.Report != nil && pr.AgentAge < j.p.Times.Suspect && pr.Report.Local.Running {
		j.because("wait until the primary on %s has stopped", r.Primary)
		j.d.Wake = 100 * time.Millisecond
		return
	}
	j.do(Action{Kind: KindStop, Why: "the application is being stopped, the primary has stopped"})
}

// found makes the record of a database that nobody has made yet.
func (j *judgement) found() {
	p, v := j.p, j.v
	n := p.Standbys + 1
	if len(p.Hosts) < n || !slices.Contains(p.Hosts[:n], v.Self) || v.Stopping || !v.Local.Known {
		return
	}
	if v.Local.Data != DataAbsent && v.Local.Data != DataPartial {
		j.problem(problem.Problem{
			Code: "database.unknown-data", Severity: problem.Critical,
			Title:   v.Self + " holds a data directory, but nothing is agreed about this database",
			Meaning: "It may be the only copy, so nothing is made and nothing is touched.",
			Remedy:  "bring back the agreed state (etcd) that belongs to it, or move the data directory away",
		})
		return
	}
	if v.Self != p.Hosts[0] {
		j.because("wait for %s to make the first copy", p.Hosts[0])
		return
	}
	for _, peer := range v.Peers {
		if peer.Report != nil && peer.Report.Local.Known && peer.Report.Local.Data == DataPresent {
			j.because("%s holds data already: nothing is made", peer.Host)
			return
		}
	}
	j.swap(Record{
		Epoch: 1, Members: slices.Clone(p.Hosts[:n]), Standings: p.standings(), Primary: v.Self, W: p.AcknowledgedBy, E: 1, Phase: Creating,
		Runner: v.Self, Because: []string{"the plan asks for this database and it does not exist yet"},
	}, "the plan asks for a database that does not exist yet")
}

// peer finds another host's entry, to be read only; where there is none, an empty one.
func (j *judgement) peer(host string) (*Peer, bool) {
	for i := range j.v.Peers {
		if p := &j.v.Peers[i]; p.Host == host {
			return p, true
		}
	}
	return &Peer{}, false
}

// heard gives a peer's last report, to be read only, if its agent's beat is young enough to act on; else an empty one.
func (j *judgement) heard(host string) (*Report, bool) {
	p, ok := j.peer(host)
	if !ok || p.Report == nil || p.AgentAge >= j.p.Times.Reachable || !p.Report.Local.Known {
		return &Report{}, false
	}
	return p.Report, true
}

// verify is the decision's own check: a round that would break I1 acts on nothing and says so.
func (j *judgement) verify() {
	for _, a := range j.d.Actions {
		why := ""
		switch a.Kind {
		case KindSwap:
			why = j.wrongRecord(*a.Record)
		case KindNames:
			why = j.wrongNames(a.Names)
		}
		if why == "" {
			continue
		}
		j.d.Actions = nil
		j.problem(problem.Problem{
			Code: "database.invariant", Severity: problem.Critical, Title: "a decision was refused: " + why,
			Meaning: "Holdfast's own check stopped it; nothing was changed.",
			Remedy:  "keep the logs and report this as a defect: holdfast status --output json",
		})
	}
}

// wrongRecord says how a next record would break a rule, or "".
func (j *judgement) wrongRecord(next Record) string {
	now := &j.v.Record
	if next.Epoch < now.Epoch {
		return fmt.Sprintf("epoch %d after %d", next.Epoch, now.Epoch)
	}
	if next.Generation <= now.Generation && j.v.Revision != 0 {
		return fmt.Sprintf("generation %d after %d", next.Generation, now.Generation)
	}
	if why := j.wrongDegree(next); why != "" {
		return why
	}
	if next.W > 0 && next.W+next.E <= len(next.Voters) {
		return fmt.Sprintf("W %d + E %d is not above %d voters", next.W, next.E, len(next.Voters))
	}
	if next.Phase == Promoting && now.Phase == Promoting && next.Epoch == now.Epoch {
		return "a second primary in one epoch"
	}
	if why := wrongChain(now, &next); why != "" {
		return why
	}
	inForce := j.v.Local.Names
	if next.W > 0 && next.Phase == Steady && next.Primary == j.v.Self && !inForce.IsClosed() && inForce.W > 0 {
		for _, name := range inForce.List {
			if !slices.ContainsFunc(next.Voters, func(v Voter) bool { return StandbyName(v.Incarnation, next.Epoch) == name }) {
				return name + " may acknowledge and is no voter"
			}
		}
	}
	return ""
}

// wrongNames says how new names would break a rule, or "".
func (j *judgement) wrongNames(n Names) string {
	if n.IsClosed() {
		return ""
	}
	r := &j.v.Record
	voters := j.votersAfterPromotion()
	if r.W == 0 && len(r.Voters) == 0 {
		return "" // only the primary may be promoted, whoever acknowledges
	}
	if n.W < r.W || r.W == 0 && n.W > 0 {
		return fmt.Sprintf("W %d in the server, %d agreed", n.W, r.W)
	}
	if n.W > 0 && n.W+r.E <= len(voters) {
		return fmt.Sprintf("W %d + E %d is not above %d voters", n.W, r.E, len(voters))
	}
	for _, name := range n.List {
		if !slices.ContainsFunc(voters, func(v Voter) bool { return StandbyName(v.Incarnation, r.Epoch) == name }) {
			return name + " may acknowledge and is no voter"
		}
	}
	return ""
}
