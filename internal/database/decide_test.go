package database_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
)

// situation is one host's view, and what it must ask for.
type situation struct {
	name string
	v    database.View
	m    database.Memory
	want string
}

func check(t *testing.T, p database.Policy, tests []situation) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := database.Decide(p, tt.v, tt.m)
			if diff := cmp.Diff(tt.want, asked(d)); diff != "" {
				t.Errorf("want (-), got (+):\n%s\nbecause %s", diff, strings.Join(d.Because, "; "))
			}
		})
	}
}

// nothingYet is a host on which nothing has ever been made.
func nothingYet() database.Local {
	return database.Local{Known: true, Data: database.DataAbsent, TreeGone: true, NamesOK: true}
}

func TestMakingADatabase(t *testing.T) {
	absent := func(self string, local database.Local, others ...database.Peer) database.View {
		v := view(self, database.Record{}, local, others...)
		v.Revision = 0
		return v
	}
	creating := database.Record{
		Epoch: 1, Generation: 1, Members: []string{"b1", "b2", "b3"}, Primary: "b1", W: 1, E: 1, Phase: database.Creating,
	}
	fresh := nothingYet()
	fresh.Data, fresh.SystemID, fresh.Incarnation, fresh.Timeline = database.DataPresent, systemID, incarnation("b1"), 1
	fresh.PromiseOK, fresh.Promise = true, database.Promise{Epoch: 1, Incarnation: incarnation("b1")}
	fresh.Names = database.Closed()
	started := fresh
	started.Running, started.TreeGone, started.Role, started.Ready = true, false, database.Standby, true
	promoted := started
	promoted.Role, promoted.Timeline = database.Primary, 2
	promoted.History = []database.Fork{{Timeline: 2, Parent: 1, LSN: 0x1000000}}
	withRoles := promoted
	withRoles.RolesReady = true
	unread := absent("b1", nothingYet())
	unread.Known = false
	check(t, policy(), []situation{
		{"nothing is made before the agreed state has been read", unread, database.Memory{}, "nothing"},
		{"the first host of the plan writes the first record", absent("b1", nothingYet()), database.Memory{},
			"swap epoch=1 gen=1 phase=creating primary=b1 timeline=0 opened=false"},
		{"the second host waits for the first", absent("b2", nothingYet()), database.Memory{}, "nothing"},
		{"data that nothing agreed knows of may be the only copy", absent("b1", fresh), database.Memory{}, "problem database.unknown-data"},
		{"data on another host may be the only copy", absent("b1", nothingYet(), hears("b2", database.Record{}, fresh)), database.Memory{}, "nothing"},
		{"a half-made first copy is made again", view("b1", creating, func() database.Local {
			l := nothingYet()
			l.Data = database.DataPartial
			return l
		}()), database.Memory{}, "init"},
		{"the first copy starts as a standby", view("b1", creating, fresh), database.Memory{}, "start"},
		{"then it is promoted to timeline 2", view("b1", creating, started), database.Memory{}, "promote epoch=1 timeline=2"},
		{"then roles are made", view("b1", creating, promoted), database.Memory{}, "roles"},
		{"then it is confirmed, still without voters and closed", view("b1", creating, withRoles), database.Memory{},
			"swap epoch=1 gen=2 phase=steady primary=b1 timeline=2 opened=false"},
		{"the others wait while the first copy is made", view("b2", creating, nothingYet()), database.Memory{}, "nothing"},
		{"foreign data are never touched", view("b1", steady(), func() database.Local {
			l := nothingYet()
			l.Data, l.Why = database.DataForeign, "it belongs to PostgreSQL 9.6"
			return l
		}()), database.Memory{}, "problem database.foreign-data"},
		{"another database's system identifier makes data foreign", view("b2", steady(), func() database.Local {
			l := standby(steady(), "b2")
			l.SystemID++
			return l
		}(), hears("b1", steady(), primary(steady(), "b1"))), database.Memory{}, "problem database.foreign-data"},
	})
}

func TestAPrimaryIsLost(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	dead := gone(up, "signal 9")
	saw := since(r, time.Minute)
	saw.SawPrimary = true
	b2, b3 := standby(r, "b2"), standby(r, "b3")
	quiet := 3 * time.Second
	lost := since(r, time.Minute)
	lost.Lost, lost.LostSince = true, time.Hour-5*time.Second
	vetoed := since(r, time.Minute)
	vetoed.Quiet, vetoed.QuietSince = true, time.Hour-10*time.Second
	outlasted := lost
	outlasted.Quiet, outlasted.QuietSince = true, time.Hour-31*time.Second
	election := "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	alone := "swap epoch=4 gen=21 phase=promoting primary=b1 timeline=4 opened=false"
	still := func(v database.View) database.View { v.Advanced = database.Never; return v }
	late := still(view("b2", r, b2, silent("b1", quiet), alsoDeaf(hears("b3", r, b3), "b1", quiet)))
	late.Late = true
	gateOnly := silent("b1", quiet)
	gateOnly.GateAge = 200 * time.Millisecond
	check(t, policy(), []situation{
		{"its own host saw it exit and two voters answer: an election at once",
			view("b1", r, dead, hears("b2", r, b2), hears("b3", r, b3)), saw, election},
		{"a voter that hears of the exit waits for its turn",
			view("b2", r, b2, hears("b1", r, dead), hears("b3", r, b3)), since(r, time.Minute), "nothing"},
		{"and starts the election itself when that has passed",
			view("b2", r, b2, hears("b1", r, dead), hears("b3", r, b3)), lost, election},
		{"with one of two needed voters it comes back alone",
			view("b1", r, dead, hears("b2", r, b2), silent("b3", time.Minute)), saw, alone},
		{"with another incarnation it does not come back alone", view("b1", r, func() database.Local {
			l := dead
			l.Incarnation = "i-other"
			return l
		}(), silent("b2", time.Minute), silent("b3", time.Minute)), saw, "problem database.no-candidate"},
		{"with a promise that cannot be trusted it promises anew and does not come back alone", view("b1", r, func() database.Local {
			l := dead
			l.PromiseOK = false
			return l
		}(), silent("b2", time.Minute), silent("b3", time.Minute)), saw, "problem database.no-candidate"},
		{"a host that is silent for 3 s for both voters is given up",
			still(view("b2", r, b2, silent("b1", quiet), alsoDeaf(hears("b3", r, b3), "b1", quiet))), lost, election},
		{"one of two needed voters does not suffice",
			still(view("b2", r, b2, silent("b1", quiet), silent("b3", quiet))), lost, "problem database.no-candidate"},
		{"a voter that still hears the primary prevents it",
			still(view("b2", r, b2, silent("b1", quiet), alsoDeaf(hears("b3", r, b3), "b1", time.Second))), lost, "nothing"},
		{"a gate that still beats prevents it",
			still(view("b2", r, b2, gateOnly, alsoDeaf(hears("b3", r, b3), "b1", quiet))), lost, "nothing"},
		{"a host whose own timers ran late suspects nobody", late, lost, "nothing"},
		{"WAL that advances is a veto",
			view("b2", r, b2, silent("b1", quiet), alsoDeaf(hears("b3", r, b3), "b1", quiet)), vetoed, "nothing"},
		{"for half a minute at most",
			view("b2", r, b2, silent("b1", quiet), alsoDeaf(hears("b3", r, b3), "b1", quiet)), outlasted, election},
		{"a primary that runs and is heard is not lost",
			view("b2", r, b2, hears("b1", r, up), hears("b3", r, b3)), lost, "nothing"},
	})
}

// recruiting is epoch 4, in which voters are asked for a promise.
func recruiting() database.Record {
	r := steady()
	r.Epoch, r.Generation, r.Phase, r.Opened, r.Runner = 4, 21, database.Recruiting, false, "b2"
	r.Former = voter("b1")
	return r
}

func TestAnElection(t *testing.T) {
	r := recruiting()
	young := since(r, 100*time.Millisecond)
	stuck := since(r, 4*time.Second)
	behind := standby(r, "b2")
	behind.Promise.Epoch, behind.Following = 3, 3
	ahead := recruit(r, "b3", 3, lsn+0x100)
	rebuilt := recruit(r, "b3", 3, lsn)
	rebuilt.Incarnation = "i-b3-2"
	strange := recruit(r, "b3", 9, lsn+0x1000)
	strange.History = append(strange.History, database.Fork{Timeline: 9, Parent: 3, LSN: lsn})
	assigned := r.Clone()
	assigned.Epoch = 5
	assigned.Assigned = []database.Fork{{Timeline: 4, Epoch: 4}}
	asked5 := database.Memory{Epoch: 5, Phase: database.Recruiting, PhaseSince: time.Hour}
	further := recruit(assigned, "b3", 4, lsn+0x10)
	further.Timeline = 4
	further.History = append(further.History, database.Fork{Timeline: 4, Parent: 3, LSN: lsn})
	running := primary(r, "b1")
	running.Promise.Epoch = 3
	dead := gone(running, "signal 9")
	choose := func(host string, timeline string) string {
		return "swap epoch=4 gen=22 phase=promoting primary=" + host + " timeline=" + timeline + " opened=false"
	}
	check(t, policy(), []situation{
		{"a voter promises the new epoch first", view("b2", r, behind, hears("b3", r, ahead)), young, "recruit epoch=4"},
		{"a promise that cannot be trusted is made anew", view("b2", r, func() database.Local {
			l := recruit(r, "b2", 3, lsn)
			l.PromiseOK = false
			return l
		}(), hears("b3", r, ahead)), young, "recruit epoch=4"},
		{"a promise without a position is asked for it", view("b2", r, recruit(r, "b2", 3, 0), hears("b3", r, ahead)), young,
			choose("b3", "4")},
		{"the furthest of two answers is chosen", view("b2", r, recruit(r, "b2", 3, lsn), hears("b3", r, ahead)), young, choose("b3", "4")},
		{"one answer of two needed chooses nobody", view("b2", r, recruit(r, "b2", 3, lsn), silent("b3", time.Second)), young, "nothing"},
		{"and after a while it is said who is missing", view("b2", r, recruit(r, "b2", 3, lsn), silent("b3", 5*time.Second)), stuck,
			"problem database.no-candidate"},
		{"a rebuilt copy is no answer", view("b2", r, recruit(r, "b2", 3, lsn), hears("b3", r, rebuilt)), stuck, "problem database.no-candidate"},
		{"a history that nobody agreed on is no answer", view("b2", r, recruit(r, "b2", 3, lsn), hears("b3", r, strange)), stuck,
			"problem database.no-candidate"},
		{"a timeline of a promotion that was never confirmed ranks higher, and its number is not used again",
			view("b2", assigned, recruit(assigned, "b2", 3, lsn+0x9000), hears("b3", assigned, further)), asked5,
			"swap epoch=5 gen=22 phase=promoting primary=b3 timeline=5 opened=false"},
		{"equal answers are decided by the plan's order", view("b3", r, recruit(r, "b3", 3, lsn), hears("b2", r, recruit(r, "b2", 3, lsn))), stuck,
			choose("b2", "4")},
		{"the old primary is killed when it still runs", view("b1", r, running, hears("b2", r, recruit(r, "b2", 3, lsn))), young, "kill"},
		{"then it promises as well, and stays stopped", view("b1", r, dead, hears("b2", r, recruit(r, "b2", 3, lsn))), young, "recruit epoch=4"},
		{"it comes back alone only when the election gets nowhere", view("b1", r, dead, silent("b2", time.Minute), silent("b3", time.Minute)), stuck,
			"swap epoch=5 gen=22 phase=promoting primary=b1 timeline=4 opened=false; problem database.no-candidate"},
		{"a promise above the agreed epoch stops everything", view("b2", steady(), func() database.Local {
			l := standby(steady(), "b2")
			l.Promise.Epoch = 7
			return l
		}(), hears("b1", steady(), primary(steady(), "b1"))), func() database.Memory {
			m := since(steady(), time.Minute)
			m.Old, m.OldSince = database.Promise{Epoch: 7, Generation: steady().Generation, Incarnation: incarnation("b2")}, time.Hour-time.Second
			return m
		}(), "problem database.agreed-state-old"},
	})
}

// promoting is epoch 4 with b2 chosen.
func promoting() database.Record {
	r := recruiting()
	r.Generation, r.Phase, r.Primary, r.Incarnation, r.Timeline = 22, database.Promoting, "b2", incarnation("b2"), 4
	return r
}

func TestAPromotion(t *testing.T) {
	r := promoting()
	chosen := recruit(r, "b2", 3, lsn)
	chosen.Timeline = 3
	stopped := gone(chosen, "the host was off")
	up := primary(r, "b2")
	up.Timeline, up.Admits = 4, false
	up.History = append(up.History, database.Fork{Timeline: 4, Parent: 3, LSN: lsn})
	up.Names = database.Closed()
	named := up
	named.Names = database.Names{W: 1, List: []string{"i-b1@4", "i-b3@4"}}
	half := chosen
	half.Timeline = 4
	half.History = up.History
	done := r.Clone()
	done.Generation, done.Phase, done.Voters = 23, database.Steady, []database.Voter{voter("b1"), voter("b3")}
	done.Forks = append(done.Forks, database.Fork{Timeline: 4, Epoch: 4, Parent: 3, LSN: lsn})
	shut := named
	shut.Promise.Generation = done.Generation
	open := shut
	open.Admits = true
	b3 := standby(done, "b3")
	attests := gone(primary(steady(), "b1"), "signal 9")
	promised := standby(done, "b1")
	unknown := silent("b1", 5*time.Second)
	opened := "swap epoch=4 gen=24 phase=steady primary=b2 timeline=4 opened=true"
	check(t, policy(), []situation{
		{"the chosen standby is promoted to the assigned timeline", view("b2", r, chosen), since(r, 0), "promote epoch=4 timeline=4"},
		{"a chosen server that is stopped starts first", view("b2", r, stopped), since(r, 0), "start"},
		{"its names are set while it is closed", view("b2", r, up), since(r, 0), `names ANY 1 ("i-b1@4", "i-b3@4")`},
		{"then it is confirmed, with the former primary as a voter in its place", view("b2", r, named), since(r, 0),
			"swap epoch=4 gen=23 phase=steady primary=b2 timeline=4 opened=false"},
		{"nothing is confirmed while its timeline cannot be read", view("b2", r, func() database.Local {
			l := named
			l.Timeline, l.History = 0, nil
			return l
		}()), since(r, 0), "nothing"},
		{"nor promoted", view("b2", r, func() database.Local {
			l := chosen
			l.Timeline, l.History = 0, nil
			return l
		}()), since(r, 0), "nothing"},
		{"a promotion that was cut short after the number was used is begun again in a new epoch", view("b2", r, half), since(r, 0),
			"swap epoch=5 gen=23 phase=recruiting primary=b2 timeline=4 opened=false"},
		{"a chosen server whose data were replaced promotes nothing", view("b2", r, func() database.Local {
			l := chosen
			l.Incarnation = "i-b2-2"
			return l
		}()), since(r, 0), "nothing"},
		{"(a) clients are let in once the old keeper attests that its server is gone", view("b2", done, shut, hears("b1", done, attests), hears("b3", done, b3)),
			since(done, 0), "admit clients=true"},
		{"and then the listeners are told", view("b2", done, open, hears("b1", done, attests), hears("b3", done, b3)), since(done, 0), opened},
		{"(b) or once the old primary has promised this epoch", view("b2", done, open, hears("b1", done, promised), hears("b3", done, b3)), since(done, 0), opened},
		{"an old primary that nobody hears of keeps it closed", view("b2", done, open, unknown, hears("b3", done, b3)), since(done, 3*time.Second), "nothing"},
		{"(c) for three and a half seconds", view("b2", done, open, unknown, hears("b3", done, b3)), since(done, 3500*time.Millisecond), opened},
	})
}

func TestAReturnAlone(t *testing.T) {
	r := steady()
	r.Epoch, r.Generation, r.Opened, r.Alone, r.Timeline = 4, 23, false, true, 4
	r.Forks = append(r.Forks, database.Fork{Timeline: 4, Epoch: 4, Parent: 3, LSN: lsn})
	l := primary(r, "b1")
	l.Admits = false
	begun := l
	begun.Force = database.Force{Names: l.Names, Epoch: 4, Mark: lsn}
	begun.Flushed = lsn
	stale := begun
	stale.Senders = []database.Sender{sender(r, voter("b2"), lsn)}
	stale.Senders[0].Fresh = false
	short := begun
	short.Senders = []database.Sender{sender(r, voter("b2"), lsn-1)}
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	diverged := standby(r, "b2")
	diverged.Following = 3
	m := since(r, time.Minute)
	m.Names, m.NamesAt = l.Names, lsn-0x100
	check(t, policy(), []situation{
		{"what it alone holds must reach a standby before anybody sees it", view("b1", r, l, b2, b3), m, "barrier epoch=4"},
		{"a walsender of before the barrier does not count", view("b1", r, stale, b2, silent("b3", time.Second)), m, "nothing"},
		{"nor does one that lacks the last record", view("b1", r, short, b2, silent("b3", time.Second)), m, "nothing"},
		{"nor does one whose own host does not say that it follows", view("b1", r, func() database.Local {
			x := begun
			x.Senders = x.Senders[:1]
			return x
		}(), hears("b2", r, diverged), silent("b3", time.Second)), m, "nothing"},
		{"then clients are let in", view("b1", r, begun, b2, b3), m, "admit clients=true"},
	})
}
