package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// anArchivist archives a database of a plan that names dir as its second place.
func anArchivist(t *testing.T, dir string) *archivist {
	t.Helper()
	h := aFilerHost(t, plan.Moment{})
	h.applied.now.Backups = []plan.Backup{{Of: "orders", Vault: "main", Spill: dir}}
	return &archivist{host: h, db: plan.Database{Name: "orders"}, plan: h.applied.now.Backups[0]}
}

// lies puts something into a second place that counts as a segment.
func lies(t *testing.T, dir string) {
	t.Helper()
	name := "000000010000000000000007-" + fmt.Sprintf("%064x", 1) + ".zst.aes"
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if n, err := backup.SpillWaits(dir); n != 1 || err != nil {
		t.Fatalf("%d segments lie there, %v", n, err)
	}
}

func TestAChangedSecondPlaceCountsWhenTheFormerHoldsNothing(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	a := anArchivist(t, one)
	use := func(dir string) string {
		t.Helper()
		a.host.applied.now.Backups[0].Spill = dir
		got, err := a.secondPlace()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := use(one)
	if filepath.Dir(first) != one || use(one) != first {
		t.Fatalf("the second place is %s", first)
	}
	lies(t, first)
	if got := use(two); got != first || a.secondMoved(first) {
		t.Errorf("the former one holds log, and %s is used", got)
	}
	if got := use(""); got != first {
		t.Errorf("the plan names none any more, and the former one holds log: %q is used", got)
	}
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	if !a.secondMoved(first) {
		t.Error("the former one holds nothing, and is used on")
	}
	if got := use(two); filepath.Dir(got) != two {
		t.Errorf("the former one holds nothing, and %s is used", got)
	}
	second := use(two)
	if err := os.WriteFile(second, nil, 0o600); err != nil { // it cannot be looked into
		t.Fatal(err)
	}
	if got := use(one); got != first {
		t.Errorf("the former one cannot be looked into, and %s is used", got)
	}
}

// No receiver works: the agent was begun anew while the vault is away, another host archives now, or the plan names none.
func TestWhatLiesInTheSecondPlaceIsToldWhileNoReceiverWorks(t *testing.T) {
	a := anArchivist(t, t.TempDir())
	told := func() []problem.Problem {
		a.lookAtSecond(t.Context())
		return a.problems()
	}
	dir, err := a.secondPlace()
	if err != nil {
		t.Fatal(err)
	}
	if got := told(); len(got) != 0 {
		t.Errorf("nothing lies there: %+v", got)
	}
	lies(t, dir)
	if got := told(); len(got) != 1 || got[0].Code != "backup.log-spilled" {
		t.Errorf("told is %+v", got)
	}
	a.useSecond(dir)
	if got := a.leftProblems(); len(got) != 0 {
		t.Errorf("the receiver tells by itself: %+v", got)
	}
}

func TestLogThatTheSecondPlaceDoesNotGiveBackIsLost(t *testing.T) {
	gap := &backup.GapError{Database: "orders", Timeline: 1, From: 1 << 24, ToTimeline: 1, To: 2 << 24}
	for name, c := range map[string]struct {
		why   error
		twice bool
	}{
		"what is damaged":                     {vault.ErrBadSeal, false},
		"what the vault holds another one of": {&vault.DuplicateError{Vault: "main", Name: "000000010000000000000001"}, true},
	} {
		a := anArchivist(t, t.TempDir())
		a.judge("", vault.Backup{})
		a.lostThere(gap, fmt.Errorf("bring it: %w", c.why))
		lost, _ := a.gapNow()
		if lost == "" || a.told.Gap != lost || a.judged() || (a.gaps.twice != "") != c.twice {
			t.Errorf("%s: lost is %q, told %q, judged %v, twice %q", name, lost, a.told.Gap, a.judged(), a.gaps.twice)
		}
		if n := len(a.host.diary.recent); n != 1 {
			t.Errorf("%s: the diary has %d words", name, n)
		}
		a.lostThere(gap, c.why)
		if n := len(a.host.diary.recent); n != 1 {
			t.Errorf("%s: the diary was told twice", name)
		}
	}
}

// A piece that was set aside is missing in the vault only when what follows it is there.
func TestTheVaultIsJudgedAnewWhenItHasAllOfTheSecondPlace(t *testing.T) {
	a := anArchivist(t, t.TempDir())
	a.tell(backup.Status{Spilled: 5})
	a.judge("", vault.Backup{})
	a.tell(backup.Status{Spilled: 5})
	if !a.judged() {
		t.Error("judged anew while some of it waits")
	}
	a.tell(backup.Status{})
	if a.judged() {
		t.Error("not judged anew")
	}
}
