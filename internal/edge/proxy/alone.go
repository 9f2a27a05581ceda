package proxy

import (
	"slices"
	"time"

	"holdfast/internal/event"
)

// Alone says that this host is cut off from what some services need, so that their instances, if any can be reached
// at all, accept requests and cannot answer them. Their clients are told so at once, and may try another host. It
// is forgotten when it is not said again in time: an edge whose agent is gone goes on as it was.
type Alone struct {
	Services []string       `json:"services"` // none = the host is not alone
	Why      string         `json:"why"`      // clients read it
	For      event.Duration `json:"for"`
}

// alone is what was said, and until when it holds.
type alone struct {
	Alone
	until time.Time
}

// SetAlone takes the agent's word.
func (e *Edge) SetAlone(a Alone) {
	before := e.alone.Load()
	e.alone.Store(&alone{Alone: a, until: e.cfg.Clock.Now().Add(time.Duration(a.For))})
	if before == nil && len(a.Services) == 0 || before != nil && slices.Equal(before.Services, a.Services) {
		return
	}
	if len(a.Services) > 0 {
		e.log.Warn("requests refused: this host is cut off", "services", a.Services, "reason", a.Why)
	} else {
		e.log.Info("this host is not cut off any more: requests are led again")
	}
}

// refusesAlone says why requests for a service are refused now; "" when they are not.
func (e *Edge) refusesAlone(service string) string {
	a := e.alone.Load()
	if a == nil || !slices.Contains(a.Services, service) || !e.cfg.Clock.Now().Before(a.until) {
		return ""
	}
	return a.Why
}
