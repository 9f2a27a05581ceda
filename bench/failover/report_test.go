package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestLongestGap(t *testing.T) {
	at := func(times ...int) (out []ack) {
		for i, n := range times {
			out = append(out, ack{int64(i), time.Duration(n) * ms})
		}
		return out
	}
	for _, c := range []struct {
		name         string
		acks         []ack
		since, until int
		want         int
	}{
		{"the silence around the fault counts from the last answer before it", at(10, 20, 300, 310), 25, 320, 280},
		{"a silence before the fault does not count", at(10, 500, 510, 530), 505, 540, 20},
		{"a silence that lasts to the end counts", at(10, 20, 30), 25, 400, 370},
		{"a second, longer silence counts", at(10, 110, 120, 420), 15, 430, 300},
		{"no answer at all is a silence from the beginning", nil, 10, 90, 90},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := longestGap(c.acks, time.Duration(c.since)*ms, time.Duration(c.until)*ms); got != time.Duration(c.want)*ms {
				t.Errorf("got %s, want %d ms", got, c.want)
			}
		})
	}
}

func TestWritesFlowOnlyAfterAnswersInARowUpToNow(t *testing.T) {
	var acks []ack
	for i := range resumedAfter {
		acks = append(acks, ack{int64(i), time.Duration(i) * writePause})
	}
	last := acks[len(acks)-1].at
	if !flows(acks, last+writePause) {
		t.Error("they flow, and it says they do not")
	}
	if flows(acks[1:], last+writePause) {
		t.Error("too few answers are taken for a flow")
	}
	if flows(acks, last+steadyPause+1) {
		t.Error("a flow that has ended is taken for one")
	}
	acks[0].at = acks[1].at - steadyPause - 1
	if flows(acks, last+writePause) {
		t.Error("a silence in the middle is overlooked")
	}
}

func TestLostRowsAreCounted(t *testing.T) {
	acks := []ack{{1, 0}, {2, 0}, {4, 0}}
	if n := lost(acks, map[int64]bool{1: true, 3: true, 4: true}); n != 1 {
		t.Errorf("%d rows lost, want 1", n)
	}
}

func TestVerdict(t *testing.T) {
	good := func() []round {
		var out []round
		for _, f := range faults { // three at the aim, and the worst at the target
			usual, ok := aims[f]
			if !ok {
				usual = targets[f]
			}
			for _, outage := range []time.Duration{usual, usual, usual, targets[f]} {
				out = append(out, round{system: ours, fault: f, outage: outage, acknowledged: 100})
			}
		}
		return out
	}
	slower := func(r []round, f fault, by float64) []round {
		for i := range r {
			if r[i].fault == f && r[i].outage == aims[f] {
				r[i].outage = time.Duration(by * float64(aims[f]))
			}
		}
		return r
	}
	for _, c := range []struct {
		name   string
		change func([]round) []round
		want   string // "" = all is well
	}{
		{"every target and every aim met to the point is well", func(r []round) []round { return r }, ""},
		{"one slow round among quick ones is told", func(r []round) []round {
			return append(r, round{system: ours, fault: switchover, outage: targets[switchover] + 10*ms})
		}, "switchover: an outage of 1.01 s"},
		{"a median above its aim is told", func(r []round) []round { return slower(r, hostLoss, 1.03) }, "host-loss: a median outage of 6.180 s, 6.00 s is aimed at, and 2 % beside it"},
		{"a switchover's likewise", func(r []round) []round { return slower(r, switchover, 1.05) }, "switchover: a median outage of 0.525 s"},
		{"as much as measuring may add is well", func(r []round) []round { return slower(r, hostLoss, 1.0199) }, ""},
		{"a lost row is told", func(r []round) []round { r[0].lost = 1; return r }, "crash: 1 acknowledged rows are lost"},
		{"a lost row of an unfinished round is told", func(r []round) []round {
			return append(r, round{system: ours, fault: crash, lost: 2, err: errors.New("no")})
		}, "crash: 2 acknowledged rows are lost"},
		{"an unfinished round is told", func(r []round) []round { r[4].err = errors.New("no"); return r }, "host-loss: 3 rounds measured, 1 not finished"},
		{"a fault that was never measured is told", func(r []round) []round { return r[:12] }, "switchover: 0 rounds measured"},
		{"what befalls a peer is not ours", func(r []round) []round {
			return append(r, round{system: "patroni-default", fault: crash, outage: time.Hour, lost: 9})
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := verdict(c.change(good()))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	if got, want := spreadOf([]time.Duration{4 * ms, ms, 2 * ms, 9 * ms}), (spread{ms, 3 * ms, 9 * ms}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhatWasPromisedAndAimedAtIsToldApart(t *testing.T) {
	s := summary{measured: 3, outage: spread{ms, 700 * ms, 900 * ms}}
	if got, want := compared(s, crash), "crash: worst 0.90 s, promised 2.00 s: met; median 0.70 s, aimed at 0.60 s: missed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := compared(summary{failed: 1}, crash); got != "" {
		t.Errorf("of nothing measured it says %q", got)
	}
}
