package database_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
)

func TestWhomACopyIsMadeOf(t *testing.T) {
	r := steady()
	up := hears("b1", r, primary(r, "b1"))
	calm := since(r, time.Minute)
	with := func(change func(l *database.Local)) database.Peer {
		l := standby(r, "b3")
		change(&l)
		return hears("b3", r, l)
	}
	local := func(change func(l *database.Local)) database.Local {
		l := nothingYet()
		l.Data = database.DataPartial
		change(&l)
		return l
	}
	givingPrimary := primary(r, "b1")
	givingPrimary.Giving = 2
	failedFrom := func(host string) database.Local {
		return local(func(l *database.Local) { l.Failed, l.FailedKind, l.FailedFrom = "it broke", database.KindClone, host })
	}
	check(t, policy(), []situation{
		{"a standby that streams rather than the primary", view("b2", r, nothingYet(), up, hears("b3", r, standby(r, "b3"))), calm, "clone from=b3 epoch=3"},
		{"the primary when no standby is heard", view("b2", r, nothingYet(), up, silent("b3", 5*time.Second)), calm, "clone from=b1 epoch=3"},
		{"the primary when the standby does not stream", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.Receiving = false })), calm, "clone from=b1 epoch=3"},
		{"never a standby of another epoch", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.Following = 2 })), calm, "clone from=b1 epoch=3"},
		{"never one that has promised another epoch", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.PromiseOK = false })), calm, "clone from=b1 epoch=3"},
		{"never one of another timeline", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.Timeline = 2 })), calm, "clone from=b1 epoch=3"},
		{"never one of another system", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.SystemID = 9 })), calm, "clone from=b1 epoch=3"},
		{"never one that holds no whole copy itself", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.Data = database.DataPartial })), calm, "clone from=b1 epoch=3"},
		{"the primary when the standby gives another copy", view("b2", r, nothingYet(), up, with(func(l *database.Local) { l.Giving = 1 })), calm, "clone from=b1 epoch=3"},
		{"the standby when the primary gives even more", view("b2", r, nothingYet(), hears("b1", r, givingPrimary), with(func(l *database.Local) { l.Giving = 1 })), calm, "clone from=b3 epoch=3"},
		{"another one than the one that failed last", view("b2", r, failedFrom("b3"), up, hears("b3", r, standby(r, "b3"))), calm, "clone from=b1 epoch=3"},
		{"and back again when that one fails too", view("b2", r, failedFrom("b1"), up, hears("b3", r, standby(r, "b3"))), calm, "clone from=b3 epoch=3"},
		{"nobody without a primary to follow", view("b2", r, nothingYet(), silent("b1", 2*time.Second), hears("b3", r, standby(r, "b3"))), calm, "nothing"},
	})
}

func TestACopyThatFailsIsTriedAgainWithMoreAndMorePatience(t *testing.T) {
	r := steady()
	l := nothingYet()
	l.Failed, l.FailedKind, l.FailedFrom = "no room", database.KindClone, "b3"
	l.FailedProblem = &problem.Problem{Code: "database.no-space-for-copy", Severity: problem.Degraded, Title: "no room"}
	v := view("b2", r, l, hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3")))
	m := since(r, time.Minute)
	tries, last := 0, v.Now
	var gaps []time.Duration
	for range 100 {
		var d database.Decision
		d, m = database.Decide(policy(), v, m)
		if len(d.Actions) == 1 && d.Actions[0].Kind == database.KindClone {
			gaps = append(gaps, v.Now-last)
			tries, last = tries+1, v.Now
		}
		if len(d.Problems) != 1 || d.Problems[0].Code != "database.no-space-for-copy" || d.Problems[0].Subject != "orders" {
			t.Fatalf("what is wrong was not said in its own words: %v", d.Problems)
		}
		v.Now += time.Second
	}
	if tries < 10 || tries > 20 || gaps[len(gaps)-1] != 10*time.Second {
		t.Errorf("%d tries in 100 s, %v apart", tries, gaps)
	}
	v.Local = nothingYet()
	v.Now += time.Minute
	if d, m := database.Decide(policy(), v, m); len(d.Actions) != 1 || m.CopyTries != 1 {
		t.Errorf("after a copy that succeeded patience begins anew: %v, %d", d.Actions, m.CopyTries)
	}
}

func TestTheReasonOfACopyNamesItsSource(t *testing.T) {
	r := steady()
	v := view("b2", r, nothingYet(), hears("b1", r, primary(r, "b1")), hears("b3", r, standby(r, "b3")))
	d, _ := database.Decide(policy(), v, since(r, time.Minute))
	if text := strings.Join(d.Because, "\n"); !strings.Contains(text, "copied from the standby on b3") {
		t.Errorf("it says: %s", text)
	}
}

func TestTheSourcesThatThePlanAllows(t *testing.T) {
	r := steady()
	up := hears("b1", r, primary(r, "b1"))
	third := hears("b3", r, standby(r, "b3"))
	giving := standby(r, "b3")
	giving.Giving = 1
	from := func(sources ...database.CopySource) database.Policy {
		p := policy()
		p.CopyFrom = sources
		return p
	}
	failed := func(source string) database.Local {
		l := nothingYet()
		l.Data, l.Failed, l.FailedKind, l.FailedFrom = database.DataPartial, "it broke", database.KindClone, source
		return l
	}
	calm := since(r, time.Minute)
	after := func(sources ...string) database.Memory {
		m := since(r, time.Minute)
		m.CopyFailed = sources
		return m
	}
	all := from(database.CopyVault, database.CopyStandby, database.CopyPrimary)
	check(t, all, []situation{
		{"the vault when the plan ranks it first", view("b2", r, nothingYet(), up, third), calm, "clone from=(vault) epoch=3"},
		{"the standby when the vault could not", view("b2", r, failed(database.FromVault), up, third), calm, "clone from=b3 epoch=3"},
		{"the primary when neither could", view("b2", r, failed("b3"), up, third), after(database.FromVault), "clone from=b1 epoch=3"},
		{"all of them anew when each has failed, the last one last", view("b2", r, failed("b1"), up, third), after(database.FromVault, "b3"), "clone from=(vault) epoch=3"},
		{"the vault again after a copy that was only overtaken", view("b2", r, failed(""), up, third), calm, "clone from=(vault) epoch=3"},
		{"nothing without a primary to follow", view("b2", r, nothingYet(), silent("b1", 2*time.Second), third), calm, "nothing"},
	})
	check(t, from(database.CopyStandby, database.CopyVault, database.CopyPrimary), []situation{
		{"the standby when the plan ranks it first", view("b2", r, nothingYet(), up, third), calm, "clone from=b3 epoch=3"},
		{"the vault when the standby gives another copy", view("b2", r, nothingYet(), up, hears("b3", r, giving)), calm, "clone from=(vault) epoch=3"},
		{"the vault when no standby is heard", view("b2", r, nothingYet(), up, silent("b3", 5*time.Second)), calm, "clone from=(vault) epoch=3"},
	})
	d, m := database.Decide(from(database.CopyStandby), view("b2", r, nothingYet(), up, silent("b3", 5*time.Second)), calm)
	if len(d.Actions) > 0 || len(d.Problems) != 1 || d.Problems[0].Code != "database.no-copy-source" || m.CopyTries != 0 {
		t.Errorf("the primary, which the plan does not name: %v, %v", d.Actions, d.Problems)
	}
}
