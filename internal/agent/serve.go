package agent

import (
	"slices"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/service"
)

// ServiceFacts are this host's side of the services.
type ServiceFacts struct {
	Agreed     []service.Placed // what the controller placed last, all hosts
	Revision   int64            // of the agreed placement; 0 = there is none
	Controller Controller
	Known      bool // Observed is an answer
	Observed   []service.Observed
	Health     map[string]Checked // by instance
}

// Controller is who places services, as the agreed state says.
type Controller struct {
	Host     string // "" = nobody
	Revision int64  // of its last renewal
}

// Checked is what the checks say of one instance.
type Checked struct {
	Live  service.Health
	Ready service.Health
}

// ServicePolicy is one service as this host needs to know it.
type ServicePolicy struct {
	Name      string
	Singleton bool
	StopGrace time.Duration
	StartFor  time.Duration // in which failing liveness is forgiven
	HasReady  bool
}

const (
	// SingletonDeadline is how long a singleton may run after its host was last confirmed.
	SingletonDeadline = 8 * time.Second
	// singletonGone is the silence after which a singleton has surely met its deadline: the deadline, the time
	// that killing a tree may take, and half as much again for clocks and load.
	singletonGone = 16 * time.Second
	// controllerTTL is the election's; an office unchanged for longer has no holder that could move anything.
	controllerTTL = 6 * time.Second
	// unplannedGrace is for instances of services that are in no plan any more.
	unplannedGrace = 15 * time.Second
)

// serve judges this host's instances.
func (l *Loop) serve(f Facts, h Hands, out *Outcome) {
	s := f.Services
	v := service.View{Elapsed: f.Now - l.servedAt, OrdersAge: -1, Known: s.Known, Observed: s.Observed, StopGrace: unplannedGrace}
	l.servedAt = f.Now
	contact := l.singletonContact(f)
	out.Singletons = contact
	if f.Known {
		v.OrdersAge = contact // only the start of a singleton hangs on it
	}
	if !f.Stopping && f.WrittenOff() == "" {
		v.Tasks = l.tasks(l.planOf(f).Services, s)
	}
	d, m := service.DecideHost(service.HostPolicy{}, v, l.tended)
	l.tended = m
	out.Report.Instances = d.Reports
	for _, a := range d.Actions {
		h.Service(a)
	}
	for _, t := range v.Tasks {
		if (t.Singleton || fenced(s.Observed, t.ID)) && !t.Leave && contact < SingletonDeadline && running(s.Observed, t.ID) {
			h.Hold(t.ID, contact)
		}
	}
}

// fenced reports whether an instance was started with a deadline: it keeps it, though the plan wants several now.
func fenced(observed []service.Observed, id string) bool {
	return slices.ContainsFunc(observed, func(o service.Observed) bool { return o.ID == id && o.Deadline })
}

func running(observed []service.Observed, id string) bool {
	return slices.ContainsFunc(observed, func(o service.Observed) bool { return o.ID == id && o.State == service.Running })
}

// tasks are the assignments of this host.
func (l *Loop) tasks(policies []ServicePolicy, s ServiceFacts) []service.Task {
	var out []service.Task
	for _, placed := range s.Agreed {
		i := slices.IndexFunc(policies, func(p ServicePolicy) bool { return p.Name == placed.Service })
		if i < 0 {
			continue
		}
		p := policies[i]
		for _, a := range placed.Assignments {
			if a.Host != l.self {
				continue
			}
			checked := s.Health[a.ID]
			out = append(out, service.Task{
				Assignment: a, Singleton: p.Singleton, StopGrace: p.StopGrace, StartFor: p.StartFor,
				Live: checked.Live, Ready: checked.Ready, HasReady: p.HasReady,
			})
		}
	}
	return out
}

// singletonContact is how old the last proof is that nobody else can have been given our singletons: a read of
// the placement, and a beat of ours that the controller confirmed, for it counts our silence from what it hears.
// A controller whose office does not change any more cannot place anything, and a new one counts from its start.
func (l *Loop) singletonContact(f Facts) time.Duration {
	c := f.Services.Controller
	if c.Revision != l.officeSeen {
		l.officeSeen, l.officeAt = c.Revision, f.Now
	}
	if c.Host == "" || c.Host == l.self || f.Now-l.officeAt > controllerTTL {
		return f.ContactAge
	}
	for _, p := range f.Peers {
		if p.Host == c.Host {
			return max(f.ContactAge, p.Contact)
		}
	}
	return database.Never
}
