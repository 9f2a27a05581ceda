package database_test

import (
	"testing"
	"time"

	"holdfast/internal/database"
)

func without(r database.Record, host string) database.Record {
	r = r.Clone()
	var keep []database.Voter
	for _, v := range r.Voters {
		if v.Host != host {
			keep = append(keep, v)
		}
	}
	r.Voters = keep
	return r
}

func TestStandbysJoinAndLeave(t *testing.T) {
	r := steady()
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	away := silent("b3", time.Minute)
	calm := since(r, time.Minute)
	full := primary(r, "b1")
	calm.Names = full.Names

	only := without(r, "b3") // b3 is no voter yet
	only.E = 1
	candidate := primary(r, "b1")
	candidate.Names = names(only)
	second := without(r, "b3") // b3 has been made a voter, the names lack it
	lacks := primary(r, "b1")
	lacks.Names = names(second)
	missing := full // b3 does not stream
	missing.Senders = full.Senders[:1]
	gone5 := calm
	gone5.Unfit = []database.Unfit{{Voter: voter("b3"), Since: time.Hour - 5*time.Second}}
	gone1 := calm
	gone1.Unfit = []database.Unfit{{Voter: voter("b3"), Since: time.Hour - time.Second}}
	both := full
	both.Senders = nil
	bothGone := calm
	bothGone.Unfit = []database.Unfit{{Voter: voter("b2"), Since: time.Hour - 5*time.Second}, {Voter: voter("b3"), Since: time.Hour - 5*time.Second}}
	narrowed := missing
	narrowed.Names = names(second)
	narrowMemory := calm
	narrowMemory.Names, narrowMemory.NamesAt = narrowed.Names, lsn-0x100
	passed := narrowed
	passed.Force = database.Force{Names: narrowed.Names, Epoch: 3, Mark: lsn}
	early := passed
	early.Senders = []database.Sender{sender(r, voter("b2"), lsn-8)}
	elsewhere := passed
	elsewhere.Force.Epoch = 2
	byHand := full
	byHand.Names = database.Names{}
	foreign := full
	foreign.Names, foreign.NamesOK = database.Names{}, false

	check(t, policy(), []situation{
		{"a database in order asks for nothing", view("b1", r, full, b2, b3), calm, "nothing"},
		{"a standby that streams and is level becomes a voter before it may acknowledge",
			view("b1", only, candidate, b2, b3), since(only, time.Minute), "swap epoch=3 gen=21 phase=steady primary=b1 timeline=3 opened=true"},
		{"then it may acknowledge", view("b1", r, lacks, b2, b3), since(r, time.Minute), `names ANY 1 ("i-b2@3", "i-b3@3")`},
		{"a voter that does not stream for a second stays", view("b1", r, missing, b2, away), gone1, "nothing"},
		{"after five it may acknowledge no more", view("b1", r, missing, b2, away), gone5, `names ANY 1 ("i-b2@3")`},
		{"the last one that streams never leaves", view("b1", r, both, silent("b2", time.Minute), away), bothGone, "nothing"},
		{"before it leaves, a barrier begins", view("b1", r, narrowed, b2, away), narrowMemory, "barrier epoch=3"},
		{"a barrier of another epoch does not serve", view("b1", r, elsewhere, b2, away), narrowMemory, "barrier epoch=3"},
		{"it stays a voter until the others have flushed the mark", view("b1", r, early, b2, away), narrowMemory, "nothing"},
		{"then it leaves, and fewer recruits suffice", view("b1", r, passed, b2, away), narrowMemory,
			"swap epoch=3 gen=21 phase=steady primary=b1 timeline=3 opened=true"},
		{"one that comes back in the middle may acknowledge again", view("b1", r, func() database.Local {
			x := narrowed
			x.Senders = full.Senders
			return x
		}(), b2, b3), narrowMemory, `names ANY 1 ("i-b2@3", "i-b3@3")`},
		{"names that somebody emptied by hand are put back", view("b1", r, byHand, b2, b3), calm,
			`names ANY 1 ("i-b2@3", "i-b3@3"); problem database.names-changed`},
		{"so are names that Holdfast never writes", view("b1", r, foreign, b2, b3), calm,
			`names ANY 1 ("i-b2@3", "i-b3@3"); problem database.names-changed`},
		{"the names of a primary of an older epoch do not serve it: it is killed", view("b1", r, func() database.Local {
			x := full
			x.Promise.Epoch = 2
			return x
		}(), b2, b3), calm, "kill"},
		{"so is one on another timeline than the agreed one", view("b1", r, func() database.Local {
			x := full
			x.Timeline = 9
			return x
		}(), b2, b3), calm, "kill"},
		{"and a primary that the record does not name", view("b2", r, primary(r, "b2"), hears("b1", r, full), b3), calm, "kill"},
	})
}

func TestFollowing(t *testing.T) {
	r := steady()
	up := hears("b1", r, primary(r, "b1"))
	b3 := hears("b3", r, standby(r, "b3"))
	calm := since(r, time.Minute)
	well := standby(r, "b2")
	older := well
	older.Promise.Generation = 19
	cut := recruit(r, "b2", 3, lsn)
	unread := cut
	unread.Position = database.Position{}
	behind := recruit(r, "b2", 2, 0x1fff000)
	behind.Timeline, behind.History = 2, behind.History[:1]
	beyond := recruit(r, "b2", 2, 0x2000008)
	beyond.Timeline, beyond.History = 2, beyond.History[:1]
	aside := func(l database.Local) database.Local {
		l.Kept = &database.Kept{ID: "epoch-3-" + l.Incarnation, Incarnation: l.Incarnation, End: l.Position.LSN, Parted: database.Parting{Timeline: 2, LSN: 0x2000000}}
		return l
	}
	failed := aside(beyond)
	failed.Failed, failed.FailedKind = "only a new copy can help", database.KindRewind
	elsewhere := recruit(r, "b2", 3, lsn)
	elsewhere.History = []database.Fork{{Timeline: 2, Parent: 1, LSN: 0x1000000}, {Timeline: 3, Parent: 2, LSN: 0x1800000}}
	half := nothingYet()
	half.Data = database.DataPartial
	silentStream := well
	silentStream.Receiving = false
	tooLong := calm
	tooLong.Cut, tooLong.CutSince = true, time.Hour-21*time.Second
	down := hears("b1", r, gone(primary(r, "b1"), ""))
	check(t, policy(), []situation{
		{"a standby in order asks for nothing", view("b2", r, well, up, b3), calm, "nothing"},
		{"it keeps a newer generation beside its promise", view("b2", r, older, up, b3), calm, "remember epoch=3"},
		{"a host without a copy makes one", view("b2", r, nothingYet(), up, b3), calm, "clone from=b3 epoch=3"},
		{"a copy that was cut short is made again", view("b2", r, half, up, b3), calm, "clone from=b3 epoch=3"},
		{"without a primary that says it is one, nothing is copied", view("b2", r, nothingYet(), silent("b1", 2*time.Second), b3), calm, "nothing"},
		{"a position is read before anything is followed", view("b2", r, unread, up, b3), calm, "recruit epoch=3"},
		{"a history that is part of the primary's follows", view("b2", r, cut, up, b3), calm, "follow from=b1 epoch=3"},
		{"so does one that ends before the fork", view("b2", r, behind, up, b3), calm, "follow from=b1 epoch=3"},
		{"what only one that goes beyond the fork holds is put aside first", view("b2", r, beyond, up, b3), calm, "preserve after=0/2000000 timeline=2"},
		{"what was put aside of older data does not serve", view("b2", r, func() database.Local {
			l := aside(beyond)
			l.Kept.Incarnation = "i-b2-0"
			return l
		}(), up, b3), calm, "preserve after=0/2000000 timeline=2"},
		{"nor what was listed when another primary had parted from us further on", view("b2", r, func() database.Local {
			l := aside(beyond)
			l.Kept.Parted.LSN += 4
			return l
		}(), up, b3), calm, "preserve after=0/2000000 timeline=2"},
		{"a history that could not be read this time is no divergence", view("b2", r, func() database.Local {
			l := cut
			l.Timeline, l.History = 0, nil
			return l
		}(), up, b3), calm, "nothing"},
		{"then it is rewound", view("b2", r, aside(beyond), up, b3), calm, "rewind from=b1 epoch=3"},
		{"and copied anew when that cannot help", view("b2", r, failed, up, b3), calm, "clone from=b3 epoch=3"},
		{"the same number from another place is another history", view("b2", r, func() database.Local {
			l := aside(elsewhere)
			l.Kept.Parted.LSN = 0x1800000
			return l
		}(), up, b3), calm, "rewind from=b1 epoch=3"},
		{"a diverged copy waits for a primary to become a copy of", view("b2", r, aside(beyond), silent("b1", 2*time.Second), b3), calm, "nothing"},
		{"a stream that does not come for twenty seconds makes a new copy", view("b2", r, silentStream, up, b3), tooLong, "clone from=b3 epoch=3"},
		{"not while the primary is away", view("b2", r, silentStream, down, b3), calm, "nothing"},
		{"an action under way is waited for", func() database.View {
			v := view("b2", r, nothingYet(), up, b3)
			v.Busy = []database.Kind{database.KindClone}
			return v
		}(), calm, "nothing"},
		{"one that serves an epoch that is over is interrupted", func() database.View {
			v := view("b2", r, nothingYet(), up, b3)
			v.Busy = []database.Kind{database.KindClone}
			return v
		}(), database.Memory{Epoch: 2, Phase: database.Steady}, "interrupt"},
	})
}

func TestASwitchover(t *testing.T) {
	r := steady()
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	calm := since(r, time.Minute)
	up := primary(r, "b1")
	calm.Names = up.Names
	prepared := calm
	prepared.Prepared = "q1"
	ask := func(to string, l database.Local, others ...database.Peer) database.View {
		v := view("b1", r, l, others...)
		v.Requests = []database.Request{{ID: "q1", Kind: "switchover", To: to, By: "anna"}}
		return v
	}
	lagging := standby(r, "b2")
	lagging.ReplayLag = time.Minute
	only3 := up
	only3.Senders = up.Senders[1:]
	once, twice := calm, calm
	once.Unready, once.UnreadySince = "q1", time.Hour-999*time.Millisecond
	twice.Unready, twice.UnreadySince = "q1", time.Hour-time.Second
	another := twice
	another.Unready = "q0"
	looked := only3 // before the request was seen
	looked.Age = 1001 * time.Millisecond
	again := only3
	again.Age = time.Second

	sw := r.Clone()
	sw.Phase, sw.Opened, sw.SwitchTo, sw.Switch, sw.Generation = database.Switching, false, "b2", "q1", 21
	running := primary(sw, "b1")
	stopped := gone(running, "stopped")
	stopped.ShutDown, stopped.Checkpoint, stopped.Timeline, stopped.Flushed = true, lsn, 3, lsn
	promised := stopped
	promised.Promise.Epoch = 4
	promised.Position = database.Position{Epoch: 4, Timeline: 3, LSN: lsn}
	crashed := promised
	crashed.ShutDown = false
	target := standby(sw, "b2")
	short := target
	short.Flushed = lsn - 1
	other := target
	other.Incarnation = "i-b2-2"
	fresh, late := since(sw, time.Second), since(sw, 11*time.Second)
	w2, w3 := hears("b2", sw, target), hears("b3", sw, standby(sw, "b3"))
	back := "swap epoch=4 gen=22 phase=promoting primary=b1 timeline=4 opened=false"
	done := promoting()
	done.Phase, done.Opened, done.Switch, done.SwitchTo, done.Voters = database.Steady, true, "q1", "b2", []database.Voter{voter("b1"), voter("b3")}
	check(t, policy(), []situation{
		{"it begins with a checkpoint", ask("b2", up, b2, b3), calm, "checkpoint"},
		{"then the record says who shall take over", ask("b2", up, b2, b3), prepared,
			"swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false"},
		{"a target that lags in replay is refused", ask("b2", up, hears("b2", r, lagging), b3), twice, "answer false"},
		{"a target that does not answer is refused", ask("b2", up, silent("b2", time.Minute), b3), twice, "answer false"},
		{"a target that does not stream is refused", ask("b2", only3, b2, b3), twice, "answer false"},
		{"but not at once: it may stream since the last look", ask("b2", only3, b2, b3), calm, "nothing"},
		{"nor within a second", ask("b2", only3, b2, b3), once, "nothing"},
		{"nor because of what was asked for before", ask("b2", only3, b2, b3), another, "nothing"},
		{"nor before the primary was looked at again", ask("b2", looked, b2, b3), twice, "nothing"},
		{"a look that began when it was asked for is enough", ask("b2", again, b2, b3), twice, "answer false"},
		{"one that streams by then takes over", ask("b2", up, b2, b3), once, "checkpoint"},
		{"the primary itself is refused", ask("b1", up, b2, b3), calm, "answer false"},
		{"a host that is no member is refused", ask("b9", up, b2, b3), calm, "answer false"},
		{"without a wish any fit standby serves", ask("", up, b2, b3), prepared,
			"swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false"},
		{"the primary stops in good order", view("b1", sw, running, w2, w3), fresh, "stop"},
		{"a stop that takes ten seconds is cut short", view("b1", sw, running, w2, w3), late, "kill"},
		{"the stopped primary promises the next epoch", view("b1", sw, stopped, w2, w3), fresh, "recruit epoch=4"},
		{"and hands over when the target holds the last record", view("b1", sw, promised, w2, w3), fresh,
			"swap epoch=4 gen=22 phase=promoting primary=b2 timeline=4 opened=false"},
		{"it waits for a target that is one byte short", view("b1", sw, promised, hears("b2", sw, short), w3), fresh, "nothing"},
		{"and comes back itself when that takes ten seconds", view("b1", sw, promised, hears("b2", sw, short), w3), late, back},
		{"it comes back itself when it did not stop cleanly", view("b1", sw, crashed, w2, w3), fresh, back},
		{"it waits for a target that was made anew", view("b1", sw, promised, hears("b2", sw, other), w3), fresh, "nothing"},
		{"the standbys start no election meanwhile", view("b2", sw, target, silent("b1", 4*time.Second), alsoDeaf(w3, "b1", 4*time.Second)), fresh, "nothing"},
		{"unless the old primary stays away", func() database.View {
			v := view("b2", sw, target, silent("b1", 30*time.Second), alsoDeaf(w3, "b1", 30*time.Second))
			v.Advanced = database.Never
			return v
		}(), func() database.Memory {
			m := since(sw, 30*time.Second)
			m.Lost, m.LostSince = true, time.Hour-10*time.Second
			return m
		}(), "swap epoch=4 gen=22 phase=recruiting primary=b1 timeline=3 opened=false"},
	})
	t.Run("the new primary answers the request", func(t *testing.T) {
		l := primary(done, "b2")
		l.Timeline, l.History = 4, history(done)
		v := view("b2", done, l, hears("b1", done, standby(done, "b1")), hears("b3", done, standby(done, "b3")))
		v.Requests = []database.Request{{ID: "q1", Kind: "switchover", To: "b2"}}
		d, _ := database.Decide(policy(), v, since(done, time.Minute))
		if len(d.Answers) != 1 || !d.Answers[0].OK {
			t.Fatalf("asked for %s", asked(d))
		}
	})
}

func TestTheListener(t *testing.T) {
	r := steady()
	sw := r.Clone()
	sw.Phase, sw.Opened = database.Switching, false
	shut := r.Clone()
	shut.Opened = false
	tests := []struct {
		name string
		v    database.View
		want database.GateState
		to   string
	}{
		{"leads to the open primary", view("b2", r, standby(r, "b2")), database.GateOpen, "b1"},
		{"holds while the primary is not open", view("b2", shut, standby(shut, "b2")), database.GateHold, ""},
		{"holds during a switchover", view("b2", sw, standby(sw, "b2")), database.GateHold, ""},
		{"holds on the primary's own host when its server does not serve", view("b1", r, gone(primary(r, "b1"), "signal 9")), database.GateHold, ""},
		{"holds when somebody changed the names by hand", view("b1", r, func() database.Local {
			l := primary(r, "b1")
			l.NamesOK = false
			return l
		}()), database.GateHold, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := database.Decide(policy(), tt.v, since(tt.v.Record, time.Minute))
			if d.Gate.State != tt.want || d.Gate.Target.Host != tt.to || d.Gate.Epoch != tt.v.Record.Epoch {
				t.Errorf("got %+v", d.Gate)
			}
		})
	}
}

func TestTheLease(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	away := silent("b2", 10*time.Second)
	away.Report = b2.Report
	promisedMore := standby(r, "b2")
	promisedMore.Promise.Epoch = 4
	renamed := standby(r, "b2")
	renamed.Incarnation = "i-b2-2"
	next := r.Clone()
	next.Epoch, next.Phase = 4, database.Recruiting
	tests := []struct {
		name    string
		record  database.Record
		contact time.Duration
		peers   []database.Peer
		want    time.Duration
	}{
		{"counts from when the read of the agreed state was sent", r, 400 * time.Millisecond, []database.Peer{away}, 2600 * time.Millisecond},
		{"or from the contact with as many voters as acknowledge", r, time.Minute, []database.Peer{b2, b3}, 2900 * time.Millisecond},
		{"ends without either", r, time.Minute, []database.Peer{away}, 0},
		{"does not count a voter that promised a newer epoch", r, time.Minute, []database.Peer{hears("b2", r, promisedMore)}, 0},
		{"nor one that was made anew", r, time.Minute, []database.Peer{hears("b2", r, renamed)}, 0},
		{"ends at once when a newer epoch is known", next, 0, []database.Peer{b2, b3}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := view("b1", tt.record, l, tt.peers...)
			v.RecordAge = tt.contact
			d, _ := database.Decide(policy(), v, since(r, time.Minute))
			if d.Lease != tt.want {
				t.Errorf("lease %s, want %s: %v", d.Lease, tt.want, d.Because)
			}
		})
	}
}
