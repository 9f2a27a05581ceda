package sim_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"holdfast/sim"
)

// survivor is a world in which all hosts but one are gone for a long time, sometimes with their disks, after links had been
// cut and standbys had left and joined; an operator rebuilds the cluster on the one, forces a failover there if it must
// be, and takes the others in again when they come back.
func survivor(seed uint64) sim.Options {
	dice := rand.New(rand.NewPCG(seed, 0x5e1f))
	second := func(lo, hi int) time.Duration {
		return time.Duration(lo)*time.Second + time.Duration(dice.IntN((hi-lo)*1000))*time.Millisecond
	}
	opt := sim.Options{Seed: seed, Operator: true, NoLive: true, Hosts: 3, Standbys: 2, W: 1, FaultTime: 200 * time.Second}
	if dice.IntN(4) == 0 {
		opt.Hosts, opt.Standbys = 5, 2+dice.IntN(3)
		opt.W = 1 + dice.IntN(2)
	}
	hosts := []string{"h1", "h2", "h3", "h4", "h5"}[:opt.Hosts]
	dice.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	last := hosts[0]
	before := []sim.FaultKind{sim.CutLink, sim.CutOneWay, sim.CrashServer, sim.StoreCut, sim.HoldWatch, sim.Switchover, sim.FreezeHost}
	for range dice.IntN(5) {
		opt.Script = append(opt.Script, sim.Step{At: second(22, 45), Kind: before[dice.IntN(len(before))], Host: hosts[dice.IntN(len(hosts))], Lasts: second(1, 20)})
	}
	gone := second(40, 50)
	for _, h := range hosts[1:] {
		kind := sim.CrashHost
		switch dice.IntN(4) {
		case 0:
			kind = sim.LoseDisk
		case 1:
			kind = sim.Partition
		}
		opt.Script = append(opt.Script, sim.Step{At: gone + second(0, 2), Kind: kind, Host: h, Lasts: second(30, 120)})
	}
	opt.Script = append(opt.Script, sim.Step{At: gone + second(4, 20), Kind: sim.RebuildCluster, Host: last})
	after := []sim.FaultKind{sim.CrashServer, sim.CrashAgent, sim.CrashHost, sim.RestartAgent, sim.CutOneWay, sim.CutLink, sim.Partition, sim.LoseAnswer, sim.HideFile}
	for range dice.IntN(6) {
		opt.Script = append(opt.Script, sim.Step{At: second(60, 190), Kind: after[dice.IntN(len(after))], Host: hosts[dice.IntN(len(hosts))], Lasts: second(1, 15)})
	}
	return opt
}

// What the survivor held is never lost, what the others hold alone is not thrown away before it is listed, and who was
// written off acknowledges nothing any more once it can hear of it.
func TestAClusterThatIsRebuiltOnItsSurvivor(t *testing.T) {
	n := uint64(40)
	if testing.Short() || raceEnabled {
		n = 5
	}
	if *seed != 0 {
		replay(t, survivor(*seed))
		return
	}
	rebuilt, given, acknowledged := 0, 0, 0
	for s := range n {
		r := sim.Run(survivor(*from + s))
		if r.Failure != nil {
			report(t, r)
		}
		rebuilt, given, acknowledged = rebuilt+r.Rebuilt, given+r.GivenUp, acknowledged+r.Acknowledged
	}
	t.Logf("%d clusters were rebuilt, %d acknowledged commits given up, %d acknowledged in all", rebuilt, given, acknowledged)
	if n >= 40 && (rebuilt < 15 || given == 0) {
		t.Error("nothing was rebuilt or given up: the worlds do not show what they are for")
	}
}

// returning is a world in which the hosts that were written off come back together, cut off from the survivor: they are a
// majority of the agreed state of before, and go on. Then they hear of the rebuilding, and are taken in at one moment,
// while other things go wrong.
func returning(seed uint64) sim.Options {
	dice := rand.New(rand.NewPCG(seed, 0x2e70))
	second := func(lo, hi int) time.Duration {
		return time.Duration(lo)*time.Second + time.Duration(dice.IntN((hi-lo)*1000))*time.Millisecond
	}
	opt := sim.Options{Seed: seed, Operator: true, NoLive: true, AllAtOnce: true, Hosts: 3, Standbys: 2, W: 1, FaultTime: 200 * time.Second}
	if dice.IntN(4) == 0 {
		opt.Hosts, opt.Standbys, opt.W = 5, 2+dice.IntN(3), 1+dice.IntN(2)
	}
	hosts := []string{"h1", "h2", "h3", "h4", "h5"}[:opt.Hosts]
	dice.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	last, gone := hosts[0], second(40, 50)
	opt.Script = append(opt.Script, sim.Step{At: gone, Kind: sim.Partition, Host: last, Lasts: second(30, 70)})
	back := second(15, 35)
	for _, h := range hosts[1:] {
		switch dice.IntN(4) {
		case 0: // it was there all the time
		case 1:
			opt.Script = append(opt.Script, sim.Step{At: gone, Kind: sim.LoseDisk, Host: h, Lasts: back})
		default:
			opt.Script = append(opt.Script, sim.Step{At: gone, Kind: sim.CrashHost, Host: h, Lasts: back})
		}
	}
	opt.Script = append(opt.Script, sim.Step{At: gone + second(5, 25), Kind: sim.RebuildCluster, Host: last})
	after := []sim.FaultKind{sim.CrashServer, sim.CrashAgent, sim.CrashHost, sim.CutOneWay, sim.CutLink, sim.PauseAgent, sim.StoreCut, sim.LoseAnswer}
	for range dice.IntN(6) {
		opt.Script = append(opt.Script, sim.Step{At: second(80, 190), Kind: after[dice.IntN(len(after))], Host: hosts[dice.IntN(len(hosts))], Lasts: second(1, 12)})
	}
	return opt
}

// Two and more hosts that come back together after the cluster was rebuilt without them are taken in at once, and the
// database is whole with them.
func TestHostsThatComeBackTogetherAfterARebuilding(t *testing.T) {
	n := uint64(30)
	if testing.Short() || raceEnabled {
		n = 4
	}
	if *seed != 0 {
		replay(t, returning(*seed))
		return
	}
	rebuilt, together := 0, 0
	for s := range n {
		r := sim.Run(returning(*from + s))
		if r.Failure != nil {
			report(t, r)
		}
		rebuilt += r.Rebuilt
		if r.TakenIn > 1 {
			together++
		}
	}
	t.Logf("%d clusters were rebuilt, and %d times two hosts or more were taken in again", rebuilt, together)
	if n >= 30 && together < 10 {
		t.Error("hosts did not come back together: the worlds do not show what they are for")
	}
}

// A host without a copy is cut off, and somebody rebuilds the cluster on it although all others live and agree with each
// other as before. Where the survivor holds a copy its promise alone keeps them from going on.
func TestAWrittenOffHostThatGoesOnIsFound(t *testing.T) {
	opt := sim.Options{Seed: 1, Hosts: 5, Standbys: 2, W: 1, NoLive: true, FaultTime: 60 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.Partition, Host: "h5", Lasts: 20 * time.Second},
		{At: 40 * time.Second, Kind: sim.RebuildCluster, Host: "h5"},
	}}
	if clean := sim.Run(opt); clean.Failure != nil || clean.Rebuilt != 1 {
		t.Fatalf("without the defect: %v, rebuilt %d times", clean.Failure, clean.Rebuilt)
	}
	opt.Planted.HearsNoRebuilding = true
	f := sim.Run(opt).Failure
	if f == nil || f.Rule != "who was written off runs nothing" {
		t.Fatalf("found: %v", f)
	}
	t.Logf("found: %v", f)
}
