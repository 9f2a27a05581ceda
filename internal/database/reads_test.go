package database_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
)

func readPolicy() database.Policy {
	p := policy()
	p.Reads = database.Reads{MaxLag: 10 * time.Second, Site: map[string]string{"b1": "b", "b2": "b", "b3": "c"}}
	return p
}

// look makes a host's look at its server number n, one each half second; it was first told 20 ms after it began.
func look(rep *database.Report, n int) {
	rep.Confirmed = true
	rep.Began, rep.Looked = time.Duration(n)*500*time.Millisecond, 20*time.Millisecond
}

func TestAStandbyMeasuresHowFarBehindItIs(t *testing.T) {
	const step = 500 * time.Millisecond
	for _, c := range []struct {
		name     string
		primary  func(n int, rep *database.Report, p *database.Peer)
		standby  func(n int, l *database.Local, r *database.Record)
		rounds   int
		behind   time.Duration // after the rounds
		of       int64
		unproved bool
	}{
		{"one that has replayed the newest mark is as far behind as the beat of before is old", nil, nil, 6, 620 * time.Millisecond, 3, false},
		{"an idle primary's signs of life keep it level", func(n int, rep *database.Report, _ *database.Peer) {
			rep.Local.Flushed = lsn + database.LSN(n)*80
		}, func(n int, l *database.Local, _ *database.Record) { l.Replayed = lsn + database.LSN(n)*80 }, 50, 620 * time.Millisecond, 3, false},
		{"one whose replay stands falls behind with the time", func(n int, rep *database.Report, _ *database.Peer) {
			rep.Local.Flushed = lsn + database.LSN(n)*80
		}, func(n int, l *database.Local, _ *database.Record) { l.Replayed = lsn + 10*80 }, 30, 620*time.Millisecond + 20*step, 3, false},
		{"one that hears nothing of the primary any more falls behind too, though it replayed all that it knows of", func(n int, rep *database.Report, p *database.Peer) {
			look(rep, min(n, 10))
			if n > 10 {
				p.AgentAge = time.Duration(n-10) * step
				p.Contact = p.AgentAge + 100*time.Millisecond
			}
		}, nil, 30, 620*time.Millisecond + 20*step, 3, false},
		{"a word that comes again unchanged after a pause of the primary's host proves nothing", func(n int, rep *database.Report, _ *database.Peer) {
			look(rep, min(n, 10)) // its newest beats confirm ours, with the report of before
		}, nil, 30, 620*time.Millisecond + 20*step, 3, false},
		{"the first word of a host proves nothing, for it may be of any age", nil, nil, 1, 0, 0, true},
		{"the word of a primary of another epoch proves nothing", func(_ int, rep *database.Report, _ *database.Peer) { rep.Local.Promise.Epoch = 2 },
			nil, 6, 0, 0, true},
		{"the word of a primary that nobody confirms proves nothing, for another one may be open", func(_ int, rep *database.Report, _ *database.Peer) { rep.Confirmed = false },
			nil, 6, 0, 0, true},
		{"a standby that does not follow this epoch has proved nothing", nil, func(_ int, l *database.Local, _ *database.Record) { l.Following = 2 }, 6, 0, 0, true},
		{"one that has not replayed any mark has proved nothing", nil, func(_ int, l *database.Local, _ *database.Record) { l.Replayed = lsn - 1 }, 6, 0, 0, true},
		{"a proof of the epoch before goes on to age while a primary is chosen", nil, func(n int, _ *database.Local, r *database.Record) {
			if n > 10 {
				r.Epoch, r.Phase, r.Opened = 4, database.Recruiting, false
			}
		}, 20, 620*time.Millisecond + 10*step, 3, false},
		{"one that was restarted and fell back has proved nothing", nil, func(n int, l *database.Local, _ *database.Record) {
			if n == 20 {
				l.Replayed = lsn - 100
			}
		}, 20, 0, 0, true},
		{"one that does not answer has proved nothing", nil, func(n int, l *database.Local, _ *database.Record) { l.Ready = n < 20 }, 20, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m database.Memory
			var d database.Decision
			for n := range c.rounds {
				r := steady()
				l := standby(r, "b2")
				l.Replayed = lsn
				p := hears("b1", r, primary(r, "b1"))
				look(p.Report, n+1)
				if c.primary != nil {
					c.primary(n+1, p.Report, &p)
				}
				if c.standby != nil {
					c.standby(n+1, &l, &r)
				}
				v := view("b2", r, l, p, hears("b3", r, standby(r, "b3")))
				v.Now = time.Hour + time.Duration(n)*step
				d, m = database.Decide(readPolicy(), v, m)
			}
			want, of := c.behind, c.of
			if c.unproved {
				want = database.Never
			}
			if d.Behind != want || d.BehindOf != of {
				t.Errorf("behind %s of epoch %d, want %s of %d", d.Behind, d.BehindOf, want, of)
			}
		})
	}
}

// A standby that stands for an hour does not fill its host's memory, and what is let go makes it no younger.
func TestMarksThatWaitAreBounded(t *testing.T) {
	var m database.Memory
	var d database.Decision
	for n := range 7200 {
		r := steady()
		l := standby(r, "b2")
		l.Replayed = lsn + 5*80
		if n == 7199 {
			l.Replayed = lsn + 3600*80 // it comes after, to where the primary was half an hour ago
		}
		p := hears("b1", r, primary(r, "b1"))
		look(p.Report, n+1)
		p.Report.Local.Flushed = lsn + database.LSN(n+1)*80
		v := view("b2", r, l, p)
		v.Now = time.Hour + time.Duration(n)*500*time.Millisecond
		d, m = database.Decide(readPolicy(), v, m)
		if len(m.Marks) > 100 {
			t.Fatalf("%d marks are kept", len(m.Marks))
		}
	}
	if d.Behind < 30*time.Minute-time.Second || d.Behind > 62*time.Minute {
		t.Errorf("behind %s", d.Behind)
	}
}

// readable is a peer whose standby is level and lets clients in.
func readable(host string, r database.Record, behind time.Duration) database.Peer {
	l := standby(r, host)
	l.Admits = true
	p := hears(host, r, l)
	p.Report.Behind, p.Report.BehindOf = behind, r.Epoch
	return p
}

func TestWhoMayBeRead(t *testing.T) {
	r := steady()
	for _, c := range []struct {
		name   string
		change func(v *database.View, p *database.Policy)
		in     string // hosts; + = keeps its sessions and gets no new ones
		out    string // a part of why b2 is out
	}{
		{"both standbys, when they are level", func(*database.View, *database.Policy) {}, "b2 b3", ""},
		{"the one that is behind is out", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Behind = 11 * time.Second }, "b3",
			"may be 11.6s behind; 10s are allowed"},
		{"the age of its word counts too", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Behind = 9500 * time.Millisecond }, "b3", "behind"},
		{"one that never was level is out", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Behind = database.Never }, "b3", "has not been level"},
		{"one that lets nobody in is out", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Local.Admits = false }, "b3", "does not let clients in"},
		{"one that does not answer is out", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Local.Ready = false }, "b3", "does not answer"},
		{"one that is a primary is out", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Local.Role = database.Primary }, "b3", "does not answer queries as a standby"},
		{"one that is being stopped is out", func(v *database.View, _ *database.Policy) { v.Peers[0].Report.Local.Stopping = true }, "b3", "stopped"},
		{"one that is chosen as the next primary is out, before it is one", func(v *database.View, _ *database.Policy) {
			v.Record.Phase, v.Record.Primary, v.Record.Epoch, v.Record.Opened = database.Promoting, "b2", 4, false
		}, "b3", "is the primary"},
		{"the one that a switchover goes to keeps its sessions and gets no new ones", func(v *database.View, _ *database.Policy) {
			v.Record.Phase, v.Record.SwitchTo = database.Switching, "b2"
		}, "b2+ b3", ""},
		{"while voters promise, standbys are read", func(v *database.View, _ *database.Policy) {
			v.Record.Phase, v.Record.Epoch, v.Record.Opened = database.Recruiting, 4, false
		}, "b2 b3", ""},
		{"once a new primary is open, one that has not been level with it keeps its sessions for a while", func(v *database.View, _ *database.Policy) {
			v.Record.Epoch = 4
		}, "b2+ b3+", ""},
		{"without a read-only listener nobody is ordered anything", func(_ *database.View, p *database.Policy) { p.Reads = database.Reads{} }, "none", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, p := database.Memory{}, readPolicy()
			var v database.View
			for n := range 4 {
				v = view("b1", r, primary(r, "b1"), readable("b2", r, 300*time.Millisecond), readable("b3", r, 300*time.Millisecond))
				v.Now = time.Hour + time.Duration(n)*500*time.Millisecond
				look(v.Peers[0].Report, n+1)
				look(v.Peers[1].Report, n+1)
				if n == 3 {
					c.change(&v, &p)
				}
				var d database.Decision
				d, m = database.Decide(p, v, m)
				if n < 3 {
					continue
				}
				in, out := inAndOut(d.Read)
				if in != c.in || c.out != "" && !strings.Contains(out, "b2: ") || !strings.Contains(out, c.out) {
					t.Errorf("in %q, out %q; want %q, %q", in, out, c.in, c.out)
				}
			}
		})
	}
}

func inAndOut(o *database.ReadOrder) (in, out string) {
	if o == nil {
		return "none", ""
	}
	var hosts []string
	for _, m := range o.Members {
		if m.Keep {
			m.Host += "+"
		}
		hosts = append(hosts, m.Host)
	}
	return strings.Join(hosts, " "), o.Why()
}

func TestAReadOrderInFull(t *testing.T) {
	r := steady()
	var m database.Memory
	var d database.Decision
	for n := range 3 {
		l := standby(r, "b2")
		l.Admits, l.Replayed = true, lsn
		v := view("b2", r, l, hears("b1", r, primary(r, "b1")), readable("b3", r, time.Second))
		v.Now = time.Hour + time.Duration(n)*500*time.Millisecond
		look(v.Peers[0].Report, n+1)
		look(v.Peers[1].Report, n+1)
		d, m = database.Decide(readPolicy(), v, m)
	}
	want := &database.ReadOrder{
		Epoch: 3, Generation: 20,
		Members: []database.ReadMember{
			{Host: "b2", Near: 0, Lag: 620 * time.Millisecond, For: 9380 * time.Millisecond},
			{Host: "b3", Near: 2, Lag: 1600 * time.Millisecond, For: 8400 * time.Millisecond},
		},
		Out: []database.ReadOut{{Host: "b1", Why: "is the primary"}},
	}
	if diff := cmp.Diff(want, d.Read); diff != "" {
		t.Error(diff)
	}
}

func TestOneThatWasTooFarBehindComesBackOnlyWithRoomToSpare(t *testing.T) {
	r := steady()
	var m database.Memory
	round := 0
	in := func(behind time.Duration) string {
		round++
		v := view("b1", r, primary(r, "b1"), readable("b2", r, behind))
		v.Now = time.Hour + time.Duration(round)*500*time.Millisecond
		look(v.Peers[0].Report, round)
		var d database.Decision
		d, m = database.Decide(readPolicy(), v, m)
		in, _ := inAndOut(d.Read)
		return in
	}
	in(0)
	for _, c := range []struct {
		behind time.Duration
		want   string
	}{{time.Second, "b2"}, {9 * time.Second, "b2"}, {10 * time.Second, ""}, {9 * time.Second, ""}, {7 * time.Second, ""}, {6 * time.Second, "b2"}, {9 * time.Second, "b2"}} {
		if got := in(c.behind); got != c.want {
			t.Errorf("with %s: in %q, want %q", c.behind, got, c.want)
		}
	}
}

func TestSessionsOfAnOlderEpochEndAWhileAfterANewPrimaryIsOpen(t *testing.T) {
	old := steady()
	var m database.Memory
	var now time.Duration
	for _, c := range []struct {
		after time.Duration
		epoch int64 // of the record
		of    int64 // that b3 was level with
		want  string
	}{
		{0, 3, 3, ""}, {500 * time.Millisecond, 3, 3, "b3"}, {500 * time.Millisecond, 4, 3, "b3+"}, {1500 * time.Millisecond, 4, 3, "b3+"},
		{time.Second, 4, 3, ""}, {500 * time.Millisecond, 4, 3, ""}, {500 * time.Millisecond, 4, 4, "b3"},
	} {
		now += c.after
		r := steady()
		r.Epoch, r.Primary = c.epoch, "b2"
		v := view("b2", r, primary(old, "b2"), readable("b3", old, 100*time.Millisecond))
		v.Now = time.Hour + now
		look(v.Peers[0].Report, int(now/(500*time.Millisecond)))
		v.Peers[0].Report.BehindOf = c.of
		var d database.Decision
		d, m = database.Decide(readPolicy(), v, m)
		if in, out := inAndOut(d.Read); in != c.want {
			t.Errorf("at %s: in %q, want %q; out: %s", now, in, c.want, out)
		}
	}
}

func TestAStandbyLetsClientsInWhileThePlanHasAReadOnlyListener(t *testing.T) {
	r := steady()
	for _, c := range []struct {
		name   string
		policy database.Policy
		change func(l *database.Local)
		want   string
	}{
		{"it lets them in once it streams", readPolicy(), func(*database.Local) {}, "admit(clients)"},
		{"not before it streams", readPolicy(), func(l *database.Local) { l.Receiving = false }, ""},
		{"not before it answers", readPolicy(), func(l *database.Local) { l.Ready = false }, ""},
		{"once is enough", readPolicy(), func(l *database.Local) { l.Admits = true }, ""},
		{"without a read-only listener it stays shut", policy(), func(*database.Local) {}, ""},
		{"and is shut again when that has gone", policy(), func(l *database.Local) { l.Admits = true }, "admit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := standby(r, "b2")
			c.change(&l)
			d, _ := database.Decide(c.policy, view("b2", r, l, hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3"))), database.Memory{})
			got := ""
			for _, a := range d.Actions {
				got = string(a.Kind)
				if a.Clients {
					got += "(clients)"
				}
			}
			if got != c.want {
				t.Errorf("it does %q, want %q", got, c.want)
			}
		})
	}
}
