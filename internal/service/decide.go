package service

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// HostPolicy bounds what a host does by itself. Zero fields mean the defaults.
type HostPolicy struct {
	Tries      int           // restarts in place before the host gives up; default 2
	Backoff    time.Duration // before the first restart, doubled for each further one; default 1 s
	WellAfter  time.Duration // a run this long clears the count of tries; default 1 min
	OrdersMax  time.Duration // age of the assignments above which no singleton is started; default 2 s
	ForgetLate time.Duration // how long an unassigned exited instance and its log are kept; default 24 h
}

func (p HostPolicy) withDefaults() HostPolicy {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if p.Tries == 0 {
		p.Tries = 2
	}
	def(&p.Backoff, time.Second)
	def(&p.WellAfter, time.Minute)
	def(&p.OrdersMax, 2*time.Second)
	def(&p.ForgetLate, 24*time.Hour)
	return p
}

// Task is one assignment of this host with what its plan says.
type Task struct {
	Assignment
	Singleton bool
	StopGrace time.Duration
	StartFor  time.Duration // after the start, in which failing liveness is forgiven
	Live      Health        // zero value where the plan has no check
	Ready     Health
	HasReady  bool // the plan has a readiness check; without one a running instance is ready
}

// View is everything DecideHost judges from.
type View struct {
	Elapsed   time.Duration // since the memory was returned
	OrdersAge time.Duration // since the request was sent that Tasks answers; negative = never read
	Tasks     []Task
	Known     bool // Observed is an answer; false = the runtime gave none, so nothing is known
	Observed  []Observed
	StopGrace time.Duration // for instances whose service is in no plan any more
}

// Memory is what a host remembers between two rounds. Losing it costs at most some extra tries.
type Memory struct {
	Tries map[string]Tries
}

// Tries counts the restarts in place of one instance.
type Tries struct {
	Count int           // lives that ended unasked
	Life  string        // the last one counted
	Since time.Duration // age of that end
	Why   string        // how that life ended
}

// Verb is what is to be done.
type Verb string

const (
	Start  Verb = "start"
	Stop   Verb = "stop"
	Forget Verb = "forget"
)

// Action is one thing to do. Doing it twice is harmless.
type Action struct {
	Verb    Verb
	ID      string
	Grace   time.Duration // Stop
	Because string
}

// Decision is one host's round.
type Decision struct {
	Actions []Action
	Reports []Report // one for each assignment, and Gone for each other instance that has ended
}

// DecideHost says what this host does next for its services: it starts what is assigned, restarts in place with
// growing pauses, gives up after the policy's tries and reports it, so that another host takes over; restarts
// what fails liveness; stops what is not assigned. Readiness is only reported. Without an answer from the
// runtime it does and reports nothing.
func DecideHost(p HostPolicy, v View, m Memory) (Decision, Memory) {
	r := &hostRound{p: p.withDefaults(), v: v, m: Memory{Tries: make(map[string]Tries)}, seen: make(map[string]Observed)}
	for id, t := range m.Tries {
		t.Since += v.Elapsed
		r.m.Tries[id] = t
	}
	if !v.Known || v.OrdersAge < 0 {
		return Decision{}, r.m
	}
	for _, o := range v.Observed {
		r.seen[o.ID] = o
	}
	assigned := make(map[string]bool, len(v.Tasks))
	for _, t := range v.Tasks {
		assigned[t.ID] = true
	}
	for _, o := range v.Observed {
		if !assigned[o.ID] {
			r.unassigned(o)
		}
	}
	for _, t := range v.Tasks {
		r.task(t)
	}
	maps.DeleteFunc(r.m.Tries, func(id string, _ Tries) bool { return !assigned[id] })
	return r.d, r.m
}

type hostRound struct {
	p    HostPolicy
	v    View
	m    Memory
	seen map[string]Observed
	d    Decision
}

func (r *hostRound) act(verb Verb, id string, grace time.Duration, because string) {
	r.d.Actions = append(r.d.Actions, Action{Verb: verb, ID: id, Grace: grace, Because: because})
}

func (r *hostRound) report(id string, s ReportState, why string) {
	r.d.Reports = append(r.d.Reports, Report{ID: id, State: s, Why: why})
}

func (r *hostRound) unassigned(o Observed) {
	if o.State != Exited {
		r.act(Stop, o.ID, r.v.StopGrace, "it is not assigned to this host")
		return
	}
	r.report(o.ID, Gone, o.Why)
	if o.Age >= r.p.ForgetLate {
		r.act(Forget, o.ID, 0, fmt.Sprintf("it ended %v ago", o.Age))
	}
}

func (r *hostRound) task(t Task) {
	o, ok := r.seen[t.ID]
	switch {
	case t.Leave && (!ok || o.State == Exited):
		r.report(t.ID, Gone, "it was asked to leave")
	case t.Leave:
		r.act(Stop, t.ID, t.StopGrace, "it is asked to leave this host")
		r.report(t.ID, Unready, "leaving")
	case !ok:
		r.start(t, "it is assigned to this host")
	case o.State == Running:
		r.running(t, o)
	case o.State == Stopping:
		r.report(t.ID, Starting, "ending before its next start")
	case o.State == Unknown:
		r.act(Stop, t.ID, 0, "its keeper is lost or silent")
		r.report(t.ID, Starting, "its keeper is lost or silent")
	default:
		r.exited(t, o)
	}
}

func (r *hostRound) running(t Task, o Observed) {
	if tr, ok := r.m.Tries[t.ID]; ok && o.Age >= r.p.WellAfter && t.Live.State != Failing && tr.Life != o.Life {
		delete(r.m.Tries, t.ID)
	}
	switch {
	case t.Live.State == Failing && o.Age >= t.StartFor:
		why := "liveness fails: " + t.Live.Reason
		r.act(Stop, t.ID, t.StopGrace, why)
		r.report(t.ID, Unready, why)
	case t.HasReady && t.Ready.State == Passing, !t.HasReady:
		r.report(t.ID, Ready, "")
	case o.Age < t.StartFor || t.Ready.State == HealthUnknown || t.Ready.State == "":
		r.report(t.ID, Starting, t.Ready.Reason)
	default:
		r.report(t.ID, Unready, t.Ready.Reason)
	}
}

// exited counts each life once, then starts the next one after its pause, or gives up.
func (r *hostRound) exited(t Task, o Observed) {
	tr := r.m.Tries[t.ID]
	if tr.Life != o.Life {
		if tr.Count > 0 && tr.Since-o.Age >= r.p.WellAfter {
			tr.Count = 0 // it ran well in between, though no round saw that
		}
		tr = Tries{Count: tr.Count + 1, Life: o.Life, Since: o.Age, Why: o.Why}
		r.m.Tries[t.ID] = tr
	}
	if tr.Count > r.p.Tries {
		r.report(t.ID, Failed, fmt.Sprintf("ended %d times in a row here, last: %s", tr.Count, tr.Why))
		return
	}
	pause := r.p.Backoff << (tr.Count - 1)
	if tr.Since < pause {
		r.report(t.ID, Starting, fmt.Sprintf("%s; restart %d of %d is due within %v", tr.Why, tr.Count, r.p.Tries, pause))
		return
	}
	r.start(t, fmt.Sprintf("restart %d of %d in place: %s", tr.Count, r.p.Tries, tr.Why))
}

// start waits for its predecessor on this host, which may hold the port or be the other one of a singleton; and
// a singleton starts only under orders young enough to be surely still true.
func (r *hostRound) start(t Task, because string) {
	i := slices.IndexFunc(r.v.Observed, func(o Observed) bool {
		return o.Service == t.Service && o.ID != t.ID && o.State != Exited && r.leaves(o.ID)
	})
	switch {
	case i >= 0:
		r.report(t.ID, Starting, "waits until "+r.v.Observed[i].ID+" has ended here")
	case t.Singleton && r.v.OrdersAge > r.p.OrdersMax:
		r.report(t.ID, Starting, "orders are too old to act on: another may run elsewhere by now")
	default:
		r.act(Start, t.ID, 0, because)
		r.report(t.ID, Starting, because)
	}
}

// leaves: the instance has no assignment that lets it stay.
func (r *hostRound) leaves(id string) bool {
	return !slices.ContainsFunc(r.v.Tasks, func(t Task) bool { return t.ID == id && !t.Leave })
}
