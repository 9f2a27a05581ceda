package database_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

// hooked is a plan with an on_trouble of twenty seconds.
func hooked() database.Policy {
	p := policy()
	p.OnTrouble = 20 * time.Second
	return p
}

// running is a record in which on_trouble was begun on b1.
func running(r database.Record) database.Record {
	r.Hooks = []database.HookRun{{ID: "b1-3-20", Host: "b1", Kind: "io-error", Why: "its disk answers with errors"}}
	return r
}

func TestTheLadderForAPrimaryInTrouble(t *testing.T) {
	r := steady()
	on := running(r)
	over := running(r)
	over.Hooks[0].Ended = true
	up := primary(r, "b1")
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	broken := refuses(up, database.FaultIO)
	dead := gone(up, "signal 9")
	saw := since(r, time.Minute)
	saw.SawPrimary, saw.Names = true, up.Names
	for3 := saw
	for3.Hung, for3.HungSince = true, time.Hour-3*time.Second
	lately := saw
	lately.WasAlone, lately.AloneAt = true, time.Hour-time.Minute
	known := func(m database.Memory, ago time.Duration) database.Memory {
		m.HooksSeen = []database.HookSeen{{ID: "b1-3-20", At: time.Hour - ago}}
		return m
	}
	ended := func(m database.Memory, ago time.Duration) database.Memory {
		m = known(m, 20*time.Second)
		m.HooksSeen[0].Ended, m.HooksSeen[0].EndedAt = true, time.Hour-ago
		return m
	}
	mine := known(for3, 0)
	mine.HookAsked = "b1-3-20"
	begun := mine
	begun.HookBegun = "b1-3-20"
	lost := since(r, time.Minute)
	lost.Lost, lost.LostSince = true, time.Hour-15*time.Second
	busy := view("b1", on, broken, b2, b3)
	busy.Busy = []database.Kind{database.KindHook}
	told := "problem database.disk-broken"
	next := "swap epoch=3 gen=21 phase=steady primary=b1 timeline=3 opened=true"
	election := "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	blind := database.Local{Why: "input/output error", Disk: database.Disk{Fault: database.FaultIO, Said: "open: input/output error"}}
	check(t, hooked(), []situation{
		{"a first crash waits for no hook", view("b1", r, dead, b2, b3), saw, election},
		{"a crash after a restart in place does", view("b1", r, dead, b2, b3), lately, next},
		{"so does a disk that refuses, once its two seconds are over", view("b1", r, broken, b2, b3), for3, next + "; " + told},
		{"and one of which nothing can be read", view("b1", r, blind, b2, b3), for3, next + "; " + told},
		{"it is begun once it is agreed", view("b1", on, broken, b2, b3), mine, "hook for io-error; " + told},
		{"and only by the life of the agent that asked for it", view("b1", on, broken, b2, b3), known(for3, 0), next + "; " + told},
		{"nothing else happens while it runs", busy, begun, told},
		{"its end is agreed", view("b1", on, broken, b2, b3), begun, next + "; " + told},
		{"what it did may not be known yet", view("b1", over, broken, b2, b3), known(for3, 20*time.Second), told},
		{"so it is waited for", view("b1", over, broken, b2, b3), ended(for3, 2900*time.Millisecond), told},
		{"then the primary is ended", view("b1", over, broken, b2, b3), ended(for3, 3*time.Second), "kill; " + told},
		{"or replaced, where it had ended already", view("b1", over, dead, b2, b3), known(lately, 20*time.Second), election},
		{"the others wait while it runs", view("b2", on, standby(r, "b2"), hears("b1", on, refuses(dead, database.FaultIO)), b3), known(lost, 15*time.Second), "nothing"},
		{"for its limit and a little", view("b2", on, standby(r, "b2"), hears("b1", on, refuses(dead, database.FaultIO)), b3), known(lost, 24*time.Second), election},
		{"not when the host has fallen silent", func() database.View {
			v := view("b2", on, standby(r, "b2"), silent("b1", 3*time.Second), alsoDeaf(hears("b3", on, standby(r, "b3")), "b1", 3*time.Second))
			v.Advanced = database.Never
			return v
		}(), known(lost, time.Second), election},
		{"not once it is over", view("b2", over, standby(r, "b2"), hears("b1", over, dead), b3), known(lost, time.Second), election},
		{"it has another turn after ten minutes", view("b1", over, broken, b2, b3), known(for3, 11*time.Minute), next + "; " + told},
		{"and none while the database is paused", func() database.View {
			v := view("b1", r, broken, b2, b3)
			v.Requests = []database.Request{pausing(time.Hour)}
			return v
		}(), for3, told + "; problem database.paused"},
		{"one that was agreed before the pause does not run, and that was no turn", func() database.View {
			v := view("b1", on, broken, b2, b3)
			v.Requests = []database.Request{pausing(time.Hour)}
			return v
		}(), mine, next + "; " + told},
	})
	check(t, policy(), []situation{{"a plan without one goes on to the next rung", view("b1", r, broken, b2, b3), for3, "kill; " + told}})
}

// A command that serves an epoch or a run that is over is ended, also by a host that cannot read what lies there.
func TestACommandForATroubleThatIsOverIsEnded(t *testing.T) {
	r := steady()
	on := running(r)
	over := running(r)
	over.Hooks[0].Ended = true
	moved := running(r)
	moved.Epoch, moved.Phase = 4, database.Recruiting
	alone := running(r)
	alone.Epoch = 4
	blind := database.Local{Why: "input/output error", Disk: database.Disk{Fault: database.FaultIO, Said: "open: input/output error"}}
	for _, c := range []struct {
		name  string
		r     database.Record
		local database.Local
		ends  bool
	}{
		{"it goes on while its run stands", on, primary(r, "b1"), false},
		{"also where nothing can be read", on, blind, false},
		{"its run is over", over, primary(r, "b1"), true},
		{"an election has begun", moved, primary(r, "b1"), true},
		{"an election has begun, and nothing can be read", moved, blind, true},
		{"the same primary came back in another epoch", alone, blind, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := since(c.r, time.Minute) // this is not the round in which the epoch was seen first
			m.HookAsked, m.HookBegun = "b1-3-20", "b1-3-20"
			v := view("b1", c.r, c.local, hears("b2", c.r, standby(r, "b2")), hears("b3", c.r, standby(r, "b3")))
			v.Busy = []database.Kind{database.KindHook}
			if d, _ := database.Decide(hooked(), v, m); d.Interrupt != c.ends {
				t.Errorf("it is ended: %t; %v", d.Interrupt, d.Because)
			}
		})
	}
}

func TestTheLadderIsToldInOrder(t *testing.T) {
	r := running(steady())
	x := database.Explain(hooked(), view("b1", r, primary(r, "b1"), hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), database.Decision{})
	if len(x.Ladder) != 3 || !strings.Contains(x.Ladder[0], "restart in place") || !strings.Contains(x.Ladder[1], "runs on b1") || !strings.Contains(x.Ladder[2], "standby takes over") {
		t.Errorf("%q", x.Ladder)
	}
}
