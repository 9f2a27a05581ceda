package sim_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
	"holdfast/sim"
)

// forced is a world in which the primary runs ahead of a standby and is then gone with all others that held as much,
// sometimes for good, while other things go wrong; and an operator loses patience.
func forced(seed uint64) sim.Options {
	dice := rand.New(rand.NewPCG(seed, 0xf0))
	second := func(lo, hi int) time.Duration {
		return time.Duration(lo)*time.Second + time.Duration(dice.IntN((hi-lo)*1000))*time.Millisecond
	}
	opt := sim.Options{Seed: seed, Operator: true, NoLive: true, Hosts: 5, Standbys: 1 + dice.IntN(4), W: 1, FaultTime: 150 * time.Second}
	opt.Salvage = []database.SalvagePolicy{database.SalvageKeep, database.SalvageExport, database.SalvageDiscard}[seed%3]
	switch {
	case dice.IntN(3) == 0:
		opt.W = -1
	case opt.Standbys > 2:
		opt.W = 2
	}
	for _, behind := range []string{"h2", "h4"}[:1+dice.IntN(2)] {
		opt.Script = append(opt.Script, sim.Step{At: second(25, 35), Kind: sim.CutLink, Host: "h1", To: behind, Lasts: second(40, 90)})
	}
	gone := second(36, 50)
	for _, h := range []string{"h1", "h3", "h5"} {
		kind := sim.CrashHost
		if dice.IntN(4) == 0 {
			kind = sim.LoseDisk
		}
		opt.Script = append(opt.Script, sim.Step{At: gone + second(0, 4), Kind: kind, Host: h, Lasts: second(20, 90)})
	}
	all := []sim.FaultKind{sim.CrashServer, sim.CrashAgent, sim.CrashHost, sim.RestartAgent, sim.CutOneWay, sim.Partition, sim.FreezeHost,
		sim.LoseReads, sim.LoseAnswer, sim.StoreCut, sim.HoldWatch, sim.HideFile, sim.SlowDisk, sim.Switchover}
	for range dice.IntN(8) {
		opt.Script = append(opt.Script, sim.Step{At: second(30, 140), Kind: all[dice.IntN(len(all))], Lasts: second(1, 15)})
	}
	return opt
}

// An operator forces failovers in the midst of faults. What is lost then is exactly what the record states, nobody
// who answered held any of it, and nothing is taken from a disk before it is listed.
func TestForcedFailoversLoseWhatTheyState(t *testing.T) {
	n := uint64(60)
	if testing.Short() || raceEnabled {
		n = 5
	}
	if *seed != 0 {
		replay(t, forced(*seed))
		return
	}
	times, given := 0, 0
	for s := range n {
		r := sim.Run(forced(*from + s))
		if r.Failure != nil {
			report(t, r)
		}
		times, given = times+r.Forced, given+r.GivenUp
	}
	t.Logf("%d forced failovers gave up %d acknowledged commits", times, given)
	if n >= 60 && (times == 0 || given == 0) {
		t.Error("nothing was forced or lost: the worlds do not show what they are for")
	}
}

// The primary's log runs ahead of a standby that is cut off from it; then nobody else is left.
func ahead(seed uint64) sim.Options {
	return sim.Options{Seed: seed, Hosts: 5, Standbys: 2, W: 1, Operator: true, FaultTime: 90 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h2", Lasts: 80 * time.Second},
		{At: 50 * time.Second, Kind: sim.CrashHost, Host: "h1", Lasts: 60 * time.Second},
		{At: 50 * time.Second, Kind: sim.CrashHost, Host: "h3", Lasts: 60 * time.Second},
	}}
}

func TestAForcedFailoverLosesWhatIsStatedAndTheWorldBecomesWhole(t *testing.T) {
	for s := range uint64(5) {
		r := sim.Run(ahead(s + 1))
		if r.Failure != nil {
			report(t, r)
			return
		}
		if r.Forced == 0 || r.GivenUp == 0 {
			t.Errorf("seed %d: %d forced failovers gave up %d commits", s+1, r.Forced, r.GivenUp)
		}
	}
}

func TestADivergedLogThatIsThrownAwayUnlistedIsFound(t *testing.T) {
	for s := range uint64(5) {
		opt := ahead(s + 1)
		opt.Bugs = databasetest.Bugs{KeepsNothing: true}
		f := sim.Run(opt).Failure
		if f == nil {
			continue
		}
		if f.Rule != "nothing is thrown away unlisted" {
			t.Fatalf("found by another rule than expected: %v", f)
		}
		return
	}
	t.Fatal("not found")
}
