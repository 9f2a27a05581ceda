package plan

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// text is a value written as text. judge says whether it is a good one and turns it into T; its error is
// the mistake's wording after the key: `"x" is not a port (1 to 65535)`.
func text[T any](schema jsonSchema, allowed string, judge func(s string) (T, error)) form[T] {
	if _, ok := schema["type"]; !ok {
		schema["type"] = "string"
	}
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (value T, ok bool) {
		s, ok := plainText(n)
		if !ok {
			r.add(at, path, "is %s (allowed: %s)", kindOf(n), allowed)
			return value, false
		}
		value, err := judge(s)
		if err != nil {
			r.add(at, path, "%s", err)
			return value, false
		}
		return value, true
	}
	return form[T]{schema: schema, read: read}
}

// plainText is what stands at a node that YAML reads as text.
func plainText(n ast.Node) (string, bool) {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return scalarText(n)
	}
	return "", false
}

// anyScalar takes text, numbers and true or false, all as they are written.
func anyScalar(allowed string) form[string] {
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (string, bool) {
		s, ok := scalarText(n)
		if !ok {
			r.add(at, path, "is %s (allowed: %s)", kindOf(n), allowed)
		} else if strings.ContainsRune(s, 0) {
			r.add(at, path, "holds a zero byte (allowed: %s)", allowed)
			ok = false
		}
		return s, ok
	}
	return form[string]{schema: jsonSchema{"type": []string{"string", "number", "boolean"}}, read: read}
}

// whole is a whole number from low to high; what names it in messages: "a port".
func whole(what string, low, high int) form[int] {
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (int, bool) {
		if _, ok := n.(*ast.IntegerNode); !ok {
			r.add(at, path, "is %s (allowed: %s, %d to %d)", kindOf(n), what, low, high)
			return 0, false
		}
		written := n.GetToken().Value
		v, err := strconv.Atoi(written)
		if err != nil || v < low || v > high {
			r.add(at, path, "%s is not %s (%d to %d)", written, what, low, high)
			return 0, false
		}
		return v, true
	}
	return form[int]{schema: jsonSchema{"type": "integer", "minimum": low, "maximum": high}, read: read}
}

// yesNo is true or false.
func yesNo() form[bool] {
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (bool, bool) {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			r.add(at, path, "is %s (allowed: true, false)", kindOf(n))
			return false, false
		}
		return b.Value, true
	}
	return form[bool]{schema: jsonSchema{"type": "boolean"}, read: read}
}

// oneOf is one of a few words.
func oneOf(words ...string) form[string] {
	allowed := strings.Join(words, ", ")
	return text(jsonSchema{"enum": words}, allowed, func(s string) (string, error) {
		for _, w := range words {
			if s == w {
				return s, nil
			}
		}
		return "", fmt.Errorf("%q is unknown (allowed: %s)", s, allowed)
	})
}

// Units of time as a plan writes them. A day is 24 h and a year 365 d: retention needs no calendar.
const (
	day  = 24 * time.Hour
	week = 7 * day
	year = 365 * day
)

const durationPattern = `^([0-9]+(ms|s|m|h|d|w|y))+$`

var durationPart = regexp.MustCompile(`([0-9]+)(ms|s|m|h|d|w|y)`)
var durationWhole = regexp.MustCompile(durationPattern)

// parseDuration reads 500ms, 30s, 5m, 6h, 14d, 2w, 2y and sums such as 1h30m. Its error carries no subject.
func parseDuration(s string) (time.Duration, error) {
	units := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": day, "w": week, "y": year}
	if !durationWhole.MatchString(s) {
		return 0, fmt.Errorf("%q is not a time span (a number with ms, s, m, h, d, w or y, such as 30s, 6h or 14d)", s)
	}
	var sum time.Duration
	for _, part := range durationPart.FindAllStringSubmatch(s, -1) {
		n, err := strconv.ParseInt(part[1], 10, 64)
		unit := units[part[2]]
		if err != nil || n > int64((math.MaxInt64-sum)/unit) {
			return 0, fmt.Errorf("%q is too long a time span (at most 290y)", s)
		}
		sum += time.Duration(n) * unit
	}
	return sum, nil
}

// FormatDuration writes a time span as a plan does: 1h30m, 14d, 2y; zero is 0s.
func FormatDuration(d time.Duration) string {
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"y", year}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	if b.Len() == 0 {
		return "1ms" // below what a plan can write: round up, never to "never"
	}
	return b.String()
}

// span is a time span from low to high.
func span(low, high time.Duration) form[time.Duration] {
	allowed := "a time span, " + FormatDuration(low) + " to " + FormatDuration(high)
	return text(jsonSchema{"pattern": durationPattern}, allowed, func(s string) (time.Duration, error) {
		d, err := parseDuration(s)
		if err == nil && (d < low || d > high) {
			err = fmt.Errorf("%s is out of range (%s to %s)", s, FormatDuration(low), FormatDuration(high))
		}
		return d, err
	})
}

// spanOrNone is a time span, or the word none for zero.
func spanOrNone(low, high time.Duration) form[time.Duration] {
	f := span(low, high)
	some := f.read
	f.schema = jsonSchema{"type": "string", "pattern": `^none$|` + durationPattern}
	f.read = func(r *mistakes, n ast.Node, at Place, path keyPath) (time.Duration, bool) {
		if s, ok := n.(*ast.StringNode); ok && s.Value == "none" {
			return 0, true
		}
		return some(r, n, at, path)
	}
	return f
}

const labelPattern = `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`

var labelShape = regexp.MustCompile(labelPattern)

// label is the rule for every name that Holdfast itself uses in host names, paths and commands.
func label() nameRule {
	return nameRule{pattern: labelPattern, allows: labelShape.MatchString,
		allowed: "lower-case letters, digits and -, first a letter, at most 63"}
}

const sqlNamePattern = `^[a-z_][a-z0-9_]{0,62}$`

var sqlNameShape = regexp.MustCompile(sqlNamePattern)

// sqlName is the rule for names inside PostgreSQL: those that need no quotes there.
func sqlName() nameRule {
	return nameRule{pattern: sqlNamePattern, allows: sqlNameShape.MatchString,
		allowed: "lower-case letters, digits and _, first a letter or _, at most 63"}
}

// nameText is a name as a value rather than a key.
func nameText(rule nameRule) form[string] {
	return text(jsonSchema{"pattern": rule.pattern}, "a name: "+rule.allowed, func(s string) (string, error) {
		if !rule.allows(s) {
			return "", fmt.Errorf("%q is not a name (%s)", s, rule.allowed)
		}
		return s, nil
	})
}
