package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// Somebody puts the agreed state back to an older one, while other things go wrong. The hosts may refuse to go on,
// for a person to decide; what they still do must not forget a commit.
func TestAnAgreedStateFromABackupForgetsNothing(t *testing.T) {
	n := uint64(60)
	if testing.Short() || raceEnabled {
		n = 6
	}
	mixes := [][]sim.FaultKind{
		{sim.RestoreStore, sim.CutLink, sim.CrashHost, sim.RestartAgent},
		{sim.RestoreEpoch, sim.CrashServer, sim.CrashHost, sim.Switchover},
		{sim.RestoreStore, sim.RestoreEpoch, sim.CrashServer, sim.CrashHost, sim.CutOneWay, sim.Partition, sim.Switchover},
	}
	opt := sim.Options{NoLive: true, FaultTime: 60 * time.Second}
	if *seed != 0 {
		opt.Faults = mixes[*seed%uint64(len(mixes))]
		replay(t, opt)
		return
	}
	for s := range n {
		opt.Seed = *from + s
		opt.Faults = mixes[opt.Seed%uint64(len(mixes))]
		if r := sim.Run(opt); r.Failure != nil {
			report(t, r)
		}
	}
}
