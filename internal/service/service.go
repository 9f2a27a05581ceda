// Package service judges which instances of the services run where, and whether they are well. Start at
// [Place], which the controller calls for the whole site, and [DecideHost], which each host calls for itself;
// both are pure. [Runtime] is what they need of the world: service/process drives real processes, and
// service/servicetest has the contract as tests and a fake.
package service

import "time"

// Assignment says that one instance shall run on one host. Its ID is never given again.
type Assignment struct {
	ID      string `json:"id"` // SERVICE.GENERATION or SERVICE.GENERATION.N
	Service string `json:"service"`
	Host    string `json:"host"`
	Version string `json:"version"`
	Port    int    `json:"port,omitempty"` // where it listens; 0 = it does not
	Since   int64  `json:"since"`          // generation that made it
	// Leave: the host stops it and attests that it is gone; only then the assignment is dropped. Used where
	// two at once would be wrong.
	Leave bool `json:"leave,omitempty"`
}

// ReportState is what a host says of one assignment.
type ReportState string

const (
	Starting ReportState = "starting" // not up yet, or between two tries
	Ready    ReportState = "ready"
	Unready  ReportState = "unready" // runs, gets no traffic
	Failed   ReportState = "failed"  // this host gave up; nothing of it runs here
	Gone     ReportState = "gone"    // attested: nothing of it runs here and nothing will
)

// Report is one host's word about one instance. It stands as long as the host is not lost.
type Report struct {
	ID    string      `json:"id"`
	State ReportState `json:"state"`
	Why   string      `json:"why"`
}

// HostView is one host as the controller sees it.
type HostView struct {
	Name        string
	FaultDomain string
	// Silence is the time since its last contact reached us. A controller that has just begun gives -1 for hosts
	// that it has not heard of, which neither are replaced nor get anything; once it has watched for
	// HostLostAfter, it gives the time since it began.
	Silence  time.Duration
	Draining bool // gets nothing new, and what can move leaves
}

// Failure remembers that a host gave up on a version of a service.
type Failure struct {
	Service, Host, Version string
	Age                    time.Duration
}

// Placed is one service's part of the agreed state: what Place returned last, kept by the caller.
type Placed struct {
	Service     string       `json:"service"`
	Proven      string       `json:"proven"` // newest version that was ready once; "" = none
	Assignments []Assignment `json:"assignments"`
}

// ServiceView is one service as wanted and as last placed.
type ServiceView struct {
	Name      string
	Instances int      // 0 = taken out of the plan
	Hosts     []string // it may run on; empty = any
	Version   string   // wanted
	Port      int      // 0 = it does not listen; else a host takes one instance on it
	Placed    Placed
}

// PlacementView is everything Place judges from.
type PlacementView struct {
	Generation int64 // of the state that this decision would make; rises with each one stored
	Hosts      []HostView
	Services   []ServiceView
	Reports    []Report // Gone and Failed from any host, the rest from hosts that answer
	Failures   []Failure
}

// PlacementPolicy bounds the judgement. Zero fields mean the defaults.
type PlacementPolicy struct {
	// HostLostAfter: silence after which a host's instances are replaced; default 6 s.
	HostLostAfter time.Duration
	// SingletonGoneAfter: silence after which a host's singletons have surely met their keeper's deadline.
	// At least that deadline plus a margin for its kill; default 30 s.
	SingletonGoneAfter time.Duration
	// RetryAfter: how long a host that gave up on a version is avoided; default 1 min.
	RetryAfter time.Duration
}

func (p PlacementPolicy) withDefaults() PlacementPolicy {
	if p.HostLostAfter == 0 {
		p.HostLostAfter = 6 * time.Second
	}
	if p.SingletonGoneAfter == 0 {
		p.SingletonGoneAfter = 30 * time.Second
	}
	if p.RetryAfter == 0 {
		p.RetryAfter = time.Minute
	}
	return p
}

// PlacementDecision is the whole new state, services in the view's order.
type PlacementDecision struct {
	Services []Placed
	Changed  bool // differs from the view's; unchanged needs no store
	Because  []string
}
