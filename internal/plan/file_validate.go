package plan

import (
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Validate says how a base backup is looked at after it was restored on trial.
type Validate struct {
	Limit  int64 // bytes written and read a second, at most; 0 = no limit
	Probes []Probe
}

// Probe is a question to a restored database that answers with one value, and what that must be. At least one of the
// bounds is set. AtLeast and AtMost are decimal numbers as they were written.
type Probe struct {
	SQL      string
	Database string // SQL database; "" = the one that the database's first role owns
	AtLeast  string
	AtMost   string
	Equals   string
	MaxAge   time.Duration // the answer is a time, no older than this when the backup ended
}

// same reports whether two ways of looking are one.
func (v Validate) same(o Validate) bool { return reflect.DeepEqual(v, o) }

type (
	validateFile struct {
		limit  located[int64]
		probes located[[]located[probeFile]]
	}
	probeFile struct {
		sql      located[string]
		database located[string]
		atLeast  located[string]
		atMost   located[string]
		equals   located[string]
		maxAge   located[time.Duration]
	}
)

func validation() form[validateFile] {
	return object(
		key("limit", rate(), "Most that restoring on trial writes and reads a second, such as 50MB/s (default: no limit; it gives way to the rest of the host anyway).", func(f *validateFile) *located[int64] { return &f.limit }),
		key("probes", listOf(probe()), "Questions to the restored database, each with what its answer must be.", func(f *validateFile) *located[[]located[probeFile]] { return &f.probes }),
	)
}

func probe() form[probeFile] {
	whole := object(
		must(key("sql", question(), "A query that gives one value.", func(f *probeFile) *located[string] { return &f.sql })),
		key("database", nameText(sqlName()), "SQL database that is asked (default: the one that the first role owns).", func(f *probeFile) *located[string] { return &f.database }),
		key("at_least", number(), "The answer is a number, this or more.", func(f *probeFile) *located[string] { return &f.atLeast }),
		key("at_most", number(), "The answer is a number, this or less.", func(f *probeFile) *located[string] { return &f.atMost }),
		key("equals", anyScalar("a value"), "The answer is this.", func(f *probeFile) *located[string] { return &f.equals }),
		key("max_age", span(time.Second, year), "The answer is a time, no longer than this before the backup's end; one without a zone is UTC.", func(f *probeFile) *located[time.Duration] { return &f.maxAge }),
	)
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (probeFile, bool) {
		for _, name := range probeBounds() { // of the probe before: items of a list have one path
			delete(r.where, path.to(name).String())
		}
		f, ok := whole.read(r, n, at, path)
		if ok {
			f.check(r, at, path)
		}
		return f, ok
	}
	return form[probeFile]{schema: whole.schema, read: read}
}

func probeBounds() []string { return []string{"at_least", "at_most", "equals", "max_age"} }

const boundsAllowed = "(allowed: at_least, at_most, equals, max_age)"

// check notes what does not go together.
func (f probeFile) check(ms *mistakes, at Place, path keyPath) {
	bounded := false
	for _, name := range probeBounds() {
		_, stated := ms.where[path.to(name).String()]
		bounded = bounded || stated // one that is wrong was told of already
	}
	switch {
	case !bounded:
		ms.addKey(at, path, "a probe says nothing of what its answer must be %s", boundsAllowed)
	case f.equals.written() && (f.atLeast.written() || f.atMost.written()):
		ms.addKey(f.equals.at, path, "equals leaves nothing for at_least and at_most to say (allowed: one or the other)")
	case f.maxAge.written() && (f.atLeast.written() || f.atMost.written() || f.equals.written()):
		ms.addKey(f.maxAge.at, path, "max_age is for a time, and the other bounds are not (allowed: one or the other)")
	case f.equals.written() && f.equals.value == "":
		ms.addKey(f.equals.at, path, "equals is empty (allowed: a value)")
	case f.atLeast.written() && f.atMost.written() && rational(f.atLeast.value).Cmp(rational(f.atMost.value)) > 0:
		ms.addKey(f.atMost.at, path, "at_most %s is below at_least %s", f.atMost.value, f.atLeast.value)
	}
}

// rational is a number that number has accepted.
func rational(s string) *big.Rat {
	r, _ := new(big.Rat).SetString(s)
	return r
}

// number is a decimal number, kept as it was written.
func number() form[string] {
	const allowed = "a number such as 1000 or 0.5"
	scalar := anyScalar(allowed)
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (string, bool) {
		s, ok := scalar.read(r, n, at, path)
		if !ok {
			return "", false
		}
		if !isNumber(s) {
			r.add(at, path, "%q is no number (allowed: %s)", s, allowed)
			return "", false
		}
		return s, true
	}
	return form[string]{schema: jsonSchema{"type": []string{"number", "string"}, "pattern": `^[+-]?[0-9]+([.][0-9]*)?$`}, read: read}
}

func isNumber(s string) bool {
	_, ok := new(big.Rat).SetString(s)
	return ok && s[0] != '.' && !strings.ContainsAny(s, "/xXoObBpPeE_")
}

// question is SQL that reads. What it may do is decided by the server, which lets a probe read alone; this finds slips.
func question() form[string] {
	const allowed = "one query that begins with select, with, table or values"
	return text(jsonSchema{"minLength": 1}, allowed, func(s string) (string, error) {
		word, _, _ := strings.Cut(strings.ToLower(strings.TrimLeft(s, " \t\n(")), " ")
		word, _, _ = strings.Cut(word, "\n")
		switch strings.TrimRight(word, "(") {
		case "select", "with", "table", "values":
		default:
			return "", fmt.Errorf("%q is no query (%s)", s, allowed)
		}
		if strings.ContainsRune(s, 0) {
			return "", errors.New("holds a zero byte (" + allowed + ")")
		}
		return strings.TrimSpace(s), nil
	})
}

func (f validateFile) resolved() Validate {
	v := Validate{Limit: f.limit.value}
	for _, p := range f.probes.value {
		if !p.written() {
			continue
		}
		v.Probes = append(v.Probes, Probe{
			SQL: p.value.sql.value, Database: p.value.database.value, AtLeast: p.value.atLeast.value, AtMost: p.value.atMost.value,
			Equals: p.value.equals.value, MaxAge: p.value.maxAge.value,
		})
	}
	return v
}

// shown is how it is looked at, as a plan file has it.
func (v Validate) shown() mapping {
	var m mapping
	if v.Limit > 0 {
		m.put("limit", formatSize(v.Limit)+"/s")
	}
	var probes []mapping
	for _, p := range v.Probes {
		var one mapping
		one.put("sql", p.SQL)
		one.putText("database", p.Database)
		for _, b := range []struct{ name, value string }{{"at_least", p.AtLeast}, {"at_most", p.AtMost}, {"equals", p.Equals}} {
			one.putText(b.name, b.value)
		}
		one.putSpan("max_age", p.MaxAge)
		probes = append(probes, one)
	}
	if len(probes) > 0 {
		m.put("probes", probes)
	}
	return m
}

// words say what is asked beside the usual checks.
func (v Validate) words() string {
	text := fmt.Sprintf("%d probes", len(v.Probes))
	if len(v.Probes) == 1 {
		text = "1 probe"
	}
	if v.Limit > 0 {
		text += " at " + formatSize(v.Limit) + "/s"
	}
	return text
}
