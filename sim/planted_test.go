package sim_test

import (
	"slices"
	"testing"
	"time"

	"holdfast/internal/database/databasetest"
	"holdfast/sim"
)

// A check that cannot fail proves nothing: each defect that is planted in the model must be found, by the rule
// that it breaks, within a few seeds.
func TestPlantedDefectsAreFound(t *testing.T) {
	tests := []struct {
		name   string
		bugs   databasetest.Bugs
		faults []sim.FaultKind
		first  uint64 // where the search begins: near the seed that found it when this was written
		within uint64
		rules  []string
	}{
		{
			"a promise is told before it is on the disk", databasetest.Bugs{PromiseUnsynced: true},
			[]sim.FaultKind{sim.CrashHost, sim.CrashBoth, sim.CrashServer}, 1, 40, []string{"a promise is kept"},
		},
		{
			"names are set late: a server starts open", databasetest.Bugs{OpenAtStart: true},
			[]sim.FaultKind{sim.CrashServer, sim.Partition}, 1, 40, []string{"I1", "no acknowledged commit lost"},
		},
		{
			"walsenders of before a barrier go on", databasetest.Bugs{OldWalsenders: true},
			[]sim.FaultKind{sim.CutLink, sim.CutOneWay, sim.CrashHost}, 1, 60, []string{"I1"},
		},
		{
			"a keeper lets its deadline pass", databasetest.Bugs{NoFence: true},
			[]sim.FaultKind{sim.Partition}, 1, 60, []string{"no stale answers"},
		},
		{
			"a promotion leaves the sessions of those who read", databasetest.Bugs{KeepReaders: true},
			[]sim.FaultKind{sim.Partition, sim.CrashServer}, 1, 60, []string{"readers reach no primary"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for s := tt.first; s < tt.first+tt.within; s++ {
				opt := sim.Options{Seed: s, Faults: tt.faults, NoLive: true, Readers: tt.bugs.KeepReaders}
				planted := opt
				planted.Bugs = tt.bugs
				f := sim.Run(planted).Failure
				if f == nil {
					continue
				}
				if !slices.Contains(tt.rules, f.Rule) {
					t.Fatalf("found by another rule than expected: %v", f)
				}
				t.Logf("found: %v", f)
				if clean := sim.Run(opt); clean.Failure != nil {
					t.Fatalf("without the defect the same faults break a rule: %v", clean.Failure)
				}
				return
			}
			t.Fatalf("not found within %d seeds", tt.within)
		})
	}
}

// The primary is cut off from everybody, and one link comes back when both standbys have answered in an election: what
// was written meanwhile goes over it to a voter that should not take it any more, while the other one is promoted.
func TestVotersThatAreNotFrozenAreFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, FaultTime: 30 * time.Second}
	for s := range uint64(100) {
		opt.Seed = s + 1
		opt.Script = []sim.Step{
			{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h2", Lasts: 10 * time.Second},
			{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: 2500*time.Millisecond + time.Duration(s%50)*10*time.Millisecond},
		}
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Bugs.NotFrozen = true
		switch f := sim.Run(planted).Failure; {
		case f == nil || f.Rule == "nothing is thrown away unlisted": // what came over was no acknowledged commit this time
		case f.Rule != "no acknowledged commit lost":
			t.Fatalf("found by another rule than expected: %v", f)
		default:
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// A former primary is made anew while the new one is the only other server with some commits, and then that one's
// disk is lost. A copy that went back behind those commits must not be asked; here it is, under its old name.
func TestARebuiltVoterThatKeepsItsIncarnationIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, FaultTime: 30 * time.Second}
	for s := uint64(20); s < 140; s++ { // it was found at 22 when this was written
		opt.Seed = s + 1
		opt.Script = []sim.Step{
			{At: 30 * time.Second, Kind: sim.CutOneWay, Host: "h1", To: "h3", Lasts: 20 * time.Second},
			{At: 30 * time.Second, Kind: sim.CutOneWay, Host: "h2", To: "h3", Lasts: 20 * time.Second},
			{At: 31500 * time.Millisecond, Kind: sim.CutOneWay, Host: "h1", To: "h2", Lasts: 550 * time.Millisecond}, // it goes another way
			{At: 32 * time.Second, Kind: sim.CrashServer, Host: "h1"},
			{At: 33*time.Second + time.Duration(s)*20*time.Millisecond, Kind: sim.LoseDisk, Host: "h2", Lasts: 15 * time.Second},
		}
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Bugs.OldIncarnation = true
		if f := sim.Run(planted).Failure; f != nil {
			if f.Rule != "no acknowledged commit lost" {
				t.Fatalf("found by another rule than expected: %v", f)
			}
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// A standby that reconnects while its old walsender still stands must not acknowledge as if it were two. Two must
// acknowledge here, one of the two is off, and the other comes back from a short crash.
func TestAStandbyThatIsCountedTwiceIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 2, NoLive: true, FaultTime: 30 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.CrashHost, Host: "h2", Lasts: 14 * time.Second},
		{At: 32 * time.Second, Kind: sim.CrashHost, Host: "h3", Lasts: 200 * time.Millisecond},
		{At: 40 * time.Second, Kind: sim.CrashHost, Host: "h1", Lasts: 40 * time.Second},
		{At: 40 * time.Second, Kind: sim.CrashHost, Host: "h3", Lasts: 40 * time.Second},
	}}
	for s := range uint64(20) {
		opt.Seed = s + 1
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Bugs.TwoOfAName = true
		if f := sim.Run(planted).Failure; f != nil {
			if f.Rule != "no acknowledged commit lost" {
				t.Fatalf("found by another rule than expected: %v", f)
			}
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// One standby lags, the other is restarted, and the primary is gone: whoever believes the receiver, which after a
// restart knows nothing of what was there before, chooses the standby that lags.
func TestARecruitThatBelievesItsReceiverIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, FaultTime: 20 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.CutOneWay, Host: "h1", To: "h3", Lasts: 3 * time.Second},
		{At: 30800 * time.Millisecond, Kind: sim.CrashServer, Host: "h2"},
		{At: 30801 * time.Millisecond, Kind: sim.CrashHost, Host: "h1", Lasts: 15 * time.Second},
	}}
	for s := range uint64(40) {
		opt.Seed = s + 1
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Bugs.ReceiveLSN = true
		if f := sim.Run(planted).Failure; f != nil {
			if f.Rule != "no acknowledged commit lost" {
				t.Fatalf("found by another rule than expected: %v", f)
			}
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// The answer to a voter's removal is lost, and so is all that is read for a while; then the voter is back. Its names
// were judged on a record that still had it: E is lower by now, and it alone could be left out of an election.
func TestNamesThatAreSetOnAnotherRevisionAreFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, FaultTime: 30 * time.Second}
	for s := range uint64(600) {
		back := 38*time.Second + time.Duration(s%100)*20*time.Millisecond // about when it leaves
		opt.Seed = s + 1
		opt.Script = []sim.Step{
			{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: back - 30*time.Second},
			{At: 31 * time.Second, Kind: sim.LoseReads, Host: "h1", Lasts: 29 * time.Second},
		}
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Planted.AnyRevision = true
		if f := sim.Run(planted).Failure; f != nil {
			if f.Rule != "I1" {
				t.Fatalf("found by another rule than expected: %v", f)
			}
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// A host whose agent is gone hears of no standby any more, and one of them is cut off: what it shows gets old.
func TestAReadOnlyListenerThatGoesOnForEverIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, Readers: true, FaultTime: 40 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.LoseAgent, Host: "h2", Lasts: 40 * time.Second},
		{At: 31 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: 30 * time.Second},
	}}
	for s := range uint64(20) {
		opt.Seed = s + 1
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Planted.KeepMembers = true
		if f := sim.Run(planted).Failure; f != nil {
			if f.Rule != "reads are no older than the plan allows" {
				t.Fatalf("found by another rule than expected: %v", f)
			}
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// The agent of a host without a copy is gone, and the primary moves: the listener there would lead writers to the former
// one, a standby now that lets readers in.
func TestAListenerThatAsksNobodyIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, Readers: true, FaultTime: 60 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.LoseAgent, Host: "h5", Lasts: 60 * time.Second},
		{At: 34 * time.Second, Kind: sim.CrashServer, Host: "h1"},
	}}
	for s := range uint64(20) {
		opt.Seed = s + 1
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		planted := opt
		planted.Planted.AskNobody = true
		if f := sim.Run(planted).Failure; f != nil {
			if f.Rule != "writers are led to no standby" {
				t.Fatalf("found by another rule than expected: %v", f)
			}
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatal("not found")
}

// A listener that starts anew knows nothing, and no change of order may come for days.
func TestAListenerThatIsToldNothingAgainIsFound(t *testing.T) {
	opt := sim.Options{Seed: 1, Hosts: 3, Standbys: 2, W: 1, FaultTime: 20 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.RestartGate, Host: "h2", Lasts: time.Second},
	}}
	opt.Planted.AskNobody = true // or another host's listener would tell it
	if clean := sim.Run(opt); clean.Failure != nil {
		t.Fatalf("without the defect: %v", clean.Failure)
	}
	opt.Planted.OrderOnce = true
	f := sim.Run(opt).Failure
	if f == nil || f.Rule != "redundancy" {
		t.Fatalf("found: %v", f)
	}
	t.Logf("found: %v", f)
}

// A record that is written without comparing revisions lets two runners of one election both win.
func TestTwoRunnersThatBothWriteAreFound(t *testing.T) {
	opt := sim.Options{NoLive: true, Faults: []sim.FaultKind{sim.Partition, sim.CutOneWay, sim.PauseAgent, sim.CutLink}}
	for s := range uint64(60) { // it was found at 14 when this was written
		opt.Seed = s + 1
		planted := opt
		planted.Planted.NoCompare = true
		f := sim.Run(planted).Failure
		if f == nil {
			continue
		}
		if f.Rule != "the record only rises" {
			t.Fatalf("found by another rule than expected: %v", f)
		}
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		t.Logf("found: %v", f)
		return
	}
	t.Fatal("not found")
}
