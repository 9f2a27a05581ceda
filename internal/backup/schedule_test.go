package backup

import (
	"testing"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// runs are the starts of a schedule over some days, when somebody looks every ten minutes.
func runs(t *testing.T, s Timing, from, to time.Time) []time.Time {
	t.Helper()
	var out []time.Time
	last := from
	for now := from; now.Before(to); now = now.Add(10 * time.Minute) {
		due, err := Next(s, last, now)
		if err != nil {
			t.Fatal(err)
		}
		if due.Now {
			out, last = append(out, now), now
		}
	}
	return out
}

func TestTheChangeOfTheClocksNeitherSkipsNorRepeatsARun(t *testing.T) {
	for name, c := range map[string]struct {
		zone, cron string
		days       [2]string
		want       []string // UTC
	}{
		"in the hour that does not exist, once, at the change": {"Europe/Berlin", "30 2 * * *", [2]string{"2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z"},
			[]string{"2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		"in the hour that comes twice, the first time": {"Europe/Berlin", "30 2 * * *", [2]string{"2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z"},
			[]string{"2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		"on a Sunday of the change": {"Europe/Berlin", "0 3 * * 0", [2]string{"2026-03-27T00:00:00Z", "2026-04-06T00:00:00Z"},
			[]string{"2026-03-29T01:00:00Z", "2026-04-05T01:00:00Z"}},
		"west of Greenwich": {"America/New_York", "30 2 * * *", [2]string{"2026-03-08T00:00:00Z", "2026-03-10T00:00:00Z"},
			[]string{"2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"}},
		"with a change of half an hour": {"Australia/Lord_Howe", "10 2 * * *", [2]string{"2026-10-03T00:00:00Z", "2026-10-05T00:00:00Z"},
			[]string{"2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"}},
		"without a change": {"", "30 2 * * *", [2]string{"2026-03-28T00:00:00Z", "2026-03-30T00:00:00Z"},
			[]string{"2026-03-28T02:30:00Z", "2026-03-29T02:30:00Z"}},
	} {
		var days [2]time.Time
		for i, d := range c.days {
			at, err := time.Parse(time.RFC3339, d)
			if err != nil {
				t.Fatal(err)
			}
			days[i] = at
		}
		got := runs(t, Timing{Schedule: plan.Schedule{Text: c.cron, Cron: c.cron}, Zone: c.zone}, days[0], days[1])
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i, at := range got {
			if at.Format(time.RFC3339) != c.want[i] {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
}

func TestRunsAreSpreadTheSameForEverybody(t *testing.T) {
	daily := plan.Schedule{Text: "daily 01:00", Cron: "0 1 * * *"}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	different := map[time.Duration]bool{}
	for _, of := range []string{"orders", "people", "stock"} {
		s := Timing{daily, "", 3 * time.Hour, of}
		got := runs(t, s, from, from.AddDate(0, 0, 30))
		if len(got) != 30 {
			t.Fatalf("%s: %d runs in 30 days", of, len(got))
		}
		for i, at := range got {
			after := at.Sub(from.AddDate(0, 0, i).Add(time.Hour))
			if after < 0 || after > 3*time.Hour+10*time.Minute {
				t.Errorf("%s runs %s after its hour", of, after)
			}
			different[after] = true
		}
	}
	if len(different) < 10 {
		t.Errorf("90 runs have only %d different delays", len(different))
	}
}

func TestWhichBackupIsTriedAgain(t *testing.T) {
	at := func(d int) time.Time { return time.Date(2026, 1, d, 0, 0, 0, 0, time.UTC) }
	made := func(id string, day int, passed bool) vault.Backup {
		return vault.Backup{ID: id, Validation: &vault.Validation{Passed: passed, At: at(day)}}
	}
	for name, c := range map[string]struct {
		made []vault.Backup
		id   string
		last time.Time
	}{
		"there is none":                         {nil, "", time.Time{}},
		"the newest that was never tried":       {[]vault.Backup{{ID: "a"}, made("b", 2, true), {ID: "c"}, made("d", 3, true)}, "c", at(3)},
		"else the newest that was found good":   {[]vault.Backup{made("a", 2, true), made("b", 3, true), made("c", 4, false)}, "b", at(4)},
		"one that is bad is not tried for ever": {[]vault.Backup{made("a", 2, false)}, "", at(2)},
	} {
		if id, last := ToProve(c.made); id != c.id || !last.Equal(c.last) {
			t.Errorf("%s: %q, %s", name, id, last)
		}
	}
}
