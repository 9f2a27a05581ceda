package gate

import (
	"time"

	"holdfast/internal/event"
)

// Status is what a gate tells of itself.
type Status struct {
	Database   string `json:"database"`
	Host       string `json:"host"`
	Epoch      uint64 `json:"epoch"` // highest ever taken, also before a restart
	Generation uint64 `json:"generation"`
	State      State  `json:"state"`
	Target     string `json:"target,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Cut        bool   `json:"cut,omitempty"`    // a fence cut this epoch and generation
	Fenced     string `json:"fenced,omitempty"` // why the gate fenced by itself; "" = it did not

	Spec Spec `json:"spec"` // what it serves by

	Read *ReadStatus `json:"read,omitempty"` // nil = there is no read-only address

	Path       string `json:"path"`                  // of this host's own clients, now
	PathReason string `json:"path_reason,omitempty"` // why it is not the kernel's, though the plan asks for that

	Since       event.Duration `json:"since"`              // age of State
	Deadline    event.Duration `json:"deadline,omitempty"` // until the gate fences by itself; 0 = no deadline
	Connections int            `json:"connections"`        // clients that are led to a server now
	Held        int64          `json:"held"`               // clients that wait now
	Accepted    int64          `json:"accepted"`           // since the start
	Refused     int64          `json:"refused"`            // since the start, after waiting or at once
	BytesIn     int64          `json:"bytes_in"`           // from clients
	BytesOut    int64          `json:"bytes_out"`          // to clients
}

// Status reports the present.
func (g *Gate) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.cfg.Clock.Now()
	s := Status{
		Spec:     g.spec,
		Database: g.cfg.Database, Host: g.cfg.Host,
		Epoch: g.led.Last.Epoch, Generation: g.led.Last.Generation,
		Read: g.readStatus(now), State: g.state, Target: g.target, Reason: g.reason, Cut: g.led.Cut, Fenced: g.fenced,
		Since: event.Duration(now.Sub(g.since)), Connections: len(g.links),
		Held: g.held.Load(), Accepted: g.accepted.Load(), Refused: g.refused.Load(),
		BytesIn: g.bytesIn.Load(), BytesOut: g.bytesOut.Load(),
	}
	s.Path, s.PathReason = PathProxy, g.rules.why
	if g.rules.path != nil && g.rules.why == "" {
		s.Path = PathKernel
	}
	if !g.fenceAt.IsZero() {
		s.Deadline = event.Duration(max(g.fenceAt.Sub(now), time.Nanosecond))
	}
	return s
}
