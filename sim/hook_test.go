package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// Disks break again and again, and the plan has a command that sometimes helps and sometimes starts the host anew: it runs
// once on a host, whoever forgets what, and in the end a standby has taken over or the primary is back.
func TestTheHookHasOneTurn(t *testing.T) {
	ran := 0
	for seed := uint64(1); seed <= 12; seed++ {
		r := sim.Run(sim.Options{
			Seed: seed, Hosts: 3, Hook: true, FaultTime: 90 * time.Second,
			Faults: []sim.FaultKind{sim.BreakDisk, sim.BreakDisk, sim.CrashServer, sim.CrashAgent, sim.HangDisk, sim.StorePause, sim.LoseAnswer, sim.CutLink},
		})
		report(t, r)
		ran += r.Hooks
	}
	if ran == 0 {
		t.Error("the hook never ran: this test shows nothing")
	}
	t.Logf("the hook ran %d times", ran)
}
