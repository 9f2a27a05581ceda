package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

func TestVerdictAndWhatADeathWouldCost(t *testing.T) {
	const (
		allIsWell = "All is well: any one host may die."
		less      = "Running with less margin: see the problems."
		broken    = "A promise is broken: see the problems."
	)
	stop := func(l *database.Local) {
		*l = database.Local{Known: true, Data: database.DataPresent, Incarnation: l.Incarnation}
	}
	for _, c := range []struct {
		name     string
		change   func(w *well, p *plan.Plan)
		verdict  string
		problems []string
		unsafe   []string          // hosts whose death would not be survived in full
		says     map[string]string // by host: what stands in the sentence of its death
	}{
		{
			"all is well", func(*well, *plan.Plan) {}, allIsWell, nil, nil,
			map[string]string{"b1": "a standby takes over", "b2": "writes go on; one copy less", "b3": "mail: away until it has started on another host"},
		},
		{
			"a primary whose server is gone serves nobody, whichever host dies",
			func(w *well, _ *plan.Plan) { w.local("b1", stop) },
			"Running, but the death of 3 of 3 hosts would not be survived in full.", nil, []string{"b1", "b2", "b3"},
			map[string]string{"b1": "records: is not serving now, its primary's server does not run", "b3": "is not serving now"},
		},
		{
			"a standby that stopped leaves no margin: the primary's death would leave too few voters",
			func(w *well, _ *plan.Plan) { w.local("b3", stop) },
			"Running, but the death of 2 of 3 hosts would not be survived in full.", nil, []string{"b1", "b2"},
			map[string]string{"b1": "no standby could take over", "b2": "writes would wait for a standby", "b3": "writes go on"},
		},
		{
			"a standby that left the voters is not needed by an election",
			func(w *well, _ *plan.Plan) {
				w.local("b3", stop)
				w.record.Voters, w.record.E = w.record.Voters[:1], 1
			},
			"Running, but the death of 1 of 3 hosts would not be survived in full.", nil, []string{"b2"},
			map[string]string{"b1": "a standby takes over"},
		},
		{
			"a standby that does not stream counts for nothing",
			func(w *well, _ *plan.Plan) { w.local("b2", func(l *database.Local) { l.Receiving = false }) },
			"Running, but the death of 2 of 3 hosts would not be survived in full.", nil, []string{"b1", "b3"}, nil,
		},
		{
			"the former self of a standby is still a voter: no two can be had of it",
			func(w *well, _ *plan.Plan) {
				w.record.Voters = []database.Voter{{Host: "b2", Incarnation: "former"}, {Host: "b2", Incarnation: "i2"}, {Host: "b3", Incarnation: "i3"}}
				w.record.E = 3
			},
			"Running, but the death of 1 of 3 hosts would not be survived in full.", nil, []string{"b1"},
			map[string]string{"b1": "no standby could take over"},
		},
		{
			"a copy that is no voter does not count",
			func(w *well, _ *plan.Plan) { w.local("b2", func(l *database.Local) { l.Incarnation = "new" }) },
			"Running, but the death of 2 of 3 hosts would not be survived in full.", nil, []string{"b1", "b3"}, nil,
		},
		{
			"the primary's host is silent",
			func(w *well, _ *plan.Plan) { w.record.Primary, w.silent["b3"] = "b3", true },
			broken, []string{"service.away mail", "host.silent b3"}, []string{"b1", "b2", "b3"},
			map[string]string{"b1": "no majority of hosts would be left", "b2": "no majority of hosts would be left"},
		},
		{
			"an etcd member that does not vote leaves no majority if another host dies",
			func(w *well, _ *plan.Plan) { w.reports["b1"].Votes, w.reports["b3"].Votes = new(true), new(false) },
			"Running, but the death of 2 of 3 hosts would not be survived in full.", nil, []string{"b1", "b2"},
			map[string]string{"b1": "no majority of hosts would be left", "b2": "no majority of hosts would be left"},
		},
		{
			"without acknowledgement the primary's death loses commits",
			func(w *well, p *plan.Plan) { p.Databases[0].AcknowledgedBy, w.record.W, w.record.E = 0, 0, 1 },
			"Running, but the death of 1 of 3 hosts would not be survived in full.", nil, []string{"b1"},
			map[string]string{"b1": "commits that no standby has would be lost", "b2": "writes go on"},
		},
		{
			"a database that is not open serves nobody, whoever dies",
			func(w *well, _ *plan.Plan) { w.record.Opened = false },
			"Running, but the death of 3 of 3 hosts would not be survived in full.", nil, []string{"b1", "b2", "b3"},
			map[string]string{"b2": "records: is not serving now"},
		},
		{
			"a host without a copy is not missed by the database",
			func(w *well, _ *plan.Plan) {
				w.record.Members, w.record.Voters, w.record.E = []string{"b1", "b2"}, w.record.Voters[:1], 1
			},
			"Running, but the death of 1 of 3 hosts would not be survived in full.", nil, []string{"b2"},
			map[string]string{"b3": "records: not touched"},
		},
		{
			"a service is short of an instance",
			func(w *well, _ *plan.Plan) { w.reports["b2"].Instances[0].State = service.Unready },
			less, []string{"service.short web"}, nil, map[string]string{"b1": "web: away", "b3": "records: writes go on; one copy less; mail"},
		},
		{
			"a service is away", func(w *well, _ *plan.Plan) { w.reports["b3"].Instances = nil },
			broken, []string{"service.away mail"}, nil, nil,
		},
		{
			"a note does not lessen the verdict", func(w *well, _ *plan.Plan) { w.complain("b2", problem.Problem{Code: "x.note", Severity: problem.Note}) },
			allIsWell, []string{"x.note "}, nil, nil,
		},
		{
			"the hosts follow different plans", func(w *well, _ *plan.Plan) { w.reports["b3"].Plan = "other" },
			less, []string{"plan.differs clinic"}, nil, nil,
		},
		{
			"nobody takes the log into the vault", func(w *well, _ *plan.Plan) { w.reports["b2"].Archive = nil },
			less, []string{"backup.no-archive records"}, nil, nil,
		},
		{
			"our own host takes the log into the vault", func(w *well, _ *plan.Plan) {
				w.reports["b1"].Archive, w.reports["b2"].Archive = w.reports["b2"].Archive, nil
			},
			allIsWell, nil, nil, nil,
		},
		{
			"no backup was asked for", func(w *well, p *plan.Plan) { w.reports["b2"].Archive, p.Backups = nil, nil },
			allIsWell, nil, nil, nil,
		},
		{
			"the vault cannot be reached", func(w *well, _ *plan.Plan) { w.archive(func(a *agent.Archive) { a.Trouble = "no space" }) },
			less, []string{"backup.archive-trouble records"}, nil, nil,
		},
		{
			"the vault is just not too far behind", func(w *well, _ *plan.Plan) { w.archive(func(a *agent.Archive) { a.Lag = archiveLagMax - time.Second }) },
			allIsWell, nil, nil, nil,
		},
		{
			"the vault is behind", func(w *well, _ *plan.Plan) { w.archive(func(a *agent.Archive) { a.Lag = archiveLagMax + time.Second }) },
			less, []string{"backup.archive-behind records"}, nil, nil,
		},
		{
			"nobody knows yet how far the vault is behind", func(w *well, _ *plan.Plan) { w.archive(func(a *agent.Archive) { a.Lag = -1 }) },
			less, []string{"backup.archive-behind records"}, nil, nil,
		},
		{
			"there is no base backup", func(w *well, _ *plan.Plan) { w.archive(func(a *agent.Archive) { a.Last = nil }) },
			less, []string{"backup.none records"}, nil, nil,
		},
		{
			"the newest base backup is unproven", func(w *well, _ *plan.Plan) { w.archive(func(a *agent.Archive) { a.Last = &agent.BaseBackup{} }) },
			less, []string{"backup.unproven records"}, nil, nil,
		},
		{
			"the newest base backup was found bad", func(w *well, _ *plan.Plan) {
				w.archive(func(a *agent.Archive) { a.Last = &agent.BaseBackup{Bad: "heap: app: table public.x block 3"} })
			},
			"A promise is broken: see the problems.", []string{"backup.not-proven records"}, nil, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, w := clinic(), allWell()
			c.change(w, p)
			st := Describe(p, "b1", w.snapshot())
			if st.Verdict != c.verdict {
				t.Errorf("verdict: %s\nwant:    %s", st.Verdict, c.verdict)
			}
			if diff := cmp.Diff(c.problems, codes(st.Problems)); diff != "" {
				t.Errorf("problems:\n%s", diff)
			}
			var unsafe []string
			for _, x := range st.IfDied {
				if !x.Safe {
					unsafe = append(unsafe, x.Host)
				}
			}
			if diff := cmp.Diff(c.unsafe, unsafe); diff != "" {
				t.Errorf("not survived in full:\n%s", diff)
			}
			for host, want := range c.says {
				if got := died(t, st, host).Text; !strings.Contains(got, want) {
					t.Errorf("if %s died: %q says nothing of %q", host, got, want)
				}
			}
		})
	}
}

// Where nothing is wrong a program reads an empty list, as the handbook says, and not null.
func TestNoProblemsAreAnEmptyList(t *testing.T) {
	raw, err := json.Marshal(Describe(clinic(), "b1", allWell().snapshot()))
	if err != nil || !strings.Contains(string(raw), `"problems":[]`) {
		t.Errorf("%v: %s", err, raw)
	}
}

func TestProblemsAreListedOnceAndTheWorstFirst(t *testing.T) {
	w := allWell()
	note := problem.Problem{Code: "x.note", Subject: "records", Severity: problem.Note, Title: "a note"}
	middle := problem.Problem{Code: "x.degraded", Subject: "records", Severity: problem.Degraded, Title: "less margin"}
	worst := problem.Problem{Code: "x.critical", Subject: "records", Severity: problem.Critical, Title: "broken"}
	elsewhere := worst
	elsewhere.Title = "broken otherwise"
	w.complain("b1", note, middle)
	w.complain("b2", middle, worst)
	w.complain("b3", worst, elsewhere, note)
	got := Describe(clinic(), "b1", w.snapshot()).Problems
	if diff := cmp.Diff([]problem.Problem{worst, elsewhere, middle, note}, got); diff != "" {
		t.Error(diff)
	}
	t.Run("a silent host's last words are not repeated", func(t *testing.T) {
		w.silent["b2"], w.silent["b3"] = true, true
		for _, p := range Describe(clinic(), "b1", w.snapshot()).Problems {
			if p == worst {
				t.Error("what it said before it fell silent may long be over")
			}
		}
	})
}

func TestDescribeSaysWhatEachServerDoes(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *well)
		want   ServerStatus // of b2, lsn left out
	}{
		{"a standby streams", func(*well) {}, ServerStatus{Role: "standby", State: "streams", Counts: true, LagBytes: new(int64)}},
		{"nobody knows how far a standby is behind a primary that does not run", func(w *well) { w.local("b1", func(l *database.Local) { l.Running, l.Flushed = false, 0 }) },
			ServerStatus{Role: "standby", State: "streams", Counts: true}},
		{"a standby is behind the primary", func(w *well) { w.local("b2", func(l *database.Local) { l.Flushed = 900 }) },
			ServerStatus{Role: "standby", State: "streams", Counts: true, LagBytes: new(int64(100))}},
		{"a standby ahead of the primary's last report is not behind by less than nothing",
			func(w *well) { w.local("b2", func(l *database.Local) { l.Flushed = 1100 }) },
			ServerStatus{Role: "standby", State: "streams", Counts: true, LagBytes: new(int64)}},
		{"a silent host", func(w *well) { w.silent["b2"] = true }, ServerStatus{Role: "unknown", State: "its host does not answer"}},
		{"nobody has looked yet", func(w *well) { w.local("b2", func(l *database.Local) { l.Known = false }) },
			ServerStatus{Role: "unknown", State: "not looked at yet", Counts: true}},
		{"a copy under way", func(w *well) {
			w.local("b2", func(l *database.Local) { l.Progress, l.Incarnation = "copies 40 %", "new" })
		},
			ServerStatus{Role: "standby", State: "copies 40 %"}},
		{"one that ended, with how", func(w *well) { w.local("b2", func(l *database.Local) { l.Running, l.Exit = false, "signal 9" }) },
			ServerStatus{Role: "stopped", State: "signal 9", Counts: true}},
		{"the last job failed", func(w *well) { w.local("b2", func(l *database.Local) { l.Failed = "no room" }) },
			ServerStatus{Role: "standby", State: "streams; no room", Counts: true, LagBytes: new(int64)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := allWell()
			c.change(w)
			got := Describe(clinic(), "b1", w.snapshot()).Databases[0].Servers[1]
			got.LSN, c.want.Host = "", "b2"
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("the primary is not its own standby", func(t *testing.T) {
		w := allWell()
		w.record.Voters = append(w.record.Voters, database.Voter{Host: "b1", Incarnation: "i1"})
		got := Describe(clinic(), "b1", w.snapshot()).Databases[0].Servers[0]
		if diff := cmp.Diff(ServerStatus{Host: "b1", Role: "primary", State: "serves", LSN: "0/3E8"}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("before the agreed state was read nothing is claimed", func(t *testing.T) {
		s := allWell().snapshot()
		s.Facts.Known = false
		if d := Describe(clinic(), "b1", s).Databases[0]; d.Phase != "unknown" || d.Primary != "" || len(d.Servers) != 0 {
			t.Errorf("%+v", d)
		}
	})
}
