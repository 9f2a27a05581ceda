package sim_test

import (
	"slices"
	"testing"
	"time"

	"holdfast/sim"
)

// Plans change at any moment, between other faults, and no acknowledged commit is forgotten.
func TestPlansThatChange(t *testing.T) {
	n := uint64(60)
	if testing.Short() || raceEnabled {
		n = 4
	}
	for s := range n {
		opt := sim.Options{Seed: s + 1, Hosts: 5, Standbys: 3, W: 2, FaultTime: 90 * time.Second, Faults: []sim.FaultKind{
			sim.ChangePlan, sim.ChangePlan, sim.ChangePlan, sim.CrashServer, sim.CrashAgent, sim.CrashHost, sim.CutLink, sim.LoseAnswer, sim.Switchover,
		}}
		if r := sim.Run(opt); r.Failure != nil {
			report(t, r)
		}
	}
}

// The planted defects of changing W and members are found, each by the rule that it breaks.
func TestPlantedDefectsOfAChangedPlanAreFound(t *testing.T) {
	tests := []struct {
		name    string
		planted sim.Planted
	}{
		{"W is lowered in the server before E is raised in the record", sim.Planted{NamesBeforeRecord: true}},
		{"W is raised and E lowered without a barrier", sim.Planted{NoBarrier: true}},
		{"an asynchronous standby is counted", sim.Planted{AsyncCounts: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for s := range uint64(60) {
				opt := sim.Options{Seed: s + 1, Hosts: 5, Standbys: 3, W: 2, NoLive: true, FaultTime: 60 * time.Second,
					Faults: []sim.FaultKind{sim.ChangePlan, sim.CutOneWay, sim.CrashHost}}
				planted := opt
				planted.Planted = tt.planted
				f := sim.Run(planted).Failure
				if f == nil {
					continue
				}
				if !slices.Contains([]string{"I1", "no acknowledged commit lost"}, f.Rule) {
					t.Fatalf("found by another rule than expected: %v", f)
				}
				t.Logf("found: %v", f)
				if clean := sim.Run(opt); clean.Failure != nil {
					t.Fatalf("without the defect the same faults break a rule: %v", clean.Failure)
				}
				return
			}
			t.Fatal("not found")
		})
	}
}
