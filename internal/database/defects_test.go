package database_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

// Each of these was a defect that the simulator found; docs/incidents.md has the rows.

func TestAnOldBarrierDoesNotServeForNamesThatWereWidenedMeanwhile(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	narrow := r.Clone()
	narrow.Voters = []database.Voter{voter("b2")}
	l.Names = names(narrow)
	l.Senders = l.Senders[:1]
	// The barrier of an earlier removal, for the same names; then b3 joined again, and streams no more.
	l.Force = database.Force{Names: names(narrow), Epoch: r.Epoch, Mark: lsn - 0x1000}
	v := view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute))
	m := since(r, time.Minute)
	m.Names, m.NamesAt = names(r), lsn-0x2000 // as seen in the round before
	d, m := database.Decide(policy(), v, m)
	if got := asked(d); got != "barrier epoch=3" {
		t.Fatalf("asked for %s", got)
	}
	v.Local.Force.Mark, v.Local.Flushed = lsn+0x80, lsn+0x80
	v.Local.Senders = []database.Sender{sender(r, voter("b2"), lsn+0x80)}
	d, _ = database.Decide(policy(), v, m)
	if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap || len(d.Actions[0].Record.Voters) != 1 || d.Actions[0].Record.E != 1 {
		t.Fatalf("after the new barrier it asked for %s", asked(d))
	}
}

func TestTheFirstOfTwoNeededStandbysBecomesAVoterByItself(t *testing.T) {
	p := policy()
	p.AcknowledgedBy = 2
	r := steady()
	r.W, r.E, r.Voters = 2, 1, []database.Voter{voter("b2")}
	l := primary(r, "b1")
	l.Names = database.Closed() // W = 2 and no voter yet: as it was made
	d, _ := database.Decide(p, view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute)), since(r, time.Minute))
	if got := asked(d); got != `names ANY 2 ("i-b2@3")` {
		t.Fatalf("asked for %s", got)
	}
}

func TestAReplacedVoterHoldsNobodyUpFromJoining(t *testing.T) {
	p := policy()
	p.AcknowledgedBy = 2
	r := steady()
	fresh := database.Voter{Host: "b3", Incarnation: "i-b3-2"}
	r.W, r.E, r.Voters = 2, 2, []database.Voter{voter("b2"), voter("b3"), fresh}
	l := primary(r, "b1")
	narrow := r.Clone()
	narrow.Voters = []database.Voter{voter("b2"), voter("b3")}
	l.Names = names(narrow)
	again := standby(r, "b3")
	again.Incarnation, again.Promise.Incarnation = fresh.Incarnation, fresh.Incarnation
	d, _ := database.Decide(p, view("b1", r, l, hears("b2", r, standby(r, "b2")), hears("b3", r, again)), since(r, time.Minute))
	if got := asked(d); got != `names ANY 2 ("i-b2@3", "i-b3-2@3", "i-b3@3")` {
		t.Fatalf("asked for %s", got)
	}
}

// The plan's only standby holds no copy yet, and the one that the plan wants no more was made anew: without it the primary
// could never open.
func TestACopyTakesThePlaceOfTheOneBeforeWhileNothingElseCan(t *testing.T) {
	p := policy()
	p.Hosts, p.Standbys = []string{"b1", "b3"}, 1
	r := steady()
	r.Members, r.Voters, r.E = []string{"b1", "b2"}, []database.Voter{{Host: "b2", Incarnation: "i-b2-0"}}, 1
	r.Opened, r.Alone = false, true
	l := primary(r, "b1")
	l.Admits, l.Senders = false, []database.Sender{sender(r, voter("b2"), lsn)}
	l.Force = database.Force{Names: l.Names, Epoch: r.Epoch, Mark: lsn}
	m := since(r, time.Minute)
	m.Names, m.NamesAt = l.Names, lsn-1
	decide := func(r database.Record) string {
		d, _ := database.Decide(p, view("b1", r, l, hears("b2", r, standby(r, "b2")), hears("b3", r, nothingYet())), m)
		return asked(d)
	}
	if got := decide(r); !strings.HasPrefix(got, "swap epoch=3 gen=21") {
		t.Errorf("asked for %s", got)
	}
	r.Voters[0] = database.Voter{Host: "b4", Incarnation: "i-b4"} // not the place of b2
	if got := decide(r); strings.Contains(got, "swap") {
		t.Errorf("asked for %s", got)
	}
}

// The host of the new primary had been made anew before, and its former incarnation is a voter still.
func TestAPrimarysOwnFormerIncarnationHoldsNobodyUpFromJoining(t *testing.T) {
	p := policy()
	p.AcknowledgedBy = 2
	r := steady()
	fresh, old := voter("b2"), database.Voter{Host: "b2", Incarnation: "i-b2-0"}
	r.W, r.E, r.Voters = 2, 2, []database.Voter{{Host: "b1", Incarnation: "i-b1-0"}, fresh, old}
	l := primary(r, "b1")
	narrow := r.Clone()
	narrow.Voters = []database.Voter{r.Voters[0], old}
	l.Names, l.Senders = names(narrow), []database.Sender{sender(r, fresh, lsn)}
	d, _ := database.Decide(p, view("b1", r, l, hears("b2", r, standby(r, "b2")), hears("b3", r, nothingYet())), since(r, time.Minute))
	if got := asked(d); !strings.HasPrefix(got, `names ANY 2 ("i-b1-0@3", "i-b2-0@3", "i-b2@3")`) {
		t.Fatalf("asked for %s", got)
	}
}

func TestAJoinWaitsUntilThoseWhoCouldElectWithoutItKnowOfIt(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	narrow := r.Clone()
	narrow.Voters = []database.Voter{voter("b2")}
	l.Names = names(narrow)
	old := standby(r, "b2")
	old.Promise.Generation-- // b2 alone could elect under the record of before, and does not know this one
	d, _ := database.Decide(policy(), view("b1", r, l, hears("b2", r, old), hears("b3", r, standby(r, "b3"))), since(r, time.Minute))
	if got := asked(d); got != "nothing" {
		t.Fatalf("asked for %s", got)
	}
}

func TestAFailedReturnDoesNotUseUpTheRightToReturnAlone(t *testing.T) {
	r := steady()
	l := gone(primary(r, "b1"), "fenced")
	v := view("b1", r, l, silent("b2", time.Minute), silent("b3", time.Minute))
	m := since(r, time.Minute)
	m.SawPrimary = true
	d, m := database.Decide(policy(), v, m)
	if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap {
		t.Fatalf("asked for %s", asked(d))
	}
	v.Now += 5 * time.Second // the write never reached the store
	d, _ = database.Decide(policy(), v, m)
	if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap || !d.Actions[0].Record.Alone {
		t.Fatalf("five seconds later it asked for %s", asked(d))
	}
}

func TestAPrimaryMayReturnAloneAgainWhenNobodyElseCanTakeOver(t *testing.T) {
	r := steady()
	r.Alone = true
	l := gone(primary(r, "b1"), "signal 9")
	m := since(r, time.Minute)
	m.SawPrimary, m.WasAlone, m.AloneAt = true, true, time.Hour-time.Minute
	d, _ := database.Decide(policy(), view("b1", r, l, silent("b2", time.Minute), silent("b3", time.Minute)), m)
	if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap || !d.Actions[0].Record.Alone {
		t.Fatalf("with nobody else it asked for %s", asked(d))
	}
	m.SawPrimary = false // its agent has restarted
	d, _ = database.Decide(policy(), view("b1", r, l, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), m)
	for _, a := range d.Actions {
		if a.Kind == database.KindSwap && a.Record.Alone {
			t.Fatalf("with two others at hand it asked for %s", asked(d))
		}
	}
}

func TestAPrimaryThatCameBackAloneTakesWhoIsThere(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	r.Alone, r.Opened, r.Voters, r.E = true, false, nil, 1
	l.Names = database.Closed()
	l.Force = database.Force{Names: l.Names, Epoch: r.Epoch, Mark: lsn} // begun, and nobody is there to pass it
	m := since(r, time.Minute)
	m.Names, m.NamesAt = l.Names, 1
	p := policy()
	p.Hosts, p.Standbys = []string{"b1", "b4"}, 1 // b2 and b3 are members still, and the plan counts them no more
	v := view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute))
	d, _ := database.Decide(p, v, m)
	joined := false
	for _, a := range d.Actions {
		joined = joined || a.Kind == database.KindSwap && len(a.Record.Voters) == 1 && a.Record.Voters[0].Host == "b2"
	}
	if !joined {
		t.Fatalf("nobody holds what it holds, and it asked for %s", asked(d))
	}
	r.Opened = true
	v = view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute))
	d, _ = database.Decide(p, v, m)
	for _, a := range d.Actions {
		if a.Kind == database.KindSwap && len(a.Record.Voters) > 0 {
			t.Fatalf("open, it asked for %s", asked(d))
		}
	}
}

func TestNobodyStandsInWhereAnotherWayOutWouldWaitForIt(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	b3 := r.Voters[1]
	r.Alone, r.Opened, r.Voters, r.E = true, false, []database.Voter{b3}, 1 // b3 is gone for good
	l.Names = database.Names{W: 1, List: []string{database.StandbyName(b3.Incarnation, r.Epoch)}}
	l.Force = database.Force{Names: l.Names, Epoch: r.Epoch, Mark: lsn}
	m := since(r, time.Minute)
	m.Names, m.NamesAt = l.Names, 1
	p := policy()
	p.Hosts, p.Standbys, p.Relaxed = []string{"b1", "b4"}, 1, true
	m.Unfit = []database.Unfit{{Voter: b3, Since: 0}}
	l.Senders = slices.DeleteFunc(l.Senders, func(s database.Sender) bool { return s.Name == l.Names.List[0] })
	d, _ := database.Decide(p, view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute)), m)
	for _, a := range d.Actions {
		if a.Kind == database.KindSwap && len(a.Record.Voters) > 1 {
			t.Fatalf("b2 joins, which ends only when b3 is back: %s", asked(d))
		}
	}
	lowered := slices.ContainsFunc(d.Actions, func(a database.Action) bool { return a.Kind == database.KindSwap && a.Record.W == 0 })
	if !lowered {
		t.Fatalf("relaxed, it asked for %s", asked(d))
	}
}

func TestAHostThatHasJustStartedSuspectsNobodyAtOnce(t *testing.T) {
	r := steady()
	r.W, r.E = 2, 1 // one voter's word is enough
	v := view("b2", r, standby(r, "b2"), silent("b1", database.Never), silent("b3", database.Never))
	v.Advanced = database.Never
	d, m := database.Decide(policy(), v, database.Memory{})
	if got := asked(d); got != "nothing" {
		t.Fatalf("at once it asked for %s", got)
	}
	v.Now += 3 * time.Second
	d, m = database.Decide(policy(), v, m)
	if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap {
		t.Fatalf("after three seconds of silence it asked for %s (%+v)", asked(d), m)
	}
}

func TestForeignDataWithoutAReasonAreStillForeign(t *testing.T) {
	r := steady()
	l := nothingYet()
	l.Data = database.DataForeign
	d, _ := database.Decide(policy(), view("b2", r, l, hears("b1", r, primary(r, "b1"))), since(r, time.Minute))
	if got := asked(d); got != "problem database.foreign-data" {
		t.Fatalf("asked for %s", got)
	}
}

func TestANewCopyIsGivenTimeToConnect(t *testing.T) {
	r := steady()
	up, b3 := hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3"))
	m := since(r, time.Minute)
	m.Cut, m.CutSince = true, time.Hour-time.Minute // the old copy's stream did not come; then the copy was made anew
	d, m := database.Decide(policy(), view("b2", r, recruit(r, "b2", 3, lsn), up, b3), m)
	if got := asked(d); got != "follow from=b1 epoch=3" {
		t.Fatalf("asked for %s", got)
	}
	fresh := standby(r, "b2")
	fresh.Receiving = false
	d, _ = database.Decide(policy(), view("b2", r, fresh, up, b3), m)
	if got := asked(d); got != "nothing" {
		t.Fatalf("before its receiver could connect it asked for %s", got)
	}
}
