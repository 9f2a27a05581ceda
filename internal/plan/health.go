package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Defaults of a health check.
const (
	checkEvery    = 2 * time.Second
	checkTimeout  = time.Second
	checkFall     = 3
	checkRise     = 2
	checkStartFor = 30 * time.Second
)

// checkFile is a health check as the file writes it in full.
type checkFile struct {
	http     located[string]
	tcp      located[bool]
	exec     located[[]string]
	every    located[time.Duration]
	timeout  located[time.Duration]
	fall     located[int]
	rise     located[int]
	startFor located[time.Duration]
	wrong    bool // a key of it was reported already
}

// health is a check: "/readyz" for short, or a mapping that says which kind and how often.
// Only liveness forgives the time after a start: an instance that is not ready yet gets no traffic anyway.
func health(liveness bool) form[Check] {
	const allowed = `a path such as "/readyz", or a mapping with one of http, tcp, exec`
	path := text(jsonSchema{"pattern": `^/[^\s]*$`}, "a path such as /readyz", urlPath)
	fields := []field[checkFile]{
		key("http", path, "Path that answers 200 to 399 while the instance is well.", func(f *checkFile) *located[string] { return &f.http }),
		key("tcp", yesNo(), "true: a connection to the port is proof enough.", func(f *checkFile) *located[bool] { return &f.tcp }),
		key("exec", argv(), "Command that exits 0 while the instance is well.", func(f *checkFile) *located[[]string] { return &f.exec }),
		key("every", span(100*time.Millisecond, time.Hour), "Time from one check to the next (default 2s).", func(f *checkFile) *located[time.Duration] { return &f.every }),
		key("timeout", span(10*time.Millisecond, time.Hour), "How long one check may take (default 1s, at most every).", func(f *checkFile) *located[time.Duration] { return &f.timeout }),
		key("fall", whole("a number of checks", 1, 1000), "Failures in a row before the instance counts as failing (default 3).", func(f *checkFile) *located[int] { return &f.fall }),
		key("rise", whole("a number of checks", 1, 1000), "Successes in a row before it counts as well again (default 2).", func(f *checkFile) *located[int] { return &f.rise }),
	}
	if liveness {
		fields = append(fields, key("start_for", span(time.Second, day), "Time after a start in which failures are forgiven (default 30s).", func(f *checkFile) *located[time.Duration] { return &f.startFor }))
	}
	full := object(fields...)
	read := func(r *mistakes, n ast.Node, at Place, where keyPath) (Check, bool) {
		c := Check{Every: checkEvery, Timeout: checkTimeout, Fall: checkFall, Rise: checkRise, StartFor: checkStartFor}
		if _, short := plainText(n); short {
			p, ok := path.read(r, n, at, where)
			c.Kind, c.Path = "http", p
			return c, ok
		}
		switch n.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
		default:
			r.add(at, where, "is %s (allowed: %s)", kindOf(n), allowed)
			return Check{}, false
		}
		before := len(r.found)
		f, ok := full.read(r, n, at, where)
		if !ok {
			return Check{}, false
		}
		f.wrong = len(r.found) > before
		judgeCheck(r, f, &c, at, where)
		return c, len(r.found) == before
	}
	return form[Check]{schema: jsonSchema{"oneOf": []any{path.schema, full.schema}}, read: read}
}

func judgeCheck(r *mistakes, f checkFile, c *Check, at Place, where keyPath) {
	var kinds []string
	if f.http.written() {
		kinds, c.Kind, c.Path = append(kinds, "http"), "http", f.http.value
	}
	if f.tcp.written() {
		if !f.tcp.value {
			r.add(f.tcp.at, where.to("tcp"), "is false (allowed: true, or leave the key out)")
		}
		kinds, c.Kind = append(kinds, "tcp"), "tcp"
	}
	if f.exec.written() {
		kinds, c.Kind, c.Argv = append(kinds, "exec"), "exec", f.exec.value
	}
	c.Every, c.Timeout = f.every.or(checkEvery), f.timeout.or(min(checkTimeout, f.every.or(checkEvery)))
	c.Fall, c.Rise, c.StartFor = f.fall.or(checkFall), f.rise.or(checkRise), f.startFor.or(checkStartFor)
	if c.Timeout > c.Every {
		r.add(f.timeout.at, where.to("timeout"), "%s is longer than the %s from one check to the next (at most %s)",
			FormatDuration(c.Timeout), FormatDuration(c.Every), FormatDuration(c.Every))
	}
	switch {
	case len(kinds) > 1:
		r.add(at, where, "asks in %d ways: %s (allowed: one of http, tcp, exec)", len(kinds), strings.Join(kinds, ", "))
	case len(kinds) == 0 && !f.wrong:
		r.add(at, where, "does not say how to ask (allowed: one of http, tcp, exec)")
	}
}

func urlPath(s string) (string, error) {
	if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\r\n\x00#") {
		return "", fmt.Errorf("%q is not a path (such as /readyz)", s)
	}
	return s, nil
}
