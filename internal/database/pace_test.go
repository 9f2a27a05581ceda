package database_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

func TestARestartInPlaceComesFirstWhereItIsSooner(t *testing.T) {
	r := steady()
	quick := r
	quick.Pace = database.Pace{Failover: 1200 * time.Millisecond, Restart: 900 * time.Millisecond}
	slow := r
	slow.Pace = database.Pace{Failover: 900 * time.Millisecond, Restart: 1200 * time.Millisecond}
	half := r
	half.Pace = database.Pace{Failover: 9 * time.Second}
	patient := r
	patient.Pace = database.Pace{Failover: 9 * time.Second, Restart: 7 * time.Second}
	up := primary(r, "b1")
	up.Flushed, up.Redo = lsn, lsn-1<<20
	dead := func(l database.Local) database.Local {
		l = gone(l, "signal 11")
		l.Redo, l.Held = lsn-1<<20, lsn
		return l
	}
	far := dead(up)
	far.Redo = lsn - 40<<20 // 2 s at 20 MiB/s
	fast := far
	fast.Recovery = &database.Recovery{Bytes: 1 << 30, Took: 2 * time.Second}
	unknown := dead(up)
	unknown.Redo = 0
	said := dead(up)
	said.Ended = &database.LastWords{Life: "b1-9", Sign: sign, Text: sign}
	again := quick
	again.Ends = ends(sign, "b2")
	behind := func(h string) database.Peer {
		l := standby(r, h)
		l.Replayed = l.Flushed - 45<<20 // 2.25 s
		return hears(h, r, l)
	}
	level := func(h string) database.Peer {
		l := standby(r, h)
		l.Replayed = l.Flushed
		return hears(h, r, l)
	}
	saw := since(r, time.Minute)
	saw.SawPrimary = true
	lately := saw
	lately.WasAlone, lately.AloneAt = true, time.Hour-time.Minute
	fenced := saw
	fenced.Killed = true
	election := "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	alone := "swap epoch=4 gen=21 phase=promoting primary=b1 timeline=4 opened=false"
	check(t, policy(), []situation{
		{"a standby takes over as long as nothing was measured", view("b1", r, dead(up), level("b2"), level("b3")), saw, election},
		{"it is started in place where that was sooner", view("b1", quick, dead(up), level("b2"), level("b3")), saw, alone},
		{"and not where it was later", view("b1", slow, dead(up), level("b2"), level("b3")), saw, election},
		{"nor where it has much to replay", view("b1", quick, far, level("b2"), level("b3")), saw, election},
		{"unless it replays fast", view("b1", quick, fast, level("b2"), level("b3")), saw, alone},
		{"or the standbys have more to replay", view("b1", quick, far, behind("b2"), behind("b3")), saw, alone},
		{"nor where nobody knows what it has to replay", view("b1", quick, unknown, level("b2"), level("b3")), saw, election},
		{"nor where the others would cut it short", view("b1", patient, dead(up), level("b2"), level("b3")), saw, election},
		{"nor when it needed that a minute ago", view("b1", quick, dead(up), level("b2"), level("b3")), lately, election},
		{"one measure alone moves nothing", view("b1", half, dead(up), level("b2"), level("b3")), saw, election},
		{"nor when it was ended by its own host", view("b1", quick, dead(up), level("b2"), level("b3")), fenced, election},
		{"words that were never heard keep it from nothing", view("b1", quick, said, level("b2"), level("b3")), saw, alone},
		{"the same words as at the last end do", view("b1", again, said, level("b2"), level("b3")), saw, election},
		{"the others leave it the time", view("b2", quick, standby(quick, "b2"), hears("b1", quick, dead(up)), level("b3")), since(r, time.Minute), "nothing"},
	})
}

func TestTheForecastNamesItsSources(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	up.Flushed, up.Redo = lsn, lsn-40<<20
	x := database.Explain(policy(), view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), database.Decision{})
	if x.Ways.First != "failover" || len(x.Ways.Restart) != 2 || !strings.Contains(x.Ways.Restart[0].Source, "assumed") ||
		!strings.Contains(x.Ways.Restart[1].Source, "40 MiB at 20 MiB/s") || x.Ways.Restart[1].Takes != 2*time.Second {
		t.Errorf("%+v", x.Ways)
	}
	r.Pace = database.Pace{Failover: 8 * time.Second, Restart: time.Second}
	up.Recovery = &database.Recovery{Bytes: 1 << 30, Took: 4 * time.Second}
	x = database.Explain(policy(), view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), database.Decision{})
	if x.Ways.First != "restart" || !strings.Contains(x.Ways.Why, "1.2 s, sooner than a failover with 8.0 s") {
		t.Errorf("%+v", x.Ways)
	}
}

// A change of primary tells how long the next will take only where the old server was known to be gone.
func TestWhatAChangeTookIsKept(t *testing.T) {
	promoted := steady()
	promoted.Opened, promoted.Former = false, voter("b2")
	promoted.Spans = []database.Span{{Name: "recruit", Took: 200 * time.Millisecond}, {Name: "promote", Took: 300 * time.Millisecond}}
	back := promoted
	back.Alone, back.Former = true, database.Voter{}
	back.Spans = []database.Span{{Name: "promote", Took: 900 * time.Millisecond}}
	planned := promoted
	planned.Spans = []database.Span{{Name: "stop", Took: time.Second}, {Name: "promote", Took: time.Second}}
	up := func(r database.Record) database.Local {
		l := primary(r, "b1")
		l.Force = database.Force{Names: l.Names, Epoch: r.Epoch, Mark: lsn}
		return l
	}
	for _, tt := range []struct {
		name  string
		r     database.Record
		local database.Local
		age   time.Duration // since it was confirmed
		gone  bool          // the former primary attests that
		want  database.Pace
	}{
		{"a failover from a server that ended", promoted, up(promoted), 100 * time.Millisecond, true, database.Pace{Failover: 600 * time.Millisecond}},
		{"not one that waited for a deadline", promoted, up(promoted), 3500 * time.Millisecond, false, database.Pace{}},
		{"a restart in place", back, up(back), 100 * time.Millisecond, true, database.Pace{Restart: time.Second}},
		{"not a switchover", planned, up(planned), 100 * time.Millisecond, true, database.Pace{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			former := standby(tt.r, "b2")
			if !tt.gone {
				former = database.Local{}
			}
			m := since(tt.r, tt.age)
			m.Names, m.NamesAt, m.SawPrimary = tt.local.Names, lsn-1, true
			v := view("b1", tt.r, tt.local, hears("b2", tt.r, former), hears("b3", tt.r, standby(tt.r, "b3")))
			d, _ := database.Decide(policy(), v, m)
			if len(d.Actions) != 1 || d.Actions[0].Record == nil || !d.Actions[0].Record.Opened {
				t.Fatalf("%v, because %v", d.Actions, d.Because)
			}
			if got := d.Actions[0].Record.Pace; got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}
