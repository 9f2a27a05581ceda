package service

import (
	"time"

	"holdfast/internal/plan"
)

// HealthState is what a run of checks amounts to.
type HealthState string

const (
	HealthUnknown HealthState = "unknown" // too few checks yet
	Passing       HealthState = "passing"
	Failing       HealthState = "failing"
)

// Health is one check's verdict on one instance. The zero value is unknown.
type Health struct {
	State  HealthState
	Since  time.Duration // age of the state
	Reason string        // of the last result that counted against it; "" after a success
	Last   time.Duration // age of the last result
	Passed int           // in a row
	Failed int           // in a row
}

// NextHealth counts one result that came `elapsed` after the last. Rise successes in a row make it passing, Fall
// failures in a row make it failing; in between the verdict stays.
func NextHealth(c plan.Check, h Health, elapsed time.Duration, ok bool, reason string) Health {
	h = h.Aged(elapsed)
	h.Last = 0
	if h.State == "" {
		h.State = HealthUnknown
	}
	if ok {
		h.Passed, h.Failed, h.Reason = h.Passed+1, 0, ""
	} else {
		h.Passed, h.Failed, h.Reason = 0, h.Failed+1, reason
	}
	next := h.State
	switch {
	case ok && h.Passed >= max(c.Rise, 1):
		next = Passing
	case !ok && h.Failed >= max(c.Fall, 1):
		next = Failing
	}
	if next != h.State {
		h.State, h.Since = next, 0
	}
	return h
}

// Aged is the same verdict `by` later.
func (h Health) Aged(by time.Duration) Health {
	h.Since += by
	h.Last += by
	return h
}
