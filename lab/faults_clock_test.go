package lab_test

import (
	"time"

	"holdfast/internal/api"
	"holdfast/lab"
)

// clocksJump moves the clock of each host in turn an hour ahead, an hour behind and right again: nobody notices.
func clocksJump(long time.Duration) func(*lab.Round) {
	return func(r *lab.Round) {
		lab.NeedClocks(r)
		r.Fault()
		for _, h := range r.W.Hosts {
			for _, by := range []time.Duration{time.Hour, -time.Hour, 0} {
				r.W.JumpClock(h, by)
				shows(r, h, by)
				hold := r.Since() + long
				r.Hold(hold)
			}
		}
		r.Over()
		r.Served()
		r.Unmoved()
	}
}

// clocksApart crashes the primary while no two hosts show the same time.
func clocksApart(r *lab.Round) {
	lab.NeedClocks(r)
	standbys := r.Standbys()
	r.W.JumpClock(r.Was.Primary, time.Hour)
	r.W.JumpClock(standbys[0], -time.Hour)
	r.Fault()
	crashServer(r)
	now := r.Moved()
	r.Flows("at the new primary")
	shows(r, now.Primary, map[string]time.Duration{standbys[0]: -time.Hour}[now.Primary])
	r.W.Await("well with clocks that are apart", recoverMax, lab.Well)
	r.Over()
	if again := r.W.Await("one primary", recoverMax, func(st api.Status) bool { return st.Databases[0].Open }).Databases[0]; again.Epoch != r.Was.Epoch+1 {
		r.Errorf("epoch %d came after %d for one crash", again.Epoch, r.Was.Epoch)
	}
	for _, h := range r.W.Hosts {
		r.W.JumpClock(h, 0)
	}
}

// shows asserts that the programs on a host see its clock: its agent, and its server where that is the primary.
func shows(r *lab.Round, host string, by time.Duration) {
	r.Helper()
	near := func(what string, told time.Time) {
		r.Helper()
		if off := told.Sub(time.Now().Add(by)); off.Abs() > time.Minute {
			r.Errorf("%s on %s is %s beside the time, and should be %s", what, host, time.Until(told).Round(time.Second), by)
		}
	}
	told, err := r.W.ClockOf(host)
	if err != nil {
		r.Errorf("ask the agent of %s for the time: %v", host, err)
		return
	}
	near("the agent", told)
	if st, err := r.W.Status(); err != nil || st.Databases[0].Primary != host {
		return
	}
	if err := r.Answer(host, "SELECT clock_timestamp()", &told); err != nil {
		r.Errorf("ask the primary for the time: %v", err)
		return
	}
	near("the primary", told)
}
