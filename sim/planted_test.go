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
			mustFind(t, search{
				opt:   sim.Options{Faults: tt.faults, NoLive: true, Readers: tt.bugs.KeepReaders},
				plant: func(o *sim.Options) { o.Bugs = tt.bugs },
				first: tt.first - 1, within: tt.within, rules: tt.rules,
			})
		})
	}
}

// search is a defect that must be found.
type search struct {
	opt           sim.Options
	script        func(s uint64) []sim.Step // of the run number s; nil = the options' own
	plant         func(*sim.Options)
	first, within uint64   // run numbers: the first near the one that found it when this was written
	rules         []string // one of them breaks
	passes        string   // a rule that may break too and proves nothing; "" = none
}

// mustFind runs one seed after the other, without the defect and with it, until it is found.
func mustFind(t *testing.T, x search) {
	t.Helper()
	for s := x.first; s < x.first+x.within; s++ {
		opt := x.opt
		opt.Seed = s + 1
		if x.script != nil {
			opt.Script = x.script(s)
		}
		if clean := sim.Run(opt); clean.Failure != nil {
			t.Fatalf("without the defect: %v", clean.Failure)
		}
		x.plant(&opt)
		switch f := sim.Run(opt).Failure; {
		case f == nil || f.Rule == x.passes:
		case !slices.Contains(x.rules, f.Rule):
			t.Fatalf("found by another rule than expected: %v", f)
		default:
			t.Logf("found by seed %d: %v", opt.Seed, f)
			return
		}
	}
	t.Fatalf("not found within %d seeds", x.within)
}

// The primary is cut off from everybody, and one link comes back when both standbys have answered in an election: what
// was written meanwhile goes over it to a voter that should not take it any more, while the other one is promoted.
func TestVotersThatAreNotFrozenAreFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, FaultTime: 30 * time.Second}
	mustFind(t, search{
		opt: opt, script: func(s uint64) []sim.Step {
			return []sim.Step{
				{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h2", Lasts: 10 * time.Second},
				{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: 2500*time.Millisecond + time.Duration(s%50)*10*time.Millisecond},
			}
		},
		plant: func(o *sim.Options) { o.Bugs.NotFrozen = true }, within: 100, rules: []string{"no acknowledged commit lost"},
		passes: "nothing is thrown away unlisted", // what came over was no acknowledged commit this time
	})
}

// A former primary is made anew while the new one is the only other server with some commits, and then that one's
// disk is lost. A copy that went back behind those commits must not be asked; here it is, under its old name.
func TestARebuiltVoterThatKeepsItsIncarnationIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, FaultTime: 30 * time.Second}
	mustFind(t, search{
		opt: opt, script: func(s uint64) []sim.Step {
			return []sim.Step{
				{At: 30 * time.Second, Kind: sim.CutOneWay, Host: "h1", To: "h3", Lasts: 20 * time.Second},
				{At: 30 * time.Second, Kind: sim.CutOneWay, Host: "h2", To: "h3", Lasts: 20 * time.Second},
				{At: 31500 * time.Millisecond, Kind: sim.CutOneWay, Host: "h1", To: "h2", Lasts: 550 * time.Millisecond}, // it goes another way
				{At: 32 * time.Second, Kind: sim.CrashServer, Host: "h1"},
				{At: 33*time.Second + time.Duration(s)*20*time.Millisecond, Kind: sim.LoseDisk, Host: "h2", Lasts: 15 * time.Second},
			}
		},
		plant: func(o *sim.Options) { o.Bugs.OldIncarnation = true }, first: 20, within: 120, rules: []string{"no acknowledged commit lost"}, // it was found at 22 when this was written
	})
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
	mustFind(t, search{
		opt:   opt,
		plant: func(o *sim.Options) { o.Bugs.TwoOfAName = true }, within: 20, rules: []string{"no acknowledged commit lost"},
	})
}

// One standby lags, the other is restarted, and the primary is gone: whoever believes the receiver, which after a
// restart knows nothing of what was there before, chooses the standby that lags.
func TestARecruitThatBelievesItsReceiverIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, FaultTime: 20 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.CutOneWay, Host: "h1", To: "h3", Lasts: 3 * time.Second},
		{At: 30800 * time.Millisecond, Kind: sim.CrashServer, Host: "h2"},
		{At: 30801 * time.Millisecond, Kind: sim.CrashHost, Host: "h1", Lasts: 15 * time.Second},
	}}
	mustFind(t, search{
		opt:   opt,
		plant: func(o *sim.Options) { o.Bugs.ReceiveLSN = true }, within: 40, rules: []string{"no acknowledged commit lost"},
	})
}

// The answer to a voter's removal is lost, and so is all that is read for a while; then the voter is back. Its names
// were judged on a record that still had it: E is lower by now, and it alone could be left out of an election.
func TestNamesThatAreSetOnAnotherRevisionAreFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, FaultTime: 30 * time.Second}
	mustFind(t, search{
		opt: opt, script: func(s uint64) []sim.Step {
			back := 38*time.Second + time.Duration(s%100)*20*time.Millisecond // about when it leaves
			return []sim.Step{
				{At: 30 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: back - 30*time.Second},
				{At: 31 * time.Second, Kind: sim.LoseReads, Host: "h1", Lasts: 29 * time.Second},
			}
		},
		plant: func(o *sim.Options) { o.Planted.AnyRevision = true }, within: 600, rules: []string{"I1"},
	})
}

// A host whose agent is gone hears of no standby any more, and one of them is cut off: what it shows gets old.
func TestAReadOnlyListenerThatGoesOnForEverIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, Readers: true, FaultTime: 40 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.LoseAgent, Host: "h2", Lasts: 40 * time.Second},
		{At: 31 * time.Second, Kind: sim.CutLink, Host: "h1", To: "h3", Lasts: 30 * time.Second},
	}}
	mustFind(t, search{
		opt:   opt,
		plant: func(o *sim.Options) { o.Planted.KeepMembers = true }, within: 20, rules: []string{"reads are no older than the plan allows"},
	})
}

// The agent of a host without a copy is gone, and the primary moves: the listener there would lead writers to the former
// one, a standby now that lets readers in.
func TestAListenerThatAsksNobodyIsFound(t *testing.T) {
	opt := sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, Readers: true, FaultTime: 60 * time.Second, Script: []sim.Step{
		{At: 30 * time.Second, Kind: sim.LoseAgent, Host: "h5", Lasts: 60 * time.Second},
		{At: 34 * time.Second, Kind: sim.CrashServer, Host: "h1"},
	}}
	mustFind(t, search{
		opt:   opt,
		plant: func(o *sim.Options) { o.Planted.AskNobody = true }, within: 20, rules: []string{"writers are led to no standby"},
	})
}

// An agent that stood still through an election, and comes back while it cannot read the agreed state, repeats an order
// that its listener no longer takes. Two elections later that listener must still ask the others.
func TestAGateThatTakesItsAgentsOldWordForNewsIsFound(t *testing.T) {
	mustFind(t, search{
		opt: sim.Options{Hosts: 5, Standbys: 2, W: 1, NoLive: true, Readers: true, FaultTime: 70 * time.Second, Script: []sim.Step{
			{At: 29 * time.Second, Kind: sim.PauseAgent, Host: "h5", Lasts: 12 * time.Second},
			{At: 30 * time.Second, Kind: sim.CrashServer, Host: "h1"},
			{At: 38 * time.Second, Kind: sim.StoreCut, Host: "h5", Lasts: 60 * time.Second},
			{At: 50 * time.Second, Kind: sim.CrashServer, Host: "primary"},
		}},
		plant: func(o *sim.Options) { o.Planted.BehindIsHeard = true }, within: 20, rules: []string{"writers are led to no standby"},
	})
}

// An operator asks for a restart of what waits, a moment after a plan was applied that one host has not heard of yet.
func TestALookThatDoesNotSayByWhichPlanItJudgedIsFound(t *testing.T) {
	mustFind(t, search{
		opt: sim.Options{Hosts: 3, Standbys: 2, W: 1, NoLive: true, FaultTime: 40 * time.Second},
		script: func(s uint64) []sim.Step {
			return []sim.Step{
				{At: 29 * time.Second, Kind: sim.HoldWatch, Host: "h3", Lasts: 10 * time.Second},
				{At: 30*time.Second + time.Duration(s)*37*time.Millisecond, Kind: sim.ApplySetting, Lasts: 8 * time.Second},
			}
		},
		plant: func(o *sim.Options) { o.Planted.NoNameOfSettings = true }, within: 400, rules: []string{"a restart restarts"},
	})
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
	mustFind(t, search{
		opt:   opt,
		plant: func(o *sim.Options) { o.Planted.NoCompare = true }, within: 60, rules: []string{"the record only rises"}, // it was found at 14 when this was written
	})
}
