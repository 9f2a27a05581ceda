package database_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
)

// swapOf is the record that a decision asks for, and what the history will say of it.
func swapOf(t *testing.T, v database.View, m database.Memory) (database.Record, string) {
	t.Helper()
	d, _ := database.Decide(policy(), v, m)
	if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap {
		t.Fatalf("asked for %s, because %s", asked(d), strings.Join(d.Because, "; "))
	}
	return *d.Actions[0].Record, d.Actions[0].Told
}

func TestAChangeOfPrimaryIsTimedAndTold(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	saw := since(r, time.Minute)
	saw.SawPrimary, saw.Prepared = true, "s1"
	s := r
	s.Phase, s.Opened, s.SwitchTo, s.Switch = database.Switching, false, "b2", "s1"
	stopped := gone(recruit(s, "b1", 3, lsn), "stopped")
	stopped.ShutDown, stopped.Promise.Epoch, stopped.Position.Epoch = true, 4, 4
	handing := since(s, 450*time.Millisecond)
	handing.Stopped, handing.Promised = 200*time.Millisecond, 300*time.Millisecond
	promoting := r
	promoting.Phase, promoting.Opened, promoting.Epoch, promoting.Timeline = database.Promoting, false, 4, 4
	promoting.Primary, promoting.Incarnation, promoting.Former = "b2", incarnation("b2"), voter("b1")
	promoting.Spans = []database.Span{{Name: "stop", Took: 200 * time.Millisecond}}
	made := primary(promoting, "b2")
	made.Names = database.Names{W: 1, List: []string{"i-b1@4", "i-b3@4"}}
	made.History = append(history(r), database.Fork{Timeline: 4, Parent: 3, LSN: lsn})
	open := promoting
	open.Phase, open.Voters = database.Steady, []database.Voter{voter("b1"), voter("b3")}
	open.Spans = append(open.Spans, database.Span{Name: "promote", Took: 150 * time.Millisecond})
	ms := time.Millisecond
	for _, tt := range []struct {
		name  string
		v     database.View
		m     database.Memory
		spans []database.Span
		told  string
	}{
		{"a failover begins", view("b1", r, gone(up, "signal 9"), hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), saw, nil,
			"failover begins: b1 does not serve any more (epoch 4)"},
		{"a switchover begins", while(view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))),
			database.Request{ID: "s1", Kind: "switchover", To: "b2", By: "ann"}), saw, nil, "switchover from b1 to b2 begins"},
		{"it hands over", view("b1", s, stopped, hears("b2", s, standby(s, "b2")), hears("b3", s, standby(s, "b3"))), handing,
			[]database.Span{{Name: "stop", Took: 200 * ms}, {Name: "promise", Took: 100 * ms}, {Name: "level", Took: 150 * ms}}, "b2 is chosen as the primary (epoch 4)"},
		{"the new one is confirmed", view("b2", promoting, made, hears("b1", promoting, stopped), hears("b3", promoting, standby(promoting, "b3"))), since(promoting, 150*ms),
			[]database.Span{{Name: "stop", Took: 200 * ms}, {Name: "promote", Took: 150 * ms}}, ""},
		{"and open", view("b2", open, made, hears("b1", open, stopped), hears("b3", open, standby(open, "b3"))), since(open, 50*ms),
			[]database.Span{{Name: "stop", Took: 200 * ms}, {Name: "promote", Took: 150 * ms}, {Name: "open", Took: 50 * ms}},
			"b2 is the primary, open to clients (epoch 4) after 0.40 s: stop 0.20 s, promote 0.15 s, open 0.05 s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next, told := swapOf(t, tt.v, tt.m)
			if diff := cmp.Diff(tt.spans, next.Spans); diff != "" || told != tt.told {
				t.Errorf("told %q\n%s", told, diff)
			}
		})
	}
}

func TestATargetThatFallsSilentIsNotWaitedFor(t *testing.T) {
	r := steady()
	s := r
	s.Phase, s.Opened, s.SwitchTo, s.Switch = database.Switching, false, "b2", "s1"
	stopped := gone(recruit(s, "b1", 3, lsn), "stopped")
	stopped.ShutDown, stopped.Promise.Epoch, stopped.Position.Epoch = true, 4, 4
	behind := standby(s, "b2")
	behind.Flushed = lsn - 1
	for _, tt := range []struct {
		name    string
		after   time.Duration
		b2      database.Peer
		resumes bool
	}{
		{"it is heard and comes nearer", 3 * time.Second, hears("b2", s, behind), false},
		{"it has been silent for a moment", 3 * time.Second, silent("b2", 2400*time.Millisecond), false},
		{"its listener still beats", 3 * time.Second, database.Peer{Host: "b2", AgentAge: 3 * time.Second, GateAge: 100 * time.Millisecond}, false},
		{"it is dead or cut off", 3 * time.Second, silent("b2", 2500*time.Millisecond), true},
		{"our agent has just started and has heard nobody", 200 * time.Millisecond, silent("b2", database.Never), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := database.Decide(policy(), view("b1", s, stopped, tt.b2, hears("b3", s, standby(s, "b3"))), since(s, tt.after))
			got := len(d.Actions) == 1 && d.Actions[0].Kind == database.KindSwap && d.Actions[0].Record.Primary == "b1" && d.Actions[0].Record.Epoch == 4
			if got != tt.resumes {
				t.Errorf("asked for %s, because %s", asked(d), strings.Join(d.Because, "; "))
			}
		})
	}
}
