package database_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/internal/database"
)

// Each of these was a defect that a review found by reading; docs/incidents.md has the rows of those that could
// have cost data or a service.

// touched is a server that only notes who would have changed what may acknowledge.
type touched struct {
	database.Server // nil: nothing else may be called
	calls           []string
}

func (s *touched) SetNames(_ context.Context, n database.Names) error {
	s.calls = append(s.calls, n.String())
	return nil
}

func (s *touched) Barrier(context.Context, int64) error {
	s.calls = append(s.calls, "barrier")
	return nil
}

func (s *touched) Remember(_ context.Context, _, generation int64) error {
	s.calls = append(s.calls, fmt.Sprint("remember ", generation))
	return nil
}

func (s *touched) Promote(context.Context, int64, uint32, []database.Fork) error {
	s.calls = append(s.calls, "promote")
	return nil
}

// agreed is a record that nobody may write.
type agreed struct {
	database.Records
	record   database.Record
	revision int64
}

func (a agreed) Read(context.Context) (database.Record, int64, error) {
	return a.record, a.revision, nil
}

// A removal's answer was lost: the record has lost b3, and this host still judges by the one with it.
func TestNamesAndBarriersMeetTheRecordTheyWereJudgedFrom(t *testing.T) {
	r := steady()
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	narrow := primary(r, "b1")
	narrow.Names = names(without(r, "b3"))
	missing := narrow
	missing.Senders = narrow.Senders[:1]
	m := since(r, time.Minute)
	m.Names, m.NamesAt = narrow.Names, lsn-0x100
	removed := without(r, "b3")
	removed.Generation, removed.E = r.Generation+1, 1
	tests := []struct {
		name     string
		v        database.View
		want     string
		record   database.Record
		revision int64
		refused  bool
	}{
		{"names judged on this very revision are set", view("b1", r, narrow, b2, b3),
			`ANY 1 ("i-b2@3", "i-b3@3")`, r, 500, false},
		{"names judged before a voter was removed are refused", view("b1", r, narrow, b2, b3),
			`ANY 1 ("i-b2@3", "i-b3@3")`, removed, 501, true},
		{"a barrier judged on this very revision is begun", view("b1", r, missing, b2, silent("b3", time.Minute)), "barrier", r, 500, false},
		{"a barrier judged on an older revision is refused", view("b1", r, missing, b2, silent("b3", time.Minute)), "barrier", removed, 501, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, _ := database.Decide(policy(), tt.v, m)
			if len(d.Actions) != 1 {
				t.Fatalf("asked for %s", asked(d))
			}
			s := &touched{}
			err := database.Act(t.Context(), database.Hands{Self: "b1", Server: s, Records: agreed{record: tt.record, revision: tt.revision}}, d.Actions[0])
			want := []string{tt.want}
			if tt.refused {
				want = nil
			}
			if !slices.Equal(s.calls, want) || errors.Is(err, database.ErrStale) != tt.refused || err != nil != tt.refused {
				t.Errorf("did %q, %v; want %q", s.calls, err, want)
			}
		})
	}
}

func TestAnAgreedStateFromABackupIsRefused(t *testing.T) {
	r := steady()
	raised := recruiting()
	raised.Generation = 19 // an old state in which somebody has begun an election since
	newer := func(l database.Local, generation int64) database.Local {
		l.Promise.Generation = generation
		return l
	}
	up := hears("b1", r, primary(r, "b1"))
	sw := r.Clone()
	sw.Phase, sw.Opened, sw.SwitchTo, sw.Generation = database.Switching, false, "b2", 21
	doubted := func(name string, v database.View, r database.Record, want string) situation {
		before := v
		before.Now -= time.Second // a read was sent since
		_, m := database.Decide(policy(), before, since(r, time.Minute))
		return situation{name, v, m, want}
	}
	handing := gone(primary(sw, "b1"), "stopped")
	handing.ShutDown, handing.Promise.Epoch = true, 4
	handing.Position = database.Position{Epoch: 4, Timeline: 3, LSN: lsn}
	check(t, policy(), []situation{
		doubted("a standby that has kept a newer generation of the same epoch refuses", view("b2", r, newer(standby(r, "b2"), 21), up), r,
			"problem database.agreed-state-old"),
		doubted("so does one that is asked to promise a higher epoch of an older generation",
			view("b2", raised, newer(standby(r, "b2"), 20), silent("b1", time.Minute)), raised, "problem database.agreed-state-old"),
		doubted("and one that should be promoted by it", view("b2", func() database.Record {
			p := promoting()
			p.Generation = 19
			return p
		}(), newer(recruit(promoting(), "b2", 3, lsn), 20)), promoting(), "problem database.agreed-state-old"),
		doubted("and a stopped primary that should come back alone", view("b1", raised, newer(gone(primary(r, "b1"), "signal 9"), 20)), raised, "problem database.agreed-state-old"),
		doubted("and a host that hears of such a promise", view("b3", r, standby(r, "b3"), up, hears("b2", r, newer(standby(r, "b2"), 21))), r,
			"problem database.agreed-state-old"),
		doubted("and the primary, which goes on as it is", view("b1", r, primary(r, "b1"), hears("b2", r, newer(standby(r, "b2"), 21)), silent("b3", time.Minute)), r, "problem database.agreed-state-old"),
		{"before a read was sent since, it may only be late: it is refused, and not said",
			view("b2", r, newer(standby(r, "b2"), 21), up), since(r, time.Minute), "nothing"},
		doubted("another database's promise is nobody's business", view("b3", r, standby(r, "b3"), up, hears("b2", r, func() database.Local {
			l := newer(standby(r, "b2"), 21)
			l.SystemID++
			return l
		}())), r, "nothing"),
		doubted("stopping is always allowed", func() database.View {
			v := view("b1", r, newer(primary(r, "b1"), 21))
			v.Stopping = true
			return v
		}(), r, "stop"),
		{"a primary keeps the generation, so that it would know", view("b1", r, newer(primary(r, "b1"), 19), hears("b2", r, standby(r, "b2")),
			hears("b3", r, standby(r, "b3"))), since(r, time.Minute), "remember epoch=3"},
		{"a generation that is not kept yet is no reason", view("b2", r, newer(standby(r, "b2"), 19), up), since(r, time.Minute), "remember epoch=3"},
		{"nor is the next epoch, promised for a switchover", view("b1", sw, handing, hears("b2", sw, standby(sw, "b2"))), since(sw, time.Second),
			"swap epoch=4 gen=22 phase=promoting primary=b2 timeline=4 opened=false"},
	})
}

// Two promises in a row, each told before our own read shows what it was made under: a read that was sent after the
// first one says nothing of the second.
func TestAReadFromBetweenTwoPromisesIsNoProofOfAnOldBackup(t *testing.T) {
	told := func(generation int64, age time.Duration, now time.Duration) database.View {
		r := steady()
		l := standby(r, "b2")
		l.Promise.Generation = generation
		v := view("b3", r, standby(r, "b3"), hears("b1", r, primary(r, "b1")), hears("b2", r, l))
		v.RecordAge, v.Now = age, now
		return v
	}
	_, m := database.Decide(policy(), told(21, 400*time.Millisecond, time.Hour), since(steady(), time.Minute))
	d, m := database.Decide(policy(), told(22, 50*time.Millisecond, time.Hour+100*time.Millisecond), m)
	if len(d.Problems) != 0 || len(d.Actions) != 0 {
		t.Fatalf("said %v, does %v", d.Problems, d.Actions)
	}
	d, _ = database.Decide(policy(), told(22, 50*time.Millisecond, time.Hour+time.Second), m)
	if len(d.Problems) != 1 || d.Problems[0].Code != "database.agreed-state-old" {
		t.Errorf("a read was sent since, and it is not said: %v", d.Problems)
	}
}

func TestWhoIsPromotedKeepsTheGenerationFirst(t *testing.T) {
	r := promoting()
	s := &touched{}
	err := database.Act(t.Context(), database.Hands{Self: "b2", Server: s, Records: agreed{record: r, revision: 500}},
		database.Action{Kind: database.KindPromote, Epoch: 4, Timeline: 4})
	if want := []string{"remember 22", "promote"}; err != nil || !slices.Equal(s.calls, want) {
		t.Errorf("did %q, %v; want %q", s.calls, err, want)
	}
}

// beats is a peer whose agent is silent for d and whose listener still beats.
func beats(host string, d time.Duration) database.Peer {
	return database.Peer{Host: host, AgentAge: d, GateAge: 200 * time.Millisecond, Contact: d}
}

// deafToAgent makes a peer say that it hears host's listener, and has not heard its agent for d.
func deafToAgent(p database.Peer, host string, d time.Duration) database.Peer {
	p = alsoDeaf(p, host, d)
	p.Report.Silent[0].Gate = 200 * time.Millisecond
	return p
}

func TestAnAgentThatDiesForGood(t *testing.T) {
	r := steady()
	b2, b3 := standby(r, "b2"), standby(r, "b3")
	long, short := 6*time.Second, 5*time.Second
	lost := since(r, time.Minute)
	lost.Lost, lost.LostSince = true, time.Hour-5*time.Second
	vetoed := lost
	vetoed.Quiet, vetoed.QuietSince = true, time.Hour-time.Minute
	election := "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	still := func(v database.View) database.View { v.Advanced = database.Never; return v }
	both := alsoDeaf(hears("b3", r, b3), "b1", long)
	moving := deafToAgent(hears("b3", r, b3), "b1", long)
	moving.Report.Advanced = 500 * time.Millisecond
	check(t, policy(), []situation{
		{"is replaced once its primary's lease must have run out, though the listener beats",
			still(view("b2", r, b2, beats("b1", long), deafToAgent(hears("b3", r, b3), "b1", long))), lost, election},
		{"and not before", still(view("b2", r, b2, beats("b1", short), deafToAgent(hears("b3", r, b3), "b1", short))), lost, "nothing"},
		{"nor while another voter has heard it more lately",
			still(view("b2", r, b2, beats("b1", long), deafToAgent(hears("b3", r, b3), "b1", short))), lost, "nothing"},
		{"nor, for as long as that lasts, while its WAL advances here",
			view("b2", r, b2, beats("b1", long), deafToAgent(hears("b3", r, b3), "b1", long)), vetoed, "nothing"},
		{"or on another voter", still(view("b2", r, b2, beats("b1", long), moving)), vetoed, "nothing"},
		{"which a host that is silent altogether may do for half a minute",
			view("b2", r, b2, silent("b1", long), both), vetoed, election},
	})
}

func TestAPromotionThatIsNeverConfirmed(t *testing.T) {
	r := promoting()
	former := gone(recruit(r, "b1", 3, lsn), "stopped")
	away := silent("b2", 10*time.Second)
	b3 := recruit(r, "b3", 3, lsn)
	lost := since(r, time.Minute)
	lost.Lost, lost.LostSince = true, time.Hour-20*time.Second
	election := "swap epoch=5 gen=23 phase=recruiting primary=b2 timeline=4 opened=false"
	next := recruiting() // the epoch that follows, begun while b2 is away
	next.Epoch, next.Generation, next.Primary, next.Incarnation = 5, 23, "b2", incarnation("b2")
	next.Assigned = []database.Fork{{Timeline: 4, Epoch: 4}}
	answer := gone(recruit(next, "b1", 3, lsn+0x40), "stopped")
	short := recruit(next, "b3", 3, lsn)
	rebuilt := answer
	rebuilt.Incarnation = "i-b1-2"
	unread := answer
	unread.Position = database.Position{}
	stuck, young := since(next, 4*time.Second), since(next, time.Second)
	still := func(v database.View) database.View { v.Advanced = database.Never; return v }
	chosen := func(host string) string {
		return "swap epoch=5 gen=24 phase=promoting primary=" + host + " timeline=5 opened=false"
	}
	check(t, policy(), []situation{
		{"the former primary begins anew when the chosen one has died, though one voter of two is left",
			still(view("b1", r, former, away, alsoDeaf(hears("b3", r, b3), "b2", 10*time.Second))), lost, election},
		{"even when no voter is left", still(view("b1", r, former, away, silent("b3", time.Minute))), lost, election},
		{"a voter begins anew when the former primary could answer",
			still(view("b3", r, b3, away, alsoDeaf(hears("b1", r, former), "b2", 10*time.Second))), lost, election},
		{"not while the former primary still hears the chosen one",
			still(view("b3", r, b3, away, alsoDeaf(hears("b1", r, former), "b2", time.Second))), lost, "nothing"},
		{"nor when the former primary was made anew and one voter of two is left", still(view("b3", r, b3, away, alsoDeaf(hears("b1", r, func() database.Local {
			l := former
			l.Incarnation = "i-b1-2"
			return l
		}()), "b2", 10*time.Second))), lost, "problem database.no-candidate"},
		{"a chosen server that does not know it is given nine seconds",
			view("b3", r, b3, hears("b2", steady(), recruit(r, "b2", 3, lsn)), hears("b1", r, former)),
			func() database.Memory { m := lost; m.LostSince = time.Hour - 8*time.Second; return m }(), "nothing"},
		{"and no more", view("b3", r, b3, hears("b2", steady(), recruit(r, "b2", 3, lsn)), hears("b1", r, former)),
			func() database.Memory { m := lost; m.LostSince = time.Hour - 10*time.Second; return m }(), election},
		{"two answers of two are preferred to the former primary, however far it is",
			view("b1", next, answer, hears("b2", next, recruit(next, "b2", 3, lsn)), hears("b3", next, short)), stuck, chosen("b2")},
		{"with one of two the former primary waits for a while",
			view("b1", next, answer, silent("b2", time.Minute), hears("b3", next, short)), young, "nothing"},
		{"and is then enough by itself", view("b1", next, answer, silent("b2", time.Minute), hears("b3", next, short)), stuck, chosen("b1")},
		{"whoever sees it may write that", view("b3", next, short, hears("b1", next, answer), silent("b2", time.Minute)), stuck, chosen("b1")},
		{"one that was made anew is not", view("b3", next, short, hears("b1", next, rebuilt), silent("b2", time.Minute)), stuck,
			"problem database.no-candidate"},
		{"nor one that has told no position", view("b3", next, short, hears("b1", next, unread), silent("b2", time.Minute)), stuck,
			"problem database.no-candidate"},
	})
	t.Run("the former primary comes back alone, so a barrier comes before it opens", func(t *testing.T) {
		d, _ := database.Decide(policy(), view("b1", next, answer, silent("b2", time.Minute), hears("b3", next, short)), stuck)
		got := d.Actions[0].Record
		if !got.Alone || got.Former.Host != "" || got.Incarnation != incarnation("b1") || got.E != 2 || len(got.Voters) != 2 {
			t.Fatalf("wrote %+v", got)
		}
	})
}

func TestAPrimaryThatCannotWrite(t *testing.T) {
	r := steady()
	hung := primary(r, "b1")
	hung.Writable = "hung"
	well := primary(r, "b1")
	well.Writable = "ok"
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	calm := since(r, time.Minute)
	calm.Names = hung.Names
	for11 := calm
	for11.Hung, for11.HungSince = true, time.Hour-11*time.Second
	for9 := calm
	for9.Hung, for9.HungSince = true, time.Hour-9*time.Second
	lost := func(d time.Duration) database.Memory {
		m := since(r, time.Minute)
		m.Lost, m.LostSince = true, time.Hour-d
		return m
	}
	late := view("b1", r, hung, b2, b3)
	late.Late = true
	shut := r.Clone()
	shut.Opened = false
	check(t, policy(), []situation{
		{"is ended by its own host after ten seconds", view("b1", r, hung, b2, b3), for11, "kill"},
		{"and not before", view("b1", r, hung, b2, b3), for9, "nothing"},
		{"nor when one of two needed standbys is away", view("b1", r, hung, b2, silent("b3", time.Minute)), for11, "problem database.hung"},
		{"nor when our own timers ran late", late, for11, "nothing"},
		{"one that writes again is well", view("b1", r, well, b2, b3), for11, "nothing"},
		{"the others wait for its own host", view("b2", r, standby(r, "b2"), hears("b1", r, hung), b3), lost(19 * time.Second), "nothing"},
		{"and elect when it is still there after twenty seconds", view("b2", r, standby(r, "b2"), hears("b1", r, hung), b3), lost(21 * time.Second),
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
		{"one that waits for standbys is not hung", view("b2", r, standby(r, "b2"), hears("b1", r, func() database.Local {
			l := hung
			l.Writable = "waiting"
			return l
		}()), b3), lost(time.Minute), "nothing"},
	})
	t.Run("a hang of an earlier epoch is not counted into this one", func(t *testing.T) {
		m := for11
		m.Epoch = 2
		d, _ := database.Decide(policy(), view("b1", r, hung, b2, b3), m)
		if got := asked(d); got != "nothing" {
			t.Fatalf("asked for %s", got)
		}
	})
}

func TestAHostThatCannotTellHowItsServerIs(t *testing.T) {
	r := steady()
	blind := hears("b1", r, database.Local{Why: "read the data directory: input/output error"})
	b3 := hears("b3", r, standby(r, "b3"))
	lost := func(d time.Duration) database.Memory {
		m := since(r, time.Minute)
		m.Lost, m.LostSince = true, time.Hour-d
		return m
	}
	check(t, policy(), []situation{
		{"is given the time in which it is fenced, and more", view("b2", r, standby(r, "b2"), blind, b3), lost(5 * time.Second), "nothing"},
		{"and is then replaced", view("b2", r, standby(r, "b2"), blind, b3), lost(7 * time.Second),
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
		{"by no fewer voters than are needed", view("b2", r, standby(r, "b2"), blind, silent("b3", time.Minute)), lost(7 * time.Second),
			"problem database.no-candidate"},
	})
}

func TestAFileThatCannotBeReadKillsNobody(t *testing.T) {
	r := steady()
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	m := since(r, time.Minute)
	up := primary(r, "b1")
	m.Names = up.Names
	unread := func(f func(*database.Local)) database.View {
		l := primary(r, "b1")
		f(&l)
		return view("b1", r, l, b2, b3)
	}
	promise := unread(func(l *database.Local) { l.Promise, l.PromiseOK = database.Promise{}, false })
	check(t, policy(), []situation{
		{"not the promise", promise, m, "nothing"},
		{"not the incarnation", unread(func(l *database.Local) { l.Incarnation, l.PromiseOK = "", false }), m, "nothing"},
		{"not the timeline", unread(func(l *database.Local) { l.Timeline, l.History = 0, nil }), m, "nothing"},
		{"one that is there and says another epoch does", unread(func(l *database.Local) { l.Promise.Epoch = 2 }), m, "kill"},
		{"so does another incarnation", unread(func(l *database.Local) { l.Incarnation = "i-b1-2" }), m, "kill"},
		{"and no promise at all, once voters are asked for a new one", view("b1", recruiting(), promise.Local, b2, b3), since(recruiting(), time.Second), "kill"},
	})
	t.Run("but without a promise nothing extends its lease", func(t *testing.T) {
		d, _ := database.Decide(policy(), promise, m)
		if d.Lease != 0 {
			t.Errorf("a lease of %s", d.Lease)
		}
	})
}

func TestALoneServerKeepsItsLeaseWithoutTheAgreedState(t *testing.T) {
	r := steady()
	r.Members, r.Voters, r.W, r.E = []string{"b1"}, nil, 0, 1
	l := primary(r, "b1")
	l.Names = database.Names{}
	v := view("b1", r, l)
	v.RecordAge = time.Hour
	d, _ := database.Decide(policy(), v, since(r, time.Minute))
	if want := database.DefaultTimes().Fence; d.Lease != want || d.LeaseOf != r.Epoch {
		t.Errorf("a lease of %s for epoch %d, want %s for %d: %v", d.Lease, d.LeaseOf, want, r.Epoch, d.Because)
	}
	v.Record.Members = []string{"b1", "b2"}
	if d, _ := database.Decide(policy(), v, since(r, time.Minute)); d.Lease != 0 {
		t.Errorf("with another member its lease is %s", d.Lease)
	}
}

func TestNamesThatAreBeingWrittenAreBetweenTwoStates(t *testing.T) {
	r := steady()
	l := primary(r, "b1")
	l.NamesOK = false
	m := since(r, time.Minute)
	m.Names = l.Names
	for _, tt := range []struct {
		name  string
		busy  []database.Kind
		want  string
		state database.GateState
	}{
		{"while Holdfast writes them the listener leads on and nobody complains", []database.Kind{database.KindNames}, "nothing", database.GateOpen},
		{"while it does something else they are somebody else's", []database.Kind{database.KindRoles}, "problem database.names-changed", database.GateHold},
		{"so are they while it does nothing", nil, `names ANY 1 ("i-b2@3", "i-b3@3"); problem database.names-changed`, database.GateHold},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view("b1", r, l, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3")))
			v.Busy = tt.busy
			d, _ := database.Decide(policy(), v, m)
			if asked(d) != tt.want || d.Gate.State != tt.state {
				t.Errorf("asked for %s, the listener is %s", asked(d), d.Gate.State)
			}
		})
	}
}

func TestAStandbyWhoseStreamDoesNotCome(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	alone := up
	alone.Senders = nil
	p, only, b3 := hears("b1", r, up), hears("b1", r, alone), hears("b3", r, standby(r, "b3"))
	starting := hears("b1", r, func() database.Local {
		l := up
		l.Ready = false
		return l
	}())
	cut := standby(r, "b2")
	cut.Receiving = false
	recovering := cut
	recovering.Ready = false
	for4, for21, for121 := since(r, time.Hour), since(r, time.Hour), since(r, time.Hour)
	for4.Cut, for4.CutSince = true, time.Hour-4*time.Second
	for21.Cut, for21.CutSince, for21.Refollowed = true, time.Hour-21*time.Second, 20*time.Second
	for121.Cut, for121.CutSince, for121.Refollowed = true, time.Hour-121*time.Second, 120*time.Second
	again := for4
	again.Refollowed = 3500 * time.Millisecond
	newcomer := cut
	newcomer.Incarnation = "i-b2-2"
	check(t, policy(), []situation{
		{"is not copied anew while it recovers", view("b2", r, recovering, p, b3), for21, "nothing"},
		{"is set up once more after three seconds", view("b2", r, cut, p, b3), for4, "follow from=b1 epoch=3"},
		{"once, and then left to connect", view("b2", r, cut, p, b3), again, "nothing"},
		{"not while the primary does not answer", view("b2", r, cut, starting, b3), for4, "nothing"},
		{"is copied anew after twenty when enough others stream", view("b2", r, cut, p, b3), for21, "clone from=b3 epoch=3"},
		{"stays as it is when it may be wanted", view("b2", r, cut, only, b3), for21, "nothing"},
		{"for two minutes", view("b2", r, cut, only, b3), for121, "clone from=b3 epoch=3"},
		{"one that is no voter is wanted by nobody", view("b2", r, newcomer, only, b3), for21, "clone from=b3 epoch=3"},
	})
	t.Run("the time it takes to recover is not counted", func(t *testing.T) {
		_, m := database.Decide(policy(), view("b2", r, recovering, p, b3), for21)
		d, _ := database.Decide(policy(), view("b2", r, cut, p, b3), m)
		if got := asked(d); got != "nothing" {
			t.Errorf("just ready it asked for %s", got)
		}
	})
}

func TestAVoterThatLagsAndStreams(t *testing.T) {
	r := steady()
	segment := database.LSN(16 << 20)
	b2, b3 := hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))
	calm := since(r, time.Minute)
	calm.Unfit = []database.Unfit{{Voter: voter("b3"), Since: time.Hour - time.Minute}}
	calm.Short, calm.ShortSince = true, time.Hour-time.Minute
	lagging := func(hosts string, segments database.LSN) database.View {
		l := primary(r, "b1")
		l.Flushed = lsn + segments*segment
		l.Senders = nil
		for _, v := range r.Voters {
			at := l.Flushed
			if hosts == "both" || v.Host == hosts {
				at = lsn
			}
			l.Senders = append(l.Senders, sender(r, v, at))
		}
		return view("b1", r, l, b2, b3)
	}
	check(t, policy(), []situation{
		{"stays a voter two segments behind", lagging("b3", 2), calm, "nothing"},
		{"and sixty", lagging("b3", 60), calm, "nothing"},
		{"beyond a gigabyte it leaves", lagging("b3", 65), calm, `names ANY 1 ("i-b2@3")`},
		{"in a bulk load both lag, and nobody says that they do not stream", lagging("both", 2), calm, "nothing"},
	})
}

// Whoever hears of a promise above the record that it can read knows that the record's epoch is over, and not who is the
// primary now: its listener holds clients instead of leading them to a server that may be a standby by now.
func TestAListenerHoldsWhenALaterEpochIsPromised(t *testing.T) {
	r := steady()
	l := standby(r, "b2")
	for _, c := range []struct {
		name   string
		change func(*database.Promise)
		want   database.GateState
	}{
		{"nobody promised more", func(*database.Promise) {}, database.GateOpen},
		{"a newer generation of the same epoch has the same primary", func(p *database.Promise) { p.Generation += 2 }, database.GateOpen},
		{"a later epoch has another", func(p *database.Promise) { p.Epoch++ }, database.GateHold},
	} {
		t.Run(c.name, func(t *testing.T) {
			told := l
			c.change(&told.Promise)
			v := view("b3", r, standby(r, "b3"), hears("b1", r, primary(r, "b1")), hears("b2", r, told))
			if d, _ := database.Decide(policy(), v, since(r, time.Minute)); d.Gate.State != c.want {
				t.Errorf("the listener is told to %s: %s", d.Gate.State, d.Gate.Why)
			}
		})
	}
}
