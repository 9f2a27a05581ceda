package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWhenALineOfFiveFieldsRuns(t *testing.T) {
	const shape = "Mon 2006-01-02 15:04"
	for name, c := range map[string]struct {
		line, after string
		want        []string
	}{
		"each minute":                {"* * * * *", "Sat 2028-12-30 23:59", []string{"Sun 2028-12-31 00:00", "Sun 2028-12-31 00:01"}},
		"strictly after":             {"0 1 * * *", "Sat 2028-12-30 01:00", []string{"Sun 2028-12-31 01:00"}},
		"over the year":              {"30 1 * * *", "Sun 2028-12-31 01:30", []string{"Mon 2029-01-01 01:30"}},
		"a list, a range and a step": {"1,50-59/4 6-8/2 * * *", "Sat 2028-12-30 06:58", []string{"Sat 2028-12-30 08:01", "Sat 2028-12-30 08:50", "Sat 2028-12-30 08:54", "Sat 2028-12-30 08:58", "Sun 2028-12-31 06:01"}},
		"a step of everything":       {"*/25 23 * * *", "Sat 2028-12-30 23:00", []string{"Sat 2028-12-30 23:25", "Sat 2028-12-30 23:50", "Sun 2028-12-31 23:00"}},
		"names":                      {"0 4 * Feb,JUL mon-wed", "Thu 2029-02-01 00:00", []string{"Mon 2029-02-05 04:00", "Tue 2029-02-06 04:00"}},
		"Sunday is 0":                {"0 4 * * 0", "Mon 2029-01-01 00:00", []string{"Sun 2029-01-07 04:00"}},
		"and 7":                      {"0 4 * * 7", "Mon 2029-01-01 00:00", []string{"Sun 2029-01-07 04:00"}},
		"a week that ends on Sunday": {"0 4 * * sat-sun", "Mon 2029-01-01 00:00", []string{"Sat 2029-01-06 04:00", "Sun 2029-01-07 04:00", "Sat 2029-01-13 04:00"}},
		"the day of either field":    {"0 4 10 * fri", "Sat 2029-01-06 00:00", []string{"Wed 2029-01-10 04:00", "Fri 2029-01-12 04:00"}},
		"the day of both where one begins with *": {"0 4 */2 * fri", "Sat 2029-01-06 00:00", []string{"Fri 2029-01-19 04:00"}},
		"the last of the long months":             {"0 4 31 * *", "Wed 2029-01-31 04:00", []string{"Sat 2029-03-31 04:00", "Thu 2029-05-31 04:00"}},
		"a leap day":                              {"0 4 29 2 *", "Thu 2029-02-01 00:00", []string{"Sun 2032-02-29 04:00"}},
		"a leap day over 2100":                    {"0 4 29 2 *", "Wed 2096-02-29 04:00", []string{"Fri 2104-02-29 04:00"}},
		"a day that does not come but a weekday":  {"0 4 30 2 mon", "Thu 2029-02-01 00:00", []string{"Mon 2029-02-05 04:00"}},
	} {
		line, err := ParseCron(c.line)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		at, err := time.Parse(shape, c.after)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if at = line.Next(at); at.Format(shape) != want {
				t.Errorf("%s: %q runs at %s, want %s", name, c.line, at.Format(shape), want)
				break
			}
		}
	}
}

func TestWhatIsNoLineOfFiveFields(t *testing.T) {
	for line, want := range map[string]string{
		"0 1 * *":         "4 fields",
		"0 1 * * * *":     "6 fields",
		"60 1 * * *":      `minute: "60" is not one of 0 to 59`,
		"0 24 * * *":      `hour: "24"`,
		"0 1 0 * *":       `day of the month: "0" is not one of 1 to 31`,
		"0 1 * 13 *":      `month: "13" is not one of 1 to 12, jan to dec`,
		"0 1 * * 8":       `day of the week: "8" is not one of 0 to 7, sun to sat`,
		"0 1 * * monday":  `"monday"`,
		"0 1 * mon *":     `month: "mon"`,
		"0,, 1 * * *":     `minute: ""`,
		"+1 1 * * *":      `"+1"`,
		"30-10 1 * * *":   "runs backwards",
		"0 1 * * fri-mon": "runs backwards",
		"*/0 1 * * *":     "step",
		"*/90 1 * * *":    `step "90" is not one of 1 to 59`,
		"5/15 1 * * *":    "a step without a range (such as 5-59/15 or */15)",
		"0 1 30 2 *":      "never runs",
		"0 1 31 4,6,9 *":  "never runs",
		"*-5 1 * * *":     `"*"`,
		"? 1 * * *":       `"?"`,
	} {
		if _, err := ParseCron(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", line, err, want)
		}
	}
}

// drawnLine is a line, and what it stands for as plain sets.
type drawnLine struct {
	text             string
	sets             [5]map[int]bool
	starDay, starDow bool
}

func drawLine(t *rapid.T) drawnLine {
	var d drawnLine
	var fields []string
	for i, f := range cronFields() {
		set, parts := map[int]bool{}, []string{}
		for n := range rapid.IntRange(1, 3).Draw(t, "parts") {
			low, high, by := f.low, f.high, 1
			part := "*"
			if n > 0 || rapid.Bool().Draw(t, "values") {
				low = rapid.IntRange(f.low, f.high).Draw(t, "low")
				high = rapid.IntRange(low, f.high).Draw(t, "high")
				part = fmt.Sprintf("%d-%d", low, high)
				if low == high {
					part = fmt.Sprint(low)
				}
			}
			if strings.ContainsAny(part, "*-") && rapid.Bool().Draw(t, "stepped") {
				by = rapid.IntRange(1, f.high).Draw(t, "by")
				part += fmt.Sprintf("/%d", by)
			}
			for v := low; v <= high; v += by {
				if i == 4 {
					set[v%7] = true
				} else {
					set[v] = true
				}
			}
			parts = append(parts, part)
		}
		d.sets[i] = set
		fields = append(fields, strings.Join(parts, ","))
	}
	d.text, d.starDay, d.starDow = strings.Join(fields, " "), fields[2][0] == '*', fields[4][0] == '*'
	return d
}

func (d drawnLine) day(at time.Time) bool {
	inMonth, inWeek := d.sets[2][at.Day()], d.sets[4][int(at.Weekday())]
	if d.starDay || d.starDow {
		inWeek = inMonth && inWeek
	} else {
		inWeek = inMonth || inWeek
	}
	return inWeek && d.sets[3][int(at.Month())]
}

func (d drawnLine) matches(at time.Time) bool {
	return d.day(at) && d.sets[0][at.Minute()] && d.sets[1][at.Hour()] && at.Second() == 0
}

// The next run is later, fits all fields, and nothing that fits lies between.
func TestNoRunIsPassedOver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawLine(t)
		line, err := ParseCron(d.text)
		if err != nil {
			if !strings.Contains(err.Error(), "never runs") {
				t.Fatalf("%s: %v", d.text, err)
			}
			t.Skip(d.text)
		}
		after := time.Unix(rapid.Int64Range(0, 8e9).Draw(t, "after"), 0).UTC()
		next := line.Next(after)
		if !next.After(after) || !d.matches(next) {
			t.Fatalf("%s: after %s comes %s", d.text, after, next)
		}
		near := after.Add(2 * day)
		for at := after.Truncate(time.Minute).Add(time.Minute); at.Before(next) && at.Before(near); at = at.Add(time.Minute) {
			if d.matches(at) {
				t.Fatalf("%s: between %s and %s lies %s", d.text, after, next, at)
			}
		}
		for at := near; at.Before(next.Truncate(day)); at = at.Add(day) {
			if d.day(at) {
				t.Fatalf("%s: between %s and %s lies %s", d.text, after, next, at)
			}
		}
		if longest := (Schedule{Cron: d.text}).Longest(); next.Sub(after.Truncate(time.Minute)) > longest {
			t.Fatalf("%s: from %s to %s are more than %s", d.text, after, next, longest)
		}
	})
}

func TestHowFarApartRunsAre(t *testing.T) {
	for text, want := range map[string][2]time.Duration{
		"* * * * *":               {time.Minute, time.Minute},
		"*/7 * * * *":             {4 * time.Minute, 7 * time.Minute},
		"0 1 * * *":               {day, day},
		"0 1,23 * * *":            {2 * time.Hour, 22 * time.Hour},
		"30 1 * * mon-fri":        {day, 3 * day},
		"0 4 1 * *":               {day, 31 * day},
		"0 4 29 2 *":              {day, 8*365*day + day},
		"0 1-3 * * sun":           {time.Hour, 7*day - 2*time.Hour},
		"0 4 1 jan,apr,jul,oct *": {day, 92 * day},
	} {
		s, err := parseSchedule(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if shortest, longest := s.gaps(); shortest != want[0] || longest != want[1] {
			t.Errorf("%s: %s to %s apart, want %s to %s", text, shortest, longest, want[0], want[1])
		}
	}
}

// Five fields stand wherever a schedule does, are shown as they are written, and a wrong one is named with its place.
func TestFiveFieldsInAPlan(t *testing.T) {
	const text = threeHosts + `databases: { r: { postgres: 18 } }
files: { f: { path: /srv/f, hosts: [a], moment: { database: r, before: [/bin/a], after: [/bin/b], every: "*/30 6-20 * * *" } } }
vaults: { v: { key: "env:K", copies: { x: file:///v }, upkeep: { retention: 15 4 * * *, scrub: 0 3 1 * sun } } }
backup:
  r: { full: 30  1 * * mon-fri, incremental: "0 */4 * * *", prove: "0 5 1 jan,jul *", zone: Europe/Berlin }
  f: { every: 10 */2 * * *, zone: Europe/Berlin, jitter: 5m }
`
	p, mistakes := Parse("/srv/holdfast.yaml", []byte(text))
	if p == nil {
		t.Fatal(mistakes)
	}
	b := p.Backups[0]
	if b.Full.Cron != "30 1 * * mon-fri" || b.Incremental.Cron != "0 */4 * * *" || b.Prove.Cron != "0 5 1 jan,jul *" {
		t.Errorf("read as %+v", b)
	}
	if f := p.Files[0]; f.Backup.Every.Cron != "10 */2 * * *" || f.Backup.Zone != "Europe/Berlin" || f.Backup.Jitter != 5*time.Minute || f.Moment.Every.Cron != "*/30 6-20 * * *" {
		t.Errorf("read as %+v", f)
	}
	if u := p.Vaults[0].Upkeep; u.Retention.Cron != "15 4 * * *" || u.Scrub.Cron != "0 3 1 * sun" {
		t.Errorf("read as %+v", u)
	}
	if err := againstSchema([]byte(text)); err != nil {
		t.Error(err)
	}
	holdsTogether(t, p)
	for wrong, want := range map[string]string{
		"backup: { r: { full: 0 1 30 2 * } }":                                                   `holdfast.yaml:5:22: backup of r: full "0 1 30 2 *" is not a schedule: it never runs`,
		"backup: { r: { full: 0 25 * * * } }":                                                   `holdfast.yaml:5:22: backup of r: full "0 25 * * *" is not a schedule: hour: "25" is not one of 0 to 23`,
		"files: { f: { path: /srv/f, hosts: [a] } }\nbackup: { f: { every: \"*/4 * * * *\" } }": `holdfast.yaml:6:23: backup of f: every "*/4 * * * *" is out of range`,
	} {
		_, mistakes := Parse("holdfast.yaml", []byte(withVault+"databases: { r: { postgres: 18 } }\n"+wrong+"\n"))
		if len(mistakes) == 0 || !strings.HasPrefix(mistakes[0].String(), want) {
			t.Errorf("%s: %v, want %s", wrong, mistakes, want)
		}
	}
}
