package database_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

const gib = int64(1 << 30)

// onDisk is the healthy primary with this much free of 100 GiB.
func onDisk(r database.Record, free int64) database.Local {
	l := primary(r, "b1")
	l.Disk = database.Disk{Size: 100 * gib, Free: free, Reserve: gib / 4}
	return l
}

func TestAPrimaryWhoseDiskIsNearlyFull(t *testing.T) {
	r := steady()
	roomy := standby(r, "b3")
	roomy.Disk = database.Disk{Size: 100 * gib, Free: 50 * gib}
	tight := standby(r, "b2")
	tight.Disk = database.Disk{Size: 100 * gib, Free: gib}
	failover := policy()
	failover.DiskFull = database.DiskFailover
	readOnly := onDisk(r, gib/4)
	readOnly.ReadOnly = true
	again := onDisk(r, 2*gib)
	again.ReadOnly = true
	between := onDisk(r, 3*gib/4)
	between.ReadOnly = true
	wasLow := since(r, time.Minute)
	wasLow.DiskLow = true
	peers := []database.Peer{hears("b2", r, tight), hears("b3", r, roomy)}
	calm := since(r, time.Minute)
	stopping := r
	stopping.Phase, stopping.Opened, stopping.SwitchTo, stopping.Switch = database.Switching, false, "b3", ""
	_, moved := database.Decide(failover, view("b1", stopping, onDisk(stopping, gib/4), peers...), calm)
	check(t, policy(), []situation{
		{"with room nothing happens", view("b1", r, onDisk(r, 10*gib), peers...), calm, "nothing"},
		{"below the floor new transactions may not write", view("b1", r, onDisk(r, gib/4), peers...), calm, "read-only on=true; problem database.disk-low"},
		{"then a checkpoint lets log go", view("b1", r, readOnly, peers...), calm, "checkpoint; problem database.disk-low"},
		{"a little above the floor it stays so", view("b1", r, between, peers...), wasLow, "checkpoint; problem database.disk-low"},
		{"with room again writes go on", view("b1", r, again, peers...), wasLow, "read-only on=false"},
	})
	check(t, failover, []situation{
		{"by policy a standby with room takes over", view("b1", r, onDisk(r, gib/4), peers...), calm,
			"swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false; problem database.disk-low"},
		{"not at once again when we came back from it", view("b1", r, onDisk(r, gib/4), peers...), moved, "read-only on=true; problem database.disk-low"},
		{"not one without room", view("b1", r, onDisk(r, gib/4), hears("b2", r, tight), silent("b3", time.Minute)), calm, "read-only on=true; problem database.disk-low"},
	})
}

func TestAServerOnAFullDiskIsNotStartedAgainAndAgain(t *testing.T) {
	r := steady()
	full := gone(primary(r, "b1"), "it ended")
	full.Disk = database.Disk{Size: 100 * gib, Free: 1 << 20}
	held := full
	held.Disk.Reserve = gib / 4
	v := func(l database.Local) database.View {
		return view("b1", r, l, silent("b2", time.Minute), silent("b3", time.Minute))
	}
	check(t, policy(), []situation{
		{"it stays stopped, and it is said why", v(full), since(r, time.Minute), "problem database.disk-full"},
		{"the reserve lets it start once", v(held), since(r, time.Minute), "swap epoch=4 gen=21 phase=promoting primary=b1 timeline=4 opened=false"},
	})
	follower := gone(standby(r, "b2"), "it ended")
	follower.Disk = full.Disk
	check(t, policy(), []situation{
		{"so does a standby", view("b2", r, follower, hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3"))), since(r, time.Minute), "problem database.disk-full"},
	})
}

func TestAFullDiskIsForeseen(t *testing.T) {
	r := steady()
	l := onDisk(r, 40*gib)
	l.Slots = []database.Slot{{Incarnation: "i-b3", Kept: 3 * gib}}
	p := policy()
	p.Slots = database.SlotLimits{Max: 90 * gib}
	v := view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute))
	m := since(r, time.Minute)
	var d database.Decision
	said := ""
	for at := 0; at < 600; at++ { // 3 GiB in 10 minutes: 37 of them last for about two hours
		d, m = database.Decide(p, v, m)
		v.Now += time.Second
		v.Local.Disk.Free -= 3 * gib / 600
		for _, s := range problems(d) {
			if strings.Contains(s, "disk-full-soon") && said == "" {
				said = s
				if at < 100 {
					t.Errorf("after %d s it is guessed: %s", at, s)
				}
			}
		}
	}
	if !strings.Contains(said, "full in 2 h") || !strings.Contains(said, "kept for b3") {
		t.Errorf("it says: %q", said)
	}
	v.Local.Disk.Free = 37 * gib
	for range 1200 { // nothing more is used
		d, m = database.Decide(p, v, m)
		v.Now += time.Second
	}
	if slices.ContainsFunc(problems(d), func(s string) bool { return strings.Contains(s, "disk-full-soon") }) {
		t.Errorf("the disk does not fill any more, and it says: %v", problems(d))
	}
	if len(m.DiskSeen) > 60 {
		t.Errorf("%d looks are remembered", len(m.DiskSeen))
	}
}

func TestAFullDiskLetsGoWhatIsKeptForOthersFirst(t *testing.T) {
	r := steady()
	l := onDisk(r, gib/4)
	l.ReadOnly = true
	l.Senders = l.Senders[:1]
	l.Slots = []database.Slot{{Incarnation: "i-b3", Kept: 3 * gib}}
	v := view("b1", r, l, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute))
	if d := later(policy(), v, since(r, time.Minute), 10*time.Second); !slices.Contains(dropped(d), "i-b3") {
		t.Errorf("the log of an absent standby is kept on a full disk: %+v", d.Slots)
	}
}
