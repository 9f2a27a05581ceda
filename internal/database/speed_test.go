package database_test

import (
	"testing"
	"time"

	"holdfast/internal/database"
)

// What is waited for is waited for once, from the earliest moment that is known, and looked at when it is over.
func TestAnOpeningWaitsFromThePromises(t *testing.T) {
	r := promoting()
	done := r.Clone()
	done.Generation, done.Phase, done.Voters = 23, database.Steady, []database.Voter{voter("b1"), voter("b3")}
	done.Forks = append(done.Forks, database.Fork{Timeline: 4, Epoch: 4, Parent: 3, LSN: lsn})
	open := primary(done, "b2")
	open.Timeline = 4
	shut := open
	shut.Admits = false
	unknown, b3 := silent("b1", 9*time.Second), hears("b3", done, standby(done, "b3"))
	opened := "swap epoch=4 gen=24 phase=steady primary=b2 timeline=4 opened=true"

	late := since(done, 200*time.Millisecond)
	late.AgreedAt = time.Hour - 3500*time.Millisecond
	early := since(done, 3500*time.Millisecond)
	early.AgreedAt = time.Hour - 3*time.Second
	check(t, policy(), []situation{
		{"it counts from the promises, not from when our promotion was confirmed", view("b2", done, open, unknown, b3), late, opened},
		{"who was started anew counts from when it first saw them", view("b2", done, open, unknown, b3), database.Memory{}, "nothing"},
		{"the server lets clients in while listeners still hold them", view("b2", done, shut, unknown, b3), since(done, time.Second), "admit clients=true"},
		{"an age of the phase alone opens nothing", view("b2", done, open, unknown, b3), early, "nothing"},
	})

	d, _ := database.Decide(policy(), view("b2", done, open, unknown, b3), early)
	if d.Wake != 500*time.Millisecond {
		t.Errorf("the next look is in %s, the wait is over in 500 ms", d.Wake)
	}
}

func TestTheEthPromiseIsRemembered(t *testing.T) {
	r := steady()
	r.Epoch, r.Phase, r.Opened, r.Runner = 4, database.Recruiting, false, "b2"
	promised := func(host string) database.Local { return recruit(r, host, r.Timeline, lsn) }
	b3, away := hears("b3", r, promised("b3")), silent("b1", 3*time.Second)
	_, m := database.Decide(policy(), view("b2", r, promised("b2"), away, silent("b3", 3*time.Second)), database.Memory{})
	if m.Agreed {
		t.Error("one promise of two is taken for both")
	}
	v := view("b2", r, promised("b2"), away, b3)
	_, m = database.Decide(policy(), v, m)
	if !m.Agreed || m.AgreedAt != v.Now {
		t.Errorf("remembered %t at %s, now is %s", m.Agreed, m.AgreedAt, v.Now)
	}
	was := m.AgreedAt
	v.Record.Phase, v.Record.Primary, v.Now = database.Promoting, "b2", v.Now+time.Second
	_, m = database.Decide(policy(), v, m)
	if m.AgreedAt != was {
		t.Errorf("the choice of a primary moved it from %s to %s", was, m.AgreedAt)
	}
	v.Record.Epoch, v.Record.Phase, v.Now = 5, database.Recruiting, v.Now+time.Second
	if _, m = database.Decide(policy(), v, m); m.Agreed {
		t.Error("promises of another epoch are taken for those of this one")
	}
}

func TestASilentHostIsJudgedTheMomentItsSilenceCounts(t *testing.T) {
	r := steady()
	l := standby(r, "b2")
	v := view("b2", r, l, silent("b1", 2400*time.Millisecond), alsoDeaf(hears("b3", r, standby(r, "b3")), "b1", 2*time.Second))
	v.Advanced = 2 * time.Second
	d, m := database.Decide(policy(), v, since(r, time.Minute))
	if d.Wake != 100*time.Millisecond {
		t.Errorf("the next look is in %s, the silence counts in 100 ms", d.Wake)
	}
	v = view("b3", r, standby(r, "b3"), silent("b1", 2500*time.Millisecond), alsoDeaf(hears("b2", r, l), "b1", 2500*time.Millisecond))
	v.Advanced = 1900 * time.Millisecond
	if d, _ = database.Decide(policy(), v, m); d.Wake != 100*time.Millisecond {
		t.Errorf("the next look is in %s, the WAL's veto ends in 100 ms", d.Wake)
	}
	v = view("b2", r, l, silent("b1", 2500*time.Millisecond), alsoDeaf(hears("b3", r, standby(r, "b3")), "b1", 2500*time.Millisecond))
	v.Advanced = 2 * time.Second
	check(t, policy(), []situation{
		{"the first of those who are left begins at once", v, m, "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
	})
}

// A keeper that stands still fences nothing, so its server must not live on beside it.
func TestAServerWhoseKeeperIsSilentIsEnded(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	with := func(silent time.Duration) database.Local {
		l := l
		l.KeeperSilent = silent
		return l
	}
	late := view("b1", r, with(time.Minute), b2, b3)
	late.Late = true
	follower := standby(r, "b2")
	follower.KeeperSilent = 2 * time.Second
	m := since(r, time.Minute)
	check(t, policy(), []situation{
		{"not before two seconds", view("b1", r, with(1900*time.Millisecond), b2, b3), m, "nothing"},
		{"after two seconds", view("b1", r, with(2*time.Second), b2, b3), m, "kill"},
		{"a standby's too", view("b2", r, follower, hears("b1", r, l), b3), m, "kill"},
		{"who was late itself cannot tell", late, m, "nothing"},
	})
}
