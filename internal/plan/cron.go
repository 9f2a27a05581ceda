package plan

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cron is a line of five fields as crontab(5) reads them: minute, hour, day of the month, month, day of the week. It is read
// on a wall clock without a zone, so all its times are in UTC; [backup.Next] puts them into the zone of the plan.
type Cron struct {
	minutes, hours, days, months, weekdays uint64 // bit n stands for the value n; Sunday is 0

	// everyWeekday and everyDay say that the field begins with *. Unless one of them does, a day fits that fits either field:
	// "0 4 1 * mon" is the first of the month and each Monday besides.
	everyDay, everyWeekday bool
}

// cronField is one of the five fields.
type cronField struct {
	name      string
	low, high int
	words     []string // names of low and what follows it
}

func cronFields() []cronField {
	return []cronField{
		{name: "minute", high: 59}, {name: "hour", high: 23}, {name: "day of the month", low: 1, high: 31},
		{name: "month", low: 1, high: 12, words: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{name: "day of the week", high: 7, words: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// calendarDays is after how many days the calendar repeats, weekdays too: 400 years.
const calendarDays = 146097

// ParseCron reads five fields. A line that never runs, such as one for February 30, is an error.
func ParseCron(line string) (Cron, error) {
	fields := strings.Fields(line)
	shapes := cronFields()
	if len(fields) != len(shapes) {
		return Cron{}, fmt.Errorf("%d fields are not five (minute, hour, day of the month, month, day of the week)", len(fields))
	}
	c := Cron{everyDay: fields[2][0] == '*', everyWeekday: fields[4][0] == '*'}
	for i, set := range []*uint64{&c.minutes, &c.hours, &c.days, &c.months, &c.weekdays} {
		var err error
		if *set, err = shapes[i].parse(fields[i]); err != nil {
			return Cron{}, fmt.Errorf("%s: %w", shapes[i].name, err)
		}
	}
	c.weekdays = c.weekdays&127 | c.weekdays>>7 // 7 is Sunday too
	if c.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Cron{}, errors.New("it never runs: no such day comes")
	}
	return c, nil
}

// parse reads a list of values, ranges and steps.
func (f cronField) parse(field string) (set uint64, err error) {
	for _, part := range strings.Split(field, ",") {
		values, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(values, "-")
		low, high, by := f.low, f.high, 1
		if values != "*" {
			if low, err = f.value(from); err != nil {
				return 0, err
			}
			if high = low; ranged {
				if high, err = f.value(to); err != nil {
					return 0, err
				}
			}
			if f.high == 7 && high == 0 { // a week that ends on Sunday
				high = 7 * min(low, 1)
			}
		}
		if stepped {
			if by, err = strconv.Atoi(step); err != nil || by < 1 || by > f.high {
				return 0, fmt.Errorf("step %q is not one of 1 to %d", step, f.high)
			}
			if !ranged && values != "*" {
				return 0, fmt.Errorf("%q has a step without a range (such as %s-%d/%d or */%d)", part, from, f.high, by, by)
			}
		}
		if low > high {
			return 0, fmt.Errorf("%q runs backwards", part)
		}
		for n := low; n <= high; n += by {
			set |= 1 << n
		}
	}
	return set, nil
}

// value reads one value: a number, or a name of three letters in any case.
func (f cronField) value(s string) (int, error) {
	if i := slices.Index(f.words, strings.ToLower(s)); i >= 0 {
		return f.low + i, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < f.low || n > f.high || s[0] == '+' {
		return 0, fmt.Errorf("%q is not one of %s", s, f.allowed())
	}
	return n, nil
}

func (f cronField) allowed() string {
	text := fmt.Sprintf("%d to %d", f.low, f.high)
	if len(f.words) > 0 {
		text += fmt.Sprintf(", %s to %s", f.words[0], f.words[len(f.words)-1])
	}
	return text
}

// on reports whether the line runs on a day.
func (c Cron) on(month time.Month, day int, weekday time.Weekday) bool {
	if c.months>>month&1 == 0 {
		return false
	}
	inMonth, inWeek := c.days>>day&1 == 1, c.weekdays>>weekday&1 == 1
	if c.everyDay || c.everyWeekday {
		return inMonth && inWeek
	}
	return inMonth || inWeek
}

// Next is the first time of the line after a given one, both on a wall clock (in UTC); the zero time for the zero line.
func (c Cron) Next(after time.Time) time.Time {
	after = after.UTC()
	day := time.Date(after.Year(), after.Month(), after.Day(), 0, 0, 0, 0, time.UTC)
	from := after.Hour()*60 + after.Minute() + 1
	for range calendarDays + 1 {
		if c.on(day.Month(), day.Day(), day.Weekday()) {
			if m, ok := c.minuteFrom(from); ok {
				return day.Add(time.Duration(m) * time.Minute)
			}
		}
		day, from = day.AddDate(0, 0, 1), 0
	}
	return time.Time{}
}

// minuteFrom is the first minute of a day, from 0, at which the line runs, not before the given one.
func (c Cron) minuteFrom(from int) (int, bool) {
	hour, minute := from/60, from%60
	if c.hours>>hour&1 == 0 || c.minutes>>minute == 0 {
		hour, minute = bits.TrailingZeros64(c.hours>>(hour+1)<<(hour+1)), 0
	}
	if hour > 23 || c.minutes == 0 {
		return 0, false
	}
	return hour*60 + bits.TrailingZeros64(c.minutes>>minute<<minute), true
}

// gaps are the shortest time between two runs of a day, or over a midnight, and the longest time without one. The change of the
// clocks is not in them.
func (c Cron) gaps() (shortest, longest time.Duration) {
	first, ok := c.minuteFrom(0)
	if !ok {
		return 0, 0
	}
	last, short, long := first, 24*60, 0
	for m, ok := c.minuteFrom(first + 1); ok; m, ok = c.minuteFrom(m + 1) {
		short, long = min(short, m-last), max(long, m-last)
		last = m
	}
	overnight := 24*60 - last + first
	short, long = min(short, overnight), max(long, (c.dayGap()-1)*24*60+overnight)
	return time.Duration(short) * time.Minute, time.Duration(long) * time.Minute
}

// dayGap is the longest time from one day of the line to the next, in days.
func (c Cron) dayGap() int {
	first, last, gap, n := -1, -1, 0, 0
	for year := 2000; year < 2400; year++ {
		for month := time.January; month <= time.December; month++ {
			days := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
			for day := 1; day <= days; day++ {
				if c.on(month, day, time.Weekday((n+int(time.Saturday))%7)) { // 2000 began with a Saturday
					if first < 0 {
						first, last = n, n
					}
					gap, last = max(gap, n-last), n
				}
				n++
			}
		}
	}
	return max(gap, n-last+first) // the calendar begins anew
}
