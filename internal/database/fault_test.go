package database_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

// refuses is a server on a disk that refuses to be written to.
func refuses(l database.Local, f database.DiskFault) database.Local {
	l.Disk.Fault, l.Disk.Said = f, "write touched: "+string(f)
	if l.Role == database.Primary {
		l.Writable = string(f)
	}
	return l
}

func TestADiskThatRefusesIsAsACrash(t *testing.T) {
	r := steady()
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	up := primary(r, "b1")
	seen := func(d time.Duration) database.Memory {
		m := since(r, time.Minute)
		m.SawPrimary, m.Names, m.Hung, m.HungSince = true, up.Names, true, time.Hour-d
		return m
	}
	lost := func(d time.Duration) database.Memory {
		m := since(r, time.Minute)
		m.Lost, m.LostSince = true, time.Hour-d
		return m
	}
	dead := func(f database.DiskFault) database.Local { return gone(refuses(up, f), "exit status 1") }
	saw := since(r, time.Minute)
	saw.SawPrimary = true
	recruiting := r.Clone()
	recruiting.Epoch, recruiting.Phase, recruiting.Opened, recruiting.Generation = 4, database.Recruiting, false, 21
	broken := "problem database.disk-broken"
	for _, f := range []database.DiskFault{database.FaultReadOnly, database.FaultIO} {
		t.Run(string(f), func(t *testing.T) {
			check(t, policy(), []situation{
				{"ends the primary after two seconds", view("b1", r, refuses(up, f), b2, b3), seen(2 * time.Second), "kill; " + broken},
				{"and not before", view("b1", r, refuses(up, f), b2, b3), seen(time.Second), broken},
				{"nor while too few standbys answer", view("b1", r, refuses(up, f), b2, silent("b3", time.Minute)), seen(time.Minute),
					broken + "; problem database.hung"},
				{"nor while another's disk refuses, too", view("b1", r, refuses(up, f), b2, hears("b3", r, refuses(standby(r, "b3"), f))), seen(time.Minute),
					broken + "; problem database.hung"},
				{"a server that ended of it is replaced", view("b1", r, dead(f), b2, b3), saw,
					"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false; " + broken},
				{"and is not started in place where nobody can replace it", view("b1", r, dead(f), b2, silent("b3", time.Minute)), saw, broken},
				{"the others wait for its own host", view("b2", r, standby(r, "b2"), hears("b1", r, refuses(up, f)), b3), lost(11 * time.Second), "nothing"},
				{"and elect when it is still there", view("b2", r, standby(r, "b2"), hears("b1", r, refuses(up, f)), b3), lost(13 * time.Second),
					"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
				{"a stopped standby on it is not started", view("b2", r, refuses(gone(standby(r, "b2"), "exit status 1"), f), hears("b1", r, up), b3),
					since(r, time.Minute), broken},
			})
		})
	}
}

func TestADiskOfWhichNothingCanBeRead(t *testing.T) {
	r := steady()
	b3 := hears("b3", r, standby(r, "b3"))
	blind := database.Local{Why: "open: input/output error", Disk: database.Disk{Fault: database.FaultIO, Said: "open: input/output error"}}
	lost := func(d time.Duration) database.Memory {
		m := since(r, time.Minute)
		m.Lost, m.LostSince = true, time.Hour-d
		return m
	}
	check(t, policy(), []situation{
		{"its own host says so and gives no lease", view("b1", r, blind, hears("b2", r, standby(r, "b2")), b3), since(r, time.Minute), "problem database.disk-broken"},
		{"the others give it two seconds", view("b2", r, standby(r, "b2"), hears("b1", r, blind), b3), lost(time.Second), "nothing"},
		{"and elect", view("b2", r, standby(r, "b2"), hears("b1", r, blind), b3), lost(3 * time.Second),
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
	})
}

func TestAFullDiskIsNoCrash(t *testing.T) {
	r := steady()
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	full := refuses(primary(r, "b1"), database.FaultFull)
	full.Disk.Size, full.Disk.Free = 100<<30, 50<<30 // room, and a limit of another kind
	m := since(r, time.Minute)
	m.SawPrimary, m.Names = true, full.Names
	stopped := gone(full, "exit status 1")
	check(t, policy(), []situation{
		{"new transactions may not write", view("b1", r, full, b2, b3), m, "read-only on=true; problem database.disk-low"},
		{"a server that ended of it is not started", view("b1", r, stopped, b2, silent("b3", time.Minute)), m, "problem database.disk-full"},
	})
}

// The evidence says what the disk answered, in words that an operator can look up.
func TestAFaultIsToldWithWhatTheDiskSaid(t *testing.T) {
	r := steady()
	up := refuses(primary(r, "b1"), database.FaultReadOnly)
	m := since(r, time.Minute)
	m.Names, m.Hung, m.HungSince = up.Names, true, time.Hour-3*time.Second
	d, _ := database.Decide(policy(), view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), m)
	if len(d.Actions) != 1 || !strings.Contains(d.Actions[0].Why, "write touched: read-only") {
		t.Errorf("%+v", d.Actions)
	}
}
