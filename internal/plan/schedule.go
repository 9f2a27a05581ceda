package plan

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const schedulePattern = `^(daily|(weekly )?(Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)) ([01][0-9]|2[0-3]):[0-5][0-9]$|^every ([0-9]+(m|h|d))+$`

var scheduleShape = regexp.MustCompile(schedulePattern)

// everyMin is the shortest repetition: below it one backup would start before the last has ended.
const everyMin = time.Minute

const everyMax = 31 * day

// schedule is a repeating time in words.
func schedule() form[Schedule] {
	return text(jsonSchema{"pattern": schedulePattern},
		`a schedule: "daily 01:00", "Sunday 04:00" or "every 6h"`, parseSchedule)
}

func parseSchedule(s string) (Schedule, error) {
	if !scheduleShape.MatchString(s) {
		return Schedule{}, fmt.Errorf(`%q is not a schedule ("daily 01:00", "Sunday 04:00", "weekly Sunday 04:00" or "every 6h")`, s)
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

// Longest is the longest time between two firings; zero when it never fires.
func (s Schedule) Longest() time.Duration {
	switch {
	case s.Every > 0:
		return s.Every
	case strings.HasSuffix(s.Cron, " *"):
		return day
	case s.Cron != "":
		return week
	}
	return 0
}
