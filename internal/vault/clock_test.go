package vault

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/redact"
	"holdfast/internal/vault/store"
)

func TestClocksThatDifferAreAProblem(t *testing.T) {
	v, now := &Vault{name: "home"}, time.Unix(2e9, 0)
	for name, c := range map[string]struct {
		there time.Time
		wrong bool
	}{
		"the same":              {now, false},
		"four minutes behind":   {now.Add(-4 * time.Minute), false},
		"two hours ahead":       {now.Add(2 * time.Hour), true},
		"more than a year back": {now.Add(-400 * 24 * time.Hour), true},
	} {
		err := v.compareClocks(now, c.there)
		p, ok := errors.AsType[*problem.Problem](err)
		if ok != c.wrong || ok && p.Code != "vault.clock" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheLaterWordOfTheCatalogCounts(t *testing.T) {
	for name, c := range map[string]struct {
		old, new row
		want     bool
	}{
		"let go of after it was stored":    {row{At: 10}, row{At: 20, Gone: true}, true},
		"stored again after it had gone":   {row{At: 20, Gone: true}, row{At: 30}, true},
		"stored before it went":            {row{At: 20, Gone: true}, row{At: 10}, false},
		"both in one second: it went last": {row{At: 20}, row{At: 20, Gone: true}, true},
		"the same, read the other way":     {row{At: 20, Gone: true}, row{At: 20}, false},
	} {
		if got := c.new.over(c.old); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// renewals is a place with locks that notes which were asked to be made longer.
type renewals struct {
	store.Store
	asked []string
}

func (r *renewals) Renew(_ context.Context, name string, _ time.Time) (bool, error) {
	r.asked = append(r.asked, name)
	return true, nil
}

func TestALockThatAloneKeepsSomethingIsNotRenewed(t *testing.T) {
	v, err := Create(t.Context(), Config{URL: "file://" + t.TempDir() + "/v", Key: redact.Secret("pass"), Keys: &Keyring{}, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	place := &renewals{Store: v.recorder.Store}
	v.recorder.Store = place
	renewed := func() []string {
		t.Helper()
		place.asked = nil
		if _, err := v.RenewLocks(t.Context()); err != nil {
			t.Fatal(err)
		}
		return place.asked
	}
	if !slices.Contains(renewed(), identityFile) {
		t.Fatal("nothing was renewed at first")
	}
	for _, names := range [][]string{{identityFile, "wal/7/x"}, {"wal/7/x"}, nil} {
		if err := v.condemn(t.Context(), "wal/7", names); err != nil {
			t.Fatal(err)
		}
		if err := v.condemn(t.Context(), packsPart, []string{"repository/p1"}); err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Contains(renewed(), identityFile), !slices.Contains(names, identityFile); got != want {
			t.Errorf("%v would go: renewed %v", names, got)
		}
	}
	if again, err := v.doomed(t.Context()); err != nil || len(again) != 1 {
		t.Errorf("left %v, %v", again, err)
	}
}

// A writer whose clock was ahead when it last said that it lives says so again when the clock is set right; a clean-up takes one that
// began in the future for one that began long ago.
func TestAWriterWhoseClockIsSetBackSaysThatItLives(t *testing.T) {
	v, err := Create(t.Context(), Config{URL: "file://" + t.TempDir() + "/v", Key: redact.Secret("pass"), Keys: &Keyring{}, Application: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Close(context.Background()) }()
	a, err := v.beginWork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.nobodyWritesLong(t.Context()); err != nil {
		t.Errorf("a writer that has just begun: %v", err)
	}
	a.end(t.Context())
	ahead := time.Now().Round(0).Add(30 * 24 * time.Hour)
	a.began, a.told, a.name = ahead, ahead, writingDir+"/"+ahead.UTC().Format(stateTime)+"-x"
	if err := a.alive(t.Context()); err != nil {
		t.Error(err)
	}
	if p, ok := errors.AsType[*problem.Problem](v.nobodyWritesLong(t.Context())); !ok || p.Code != "vault.long-backup" {
		t.Errorf("a writer that began in the future: %v", p)
	}
	if a.told.After(time.Now()) {
		t.Error("it did not say so")
	}
}

func TestWhatNamesOthersIsCarriedBehindThem(t *testing.T) {
	var last int
	for i, names := range [][]string{
		{"repository/p01-s1", "repository/q01-s1", "wal/7/x"},
		{"repository/xn3_a-s1-c1", "repository/xs0_a-s1-c1", "repository/xr0_7_a-s1-c1", "repository/xw1700000000"},
		{"repository/xe1", "repository/xe12"}, // kopia passes over indexes that come after the second mark behind them
		{"repository/kopia.repository", formatBlobCopy},
		{identityFile},
	} {
		for _, n := range names {
			if o := order(n); i > 0 && o <= last || o != order(names[0]) {
				t.Errorf("%s is carried in round %d", n, o)
			}
		}
		last = order(names[0])
	}
}
