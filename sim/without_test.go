package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// Where no standby need hold a commit a planned change still loses nothing: the target holds the very last record. Nobody
// is elected there, so whatever else goes wrong the primary comes back by itself.
func TestSwitchoversWhereNoStandbyNeedHoldACommit(t *testing.T) {
	moved := false
	for seed := uint64(1); seed <= 8; seed++ {
		r := sim.Run(sim.Options{
			Seed: seed, Hosts: 3, W: -1, FaultTime: 60 * time.Second,
			Faults: []sim.FaultKind{sim.Switchover, sim.Switchover, sim.CrashServer, sim.CrashAgent, sim.LoseTarget, sim.CutLink, sim.StorePause, sim.LoseAnswer},
		})
		report(t, r)
		moved = moved || r.Epochs > 3
	}
	if !moved {
		t.Error("nothing ever moved: this test shows nothing")
	}
}
