package agent

import (
	"cmp"
	"slices"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

// Loop judges for one host, round after round. It is not safe for concurrent use.
type Loop struct {
	self      string
	version   string
	plan      string
	databases []database.Policy
	memory    map[string]database.Memory
	looks     map[string]database.Look
	peers     []database.Peer // of the view before: its array serves again
	services  []ServicePolicy

	tended     service.Memory
	servedAt   time.Duration
	officeSeen int64 // revision of the controller's office, and since when
	officeAt   time.Duration
}

// NewLoop prepares the rounds of one host.
func NewLoop(self, version, plan string, databases []database.Policy, services []ServicePolicy) *Loop {
	return &Loop{self: self, version: version, plan: plan, databases: databases, services: services, memory: map[string]database.Memory{}, looks: map[string]database.Look{}}
}

// roundEvery is the longest pause between rounds: silence has no event that could wake one.
const roundEvery = 250 * time.Millisecond

// Round judges once and starts what is asked for.
func (l *Loop) Round(f Facts, h Hands) Outcome {
	out := Outcome{
		Report:    Report{Host: l.self, Version: l.version, Plan: l.planOf(f).Plan, Late: f.Late, Recovery: f.Recovery, Databases: map[string]*database.Report{}},
		Decisions: map[string]database.Decision{},
		Wake:      roundEvery,
	}
	policies := l.planOf(f).Databases
	for i := range policies {
		l.database(&policies[i], &f, h, &out)
	}
	l.serve(f, h, &out)
	if f.Stopping {
		out.Problems = append(out.Problems, problem.Problem{
			Code: "cluster.stopping", Severity: problem.Critical, Title: "the operator is stopping the whole application, or has stopped it",
			Meaning: "Nothing is started, and nobody takes over anything.",
			Remedy:  "to run it again: holdfast up PLAN",
		})
	}
	if why := f.WrittenOff(); why != "" {
		out.Problems = append(out.Problems, problem.Problem{
			Code: "cluster.written-off", Subject: l.self, Severity: problem.Critical, Title: why,
			Meaning: "Nothing of this application runs on this host, so that it cannot become a second one. Its data are kept as they are.",
			Remedy:  "see what is running now: holdfast cluster status; then take this host in again: holdfast cluster replace " + l.self,
		})
	} else if problem := contactProblem(f); problem != nil {
		out.Problems = append(out.Problems, *problem)
	}
	out.Report.Problems = out.Problems
	return out
}

// planOf is what the plan says now. Which databases there are never changes while a host runs.
func (l *Loop) planOf(f Facts) Adopted {
	if f.Adopted != nil {
		now := *f.Adopted
		now.Plan = cmp.Or(now.Plan, l.plan)
		return now
	}
	return Adopted{Plan: l.plan, Databases: l.databases, Services: l.services}
}

func (l *Loop) database(p *database.Policy, f *Facts, h Hands, out *Outcome) {
	i := slices.IndexFunc(f.Databases, func(d DatabaseFacts) bool { return d.Name == p.Name })
	if i < 0 {
		return
	}
	v := viewOf(l.self, f, &f.Databases[i], l.peers[:0])
	l.peers = v.Peers // a decision keeps nothing of its view's peers but what they reported
	d, m := database.Decide(*p, v, l.memory[p.Name])
	l.memory[p.Name] = m
	out.Decisions[p.Name] = d
	out.Problems = append(out.Problems, d.Problems...)
	out.Wake = min(out.Wake, d.Wake)
	rep := l.report(p.Name, &v, &d)
	if d.Pause != nil {
		rep.Paused = d.Pause.ID
	}
	out.Report.Databases[p.Name] = rep

	if d.Lease > 0 {
		h.Lease(p.Name, d.LeaseOf, d.Lease)
	}
	if d.Gate.State != "" {
		h.Gate(p.Name, d.Gate)
	}
	if d.Read != nil {
		h.Read(p.Name, *d.Read)
	}
	if d.Slots != nil {
		h.Slots(p.Name, *d.Slots)
	}
	if d.Interrupt {
		h.Interrupt(p.Name)
	}
	for _, a := range d.Actions {
		h.Act(p.Name, a)
	}
	if len(d.Answers) > 0 {
		h.Answer(p.Name, d.Answers)
	}
}

// ViewOf is one database as [database.Decide] wants to see it.
func ViewOf(self string, f Facts, d DatabaseFacts) database.View {
	return viewOf(self, &f, &d, make([]database.Peer, 0, len(f.Peers)))
}

// viewOf is [ViewOf], with its peers added to an array that is at hand.
func viewOf(self string, f *Facts, d *DatabaseFacts, peers []database.Peer) database.View {
	for i := range f.Peers {
		p := &f.Peers[i]
		peer := database.Peer{Host: p.Host, AgentAge: p.AgentAge, GateAge: database.Never, Contact: p.Contact}
		if p.Report != nil {
			peer.Report = p.Report.Databases[d.Name] // nil if it has no such part
		}
		if age, ok := p.GateAge[d.Name]; ok {
			peer.GateAge = age
		}
		peers = append(peers, peer)
	}
	return database.View{
		Self: self, Now: f.Now, Known: f.Known, Record: d.Record, Revision: d.Revision, RecordAge: f.ContactAge,
		Local: d.Local, Late: f.Late, Advanced: d.Advanced, Busy: d.Busy, Requests: d.Requests, Stopping: f.Stopping,
		WrittenOff: f.WrittenOff(), Peers: peers,
	}
}

// WrittenOff says why this host's agreed state counts no more, or "".
func (f *Facts) WrittenOff() string {
	if f.Overruled <= f.Recovery {
		return ""
	}
	return "the other hosts have rebuilt the agreed state without this one, which was given up as lost"
}

// coarse keeps ages in reports from changing with every round: each change would wake every peer. Rounding
// down makes a silence shorter and WAL younger, which is the careful side for both.
func coarse(age time.Duration) time.Duration {
	return min(age, time.Hour).Truncate(500 * time.Millisecond)
}

// look is what is told of the newest look at a local server: fixed when it is first told, so that a report changes
// with what was seen and not with the time.
func (l *Loop) look(name string, v *database.View, d *database.Decision) database.Look {
	if !v.Local.Known {
		return database.Look{Behind: database.Never}
	}
	began := v.Now - v.Local.Age
	if x, known := l.looks[name]; known && x.Began == began {
		return x
	}
	x := database.Look{Began: began, Looked: v.Local.Age, Behind: d.Behind, BehindOf: d.BehindOf, Confirmed: d.Lease > 0}
	l.looks[name] = x
	return x
}

// report is what the others are told of our side of a database.
func (l *Loop) report(name string, v *database.View, d *database.Decision) *database.Report {
	r := &database.Report{Local: v.Local, Epoch: v.Record.Epoch, Revision: v.Revision, Late: v.Late, Advanced: coarse(v.Advanced)}
	r.Local.ReplayLag = coarse(r.Local.ReplayLag)
	r.Look = l.look(name, v, d)
	r.Silent = slices.Grow(r.Silent, len(v.Peers))
	for i := range v.Peers {
		p := &v.Peers[i]
		r.Silent = append(r.Silent, database.Silence{Host: p.Host, Agent: coarse(p.AgentAge), Gate: coarse(p.GateAge)})
	}
	return r
}

// contactMax is how long the agreed state may be out of reach before it is said: two reads, for one may be slow.
const contactMax = 3 * time.Second

func contactProblem(f Facts) *problem.Problem {
	if f.ContactAge < contactMax {
		return nil
	}
	return &problem.Problem{
		Code: "cluster.unreachable", Severity: problem.Degraded,
		Title:   "this host cannot reach the agreed state (etcd)",
		Meaning: "What runs goes on with its last orders. No failover, switchover or change of standbys is possible from here.",
		Remedy:  "see that a majority of the hosts is up and that they reach each other",
	}
}
