package database_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

const sign = `PANIC: could not open file "...": No such file or directory`

// crashed is a primary that ended with last words.
func crashed(l database.Local, life, sign string) database.Local {
	l = gone(l, "ended by itself")
	l.Ended = &database.LastWords{Life: life, Sign: sign, Text: sign}
	return l
}

// ends are earlier ends with one sign, one on each host.
func ends(sign string, hosts ...string) []database.End {
	var out []database.End
	for i, h := range hosts {
		out = append(out, database.End{LastWords: database.LastWords{Life: "before-" + h, Sign: sign, Text: sign}, Host: h, Epoch: int64(i + 1)})
	}
	return out
}

// seen is a memory in which the record's ends were first seen so long ago.
func seen(m database.Memory, r database.Record, ago time.Duration) database.Memory {
	for _, e := range r.Ends {
		m.EndsSeen = append(m.EndsSeen, database.EndSeen{Life: e.Life, At: time.Hour - ago})
	}
	return m
}

func TestMovesEndWhenTheyCannotHelp(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	saw := func(r database.Record, ago time.Duration) database.Memory {
		m := since(r, time.Minute)
		m.SawPrimary = true
		return seen(m, r, ago)
	}
	twice := r
	twice.Ends = ends(sign, "b2", "b3")
	other := r
	other.Ends = ends("checkpointer process was terminated by signal 11: Segmentation fault", "b2", "b3")
	again := r
	again.Ends = append(ends(sign, "b2"), database.End{LastWords: database.LastWords{Life: "l9", Sign: sign}, Host: "b1", Epoch: 3})
	halted := twice
	halted.Halt, halted.Opened = &database.Halt{Sign: sign}, false
	tried := halted
	tried.Halt = &database.Halt{Sign: sign, Tries: 3}
	opened := halted
	opened.Opened = true
	down := func(r database.Record, ago time.Duration) database.Memory {
		m := saw(r, time.Minute)
		m.Down, m.DownSince = true, time.Hour-ago
		return m
	}
	healthy := func(for_ time.Duration) database.Memory {
		m := seen(since(opened, for_), opened, for_)
		m.SawPrimary = true
		return m
	}
	asks := database.Request{ID: "r1", Kind: "resume", By: "ann"}
	const election = "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	const inPlace = "swap epoch=4 gen=21 phase=promoting primary=b1 timeline=4 opened=false"
	const stays = "swap epoch=3 gen=21 phase=steady primary=b1 timeline=3 opened=false"
	const goesOn = "swap epoch=3 gen=21 phase=steady primary=b1 timeline=3 opened=true"
	const told = "problem database.failover-cannot-help"
	check(t, policy(), []situation{
		{"the first end with last words is an ordinary failover", view("b1", r, crashed(up, "l9", sign), b2, b3), saw(r, 0), election},
		{"the third of one sign within the window is none", view("b1", twice, crashed(up, "l9", sign), b2, b3), saw(twice, 9*time.Minute), stays},
		{"nor when another host judges it", view("b2", twice, standby(twice, "b2"), hears("b1", twice, crashed(up, "l9", sign)), b3), func() database.Memory {
			m := saw(twice, time.Minute)
			m.Lost, m.LostSince = true, time.Hour-time.Minute
			return m
		}(), stays},
		{"what lies outside the window counts no more", view("b1", twice, crashed(up, "l9", sign), b2, b3), saw(twice, 11*time.Minute), election},
		{"ends of another sign do not count", view("b1", other, crashed(up, "l9", sign), b2, b3), saw(other, time.Minute), election},
		{"a server that somebody killed says nothing", view("b1", twice, gone(up, "signal 9"), b2, b3), saw(twice, time.Minute), election},
		{"one end is counted once", view("b1", again, crashed(up, "l9", sign), b2, b3), saw(again, time.Minute), election},
		{"once halted nobody takes over from a primary that ends", view("b2", halted, standby(halted, "b2"), hears("b1", halted, gone(up, "signal 9")), b3),
			since(halted, time.Minute), told},
		{"nor from one that is silent", view("b2", halted, standby(halted, "b2"), silent("b1", time.Minute), b3), since(halted, time.Minute), told},
		{"an attempt in place waits", view("b1", halted, crashed(up, "l9", sign), b2, b3), down(halted, 9*time.Second), told},
		{"then it is made, although others could take over", view("b1", halted, crashed(up, "l9", sign), b2, b3), down(halted, 11*time.Second), inPlace + "; " + told},
		{"attempts have an end", view("b1", tried, crashed(up, "l9", sign), b2, b3), down(tried, 50*time.Minute), told},
		{"an operator lets moves go on", while(view("b2", tried, standby(tried, "b2"), hears("b1", tried, crashed(up, "l9", sign)), b3), asks), since(tried, time.Minute), stays + "; " + told},
		{"so does an hour that was well", view("b1", opened, up, b2, b3), healthy(61 * time.Minute), goesOn + "; " + told},
		{"not less", view("b1", opened, up, b2, b3), healthy(59 * time.Minute), told},
		{"ends that are long past are forgotten", view("b1", twice, up, b2, b3), saw(twice, 11*time.Minute), goesOn},
	})
}

func TestAHaltKeepsItsEvidence(t *testing.T) {
	r := steady()
	r.Ends = ends(sign, "b2", "b3")
	m := seen(since(r, time.Minute), r, time.Minute)
	m.SawPrimary = true
	d, _ := database.Decide(policy(), view("b1", r, crashed(primary(r, "b1"), "l9", sign), hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), m)
	next := d.Actions[0].Record
	if next.Halt == nil || next.Halt.Sign != sign || len(next.Ends) != 3 || next.Ends[2].Host != "b1" || next.Ends[2].Epoch != 3 {
		t.Fatalf("halt %+v, ends %+v", next.Halt, next.Ends)
	}
	if told := d.Actions[0].Told; !strings.Contains(told, "3 times, on b2, b3, b1") || !strings.Contains(told, sign) {
		t.Errorf("the history is told %q", told)
	}
	if next.Primary != "b1" || !slices.Equal(next.Voters, r.Voters) || next.E != r.E || next.W != r.W {
		t.Errorf("a halt changed more than that: %+v", next)
	}
	r = *next
	d, _ = database.Decide(policy(), view("b3", r, standby(r, "b3"), hears("b1", r, primary(r, "b1")), hears("b2", r, standby(r, "b2"))), since(r, time.Minute))
	if !slices.Contains(codes(d), "database.failover-cannot-help") {
		t.Errorf("problems: %v", codes(d))
	}
}

func codes(d database.Decision) []string {
	var out []string
	for _, p := range d.Problems {
		out = append(out, p.Code)
	}
	return out
}

// Three hosts may lose their disks in one night: that is no reason to give up the one that is left.
func TestADiskOfItsOwnIsNoReasonToStopMoving(t *testing.T) {
	r := steady()
	r.Ends = ends(sign, "b2", "b3")
	dead := gone(primary(r, "b1"), "exit status 1")
	dead.Ended = &database.LastWords{Life: "b1-9", Sign: sign, Text: sign, Own: true}
	m := since(r, time.Minute)
	m.SawPrimary = true
	check(t, policy(), []situation{
		{"the third end of one sign", view("b1", r, dead, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), m,
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
	})
}
