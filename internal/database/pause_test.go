package database_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
)

// pausing is a request for a pause of an hour of which left is left by the wall clock.
func pausing(left time.Duration) database.Request {
	return database.Request{ID: "p1", Kind: "pause", By: "ann", Reason: "a new disk", For: time.Hour, Left: left}
}

// while adds requests to a view.
func while(v database.View, qs ...database.Request) database.View {
	v.Requests = qs
	return v
}

func TestAPausedDatabaseDoesNothingByItself(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	dead := gone(up, "signal 9")
	saw := since(r, time.Minute)
	saw.SawPrimary = true
	b2, b3 := standby(r, "b2"), standby(r, "b3")
	quiet := 3 * time.Second
	unfit := since(r, time.Minute)
	unfit.Unfit = []database.Unfit{{Voter: voter("b3"), Since: time.Hour - time.Minute}}
	oneStreams := up
	oneStreams.Senders = up.Senders[:1]
	hung := up
	hung.Writable = "hung"
	long := since(r, time.Minute)
	long.Hung, long.HungSince = true, time.Hour-time.Minute
	stopped := gone(b2, "fast shutdown")
	stopped.Following = r.Epoch
	after := gone(recruit(r, "b2", r.Timeline, lsn), "stopped")
	diverged := recruit(r, "b2", 9, lsn)
	recruiting := r
	recruiting.Phase, recruiting.Epoch, recruiting.Opened = database.Recruiting, 4, false
	promised := func(host string) database.Local { return recruit(recruiting, host, 3, lsn) }
	switching := database.Request{ID: "s1", Kind: "switchover", To: "b2"}
	prepared := since(r, time.Minute)
	prepared.Prepared = "s1"
	p := pausing(30 * time.Minute)
	held := "problem database.paused"
	check(t, policy(), []situation{
		{"a primary that exits is not replaced", while(view("b1", r, dead, hears("b2", r, b2), hears("b3", r, b3)), p), saw, held},
		{"nor does it come back alone", while(view("b1", r, dead, hears("b2", r, b2), silent("b3", time.Minute)), p), saw, held},
		{"nobody takes over from a host that is silent",
			while(view("b2", r, b2, silent("b1", quiet), alsoDeaf(hears("b3", r, b3), "b1", quiet)), p), since(r, time.Minute), "nothing"},
		{"a standby that stopped stays a voter", while(view("b1", r, oneStreams, hears("b2", r, b2), hears("b3", r, b3)), p), unfit, "nothing"},
		{"a primary whose disk hangs is not ended", while(view("b1", r, hung, hears("b2", r, b2), hears("b3", r, b3)), p), long, held},
		{"a standby that was stopped stays stopped", while(view("b2", r, stopped, hears("b1", r, up), hears("b3", r, b3)), p), since(r, time.Minute), "nothing"},
		{"but one that has not followed this epoch yet is brought to it", while(view("b2", r, after, hears("b1", r, up), hears("b3", r, b3)), p), since(r, time.Minute),
			"follow from=b1 epoch=3"},
		{"a copy that went another way is not made again", while(view("b2", r, diverged, hears("b1", r, up), hears("b3", r, b3)), p), since(r, time.Minute), held},
		{"an election that had begun is brought to its end", while(view("b1", recruiting, gone(up, "signal 9"), hears("b2", recruiting, promised("b2")),
			hears("b3", recruiting, promised("b3"))), p), since(recruiting, time.Second), "recruit epoch=4"},
		{"a switchover that an operator asks for is carried out", while(view("b1", r, up, hears("b2", r, b2), hears("b3", r, b3)), p, switching), prepared,
			"swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false"},
		{"a primary of another epoch is fenced all the same", while(view("b2", r, up, hears("b1", r, up)), p), since(r, time.Minute), "kill"},
		{"names that somebody changed are put back", while(view("b1", r, func() database.Local {
			l := up
			l.NamesOK = false
			return l
		}(), hears("b2", r, b2), hears("b3", r, b3)), p), since(r, time.Minute), `names ANY 1 ("i-b2@3", "i-b3@3"); problem database.names-changed`},
	})
}

func TestAPauseEnds(t *testing.T) {
	r := steady()
	v := view("b2", r, standby(r, "b2"), hears("b1", r, primary(r, "b1")))
	seen := func(ago, lasts time.Duration) database.Memory {
		m := since(r, 2*time.Hour)
		m.PauseID, m.PauseAt, m.PauseFor = "p1", time.Hour-ago, lasts
		return m
	}
	ok := []database.Answer{{ID: "p1", OK: true, Text: "the pause ended by itself after 1h0m0s"}}
	for _, tt := range []struct {
		name    string
		m       database.Memory
		qs      []database.Request
		left    time.Duration // 0 = it is over
		answers []database.Answer
	}{
		{"it lasts as long as the operator said", seen(20*time.Minute, time.Hour), []database.Request{pausing(40 * time.Minute)}, 40 * time.Minute, nil},
		{"it ends by our own monotonic clock", seen(time.Hour, time.Hour), []database.Request{pausing(time.Minute)}, 0, ok},
		{"a wall clock that was put back does not keep it", seen(time.Hour, time.Hour), []database.Request{pausing(99 * time.Hour)}, 0, ok},
		{"a host that has just started counts at most the time it was given", since(r, time.Minute), []database.Request{pausing(99 * time.Hour)}, time.Hour, nil},
		{"and no more than the wall clock leaves", since(r, time.Minute), []database.Request{pausing(10 * time.Minute)}, 10 * time.Minute, nil},
		{"one that is over by the wall clock is over for a host that has just started", since(r, time.Minute), []database.Request{pausing(-time.Minute)}, 0, ok},
		{"an operator ends it", seen(time.Minute, time.Hour), []database.Request{pausing(0), {ID: "r1", Kind: "resume", By: "ann"}}, 0,
			[]database.Answer{{ID: "p1", OK: true, Text: "ann ended the pause"}}},
		{"the wish to end it is settled once none stands", since(r, time.Minute), []database.Request{{ID: "r1", Kind: "resume"}}, 0,
			[]database.Answer{{ID: "r1", OK: true, Text: "nothing is paused any more, and automatic moves go on"}}},
		{"a later one takes its place", since(r, time.Minute), []database.Request{pausing(time.Hour), {ID: "p2", Kind: "pause", For: time.Minute, Left: time.Minute}}, time.Minute,
			[]database.Answer{{ID: "p1", OK: true, Text: "another pause has taken its place"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := database.Decide(policy(), while(v, tt.qs...), tt.m)
			if diff := cmp.Diff(tt.answers, d.Answers); diff != "" {
				t.Error(diff)
			}
			var left time.Duration
			if d.Pause != nil {
				left = d.Pause.Left
			}
			if left != tt.left {
				t.Errorf("%s is left, want %s", left, tt.left)
			}
		})
	}
}
