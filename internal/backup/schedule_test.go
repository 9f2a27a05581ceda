package backup

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

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
		"by a list and a step, through the hour that does not exist": {"Europe/Berlin", "*/30 1-3 * * *", [2]string{"2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z"},
			[]string{"2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"}},
		"each half hour, once for the hour that comes twice": {"Europe/Berlin", "*/30 * * * *", [2]string{"2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"},
			[]string{"2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z", "2026-10-25T02:30:00Z"}},
		"on weekdays and the first of the month": {"Europe/Berlin", "0 4 1 * mon-fri", [2]string{"2026-10-30T12:00:00Z", "2026-11-03T12:00:00Z"},
			[]string{"2026-11-01T03:00:00Z", "2026-11-02T03:00:00Z", "2026-11-03T03:00:00Z"}},
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

// Where clocks are changed too, the next run is the first minute at which they show a time of the line for the first time, or pass
// over one.
func TestTheNextRunIsTheFirstThatTheClocksShowOrPassOver(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Tehran"}
	around := []string{"2018-11-04T00:00:00Z", "2018-02-18T00:00:00Z", "2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z", "2026-03-08T06:00:00Z", "2026-11-01T06:00:00Z",
		"2026-04-04T15:00:00Z", "2026-10-03T15:00:00Z", "2022-03-21T20:00:00Z", "2022-09-21T20:00:00Z"}
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, rapid.SampledFrom(around).Draw(t, "around"))
		if err != nil {
			t.Fatal(err)
		}
		after := at.Add(time.Duration(rapid.Int64Range(-36*3600, 12*3600).Draw(t, "seconds")) * time.Second)
		minutes, hours := drawSet(t, "minutes", 60), drawSet(t, "hours", 24)
		line, err := plan.ParseCron(fmt.Sprintf("%s %s * * *", list(minutes), list(hours)))
		if err != nil {
			t.Fatal(err)
		}
		next := slotAfter(line, zone, after)
		for m := after.Truncate(time.Minute).Add(time.Minute); ; m = m.Add(time.Minute) {
			if runsAt(m.In(zone), minutes, hours) {
				if !next.Equal(m) {
					t.Fatalf("%s %s: after %s comes %s, want %s", list(minutes), list(hours), after.In(zone), next.In(zone), m.In(zone))
				}
				return
			}
		}
	})
}

func drawSet(t *rapid.T, label string, of int) map[int]bool {
	set := map[int]bool{}
	for range rapid.IntRange(1, 4).Draw(t, "how many "+label) {
		set[rapid.IntRange(0, of-1).Draw(t, label)] = true
	}
	return set
}

func list(set map[int]bool) string {
	var all []string
	for n := range 60 {
		if set[n] {
			all = append(all, fmt.Sprint(n))
		}
	}
	return strings.Join(all, ",")
}

// runsAt is the dumb way to say whether a line runs at a moment: each time that the clocks show then, or have passed over within
// the minute before, is looked for in the line, and was never shown in the three hours before.
func runsAt(at time.Time, minutes, hours map[int]bool) bool {
	wall := func(at time.Time) time.Time {
		return time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), 0, 0, time.UTC)
	}
	now := wall(at)
	from := wall(at.Add(-time.Minute)).Add(time.Minute)
	if from.After(now) {
		from = now
	}
	for w := from; !w.After(now); w = w.Add(time.Minute) {
		if !minutes[w.Minute()] || !hours[w.Hour()] {
			continue
		}
		shown := false
		for back := time.Minute; back <= 3*time.Hour && !shown; back += time.Minute {
			shown = !wall(at.Add(-back)).Before(w) // shown, or passed over
		}
		if !shown {
			return true
		}
	}
	return false
}

// After a year of missed minutes one run is due, and it is found at once.
func TestALongTimeAwayIsOneRun(t *testing.T) {
	now := time.Date(2027, 6, 1, 12, 0, 30, 0, time.UTC)
	for cron, want := range map[string]time.Time{
		"* * * * *":   now.Truncate(time.Minute),
		"7 * * * *":   time.Date(2027, 6, 1, 11, 7, 0, 0, time.UTC),
		"0 4 1 * mon": time.Date(2027, 6, 1, 2, 0, 0, 0, time.UTC), // 04:00 in summer
	} {
		due, err := Next(Timing{Schedule: plan.Schedule{Text: cron, Cron: cron}, Zone: "Europe/Berlin"}, now.AddDate(-1, 0, 0), now)
		if err != nil || !due.Now || !due.At.Equal(want) {
			t.Errorf("%s: %+v, %v, want %s", cron, due, err, want)
		}
	}
}
