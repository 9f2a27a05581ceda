package retention_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/backup/retention"
)

const day = 24 * time.Hour

func start() time.Time { return time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC) } // a Monday

func kept(v []retention.Verdict) map[string]bool {
	m := map[string]bool{}
	for _, x := range v {
		if x.Keep {
			m[x.ID] = true
		}
	}
	return m
}

func TestThreeYearsOfHourlyBackupsThinOutAsTheTiersSay(t *testing.T) {
	var have []retention.Backup
	now := start()
	for h := range 3 * 365 * 24 {
		now = start().Add(time.Duration(h) * time.Hour)
		have = append(have, retention.Backup{ID: fmt.Sprint(h), At: now, Validated: true})
		if h%24 == 23 { // expiry runs daily
			k := kept(retention.Keep(retention.Policy{}, have, now))
			var left []retention.Backup
			for _, b := range have {
				if k[b.ID] {
					left = append(left, b)
				}
			}
			have = left
		}
	}
	count := func(from, to time.Duration) int {
		n := 0
		for _, b := range have {
			if a := now.Sub(b.At); a >= from && a < to {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name     string
		from, to time.Duration
		min, max int
	}{
		{"all of the last day", 0, day, 24, 24},
		{"one each 12 hours of a week", day, 7 * day, 11, 13},
		{"one a day up to 15 days", 7 * day, 15 * day, 7, 9},
		{"one a week up to two years", 15 * day, 730 * day, 101, 103},
		{"none older", 730 * day, 10000 * day, 0, 0},
	} {
		if n := count(c.from, c.to); n < c.min || n > c.max {
			t.Errorf("%s: %d, want %d to %d", c.name, n, c.min, c.max)
		}
	}
}

func genBackups(t *rapid.T) []retention.Backup {
	n := rapid.IntRange(0, 60).Draw(t, "n")
	out := make([]retention.Backup, n)
	for i := range out {
		out[i] = retention.Backup{
			ID: fmt.Sprint(i), At: start().Add(time.Duration(rapid.IntRange(0, 60*24*60).Draw(t, "minutes")) * time.Minute),
			Validated: rapid.Bool().Draw(t, "validated"), Pinned: rapid.IntRange(0, 9).Draw(t, "pin") == 0,
		}
		out[i].Bad = !out[i].Validated && rapid.Bool().Draw(t, "bad")
	}
	return out
}

func TestTheLastProvenBackupAndEveryPinStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := genBackups(t)
		now := start().Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "days")) * day)
		k := kept(retention.Keep(retention.Policy{}, list, now))
		var last retention.Backup
		for _, b := range list {
			if b.Pinned && !k[b.ID] {
				t.Fatalf("pinned %s goes", b.ID)
			}
			if b.Validated && (last.ID == "" || b.At.After(last.At)) {
				last = b
			}
		}
		proven := false
		for _, b := range list {
			proven = proven || b.Validated && k[b.ID]
		}
		if last.ID != "" && !proven {
			t.Fatal("nothing proven is left")
		}
		if last.ID == "" && len(kept(retention.Keep(retention.Policy{}, list, now))) != len(list) {
			t.Fatal("a backup went although none has been proven")
		}
	})
}

// Expiring often or seldom leaves the same: nothing that is wanted later was let go before.
func TestWhatIsWantedLaterWasKeptBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := genBackups(t)
		end := start().Add(61 * day)
		early := end.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "early")) * day)
		late := early.Add(time.Duration(rapid.IntRange(0, 400*24).Draw(t, "later")) * time.Hour)
		before := kept(retention.Keep(retention.Policy{}, list, early))
		for id := range kept(retention.Keep(retention.Policy{}, list, late)) {
			if !before[id] {
				t.Fatalf("%s is wanted at %s and was let go at %s", id, late, early)
			}
		}
	})
}

func TestEveryMomentOfTheWindowHasABackupBeforeIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pitr := time.Duration(rapid.IntRange(1, 40).Draw(t, "pitr")) * day
		var list []retention.Backup
		for h := 0; h < 90*24; h += 6 {
			list = append(list, retention.Backup{ID: fmt.Sprint(h), At: start().Add(time.Duration(h) * time.Hour), Validated: true})
		}
		now := start().Add(90 * day)
		k := kept(retention.Keep(retention.Policy{PITR: pitr}, list, now))
		for _, b := range list {
			if k[b.ID] && !b.At.After(now.Add(-pitr)) {
				return
			}
		}
		t.Fatalf("no backup before the window of %s", pitr)
	})
}

func TestWhatStaysWhateverItsAge(t *testing.T) {
	now := start().Add(1000 * day)
	old := func(id string, age time.Duration) retention.Backup {
		return retention.Backup{ID: id, At: now.Add(-age)}
	}
	proven, held, unproven, stale := old("proven", 9*day), old("held", 900*day), old("unproven", 3*day), old("stale", 12*day)
	proven.Validated, held.Held = true, true
	for _, c := range []struct {
		name    string
		b       retention.Backup
		keep    bool
		because string
	}{
		{"the last proven one", proven, true, "the last one that a restore has proven"},
		{"one under a legal hold", held, true, "under a legal hold"},
		{"one that is not proven yet and newer than every proven one", unproven, true, "not proven yet, and newer than every one that is"},
		{"one that was never proven and is older than a proven one", stale, false, "never proven by a restore, and older than a day"},
	} {
		for _, v := range retention.Keep(retention.Policy{}, []retention.Backup{proven, held, unproven, stale}, now) {
			if v.ID == c.b.ID && (v.Keep != c.keep || v.Because != c.because) {
				t.Errorf("%s: %+v", c.name, v)
			}
		}
	}
	bad := old("bad", 3*day)
	bad.Bad = true
	if v := retention.Keep(retention.Policy{PITR: -1, Weekly: -1}, []retention.Backup{proven, bad}, now); v[0].Keep || !v[1].Keep {
		t.Errorf("one that was found bad, with no window and no weeks: %+v", v)
	}
}

func TestADayOfTheTiersIsOneOfUTC(t *testing.T) {
	at := func(s string) time.Time {
		when, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"2026-03-29T00:00:00Z", "2026-03-29T23:59:59Z", true},
		{"2026-03-28T23:59:59Z", "2026-03-29T00:00:00Z", false},
		{"2026-03-29T01:30:00+02:00", "2026-03-28T00:00:00Z", true},
		{"2026-03-29T01:30:00+02:00", "2026-03-29T03:30:00+02:00", false},
		{"2025-03-29T12:00:00Z", "2026-03-29T12:00:00Z", false},
	} {
		if got := retention.SameDay(at(tt.a), at(tt.b)); got != tt.same {
			t.Errorf("%s and %s: same day %t", tt.a, tt.b, got)
		}
	}
}

// What two persons agreed to is kept whatever the plan says now, and what the plan keeps for longer too.
func TestThePlanMayKeepMoreThanWasAgreedAndNeverLess(t *testing.T) {
	agreed := retention.Policy{}.Tiers()
	for name, c := range map[string]struct {
		plan    retention.Policy
		shorter []string
		weekly  time.Duration
		pitr    time.Duration
	}{
		"as agreed":                  {retention.Policy{}, nil, 2 * 365 * day, 14 * day},
		"longer":                     {retention.Policy{Weekly: 3 * 365 * day, PITR: 20 * day}, nil, 3 * 365 * day, 20 * day},
		"shorter":                    {retention.Policy{Weekly: 14 * day, PITR: 7 * day}, []string{"pitr", "weekly"}, 2 * 365 * day, 14 * day},
		"none at all":                {retention.Policy{Weekly: -1, PITR: -1}, []string{"pitr", "weekly"}, 2 * 365 * day, 14 * day},
		"one longer and one shorter": {retention.Policy{Weekly: 14 * day, PITR: 20 * day}, []string{"weekly"}, 2 * 365 * day, 20 * day},
	} {
		t.Run(name, func(t *testing.T) {
			got, shorter := c.plan.AtLeast(agreed)
			shorter = slices.DeleteFunc(shorter, func(s string) bool { return s == "daily" }) // it is a day longer than pitr
			slices.Sort(shorter)
			if !slices.Equal(c.shorter, shorter) {
				t.Errorf("shorter are %q, want %q", shorter, c.shorter)
			}
			if now := got.Tiers(); now["weekly"] != c.weekly || now["pitr"] != c.pitr {
				t.Errorf("got %v", now)
			}
		})
	}
	none, _ := retention.Policy{All: -1, HalfDaily: -1, Daily: -1, Weekly: -1, PITR: -1}.AtLeast(nil)
	if got := none.Tiers(); got["weekly"] != 0 || got["pitr"] != 0 || got["all"] != 0 {
		t.Errorf("none became %v", got)
	}
}
