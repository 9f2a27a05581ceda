package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// unit is how long one of what a span of time is typed in lasts. A day is 24 hours, whatever the clocks do.
func unit(word string) (time.Duration, bool) {
	switch strings.ToLower(word) {
	case "w", "week", "weeks":
		return 7 * 24 * time.Hour, true
	case "d", "day", "days":
		return 24 * time.Hour, true
	case "h", "hour", "hours":
		return time.Hour, true
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute, true
	case "s", "sec", "secs", "second", "seconds":
		return time.Second, true
	case "ms":
		return time.Millisecond, true
	}
	return 0, false
}

// parseSpan reads a span of time as it is typed: "10m", "1h30m", "2d", "2 days", "1 day 12 hours". It is never negative.
func parseSpan(s string) (time.Duration, error) {
	bad := func(why string) (time.Duration, error) {
		return 0, fmt.Errorf("%q is no span of time such as 10m, 1h30m, \"2 days\": %s", s, why)
	}
	var sum float64
	for rest := strings.TrimSpace(s); ; {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			return bad("a number is missing")
		}
		rest = strings.TrimLeft(rest[len(digits):], " ")
		word := rest[:len(rest)-len(strings.TrimLeftFunc(rest, unicode.IsLetter))]
		u, ok := unit(word)
		if !ok {
			return bad("a unit is missing (s, m, h, d, w)")
		}
		if sum += n * float64(u); sum > math.MaxInt64/2 {
			return bad("it is too long")
		}
		if rest = strings.TrimLeft(rest[len(word):], " "); rest == "" {
			return time.Duration(sum), nil
		}
	}
}

// span is a flag that takes a span of time.
type span time.Duration

// String is how --help shows the default; "" = there is none.
func (d *span) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Set reads what was typed.
func (d *span) Set(s string) error {
	v, err := parseSpan(s)
	*d = span(v)
	return err
}

// Type is what --help calls it.
func (d *span) Type() string { return "duration" }
