package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// A restart goes through all servers with nothing lost, whether the setting comes up or down, and whoever crashes
// meanwhile; writes never stop for long without such a crash.
func TestARestartGoesThroughAllServers(t *testing.T) {
	roll := sim.Step{At: 30 * time.Second, Kind: sim.RestartRoll}
	for _, tt := range []struct {
		name   string
		script []sim.Step
		most   time.Duration // that writes stop for
	}{
		{"nothing else happens", []sim.Step{roll, {At: 55 * time.Second, Kind: sim.RestartRoll}, {At: 80 * time.Second, Kind: sim.RestartRoll}}, 12 * time.Second},
		{"a standby's host dies in its turn", []sim.Step{roll, {At: 36 * time.Second, Kind: sim.CrashHost, Host: "h2", Lasts: 5 * time.Second}}, 15 * time.Second},
		{"the primary's host dies meanwhile", []sim.Step{roll, {At: 37 * time.Second, Kind: sim.CrashHost, Host: "primary", Lasts: 5 * time.Second}}, 20 * time.Second},
		{"every agent is started again", []sim.Step{roll, {At: 36 * time.Second, Kind: sim.RestartAgent, Host: "h1", Lasts: time.Second},
			{At: 38 * time.Second, Kind: sim.RestartAgent, Host: "h2", Lasts: time.Second}, {At: 39 * time.Second, Kind: sim.RestartAgent, Host: "h3", Lasts: time.Second}}, 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(8) {
				r := sim.Run(sim.Options{Seed: seed + 1, Hosts: 3, Standbys: 2, W: 1, FaultTime: 70 * time.Second, Script: tt.script})
				if r.Failure != nil {
					report(t, r)
				}
				if r.LongestWait > tt.most {
					t.Errorf("seed %d: writes stopped for %s", seed+1, r.LongestWait)
				}
				if r.RestartsDone == 0 {
					t.Errorf("seed %d: no restart was brought to its end", seed+1)
				}
			}
		})
	}
}

// Whenever the target of a switchover dies, the old primary resumes, the target comes back and goes on, or another one
// is chosen: writes go on long before it is back, unless it had been chosen already and nobody else could be.
func TestASwitchoverWhoseTargetDiesAtAnyStep(t *testing.T) {
	moved := 0
	for step := range 24 {
		at := 30*time.Second + time.Duration(step)*75*time.Millisecond
		r := sim.Run(sim.Options{Seed: uint64(step) + 1, Hosts: 3, Standbys: 2, W: 1, FaultTime: 40 * time.Second, Script: []sim.Step{
			{At: 30 * time.Second, Kind: sim.Switchover, Host: "h1", To: "h2"}, {At: at, Kind: sim.CrashHost, Host: "h2", Lasts: 25 * time.Second},
		}})
		if r.Failure != nil {
			report(t, r)
		}
		if r.LongestWait > 20*time.Second {
			t.Errorf("the target dies %s after the request: writes stopped for %s", at-30*time.Second, r.LongestWait)
		}
		if r.Epochs > 1 {
			moved++
		}
	}
	if moved < 12 {
		t.Errorf("in %d of 24 rounds the primary was stopped: the deaths do not cover the steps", moved)
	}
}
