package plan

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	worded       = `^(daily|(weekly )?(Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)) ([01][0-9]|2[0-3]):[0-5][0-9]$|^every ([0-9]+(m|h|d))+$`
	cronShape    = `^[0-9*][0-9*,/-]* +[0-9*][0-9*,/-]* +[0-9*][0-9*,/-]* +[0-9A-Za-z*][0-9A-Za-z*,/-]* +[0-9A-Za-z*][0-9A-Za-z*,/-]*$`
	scheduleWays = `"daily 01:00", "Sunday 04:00", "every 6h" or the five fields of cron, "30 1 * * mon-fri"`

	schedulePattern = worded + "|" + cronShape
)

var (
	wordedShape = regexp.MustCompile(worded)
	fieldsShape = regexp.MustCompile(cronShape)
)

// everyMin is the shortest repetition: below it one backup would start before the last has ended.
const everyMin = time.Minute

const everyMax = 31 * day

// schedule is a repeating time in words.
func schedule() form[Schedule] {
	return text(jsonSchema{"pattern": schedulePattern},
		"a schedule: "+scheduleWays, parseSchedule)
}

func parseSchedule(s string) (Schedule, error) {
	if !wordedShape.MatchString(s) {
		return parseFields(s)
	}
	if span, ok := strings.CutPrefix(s, "every "); ok {
		d, err := parseDuration(span)
		if err != nil {
			return Schedule{}, err
		}
		if d < everyMin || d > everyMax {
			return Schedule{}, fmt.Errorf("%q is out of range (every %s to every %s)", s, FormatDuration(everyMin), FormatDuration(everyMax))
		}
		return Schedule{Text: s, Every: d}, nil
	}
	words := strings.Fields(s)
	clock := words[len(words)-1]
	hour, _ := strconv.Atoi(clock[:2]) // the pattern admits digits alone
	minute, _ := strconv.Atoi(clock[3:])
	weekday := "*"
	for d := time.Sunday; d <= time.Saturday; d++ {
		if words[len(words)-2] == d.String() {
			weekday = strconv.Itoa(int(d))
		}
	}
	return Schedule{Text: s, Cron: fmt.Sprintf("%d %d * * %s", minute, hour, weekday)}, nil
}

// parseFields reads a schedule that is written as cron has it.
func parseFields(s string) (Schedule, error) {
	if !fieldsShape.MatchString(s) {
		return Schedule{}, fmt.Errorf("%q is not a schedule (%s)", s, scheduleWays)
	}
	if _, err := ParseCron(s); err != nil {
		return Schedule{}, fmt.Errorf("%q is not a schedule: %w", s, err)
	}
	return Schedule{Text: s, Cron: strings.Join(strings.Fields(s), " ")}, nil
}

// Longest is the longest time between two firings; zero when it never fires.
func (s Schedule) Longest() time.Duration {
	_, longest := s.gaps()
	return longest
}

func (s Schedule) gaps() (shortest, longest time.Duration) {
	if s.Every > 0 || s.Cron == "" {
		return s.Every, s.Every
	}
	line, err := ParseCron(s.Cron)
	if err != nil { // none of the plan's
		return 0, 0
	}
	return line.gaps()
}

// inWords is a schedule within a sentence.
func (s Schedule) inWords() string {
	switch {
	case s == Schedule{}:
		return "never"
	case fieldsShape.MatchString(s.Text):
		return `by "` + s.Text + `"`
	}
	return s.Text
}
