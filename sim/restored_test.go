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

// An agreed state in which one standby had left, and elections needed fewer answers, is put back when it has long
// returned and alone acknowledges what the other one is cut off from.
func TestAnAgreedStateOfTheSameEpochThatIsObeyedIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, FaultTime: 60 * time.Second, Script: []sim.Step{
		{At: 22 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: 8 * time.Second},
		{At: 42 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h2", Lasts: 2 * time.Second},
		{At: 43500 * time.Millisecond, Kind: sim.RestoreStore, Host: "h1"},
		{At: 43600 * time.Millisecond, Kind: sim.CrashHost, Host: "h1", Lasts: 30 * time.Second},
	}}
	mustFind(t, search{
		opt:   opt,
		plant: func(o *sim.Options) { o.Planted.ObeysBackup = true }, first: 30, within: 100, rules: []string{"no acknowledged commit lost"}, // it was found at 33 when this was written
	})
}
