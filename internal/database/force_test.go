package database_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast/internal/database"
)

// away is a peer that last spoke long ago, and said this then.
func away(host string, r database.Record, l database.Local) database.Peer {
	p := hears(host, r, l)
	p.AgentAge, p.GateAge, p.Contact = time.Minute, time.Minute, time.Minute
	return p
}

// stuck is what b2 sees when b1 (the primary) and b3 are away: one of two needed standbys is left.
func stuck(r database.Record) database.View {
	old := primary(r, "b1")
	old.Flushed = lsn + 0x5000
	old.Senders = []database.Sender{sender(r, voter("b2"), lsn), sender(r, voter("b3"), lsn+0x4000)}
	v := view("b2", r, standby(r, "b2"), away("b1", r, old), away("b3", r, standby(r, "b3")))
	v.Advanced = 90 * time.Second
	return v
}

func TestWhatAForcedFailoverWouldLose(t *testing.T) {
	k := database.FailoverRisk(policy(), stuck(steady()), time.Minute, "")
	want := database.Risk{
		Primary: "b1", Former: "i-b1", Known: database.Known{Heard: true, Age: time.Minute, Flushed: lsn + 0x5000, Acknowledged: lsn + 0x4000},
		Chosen: "b2", At: lsn, Counted: true, Bytes: 0x5000, AckedBytes: 0x4000, Span: 30 * time.Second, Waits: 1,
		Others: []database.Other{{Host: "b3", Counted: true, Heard: true, At: lsn, Why: "b3 does not answer"}},
		Avoid:  []string{"b1 with its data", "1 of b3"},
	}
	warned := k.Warn
	k.Warn = nil
	if diff := cmp.Diff(want, k); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if all := strings.Join(warned, "; "); !strings.Contains(all, "b1 and b3 do not answer") || !strings.Contains(all, "writes wait until 1") {
		t.Errorf("warned: %s", all)
	}
}

func TestAForcedFailoverIsRefusedWhereNothingNeedBeLost(t *testing.T) {
	r := steady()
	b1, b2, b3 := primary(r, "b1"), standby(r, "b2"), standby(r, "b3")
	alone := database.Record{Epoch: 1, Generation: 1, Members: r.Members, Primary: "b1", Phase: database.Creating, W: 1, E: 1}
	more := standby(r, "b3")
	more.Promise.Epoch = 9
	hung := b1
	hung.Writable = "hung"
	lost := nothingYet()
	diverged := recruit(r, "b2", 2, 0x2000008)
	diverged.Timeline, diverged.History = 2, diverged.History[:1]
	unread := stuck(r)
	unread.RecordAge = time.Minute
	deaf := view("b2", r, b2, silent("b1", time.Minute), alsoDeaf(hears("b3", r, b3), "b1", 0))
	noPeer := func(l database.Local) database.View {
		return view("b2", r, l, silent("b1", time.Minute), silent("b3", time.Minute))
	}
	none := steady()
	none.W, none.E, none.Voters = 0, 1, nil
	for _, tt := range []struct {
		name   string
		v      database.View
		closed time.Duration
		to     string
		want   string // part of the refusal; "" = allowed
	}{
		{"a database that is being made", view("b1", alone, nothingYet()), time.Minute, "", "still being made"},
		{"a primary that serves: a switchover loses nothing", view("b2", r, b2, hears("b1", r, b1), hears("b3", r, b3)), 0, "", "a switchover moves it"},
		{"a primary that another host still hears", deaf, time.Minute, "", "b3 still hears b1"},
		{"enough standbys answer: the election is given its time", view("b2", r, b2, silent("b1", 5*time.Second), alsoDeaf(hears("b3", r, b3), "b1", time.Minute)), 5 * time.Second, "", "an election loses nothing"},
		{"and when it has had that, force is allowed", view("b2", r, b2, silent("b1", time.Minute), alsoDeaf(hears("b3", r, b3), "b1", time.Minute)), time.Minute, "", ""},
		{"the primary's host answers and holds its data", view("b2", r, b2, hears("b1", r, gone(b1, "signal 9")), silent("b3", time.Minute)), 5 * time.Second, "", "comes back by itself"},
		{"unless it has not managed to for long", view("b2", r, b2, hears("b1", r, gone(b1, "signal 9")), silent("b3", time.Minute)), time.Minute, "", ""},
		{"a primary whose disk hangs, and too few standbys", view("b2", r, b2, hears("b1", r, hung), silent("b3", time.Minute)), time.Minute, "", ""},
		{"a primary that lost its data, and too few standbys", view("b2", r, b2, hears("b1", r, lost), silent("b3", time.Minute)), 0, "", ""},
		{"the agreed state is not reached", unread, time.Minute, "", "cluster recover"},
		{"the agreed state is an old backup", view("b2", r, b2, silent("b1", time.Minute), hears("b3", r, more)), time.Minute, "", "old backup"},
		{"no copy answers", noPeer(lost), time.Minute, "", "no other copy answers"},
		{"the only copy that answers went another way", noPeer(diverged), time.Minute, "", "no other copy answers"},
		{"the wish is the primary that is given up", stuck(r), time.Minute, "b1", "is the primary that would be given up"},
		{"the wish does not answer", stuck(r), time.Minute, "b3", "b3 does not answer"},
		{"the wish is no member", stuck(r), time.Minute, "b9", "holds no copy"},
		{"nobody acknowledges anything but the primary", view("b2", none, standby(none, "b2"), silent("b1", time.Minute), hears("b3", none, standby(none, "b3"))), 0, "", ""},
		{"too few standbys answer", stuck(r), 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := database.FailoverRisk(policy(), tt.v, tt.closed, tt.to)
			if (tt.want == "") != (k.Refused == "") || !strings.Contains(k.Refused, tt.want) {
				t.Errorf("refused: %q", k.Refused)
			}
			if k.Refused == "" && k.Chosen != "b2" && k.Chosen != "b3" {
				t.Errorf("chosen: %q", k.Chosen)
			}
		})
	}
}

func TestAForcedFailover(t *testing.T) {
	r := steady()
	calm := since(r, time.Minute)
	ask := func(v database.View, q database.Request) database.View {
		q.ID, q.Kind, q.By = "q1", "failover", "anna"
		v.Requests = []database.Request{q}
		return v
	}
	seen := database.Request{Via: "b2", Former: "i-b1", Floor: lsn}
	late := calm
	late.Asked, late.AskedSince = "q1", time.Hour-2*time.Minute

	forced := steady()
	forced.Epoch, forced.Generation, forced.Phase, forced.Opened, forced.Former = 4, 21, database.Recruiting, false, voter("b1")
	forced.Forced = &database.Forced{Request: "q1", By: "anna", Floor: lsn}
	answers := func(at database.LSN, others ...database.Peer) database.View {
		return view("b2", forced, recruit(forced, "b2", 3, at), append(others, silent("b1", time.Minute))...)
	}
	b3away := silent("b3", time.Minute)
	b3at := func(at database.LSN) database.Peer { return hears("b3", forced, recruit(forced, "b3", 3, at)) }
	begin := "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	choose := "swap epoch=4 gen=22 phase=promoting primary=b2 timeline=4 opened=false"
	check(t, policy(), []situation{
		{"it begins with a new epoch", ask(stuck(r), seen), calm, begin + "; problem database.no-candidate"},
		{"another host than the one that was looked at leaves it alone", ask(stuck(r), database.Request{Via: "b9", Former: "i-b1", Floor: lsn}), calm, "problem database.no-candidate"},
		{"it is refused when the loss has grown since", ask(stuck(r), database.Request{Via: "b2", Former: "i-b1", Floor: lsn + 1}), calm, "problem database.no-candidate; answer false"},
		{"and when another primary has served since", ask(stuck(r), database.Request{Via: "b2", Former: "i-b9", Floor: lsn}), calm, "problem database.no-candidate; answer false"},
		{"and when it waited for too long", ask(stuck(r), seen), late, "problem database.no-candidate; answer false"},
		{"and where a switchover does", ask(view("b2", r, standby(r, "b2"), hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3"))), seen), calm, "answer false"},
		{"those who can answer are given their time", answers(lsn, b3away), since(forced, 2*time.Second), "nothing"},
		{"then the furthest is chosen", answers(lsn, b3away), since(forced, 4*time.Second), choose},
		{"an election that finds enough recruits loses nothing, and goes first", answers(lsn, b3at(lsn+8)), since(forced, time.Second),
			"swap epoch=4 gen=22 phase=promoting primary=b3 timeline=4 opened=false"},
		{"nobody behind what was confirmed is chosen", answers(lsn-1, b3away), since(forced, 4*time.Second), "nothing"},
		{"and then it is given up", answers(lsn-1, b3away), since(forced, 10*time.Second),
			"swap epoch=4 gen=22 phase=recruiting primary=b1 timeline=3 opened=false"},
		{"a request under way is not begun again", ask(answers(lsn, b3away), seen), since(forced, time.Second), "nothing"},
	})
	t.Run("the record names whom it leaves behind, and asks them never again", func(t *testing.T) {
		d, _ := database.Decide(policy(), answers(lsn, b3away), since(forced, 4*time.Second))
		next := d.Actions[0].Record
		want := []database.Loss{{Request: "q1", By: "anna", Epoch: 4, Chosen: voter("b2"), From: lsn, W: 1, Left: []database.Left{
			{Voter: voter("b1"), Primary: true}, {Voter: voter("b3"), Counted: true},
		}}}
		if diff := cmp.Diff(want, next.Losses); diff != "" {
			t.Errorf("want (-), got (+):\n%s", diff)
		}
		if diff := cmp.Diff([]database.Voter{voter("b2")}, next.Voters); diff != "" || next.E != 1 || !next.Unsealed || next.Forced != nil {
			t.Errorf("voters %s, E %d, unsealed %t, forced %v", diff, next.E, next.Unsealed, next.Forced)
		}
	})
	t.Run("one that did not count may be chosen when it is the furthest, and it is said", func(t *testing.T) {
		x := forced.Clone()
		x.Voters, x.E = []database.Voter{voter("b3")}, 1
		v := view("b2", x, recruit(x, "b2", 3, lsn), silent("b1", time.Minute), b3away)
		d, _ := database.Decide(policy(), v, since(x, 4*time.Second))
		if asked(d) != choose {
			t.Fatalf("asked for %s", asked(d))
		}
		k := database.FailoverRisk(policy(), v, 0, "")
		if !strings.Contains(strings.Join(k.Warn, ";"), "b2 acknowledged nothing") {
			t.Errorf("warned: %v", k.Warn)
		}
	})
}

// given is a confirmed forced failover to b2: b1 and b3 were left behind at epoch 4, timeline 4 forked at lsn.
func given() database.Record {
	r := steady()
	r.Epoch, r.Generation, r.Primary, r.Incarnation, r.Timeline = 4, 30, "b2", "i-b2", 4
	r.Forks = append(r.Forks, database.Fork{Timeline: 4, Epoch: 4, Parent: 3, LSN: lsn})
	r.Former, r.Voters, r.E, r.Unsealed = voter("b1"), nil, 1, true
	r.Losses = []database.Loss{{
		Request: "q1", By: "anna", Epoch: 4, Chosen: voter("b2"), From: lsn, Fork: r.Forks[2], W: 1,
		Known: database.Known{Heard: true, Flushed: lsn + 0x5000, Acknowledged: lsn + 0x4000},
		Left:  []database.Left{{Voter: voter("b1"), Primary: true}, {Voter: voter("b3"), Counted: true}},
	}}
	return r
}

// salvaged is a diverged server whose host did what the plan says with what it holds alone.
func salvaged(how string, l database.Local) database.Local {
	k := *l.Kept
	k.Salvaged, l.Kept = how, &k
	return l
}

// The plan's salvage policy settles what it may, and nothing else does.
func TestThePlanSalvagesWhatAForcedFailoverGaveUp(t *testing.T) {
	r := given()
	lead := primary(r, "b2")
	lead.Names = database.Closed()
	back := recruit(r, "b1", 3, lsn+0x5000)
	back.Timeline, back.History = 3, back.History[:2]
	aside := back
	aside.Kept = &database.Kept{ID: "epoch-3-i-b1", Incarnation: "i-b1", Commits: 7, Acknowledged: 5, End: lsn + 0x5000, Parted: database.Parting{Timeline: 3, LSN: lsn, Given: true}}
	short := aside
	short.Kept = &database.Kept{ID: "epoch-3-i-b1", Incarnation: "i-b1", Parted: database.Parting{Timeline: 3, LSN: lsn + 8, Given: true}}
	rebuilt := given()
	rebuilt.Losses[0].Fork.Parent = 0
	b3 := silent("b3", time.Minute)
	for _, c := range []struct {
		name    string
		policy  database.SalvagePolicy
		r       database.Record
		l       database.Local
		settled string // what the primary notes of b1, "" = it goes on waiting
		work    bool   // b1 has something to work on
	}{
		{"without a policy a person decides", database.SalvageKeep, r, aside, "", false},
		{"discard settles what is listed", database.SalvageDiscard, r, aside, "7 commits discarded, 5 of them acknowledged (as the plan says)", false},
		{"and nothing that is not listed whole", database.SalvageDiscard, r, short, "", false},
		{"and nothing before it is put aside", database.SalvageDiscard, r, back, "", false},
		{"and nothing of a host that a rebuilding wrote off", database.SalvageDiscard, rebuilt, aside, "", false},
		{"export is its host's work, and the primary waits for it", database.SalvageExport, r, aside, "", true},
		{"so is a command", database.SalvageCommand, r, aside, "", true},
		{"which begins once the list is whole", database.SalvageExport, r, short, "", false},
		{"what its host has done settles it", database.SalvageExport, r, salvaged("exported to /lost", aside), "exported to /lost (as the plan says)", false},
		{"even where the plan says otherwise by now", database.SalvageKeep, r, salvaged("exported to /lost", aside), "exported to /lost (as the plan says)", false},
		{"a list that was made longer since has to be worked on again", database.SalvageCommand, r, salvaged("taken", short), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy()
			p.Salvage = c.policy
			d, _ := database.Decide(p, view("b2", c.r, lead, hears("b1", c.r, c.l), b3), since(c.r, time.Minute))
			settled := ""
			for _, a := range d.Actions {
				if a.Kind == database.KindSwap {
					settled = a.Record.Losses[0].Left[0].Settled
				}
			}
			if settled != c.settled {
				t.Errorf("settled %q, want %q (%s)", settled, c.settled, asked(d))
			}
			if _, work := database.ToSalvage(c.policy, c.r, "b1", c.l); work != c.work {
				t.Errorf("there is work for its host: %t", work)
			}
		})
	}
}

func TestAfterAForcedFailover(t *testing.T) {
	r := given()
	calm := since(r, time.Minute)
	lead := primary(r, "b2")
	lead.Names = database.Closed()
	up := hears("b2", r, lead)
	back := recruit(r, "b1", 3, lsn+0x5000)
	back.Timeline, back.History = 3, back.History[:2]
	aside := back
	aside.Kept = &database.Kept{ID: "epoch-3-i-b1", Incarnation: "i-b1", Commits: 7, Acknowledged: 5, End: lsn + 0x5000, Parted: database.Parting{Timeline: 3, LSN: lsn, Given: true}}
	level := recruit(r, "b3", 3, lsn)
	level.Timeline, level.History = 3, level.History[:2]
	b3 := silent("b3", time.Minute)
	settled := given()
	settled.Losses[0].Left[0].Settled = "exported"
	noted := given()
	noted.Losses[0].Left[0].Kept = "epoch-3-i-b1"
	write := "swap epoch=4 gen=31 phase=steady primary=b2 timeline=4 opened=true"
	request := func(v database.View, q database.Request) database.View {
		q.ID, q.Kind = "q2", "settle"
		v.Requests = []database.Request{q}
		return v
	}
	shorter := recruit(r, "b3", 3, lsn+0x4000)
	shorter.Timeline, shorter.History = 3, shorter.History[:2]
	shorter.Kept = &database.Kept{ID: "epoch-3-i-b3", Incarnation: "i-b3", End: lsn + 0x4000, Parted: database.Parting{Timeline: 3, LSN: lsn}}
	covered := settled.Clone()
	covered.Losses[0].Left[0].Kept = "epoch-3-i-b1"

	member := given()
	member.Voters, member.E = []database.Voter{voter("b3")}, 2
	sealing := primary(member, "b2")
	sealing.Names = names(member)
	follower := hears("b3", member, standby(member, "b3"))
	passed := sealing
	passed.Force = database.Force{Names: sealing.Names, Epoch: 4, Mark: lsn}
	m := since(member, time.Minute)
	m.Names, m.NamesAt = sealing.Names, lsn-0x100
	check(t, policy(), []situation{
		{"what only the old primary holds is put aside before anything else", view("b1", r, back, up, b3), calm, "preserve after=0/3000000 timeline=3"},
		{"a list that does not reach back so far is made anew", view("b1", r, func() database.Local {
			l, k := aside, *aside.Kept
			k.Parted.LSN += 8
			l.Kept = &k
			return l
		}(), up, b3), calm, "preserve after=0/3000000 timeline=3"},
		{"so is one of what nobody had given up then", view("b1", r, func() database.Local {
			l, k := aside, *aside.Kept
			k.Parted.Given = false
			l.Kept = &k
			return l
		}(), up, b3), calm, "preserve after=0/3000000 timeline=3"},
		{"then it waits for somebody to decide", view("b1", r, aside, up, b3), calm, "nothing"},
		{"once that is settled it is rewound", view("b1", settled, aside, hears("b2", settled, lead), b3), calm, "rewind from=b2 epoch=4"},
		{"one that holds nothing beyond the fork follows", view("b3", r, level, up, silent("b1", time.Minute)), calm, "follow from=b2 epoch=4"},
		{"the primary notes what was put aside", view("b2", r, lead, hears("b1", r, aside), b3), calm, write},
		{"an operator's word settles it", request(view("b2", noted, lead, hears("b1", noted, aside), b3), database.Request{To: "b1", Kept: "epoch-3-i-b1", Text: "exported"}), calm,
			write},
		{"a word about something else does not", request(view("b2", noted, lead, hears("b1", noted, aside), b3), database.Request{To: "b1", Kept: "other", Text: "exported"}), calm,
			"answer false"},
		{"one whose rows its host has brought to safety is settled", view("b2", noted, lead, hears("b1", noted, salvaged("exported", aside)), b3), calm, write},
		{"but not when its list lacks something", view("b2", noted, lead, hears("b1", noted, func() database.Local {
			l := salvaged("exported", aside)
			l.Kept.Parted.LSN += 8
			return l
		}()), b3), calm, "nothing"},
		{"what lies in a settled report needs no word of its own", view("b2", covered, lead, hears("b1", covered, aside), hears("b3", covered, shorter)), calm,
			write},
		{"a barrier comes before any standby may take over", view("b2", member, sealing, follower, silent("b1", time.Minute)), m, "barrier epoch=4"},
		{"and when it has passed, elections are trusted again", view("b2", member, passed, follower, silent("b1", time.Minute)), m, write},
	})
	t.Run("the chosen one's standbys do not include those that were left behind", func(t *testing.T) {
		x := given()
		x.Phase, x.Voters, x.Opened = database.Promoting, []database.Voter{voter("b2")}, false
		x.Losses[0].Fork = database.Fork{}
		x.Forks = x.Forks[:2]
		l := primary(x, "b2")
		l.History = append(history(x), database.Fork{Timeline: 4, Parent: 3, LSN: lsn})
		l.Names, l.Senders = database.Closed(), nil
		d, _ := database.Decide(policy(), view("b2", x, l, silent("b1", time.Minute), b3), since(x, time.Second))
		next := d.Actions[0].Record
		if next == nil || next.Phase != database.Steady || len(next.Voters) != 0 || next.E != 1 || next.Losses[0].Fork.LSN != lsn || !next.Answered.OK {
			t.Errorf("got %+v", next)
		}
	})
	t.Run("a chosen one that ends before an earlier fork gives up all behind its own end", func(t *testing.T) {
		x := given()
		x.Phase, x.Voters, x.Opened = database.Promoting, []database.Voter{voter("b2")}, false
		x.Losses[0].Fork = database.Fork{}
		x.Forks = x.Forks[:2] // the second of them lies at 0/2000000
		l := primary(x, "b2")
		l.History = append(history(x)[:1], database.Fork{Timeline: 4, Parent: 2, LSN: 0x1f00000})
		l.Names, l.Senders = database.Closed(), nil
		d, _ := database.Decide(policy(), view("b2", x, l, silent("b1", time.Minute), b3), since(x, time.Second))
		next := d.Actions[0].Record
		if next == nil || next.Losses[0].Fork.LSN != 0x1f00000 || next.Losses[0].Fork.Parent != 2 || len(next.Forks) != 2 {
			t.Errorf("got %+v", next)
		}
	})
	t.Run("before the sealing a new voter alone elects nobody", func(t *testing.T) {
		l := primary(r, "b2")
		l.Names, l.Senders = database.Closed(), []database.Sender{sender(r, voter("b3"), lsn)}
		d, _ := database.Decide(policy(), view("b2", r, l, hears("b3", r, standby(r, "b3")), silent("b1", time.Minute)), calm)
		next := d.Actions[0].Record
		if next == nil || len(next.Voters) != 1 || next.E != 2 {
			t.Errorf("got %+v", d.Actions)
		}
	})
}

// Whatever is believed, a forced choice leaves nobody among the voters who did not answer in its epoch.
func TestAForcedChoiceKeepsOnlyThoseWhoAnswered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, m := genView(t)
		v.Record.Phase, v.Record.E = database.Recruiting, len(v.Record.Voters)+1
		v.Record.Forced = &database.Forced{Request: "q1", Floor: genLSN(t)}
		m.Epoch, m.Phase = v.Record.Epoch, v.Record.Phase
		d, _ := database.Decide(policy(), v, m)
		for _, a := range d.Actions {
			if a.Kind != database.KindSwap || a.Record.Phase != database.Promoting || len(a.Record.Losses) == 0 {
				continue
			}
			for _, x := range a.Record.Voters {
				l := v.Local
				for _, p := range v.Peers {
					if p.Host == x.Host {
						l = p.Report.Local
					}
				}
				if l.Incarnation != x.Incarnation || l.Position.Epoch != v.Record.Epoch || l.Promise.Epoch != v.Record.Epoch {
					t.Fatalf("%v is a voter and has not answered: %+v", x, l)
				}
			}
			if a.Record.W > 0 && !a.Record.Unsealed {
				t.Fatal("the next election would be trusted at once")
			}
		}
	})
}
