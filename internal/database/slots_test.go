package database_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

// later judges a view again and again, a second apart, and gives the last decision.
func later(p database.Policy, v database.View, m database.Memory, d time.Duration) database.Decision {
	var last database.Decision
	for ; d >= 0; d -= time.Second {
		last, m = database.Decide(p, v, m)
		v.Now += time.Second
	}
	return last
}

func dropped(d database.Decision) []string {
	if d.Slots == nil {
		return nil
	}
	return d.Slots.Drop
}

func TestAStandbyKeepsASlotForEveryOther(t *testing.T) {
	r := steady()
	ahead := primary(r, "b1")
	ahead.Flushed = lsn + 500
	behind := standby(r, "b3")
	behind.Flushed = lsn - 500
	v := view("b2", r, standby(r, "b2"), hears("b1", r, ahead), hears("b3", r, behind))
	d, m := database.Decide(policy(), v, since(r, time.Minute))
	want := []database.SlotAt{{Incarnation: "i-b1", At: lsn + 500}, {Incarnation: "i-b3", At: lsn - 500}}
	if d.Slots == nil || !slices.Equal(d.Slots.Keep, want) || len(d.Slots.Drop) > 0 {
		t.Errorf("slots: %+v, want %+v", d.Slots, want)
	}
	// One that is not heard keeps what it has, and none is made for it.
	v.Peers = []database.Peer{hears("b1", r, ahead), silent("b3", 5*time.Second)}
	v.Local.Slots = []database.Slot{{Incarnation: "i-b1", At: lsn}, {Incarnation: "i-b3", At: lsn - 500, Kept: 500}}
	if d, _ := database.Decide(policy(), v, m); len(d.Slots.Keep) != 1 || d.Slots.Keep[0].Incarnation != "i-b1" || len(d.Slots.Drop) > 0 {
		t.Errorf("slots of one that is not heard: %+v", d.Slots)
	}
	// No slots are touched while a primary is being chosen.
	v.Record.Phase = database.Recruiting
	if d, _ := database.Decide(policy(), v, since(v.Record, time.Second)); d.Slots != nil {
		t.Errorf("slots in an election: %+v", d.Slots)
	}
}

func TestWhatIsKeptForOneWhoIsAwayHasCaps(t *testing.T) {
	r := steady()
	p := policy()
	p.Slots = database.SlotLimits{Max: 100 << 20, After: 10 * time.Minute}
	with := func(s database.Slot) database.View {
		l := primary(r, "b1")
		l.Senders = l.Senders[:1]
		l.Slots = []database.Slot{{Incarnation: "i-b2", Active: true, Kept: 1 << 40}, s}
		return view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute))
	}
	away := database.Slot{Incarnation: "i-b3", Kept: 10 << 20}
	big := database.Slot{Incarnation: "i-b3", Kept: 101 << 20}
	lost := database.Slot{Incarnation: "i-b3", Lost: true}
	stray := database.Slot{Incarnation: "i-of-a-failed-copy", Kept: 1}
	for _, c := range []struct {
		name  string
		slot  database.Slot
		after time.Duration
		drop  bool
	}{
		{"a little, for a short time, stays", away, time.Minute, false},
		{"longer than the cap of time goes", away, 11 * time.Minute, true},
		{"more than the cap of size goes at once", big, 0, true},
		{"what PostgreSQL has given up goes at once, so that it can be made anew", lost, 0, true},
		{"one of nobody who is known stays for the minute that a report may take", stray, 30 * time.Second, false},
		{"and then goes", stray, 62 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := since(r, time.Minute)
			d := later(p, with(c.slot), m, c.after)
			if got := slices.Contains(dropped(d), c.slot.Incarnation); got != c.drop {
				t.Errorf("dropped %t: %+v because %v", got, d.Slots, d.Because)
			}
			if slices.Contains(dropped(d), "i-b2") {
				t.Error("the slot of a standby that streams was dropped")
			}
		})
	}
	// It is said when the cap is near, with the name of the host.
	d := later(p, with(away), since(r, time.Minute), 6*time.Minute)
	if !slices.ContainsFunc(problems(d), func(s string) bool { return strings.Contains(s, "database.slot-grows") && strings.Contains(s, "b3") }) {
		t.Errorf("half of the cap is passed and nobody says so: %v", problems(d))
	}
}

func problems(d database.Decision) []string {
	var out []string
	for _, p := range d.Problems {
		out = append(out, p.Code+" "+p.Title+" "+p.Meaning)
	}
	return out
}

func TestACopyThatIsOnItsWayKeepsItsSlot(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	l.Slots = []database.Slot{{Incarnation: "i-new", Kept: 5}}
	making := nothingYet()
	making.Data, making.Copying = database.DataPartial, "i-new"
	v := view("b1", r, l, hears("b2", r, standby(r, "b2")), hears("b3", r, making))
	if d := later(policy(), v, since(r, time.Minute), 5*time.Minute); len(dropped(d)) > 0 {
		t.Errorf("the slot of a copy on its way was dropped: %v", d.Because)
	}
}

func TestLogThatIsGoneMeansACopy(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	up.Oldest = lsn + 1
	cut := standby(r, "b2")
	cut.Receiving = false
	m := since(r, time.Minute)
	m.Cut, m.CutSince = true, time.Hour-4*time.Second
	m.Refollowed = 4 * time.Second
	check(t, policy(), []situation{
		{"at once when others hold every commit", view("b2", r, cut, hears("b1", r, up), hears("b3", r, standby(r, "b3"))), m, "clone from=b3 epoch=3"},
	})
	up.Oldest = lsn
	check(t, policy(), []situation{
		{"log that is still there is waited for", view("b2", r, cut, hears("b1", r, up), hears("b3", r, standby(r, "b3"))), m, "nothing"},
	})
	lone := up
	lone.Oldest, lone.Senders = lsn+1, nil
	check(t, policy(), []situation{
		{"one that the primary needs to acknowledge anything is not replaced so soon", view("b2", r, cut, hears("b1", r, lone), silent("b3", time.Minute)), m, "nothing"},
	})
	m.CutSince = time.Hour - 21*time.Second
	m.Refollowed = 21 * time.Second
	check(t, policy(), []situation{
		{"but after twenty seconds, for writes wait for it", view("b2", r, cut, hears("b1", r, lone), silent("b3", time.Minute)), m, "clone from=b1 epoch=3"},
	})
}
