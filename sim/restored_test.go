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
	if *seed != 0 {
		replay(t, restored(*seed))
		return
	}
	for s := range n {
		if r := sim.Run(restored(*from + s)); r.Failure != nil {
			report(t, r)
		}
	}
}

// restored is a world in which that happens.
func restored(seed uint64) sim.Options {
	mixes := [][]sim.FaultKind{
		{sim.RestoreStore, sim.CutLink, sim.CrashHost, sim.RestartAgent},
		{sim.RestoreEpoch, sim.CrashServer, sim.CrashHost, sim.Switchover},
		{sim.RestoreStore, sim.RestoreEpoch, sim.CrashServer, sim.CrashHost, sim.CutOneWay, sim.Partition, sim.Switchover},
	}
	return sim.Options{Seed: seed, NoLive: true, FaultTime: 60 * time.Second, Faults: mixes[seed%uint64(len(mixes))]}
}
