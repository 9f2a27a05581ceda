package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// refilling is a world whose copies may come from a vault, where disks are lost, primaries change, and the vault is away now
// and then.
func refilling(seed uint64) sim.Options {
	return sim.Options{Seed: seed, Vault: true, NoLive: true, Faults: []sim.FaultKind{
		sim.LoseDisk, sim.LoseDisk, sim.VaultAway, sim.CrashServer, sim.CrashHost, sim.CutLink, sim.CutOneWay, sim.Switchover, sim.CrashAgent, sim.FreezeHost,
		sim.HangDisk, sim.StoreCut, sim.HideFile, sim.Partition, sim.ChangePlan,
	}}
}

// A copy that comes from the vault forgets nothing, and votes no earlier than any other, whatever the vault holds of primaries
// that were given up.
func TestCopiesThatComeFromTheVault(t *testing.T) {
	if *seed != 0 {
		replay(t, refilling(*seed))
		return
	}
	n := uint64(60)
	if testing.Short() || raceEnabled {
		n = 5
	}
	refills, acknowledged := 0, 0
	for s := range n {
		r := sim.Run(refilling(*from + s))
		if r.Failure != nil {
			report(t, r)
		}
		refills, acknowledged = refills+r.Refills, acknowledged+r.Acknowledged
	}
	t.Logf("%d copies came from the vault, %d commits were acknowledged", refills, acknowledged)
	if n >= 60 && refills < 30 {
		t.Error("hardly a copy came from the vault: the worlds do not show what they are for")
	}
}

// A voter whose disk is lost and that is refilled under its old incarnation answers for commits that it does not have.
func TestARefilledVoterThatKeepsItsIncarnationIsFound(t *testing.T) {
	opt := refilling(0)
	opt.FaultTime = 120 * time.Second
	mustFind(t, search{
		opt: opt, plant: func(o *sim.Options) { o.Bugs.OldIncarnation = true }, within: 200, rules: []string{"no acknowledged commit lost"},
		passes: "nothing is thrown away unlisted",
	})
}
