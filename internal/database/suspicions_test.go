package database_test

import (
	"testing"
	"time"

	"holdfast/internal/database"
)

// What a reviewer suspected. Where a suspicion was wrong its test says why.

// Nobody else can have taken over where there is one member: it needs no contact to go on. Another host acts on no such
// record, and whoever adds one goes through the primary's own host, which has read it by then.
func TestTheOnlyMemberServesWithoutContact(t *testing.T) {
	r := steady()
	r.Members, r.Voters, r.W, r.E = []string{"b1"}, nil, 0, 1
	v := view("b1", r, primary(r, "b1"))
	v.RecordAge = time.Hour
	if d, _ := database.Decide(policy(), v, since(r, time.Minute)); d.Lease <= 0 || d.LeaseOf != r.Epoch {
		t.Errorf("the only member is given %s of epoch %d", d.Lease, d.LeaseOf)
	}
	two := r
	two.Members = []string{"b1", "b2"}
	v = view("b1", two, primary(two, "b1"))
	v.RecordAge = time.Hour
	if d, _ := database.Decide(policy(), v, since(two, time.Minute)); d.Lease > 0 {
		t.Errorf("one of two members is given %s without any contact", d.Lease)
	}
	other := silent("b1", time.Hour)
	for _, phase := range []database.Phase{database.Creating, database.Steady, database.Switching, database.Recruiting, database.Promoting} {
		r.Phase = phase
		m := since(r, time.Hour)
		m.Lost = true
		check(t, policy(), []situation{{"another host leaves it alone: " + string(phase), view("b2", r, standby(r, "b2"), other), m, "stop"}})
	}
}

// An agreed state of before W was lowered is refused as long as anybody who kept the newer one is heard: the primary keeps
// it too. Nobody asks standbys that are away, for a relaxed policy lowers W because they are.
func TestAnAgreedStateOfBeforeWWasLowered(t *testing.T) {
	old := steady()
	old.Generation = 15
	now := steady()
	m := since(old, time.Hour)
	m.Lost, m.LostSince = true, 0
	check(t, policy(), []situation{
		{"is refused where the primary is heard", view("b2", old, standby(old, "b2"), hears("b1", now, primary(now, "b1")), hears("b3", old, standby(old, "b3"))), m,
			"nothing"},
		{"and where one is that streamed then", view("b2", old, standby(old, "b2"), silent("b1", time.Minute), alsoDeaf(hears("b3", now, standby(now, "b3")), "b1", time.Minute)), m,
			"nothing"},
	})
}

// Without W there are no voters, and a planned change asks none: the target must hold the last record.
func TestASwitchoverWhereNoStandbyNeedHoldACommit(t *testing.T) {
	p := policy()
	p.AcknowledgedBy = 0
	r := steady()
	r.W, r.Voters, r.E = 0, nil, 3
	up := primary(r, "b1")
	for _, h := range []string{"b2", "b3"} {
		up.Senders = append(up.Senders, sender(r, voter(h), lsn))
	}
	b2, b3 := standby(r, "b2"), standby(r, "b3")
	q := database.Request{ID: "q1", Kind: "switchover", To: "b3"}
	prepared := since(r, time.Minute)
	prepared.SawPrimary, prepared.Names, prepared.Prepared = true, up.Names, "q1"
	unready := prepared
	unready.Unready, unready.UnreadySince = "q1", time.Hour-time.Second
	begun := while(view("b1", r, up, hears("b2", r, b2), hears("b3", r, b3)), q)
	away := while(view("b1", r, up, hears("b2", r, b2), silent("b3", time.Minute)), q)
	sw := r
	sw.Phase, sw.Opened, sw.SwitchTo, sw.Switch, sw.Generation = database.Switching, false, "b3", "q1", 21
	stopped := gone(recruit(sw, "b1", 3, lsn), "stopped")
	stopped.ShutDown, stopped.Promise.Epoch, stopped.Position.Epoch = true, 4, 4
	m := since(sw, time.Second)
	level := standby(sw, "b3")
	short := level
	short.Flushed--
	check(t, p, []situation{
		{"begins", begun, prepared, "swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false"},
		{"is refused to one that is away", away, unready, "answer false"},
		{"hands over to one that holds the last record", view("b1", sw, stopped, hears("b2", sw, b2), hears("b3", sw, level)), m,
			"swap epoch=4 gen=22 phase=promoting primary=b3 timeline=4 opened=false"},
		{"and to nobody else", view("b1", sw, stopped, hears("b2", sw, b2), hears("b3", sw, short)), m, "nothing"},
	})
}

func TestARestartThatWaitsForASilentHostHoldsNobodyUp(t *testing.T) {
	r := steady()
	lives := map[string]string{"b1": "1", "b2": "2", "b3": "3"}
	restart := database.Request{ID: "r1", Kind: "restart", Lives: lives}
	move := database.Request{ID: "q1", Kind: "switchover", To: "b2"}
	b1, b2, b3 := primary(r, "b1"), standby(r, "b2"), standby(r, "b3")
	b1.Life, b2.Life, b3.Life = "1", "2", "3"
	m := lately(since(r, time.Minute), "b2", "b3")
	m.SawPrimary, m.Names, m.Prepared = true, b1.Names, "q1"
	both := func(v database.View) database.View {
		v.Requests = []database.Request{restart, move}
		return v
	}
	check(t, policy(), []situation{
		{"a switchover that was asked for later begins", both(view("b1", r, b1, hears("b2", r, b2), silent("b3", time.Minute))), m,
			"swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false"},
		{"and waits while the restart goes on", both(view("b1", r, b1, hears("b2", r, b2), hears("b3", r, b3))), m, "nothing"},
	})
}

func TestAStandbyWhoseSettingsAreRefusedIsNotStoppedForThem(t *testing.T) {
	r := steady()
	stands := standby(r, "b2")
	stands.Stands, stands.Refused = true, "unknown parameter"
	check(t, policy(), []situation{{"it would start with those that it has", view("b2", r, stands, hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3"))),
		since(r, time.Minute), "nothing"}})
}
