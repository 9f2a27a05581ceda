package database

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// Pending is one thing that a server's next start would change: a setting that PostgreSQL reads only then, or the
// release of its programs.
type Pending struct {
	Name string `json:"name"` // of the setting, or [Programs]
	From string `json:"from"`
	To   string `json:"to"`
	// Lower: it is one that no standby may have lower than its primary, and To is lower than what the primary that
	// wrote our log had. Only a start of the primary brings it down; standbys follow then.
	Lower bool `json:"lower,omitempty"`
}

// Programs is the name of a pending change of PostgreSQL's own release.
const Programs = "PostgreSQL"

// String is the change in words.
func (p Pending) String() string { return fmt.Sprintf("%s %s -> %s", p.Name, p.From, p.To) }

// settings keeps the running server's settings as the plan has them, and says what waits for a restart.
func (j *judgement) settings() {
	l := &j.v.Local
	if l.Unapplied && l.Ready {
		j.do(Action{Kind: KindReload, Why: "the plan's settings are not in the server's file yet"})
	}
	if l.Refused != "" {
		j.problem(problem.Problem{
			Code: "database.setting-refused", Severity: problem.Degraded, Title: j.v.Self + ": PostgreSQL does not take the plan's settings: " + l.Refused,
			Meaning: "It goes on with the settings that it had, and starts with them too.",
			Remedy:  "correct databases." + j.p.Name + ".parameters in the plan",
		})
	}
	if _, asked := j.restartAsked(); len(l.Pending) > 0 && !asked {
		j.problem(problem.Problem{
			Code: "database.restart-pending", Severity: problem.Note, Title: j.v.Self + " waits for a restart: " + changes(l.Pending),
			Meaning: "The server goes on as it was until then.",
			Remedy:  "one server after the other: holdfast database restart " + j.p.Name + " --pending",
		})
	}
}

func changes(all []Pending) string {
	var words []string
	for _, p := range all {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

// restartAsked is the oldest restart that an operator asked for.
func (j *judgement) restartAsked() (Request, bool) {
	i := slices.IndexFunc(j.v.Requests, func(q Request) bool { return q.Kind == "restart" })
	if i < 0 {
		return Request{}, false
	}
	return j.v.Requests[i], true
}

// turn is where a member stands in a restart.
type turn int

const (
	away    turn = iota // it does not answer, does not run, or has not read the plan's settings: nobody goes on before
	due                 // it is still to be restarted
	settled             // it was restarted since the request, or needs it not
)

// turnOf compares a member's server process with the one that ran when the request came: that needs no clock, and a
// restart for any other reason counts as well.
func (j *judgement) turnOf(q Request, host string) turn {
	l, ok := j.localOf(host)
	switch {
	case !ok || !l.Running || l.Life == "" || j.lookedLongAgo(host):
		return away
	case q.PendingOnly && (l.Settings != j.p.Settings || l.Unapplied && l.Refused == ""):
		return away // its host goes by another plan than we do, or its server by other settings: it may have begun by those
	case q.Lives[host] != l.Life:
		return settled
	case !q.PendingOnly:
		return due
	case host == j.v.Record.Primary && len(l.Pending) > 0:
		return due
	case slices.ContainsFunc(l.Pending, func(p Pending) bool { return !p.Lower }):
		return due
	}
	return settled
}

// oldLook is the age from which a look at a server says nothing of what was asked for meanwhile. A server is looked at every
// half second, a look takes less than one, and what is told of it is confirmed within another.
const oldLook = 5 * time.Second

// lookedLongAgo reports whether a host's last look at its server may be old: its agent stood still, or has just been heard
// for the first time, and the plan or the request may be newer. A dry run knows no more than what was told.
func (j *judgement) lookedLongAgo(host string) bool {
	if host == j.v.Self || j.m.Heard == nil {
		return host == j.v.Self && j.v.Local.Age > oldLook
	}
	p, ok := j.peer(host)
	after, bounded := j.told(host)
	return !ok || p.Report == nil || !bounded || j.v.Now-after+p.Report.Looked > oldLook
}

// primaryFirst reports whether a setting comes down: then the primary starts first, in place, and the standbys after
// it.
func (j *judgement) primaryFirst(q Request) bool {
	l, ok := j.localOf(j.v.Record.Primary)
	return ok && q.PendingOnly && j.turnOf(q, j.v.Record.Primary) == due &&
		slices.ContainsFunc(l.Pending, func(p Pending) bool { return p.Lower })
}

// restartOrder are the standbys, in the order in which they are restarted.
func (j *judgement) restartOrder() []string {
	return slices.DeleteFunc(slices.Clone(j.v.Record.Members), func(h string) bool { return h == j.v.Record.Primary })
}

// waitsFor says what must come before a standby's restart, or, for "", before the primary's; "" = nothing.
func (j *judgement) waitsFor(q Request, host string) string {
	for _, x := range j.restartOrder() {
		if x == host {
			break // those after it wait for it
		}
		switch j.turnOf(q, x) {
		case away:
			return x + " does not run, does not answer, or has not read the plan's settings yet"
		case due:
			return x + " comes first"
		}
	}
	for _, x := range j.restartOrder() {
		if x != host && !j.counts(x) {
			return x + " does not count and stream yet"
		}
	}
	return ""
}

// counts reports whether a host does its part: it holds a voter that streams, by the primary's own word, or it is
// asynchronous and streams, by its own.
func (j *judgement) counts(host string) bool {
	r := &j.v.Record
	if !r.Standing(host).Votes() {
		l, ok := j.localOf(host)
		return ok && l.Receiving && l.Following == r.Epoch
	}
	i := slices.IndexFunc(r.Voters, func(v Voter) bool { return v.Host == host })
	l, ok := j.localOf(r.Primary)
	if i < 0 || !ok {
		return false
	}
	s, ok := sender(l, StandbyName(r.Voters[i].Incarnation, r.Epoch))
	return ok && s.State == "streaming" && slices.Contains(l.Names.List, s.Name)
}

// restartStandby stops our standby when its turn has come; following the primary starts it again.
func (j *judgement) restartStandby() {
	r, l := &j.v.Record, &j.v.Local
	if l.Stands && l.Refused == "" && !j.paused() { // one whose settings PostgreSQL refuses would start with those that it has
		j.do(Action{Kind: KindStop, Why: "its replay stands still: its settings are lower than the primary's"})
		return
	}
	q, asked := j.restartAsked()
	if !asked || r.Phase != Steady || !r.Opened || j.turnOf(q, j.v.Self) != due || j.primaryFirst(q) {
		return
	}
	if why := j.waitsFor(q, j.v.Self); why != "" {
		j.because("our restart waits: %s", why)
		return
	}
	j.do(Action{Kind: KindStop, Why: cmp.Or(q.By, "an operator") + " asked for a restart, and it is our turn"})
}

// serveRestart carries a restart on from the primary's side; done = it is settled, or another request may go first.
func (j *judgement) serveRestart(q Request) (done bool) {
	r := &j.v.Record
	first := j.primaryFirst(q)
	if why := j.waitsFor(q, ""); !first && why != "" {
		j.because("the restart of the primary waits: %s", why)
		return j.restartRests(q)
	}
	switch j.turnOf(q, j.v.Self) {
	case settled:
		j.answer(q, true, j.restarted())
		return true
	case away:
		return false
	}
	if first || len(r.Members) == 1 {
		j.beginSwitch(q, j.v.Self, fmt.Sprintf("%s asked for a restart of %s in place", cmp.Or(q.By, "an operator"), j.v.Self))
		return false
	}
	to, why, _ := j.target("")
	if why != "" {
		j.because("the restart of the primary waits: %s", why)
		return false
	}
	j.beginSwitch(q, to.Host, fmt.Sprintf("%s asked for a restart: %s takes over while %s restarts", cmp.Or(q.By, "an operator"), to.Host, j.v.Self))
	return false
}

// restartRests reports whether a restart waits for a host that is away: nobody knows for how long, so what was asked for
// later goes first. Where servers stand is read from their lives, so the restart goes on whoever is the primary then.
func (j *judgement) restartRests(q Request) bool {
	return slices.ContainsFunc(j.restartOrder(), func(h string) bool { return j.turnOf(q, h) == away })
}

// restarted tells how a restart ended.
func (j *judgement) restarted() string {
	text := fmt.Sprintf("every server has been restarted or did not need it; %s is the primary", j.v.Self)
	var left []string
	for _, host := range j.v.Record.Members {
		if l, ok := j.localOf(host); ok && len(l.Pending) > 0 {
			left = append(left, host+" ("+changes(l.Pending)+")")
		}
	}
	if len(left) > 0 {
		text += "; still waiting: " + strings.Join(left, "; ") + ": ask once more"
	}
	return text
}

// RestartStep is one server's part of a restart.
type RestartStep struct {
	Host  string   `json:"host"`
	How   string   `json:"how"`
	Why   []string `json:"why,omitempty"`
	State string   `json:"state"` // waits, done, not needed
}

// PlanRestart says what a restart would do now, in order: what a dry run shows. pendingOnly = only what waits for one.
func PlanRestart(p Policy, v View, pendingOnly bool) []RestartStep {
	j := &judgement{p: p, v: v}
	q := Request{PendingOnly: pendingOnly, Lives: map[string]string{}}
	for _, host := range v.Record.Members {
		if l, ok := j.localOf(host); ok {
			q.Lives[host] = l.Life
		}
	}
	return j.restartSteps(q)
}

func (j *judgement) restartSteps(q Request) []RestartStep {
	r := &j.v.Record
	var steps []RestartStep
	first := j.primaryFirst(q)
	step := func(host, how string) {
		s := RestartStep{Host: host, How: how, State: map[turn]string{away: "does not answer or run", due: "waits", settled: "done, or not needed"}[j.turnOf(q, host)]}
		if l, ok := j.localOf(host); ok {
			for _, p := range l.Pending {
				s.Why = append(s.Why, p.String())
			}
			if first && len(l.Pending) > 0 && q.Lives[host] == l.Life {
				s.State = "waits"
			}
		}
		steps = append(steps, s)
	}
	if first {
		step(r.Primary, "restarts in place, before the standbys: a setting comes down; clients wait meanwhile")
	}
	for _, host := range j.restartOrder() {
		step(host, "restarts; the next waits until it counts again")
	}
	switch {
	case first:
	case len(r.Members) == 1:
		step(r.Primary, "restarts in place; clients wait meanwhile")
	default:
		step(r.Primary, "a standby takes over by switchover; it restarts as a standby")
	}
	return steps
}

// restartProgress is how far a restart is, in a line.
func (j *judgement) restartProgress(q Request) string {
	n, steps := 0, j.restartSteps(q)
	for _, s := range steps {
		if j.turnOf(q, s.Host) == settled {
			n++
		}
	}
	text := fmt.Sprintf("%d of %d servers done", n, len(steps))
	if j.v.Record.Phase != Steady {
		return text + "; the primary is changing"
	}
	if why := j.waitsFor(q, ""); why != "" && !j.primaryFirst(q) {
		text += "; " + why
	}
	return text
}
