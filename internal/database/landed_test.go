package database_test

import (
	"testing"
	"time"

	"holdfast/internal/database"
)

// A forced choice was under way, with b2 and b4 as its voters and b3 left out, when the primary that was given up came
// back alone: nothing is lost, and so nobody may be elected in its place by the voters that the choice left.
func TestThePrimaryThatWasGivenUpComesBackToVotersThatMayLackItsCommits(t *testing.T) {
	r := recruiting()
	r.Epoch, r.Generation = 5, 30
	r.Members = append(r.Members, "b4")
	r.Primary, r.Incarnation, r.Former = "b2", "i-b2", voter("b1")
	r.Voters, r.E, r.Unsealed = []database.Voter{voter("b2"), voter("b4")}, 2, true
	r.Losses = []database.Loss{{Request: "q1", Epoch: 4, Chosen: voter("b2"), From: lsn, W: 1, Left: []database.Left{
		{Voter: voter("b1"), Primary: true}, {Voter: voter("b3"), Counted: true},
	}}}
	b1 := gone(recruit(r, "b1", 3, lsn+0x5000), "killed")
	d, _ := database.Decide(policy(), view("b1", r, b1, silent("b2", time.Minute), silent("b3", time.Minute), silent("b4", time.Minute)), since(r, time.Minute))
	if len(d.Actions) != 1 || d.Actions[0].Record == nil {
		t.Fatalf("asked for %s", asked(d))
	}
	next := *d.Actions[0].Record
	if !next.Alone || next.Primary != "b1" || len(next.Losses) != 0 {
		t.Fatalf("the one that was given up does not come back: %+v", next)
	}
	if next.E <= len(next.Voters) {
		t.Errorf("%d of the voters %v could elect one of themselves, and none of them need hold what b3 acknowledged", next.E, next.Voters)
	}
}

func TestASwitchoverThatEndedIsSettledBeforeTheNextBegins(t *testing.T) {
	r := steady()
	r.Switch, r.SwitchTo = "q1", "b1"
	v := view("b1", r, primary(r, "b1"), hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3")))
	v.Requests = []database.Request{{ID: "q1", Kind: "switchover", To: "b1"}, {ID: "q2", Kind: "switchover", To: "b2"}}
	m := since(r, time.Minute)
	m.Prepared = "q2"
	d, _ := database.Decide(policy(), v, m)
	if got := asked(d); got != "answer true" {
		t.Errorf("asked for %s: the record forgets q1, and were its answer lost, it would be carried out again", got)
	}
}

func TestAForcedFailoverThatWaitedForALongTimeIsNotBegunByAnAgentThatHasJustStarted(t *testing.T) {
	r := steady()
	v := stuck(r)
	ask := func(ago time.Duration) database.View {
		v.Requests = []database.Request{{ID: "q1", Kind: "failover", Via: "b2", Former: "i-b1", Floor: lsn, Timed: true, In: -ago}}
		return v
	}
	check(t, policy(), []situation{
		{"an hour ago another loss was shown", ask(time.Hour), since(r, time.Minute), "problem database.no-candidate; answer false"},
		{"a minute by another host's clock is nothing", ask(time.Minute), since(r, time.Minute),
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false; problem database.no-candidate"},
		{"nor is one that runs ahead", ask(-time.Hour), since(r, time.Minute),
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false; problem database.no-candidate"},
	})
}

// b3 joined as a voter, and the survivor's disk does not know of it: what b3 alone acknowledged b2 need not hold.
func TestAfterARebuildingTheCountOfBeforeElectsNobody(t *testing.T) {
	r := steady()
	r.Members, r.Voters, r.E = []string{"b1", "b2"}, []database.Voter{voter("b2")}, 1
	promised := []database.Promise{{Epoch: r.Epoch, Generation: r.Generation + 1, Incarnation: "i-b2"}}
	x := database.Recovered(r, promised, "b2", "two hosts are gone")
	d, _ := database.Decide(policy(), view("b2", x, recruit(x, "b2", 3, lsn), silent("b1", time.Minute)), since(x, time.Minute))
	if got := asked(d); got != "problem database.no-candidate" {
		t.Errorf("asked for %s", got)
	}
	forced := recruiting()
	forced.Forced = &database.Forced{Request: "q1", Floor: lsn}
	if x := database.Recovered(forced, nil, "b2", "two hosts are gone"); x.Forced != nil {
		t.Error("a loss that was accepted while more hosts were there is carried out after the rebuilding")
	}
}

// The survivor's disk names b1 as the primary; b2 was elected later, acknowledged commits with b3, and comes back.
func TestAfterARebuildingNobodyDiscardsWhatALostHostHoldsAlone(t *testing.T) {
	r := database.Recovered(steady(), nil, "b1", "two hosts are gone")
	r.Epoch, r.Phase, r.Opened, r.Timeline = r.Epoch+1, database.Steady, true, 20
	r.Forks, r.Assigned = append(r.Forks, database.Fork{Timeline: 20, Epoch: r.Epoch, Parent: 3, LSN: lsn}), nil
	b2 := recruit(r, "b2", 4, lsn+0x9000)
	b2.Timeline, b2.History = 4, append(history(steady()), database.Fork{Timeline: 4, Parent: 3, LSN: lsn - 0x100})
	aside := b2
	aside.Kept = &database.Kept{ID: "epoch-5-i-b2", Incarnation: "i-b2", Commits: 7, End: lsn + 0x9000, Parted: database.Parting{Timeline: 3, LSN: lsn - 0x100, Given: true}}
	up, b3 := hears("b1", r, primary(r, "b1")), silent("b3", time.Minute)
	calm := since(r, time.Minute)
	settled := r.Clone()
	settled.Losses[0].Left[0].Settled = "exported"
	level := recruit(r, "b3", 3, lsn)
	level.Timeline, level.History = 3, history(steady())
	check(t, policy(), []situation{
		{"it is put aside and listed", view("b2", r, b2, up, b3), calm, "preserve after=0/2FFFF00 timeline=3"},
		{"then it waits for a person", view("b2", r, aside, up, b3), calm, "nothing"},
		{"once that is settled it is rewound", view("b2", settled, aside, hears("b1", settled, primary(settled, "b1")), b3), calm, "rewind from=b1 epoch=1004"},
		{"one that holds nothing more follows", view("b3", r, level, up, silent("b2", time.Minute)), calm, "follow from=b1 epoch=1004"},
	})
	r.Unsealed, r.E = false, 2
	follows := hears("b3", r, standby(r, "b3"))
	d, _ := database.Decide(policy(), view("b1", r, primary(r, "b1"), follows, silent("b2", time.Minute)), calm)
	if len(d.Actions) != 1 || d.Actions[0].Record == nil || d.Actions[0].Record.Losses[0].Left[1].Settled == "" || d.Actions[0].Record.Losses[0].Left[0].Settled != "" {
		t.Errorf("asked for %s: %+v", asked(d), d.Actions)
	}
	r.Primary, r.Incarnation, r.Voters = "b2", "i-b2", []database.Voter{voter("b1"), voter("b3")}
	d, _ = database.Decide(policy(), view("b2", r, primary(r, "b2"), hears("b1", r, standby(r, "b1")), silent("b3", time.Minute)), calm)
	if len(d.Actions) != 1 || d.Actions[0].Record == nil || d.Actions[0].Record.Losses[0].Left[0].Settled != "it is the primary" {
		t.Errorf("asked for %s: %+v", asked(d), d.Actions)
	}
}
