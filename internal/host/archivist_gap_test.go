package host

import (
	"errors"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

func TestLostLogIsKnownUntilABaseBackupStandsBehindIt(t *testing.T) {
	one := &backup.GapError{Database: "orders", Timeline: 1, From: 100, ToTimeline: 1, To: 200}
	on := &backup.GapError{Database: "orders", Timeline: 1, From: 100, ToTimeline: 2, To: 300} // the same one, seen after a change of primary
	other := &backup.GapError{Database: "orders", Timeline: 2, From: 400, ToTimeline: 2, To: 500}
	type step = func(t *testing.T, a *archivist)
	news := func(g *backup.GapError, want bool) step {
		return func(t *testing.T, a *archivist) {
			if got := a.lost(g); got != want {
				t.Errorf("%v: is news: %v, want %v", g, got, want)
			}
		}
	}
	shows := func(g *backup.GapError, missing bool) step { // the vault
		return func(_ *testing.T, a *archivist) {
			says := ""
			if missing {
				says = g.Error()
			}
			a.judge(says, vault.Backup{})
		}
	}
	none := shows(&backup.GapError{}, false)
	turn := func(_ *testing.T, a *archivist) { a.turn() }
	duplicate := &vault.DuplicateError{Vault: "main", Name: "000000010000000000000007"}
	const twoOfIt = "archive the log of orders: vault main holds other content for 000000010000000000000007"
	twice := func(want bool) step {
		return func(t *testing.T, a *archivist) {
			if got := a.isTwice(duplicate); got != want {
				t.Errorf("is news: %v, want %v", got, want)
			}
			if got := twiceProblem("orders", a.gaps.twice); len(got) != 1 || got[0].Code != "backup.log-twice" || got[0].Title != twoOfIt {
				t.Errorf("told is %+v", got)
			}
		}
	}
	behind := func(_ *testing.T, a *archivist) { a.bridged(twoOfIt) }
	bridged := func(g *backup.GapError) step {
		return func(_ *testing.T, a *archivist) { a.bridged(g.Error()) }
	}
	for name, c := range map[string]struct {
		steps []step
		want  string
	}{
		"the diary hears of a gap once, however often the server says so":                               {[]step{turn, news(one, true), news(one, false), news(on, false), news(other, true)}, other.Error()},
		"a base backup begun behind it ends it":                                                         {[]step{turn, news(one, true), bridged(one)}, ""},
		"one that was begun before it does not":                                                         {[]step{turn, news(one, true), news(other, true), bridged(one)}, other.Error()},
		"another archivist's base backup ends it":                                                       {[]step{turn, news(one, true), turn, none}, ""},
		"the vault shows what an archivist before this one left":                                        {[]step{turn, shows(one, true)}, one.Error()},
		"a vault that shows nothing yet does not end what the server said":                              {[]step{turn, news(one, true), none}, one.Error()},
		"what stays missing stays known through a change of archivist":                                  {[]step{turn, news(one, true), turn, shows(one, true)}, one.Error()},
		"a piece that came twice is told once, and a vault in which nothing is missing does not end it": {[]step{turn, twice(true), turn, none, twice(false), turn, none}, twoOfIt},
		"a base backup begun behind it ends that too":                                                   {[]step{turn, twice(true), turn, none, behind}, ""},
		"a backup that is found bad later opens the gap again":                                          {[]step{turn, news(one, true), bridged(one), shows(one, true)}, one.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			a := &archivist{db: plan.Database{Name: "orders"}}
			for _, do := range c.steps {
				do(t, a)
			}
			if got, _ := a.gapNow(); got != c.want || a.told.Gap != c.want {
				t.Errorf("lost is %q, told is %q; want %q", got, a.told.Gap, c.want)
			}
			if c.want != twoOfIt && len(twiceProblem("orders", a.gaps.twice)) > 0 {
				t.Errorf("%q is still told", a.gaps.twice)
			}
		})
	}
}

func TestWhichBaseBackupStandsBehindLostLogAndWhenTheNextBegins(t *testing.T) {
	failed := errors.New("no room for a trial")
	made := func(v *vault.Validation) vault.Backup { return vault.Backup{ID: "b1", Validation: v} }
	for name, c := range map[string]struct {
		made    vault.Backup
		err     error
		bridges bool
		rest    time.Duration
	}{
		"made and proven":                {made(&vault.Validation{Passed: true}), nil, true, 0},
		"made, and the trial cannot run": {made(nil), failed, true, baseRetry},
		"made and found bad":             {made(&vault.Validation{}), nil, false, badRetry},
		"not made":                       {vault.Backup{}, failed, false, baseRetry},
	} {
		if got := leadsOn(c.made); got != c.bridges {
			t.Errorf("%s: stands behind it: %v", name, got)
		}
		if got := restAfter(c.made, c.err, true); got != c.rest {
			t.Errorf("%s: the next one waits %s, want %s", name, got, c.rest)
		}
	}
	if got := restAfter(made(&vault.Validation{}), nil, false); got != 0 {
		t.Errorf("a bad backup where no log is lost holds the schedule up for %s", got)
	}
}
