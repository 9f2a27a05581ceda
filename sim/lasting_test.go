package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// Some faults do not go away by themselves. Clients must be served again while they last, not only afterwards.
func TestClientsAreServedWhileAFaultLasts(t *testing.T) {
	const lasts = 90 * time.Second
	n := uint64(8)
	if raceEnabled {
		n = 2
	}
	for _, tt := range []struct {
		name   string
		script []sim.Step
		within time.Duration
	}{
		{"the primary's agent is gone for good, and its listener and its keeper go on",
			[]sim.Step{{At: 30 * time.Second, Kind: sim.LoseAgent, Host: "primary", Lasts: lasts}}, 20 * time.Second},
		{"the host that a switchover chose dies before it serves",
			[]sim.Step{{At: 30 * time.Second, Kind: sim.LoseTarget, Lasts: lasts}}, 25 * time.Second},
		{"the primary's disk hangs", []sim.Step{{At: 30 * time.Second, Kind: sim.HangDisk, Host: "primary", Lasts: lasts}}, 40 * time.Second},
		{"the primary's files cannot be read", []sim.Step{{At: 30 * time.Second, Kind: sim.HideFile, Host: "primary", Lasts: lasts}}, 25 * time.Second},
		{"every listener is started anew", []sim.Step{
			{At: 30 * time.Second, Kind: sim.RestartGate, Host: "h1", Lasts: time.Second},
			{At: 31 * time.Second, Kind: sim.RestartGate, Host: "h2", Lasts: time.Second},
			{At: 32 * time.Second, Kind: sim.RestartGate, Host: "h3", Lasts: time.Second},
		}, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for s := range n {
				r := sim.Run(sim.Options{Seed: s + 1, Hosts: 3, Standbys: 2, W: 1, Script: tt.script, FaultTime: lasts})
				if r.Failure != nil {
					report(t, r)
					return
				}
				t.Logf("seed %d: at most %s between two commits, %d epochs", s+1, r.LongestWait.Round(time.Millisecond), r.Epochs)
				if r.LongestWait > tt.within {
					t.Errorf("seed %d: no commit was acknowledged for %s", s+1, r.LongestWait)
				}
			}
		})
	}
}
