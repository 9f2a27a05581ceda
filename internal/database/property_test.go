package database_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/database"
)

var hosts = []string{"b1", "b2", "b3", "b4"}

func genIncarnation(t *rapid.T, host string) string {
	if rapid.IntRange(0, 4).Draw(t, "made anew") == 0 {
		return incarnation(host) + "-2"
	}
	return incarnation(host)
}

// genRecord is any record that keeps I1 by itself.
func genRecord(t *rapid.T) database.Record {
	r := steady()
	r.Epoch = rapid.Int64Range(3, 5).Draw(t, "epoch")
	r.Generation = rapid.Int64Range(20, 22).Draw(t, "generation")
	r.Members = hosts[:rapid.IntRange(2, 4).Draw(t, "members")]
	r.Phase = rapid.SampledFrom([]database.Phase{
		database.Creating, database.Steady, database.Steady, database.Switching, database.Recruiting, database.Promoting,
	}).Draw(t, "phase")
	r.Primary = rapid.SampledFrom(r.Members).Draw(t, "primary")
	r.Incarnation = genIncarnation(t, r.Primary)
	r.Voters = nil
	for _, h := range r.Members {
		if (h != r.Primary || r.Phase == database.Promoting) && rapid.Bool().Draw(t, "votes") {
			r.Voters = append(r.Voters, database.Voter{Host: h, Incarnation: genIncarnation(t, h)})
		}
	}
	r.W = rapid.IntRange(0, 2).Draw(t, "W")
	r.E = max(1, len(r.Voters)-r.W+1)
	r.Opened, r.Alone = r.Phase == database.Steady && rapid.Bool().Draw(t, "opened"), rapid.Bool().Draw(t, "alone")
	if rapid.Bool().Draw(t, "has a former primary") {
		h := rapid.SampledFrom(r.Members).Draw(t, "former")
		r.Former = database.Voter{Host: h, Incarnation: genIncarnation(t, h)}
	}
	r.SwitchTo = rapid.SampledFrom(r.Members).Draw(t, "switch to")
	r.Timeline = rapid.Uint32Range(3, 4).Draw(t, "timeline")
	return r
}

func genNames(t *rapid.T, r database.Record) database.Names {
	switch rapid.IntRange(0, 3).Draw(t, "names") {
	case 0:
		return database.Closed()
	case 1:
		return names(r)
	case 2:
		n := names(r)
		if len(n.List) > 0 {
			n.List = slices.Delete(n.List, 0, 1)
		}
		return n
	}
	n := database.Names{W: rapid.IntRange(0, 2).Draw(t, "W in force")}
	for _, h := range hosts {
		if rapid.Bool().Draw(t, "in the names") {
			n.List = append(n.List, database.StandbyName(genIncarnation(t, h), r.Epoch))
		}
	}
	return n
}

func genLSN(t *rapid.T) database.LSN { return lsn + database.LSN(rapid.IntRange(-2, 2).Draw(t, "lsn")) }

func genLocal(t *rapid.T, r database.Record, host string) database.Local {
	l := standby(r, host)
	l.Known = rapid.IntRange(0, 9).Draw(t, "known") > 0
	l.Data = rapid.SampledFrom([]database.DataState{
		database.DataPresent, database.DataPresent, database.DataPresent, database.DataAbsent, database.DataPartial, database.DataForeign,
	}).Draw(t, "data")
	l.Incarnation = genIncarnation(t, host)
	l.Promise.Epoch = r.Epoch + rapid.Int64Range(-1, 1).Draw(t, "promise")
	l.Promise.Generation = r.Generation + rapid.Int64Range(-1, 0).Draw(t, "promised generation")
	l.PromiseOK = rapid.IntRange(0, 4).Draw(t, "promise ok") > 0
	l.Role = rapid.SampledFrom([]database.Role{database.Standby, database.Primary, database.NoRole}).Draw(t, "role")
	l.Running = l.Role != database.NoRole || rapid.Bool().Draw(t, "running")
	l.TreeGone = !l.Running
	l.Ready, l.Admits, l.RolesReady = l.Running && rapid.Bool().Draw(t, "ready"), rapid.Bool().Draw(t, "admits"), rapid.Bool().Draw(t, "roles")
	l.ShutDown = !l.Running && rapid.Bool().Draw(t, "shut down")
	l.Timeline = r.Timeline - rapid.Uint32Range(0, 1).Draw(t, "behind a timeline")
	l.Position = database.Position{Epoch: l.Promise.Epoch, Timeline: l.Timeline, LSN: genLSN(t)}
	if rapid.Bool().Draw(t, "no position") {
		l.Position = database.Position{}
	}
	l.Flushed, l.Following = genLSN(t), r.Epoch*int64(rapid.IntRange(0, 1).Draw(t, "following"))
	l.Receiving = rapid.Bool().Draw(t, "receiving")
	l.Names, l.NamesOK = genNames(t, r), rapid.IntRange(0, 9).Draw(t, "names ok") > 0
	for _, v := range r.Voters {
		if rapid.Bool().Draw(t, "streams") {
			l.Senders = append(l.Senders, sender(r, v, genLSN(t)))
		}
	}
	l.Force = database.Force{Names: l.Names, Epoch: r.Epoch, Mark: genLSN(t)}
	return l
}

func genAge(t *rapid.T) time.Duration {
	return rapid.SampledFrom([]time.Duration{0, 500 * time.Millisecond, 2 * time.Second, 4 * time.Second, time.Minute, database.Never}).Draw(t, "age")
}

// genView is anything that one host may believe, true or not.
func genView(t *rapid.T) (database.View, database.Memory) {
	r := genRecord(t)
	self := rapid.SampledFrom(hosts).Draw(t, "self")
	v := view(self, r, genLocal(t, r, self))
	v.Known, v.RecordAge = rapid.IntRange(0, 9).Draw(t, "record known") > 0, genAge(t)
	for _, h := range hosts {
		if h == self {
			continue
		}
		p := database.Peer{Host: h, AgentAge: genAge(t), GateAge: genAge(t), Contact: genAge(t)}
		if rapid.IntRange(0, 3).Draw(t, "has told") > 0 {
			rep := database.Report{Local: genLocal(t, r, h), Epoch: r.Epoch, Advanced: genAge(t)}
			for _, x := range hosts {
				rep.Silent = append(rep.Silent, database.Silence{Host: x, Agent: genAge(t), Gate: genAge(t)})
			}
			p.Report = &rep
		}
		v.Peers = append(v.Peers, p)
	}
	v.Advanced, v.Late = genAge(t), rapid.IntRange(0, 9).Draw(t, "late") == 0
	v.Stopping = rapid.IntRange(0, 9).Draw(t, "stopping") == 0
	if rapid.IntRange(0, 3).Draw(t, "busy") == 0 {
		v.Busy = []database.Kind{rapid.SampledFrom([]database.Kind{database.KindClone, database.KindSwap, database.KindPromote, database.KindKill}).Draw(t, "with")}
	}
	if rapid.IntRange(0, 3).Draw(t, "asked") == 0 {
		v.Requests = []database.Request{{ID: "q1", Kind: "switchover", To: rapid.SampledFrom(append(hosts, "")).Draw(t, "to")}}
	}
	m := since(r, rapid.SampledFrom([]time.Duration{0, time.Second, 4 * time.Second, time.Minute}).Draw(t, "phase age"))
	m.SawPrimary, m.Lost, m.LostSince = rapid.Bool().Draw(t, "saw"), rapid.Bool().Draw(t, "lost"), time.Hour-time.Minute
	m.Names, m.NamesAt = v.Local.Names, lsn-0x100
	for _, x := range r.Voters {
		if rapid.Bool().Draw(t, "unfit") {
			m.Unfit = append(m.Unfit, database.Unfit{Voter: x, Since: time.Hour - time.Minute})
		}
	}
	return v, m
}

// Whatever a host believes, what it asks for keeps every rule that one action alone can break.
func TestNoViewAsksForWhatBreaksARule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, m := genView(t)
		d, _ := database.Decide(policy(), v, m)
		if len(d.Actions) > 1 {
			t.Fatalf("two actions at once: %s", asked(d))
		}
		if !v.Known && len(d.Actions) > 0 {
			t.Fatalf("without the agreed state it asked for %s", asked(d))
		}
		for _, a := range d.Actions {
			if len(v.Busy) > 0 && a.Kind != database.KindKill {
				t.Fatalf("beside %s it asked for %s", v.Busy[0], a)
			}
			switch a.Kind {
			case database.KindSwap:
				mayWrite(t, v, a)
			case database.KindNames:
				mayAcknowledge(t, v, a.Names)
			case database.KindPromote:
				if v.Record.Primary != v.Self || v.Record.Phase != database.Promoting && v.Record.Phase != database.Creating ||
					v.Local.Incarnation != v.Record.Incarnation && v.Record.Phase == database.Promoting || v.Local.Promise.Epoch != v.Record.Epoch {
					t.Fatalf("promotes under %+v with %+v", v.Record, v.Local)
				}
			case database.KindAdmit:
				if a.Clients && (v.Local.Role != database.Primary || v.Record.Primary != v.Self || v.Record.Phase != database.Steady) {
					t.Fatalf("lets clients in as %s of %+v", v.Local.Role, v.Record)
				}
			case database.KindFollow, database.KindClone, database.KindRewind:
				if a.From == v.Self || a.From != v.Record.Primary {
					t.Fatalf("%s, the primary is %s", a, v.Record.Primary)
				}
			}
			if v.Local.Data == database.DataForeign && a.Kind != database.KindSwap && a.Kind != database.KindKill {
				t.Fatalf("touches foreign data: %s", a)
			}
		}
		if d.Lease > database.DefaultTimes().Fence {
			t.Fatalf("a lease of %s", d.Lease)
		}
		if d.Gate.State == database.GateOpen && (!v.Record.Opened || v.Record.Phase != database.Steady) {
			t.Fatalf("the listener opens under %+v", v.Record)
		}
	})
}

// mayWrite checks a next record against the one it replaces.
func mayWrite(t *rapid.T, v database.View, a database.Action) {
	now, next := v.Record, *a.Record
	if next.W > 0 && next.W+next.E <= len(next.Voters) {
		t.Fatalf("I1: W %d, E %d, voters %v", next.W, next.E, next.Voters)
	}
	if next.Epoch < now.Epoch || next.Epoch > now.Epoch+1 || next.Generation <= now.Generation || a.Revision != v.Revision {
		t.Fatalf("epoch %d generation %d after %d %d", next.Epoch, next.Generation, now.Epoch, now.Generation)
	}
	if next.Primary != now.Primary && (next.Phase != database.Promoting || next.Epoch == now.Epoch && now.Phase != database.Recruiting) {
		t.Fatalf("the primary changes from %s to %s in %s after %s", now.Primary, next.Primary, next.Phase, now.Phase)
	}
	if next.Opened && (next.Phase != database.Steady || !now.Opened && (!v.Local.Admits || v.Local.Role != database.Primary)) {
		t.Fatalf("opened in %s by a server that is %q", next.Phase, v.Local.Role)
	}
	// E or V shrinks, in the same epoch, only with names that reach no further than the new voters.
	if next.Epoch == now.Epoch && next.Phase == database.Steady && now.Phase == database.Steady && len(next.Voters) < len(now.Voters) {
		for _, name := range v.Local.Names.List {
			known := name == database.ClosedName || slices.ContainsFunc(next.Voters, func(x database.Voter) bool {
				return database.StandbyName(x.Incarnation, next.Epoch) == name
			})
			if !known {
				t.Fatalf("%s may acknowledge and is no voter any more", name)
			}
		}
	}
}

// mayAcknowledge is I1 for new names.
func mayAcknowledge(t *rapid.T, v database.View, n database.Names) {
	if n.IsClosed() || n.W == 0 && v.Record.W == 0 {
		return
	}
	if v.Record.Primary != v.Self {
		t.Fatalf("names of a server that is not the primary: %s", n)
	}
	union := map[string]bool{}
	for _, x := range v.Record.Voters {
		if x.Host != v.Self {
			union[database.StandbyName(x.Incarnation, v.Record.Epoch)] = true
		}
	}
	if v.Record.Phase == database.Promoting && v.Record.Former.Host != "" {
		union[database.StandbyName(v.Record.Former.Incarnation, v.Record.Epoch)] = true // it takes the new primary's place
	}
	for _, name := range n.List {
		union[name] = true
	}
	if n.W+v.Record.E <= len(union) {
		t.Fatalf("I1: %d + %d is not above %d: names %s, record %+v", n.W, v.Record.E, len(union), n, v.Record)
	}
}

// The same arguments give the same decision and the same memory, and nothing that was handed in is changed.
func TestDecidingTwiceIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, m := genView(t)
		before := v.Record.Clone()
		d1, m1 := database.Decide(policy(), v, m)
		d2, m2 := database.Decide(policy(), v, m)
		if !reflect.DeepEqual(d1, d2) || !reflect.DeepEqual(m1, m2) {
			t.Fatalf("first %s, then %s", asked(d1), asked(d2))
		}
		if !reflect.DeepEqual(before, v.Record.Clone()) {
			t.Fatal("the record that was handed in has changed")
		}
	})
}

func TestNamesAreReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9"@ -]{1,12}`), 1, 5, rapid.ID[string]).Draw(t, "list")
		slices.Sort(list)
		n := database.Names{W: rapid.IntRange(1, 5).Draw(t, "W"), List: list}
		got, ok := database.ParseNames(n.String())
		if !ok || !got.Equal(n) {
			t.Fatalf("%q came back as %+v, %t", n.String(), got, ok)
		}
	})
	if n, ok := database.ParseNames(""); !ok || n.W != 0 || len(n.List) != 0 {
		t.Errorf("the empty string came back as %+v, %t", n, ok)
	}
	for _, s := range []string{"*", "b2", "FIRST 1 (b2)", "ANY x (b2)", "ANY 1 (b2)", `ANY 1 ("b2"`, "ANY 1 ()"} {
		if n, ok := database.ParseNames(s); ok {
			t.Errorf("%q, which Holdfast never writes, was read as %+v", s, n)
		}
	}
}

func TestPositionsAreReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := database.LSN(rapid.Uint64().Draw(t, "lsn"))
		if got, err := database.ParseLSN(at.String()); err != nil || got != at {
			t.Fatalf("%s came back as %s: %v", at, got, err)
		}
	})
	for _, s := range []string{"", "0", "0/", "/0", "0/123456789", "x/1", "0/0/0"} {
		if got, err := database.ParseLSN(s); err == nil {
			t.Errorf("%q was read as %s", s, got)
		}
	}
}
