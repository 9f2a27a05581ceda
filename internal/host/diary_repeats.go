package host

import (
	"strings"
	"time"
	"unicode"

	"holdfast/internal/event"
)

const (
	// wholeRepeats is how many of the events that are alike are told each by itself. A failover or two an hour are; the tries
	// of a copy that fails every few seconds for days shall not push everything else out.
	wholeRepeats = 5
	// joinWithin is how soon an event must come again to be a repeat.
	joinWithin = 20 * time.Minute
	// joinedAgain is how old what the file says of joined repeats may become while they go on.
	joinedAgain = time.Hour
)

// repeats are the events that came lately, by what they say without their numbers.
type repeats map[likeness]*series

// likeness is what events that are told as one have in common.
type likeness struct{ room, subject, words string }

// series are events that are alike and came one soon after the other.
type series struct {
	count   int
	last    time.Time
	line    event.Event // stands for all after the first few; Times = 0: there is none yet
	written event.Event // what the file has of it
}

// take reads an event that happens now, and joins it with its like. It says which lines the file lacks of repeats that have
// ended, and whether it gets this one. What is new about a subject ends the joined lines about it, so that what came before
// and what came after are told apart. What tells of a request is never joined: each was asked for by somebody who looks for it,
// and the scribe reads back which have an end.
func (r repeats) take(e *event.Event) (before []event.Event, write bool) {
	key := likeOf(*e)
	s := r[key]
	if e.Request != "" || s == nil || e.At.Sub(s.last) > joinWithin {
		for k, x := range r {
			if lapsed := e.At.Sub(x.last) > joinWithin; lapsed || k.room == e.Room && k.subject == e.Subject {
				before = append(before, x.endLine()...)
				if lapsed {
					delete(r, k)
				}
			}
		}
		if e.Request == "" {
			r[key] = &series{count: 1, last: e.At}
		}
		return before, true
	}
	s.count++
	s.last = e.At
	if s.count <= wholeRepeats {
		return nil, true
	}
	if e.Since, e.Times = e.At, 1; s.line.Times > 0 {
		e.Since, e.Times = s.line.Since, s.line.Times+1
	}
	s.line = *e
	// At 1, 2, 4, 8, ... and each hour: the file has at least half of them, and stays short.
	if write = e.Times >= 2*s.written.Times || e.At.Sub(s.written.At) >= joinedAgain; write {
		s.written = *e
	}
	return nil, write
}

// end gives what the file lacks of all of them.
func (r repeats) end() []event.Event {
	var out []event.Event
	for _, s := range r {
		out = append(out, s.endLine()...)
	}
	return out
}

// endLine gives a joined line as it became, where the file has it otherwise; the next repeat begins another.
func (s *series) endLine() []event.Event {
	line, written := s.line, s.written
	s.line, s.written = event.Event{}, event.Event{}
	if line.Times == written.Times {
		return nil
	}
	return []event.Event{line}
}

func likeOf(e event.Event) likeness {
	words := withoutNumbers(e.What)
	for _, why := range e.Because {
		words += "\n" + withoutNumbers(why)
	}
	return likeness{e.Room, e.Subject, words}
}

// withoutNumbers is a text with a mark for each word that is a number: positions in the log, times, ids. A word that begins
// with a letter is none, so that no host's name is (b1, east-2); of such a word only a long number within it is.
func withoutNumbers(text string) string {
	words := strings.FieldsFunc(text, func(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune(`,;=()[]"'`, c) })
	for i, w := range words {
		if isNumber(w) {
			words[i] = "#"
			continue
		}
		words[i] = withoutLongNumbers(w)
	}
	return strings.Join(words, " ")
}

// isNumber reports whether a word begins with a digit, or is a hexadecimal id.
func isNumber(w string) bool {
	if w[0] >= '0' && w[0] <= '9' {
		return true
	}
	hex := func(c rune) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
	return len(w) >= 8 && strings.ContainsAny(w, "0123456789") && strings.IndexFunc(w, func(c rune) bool { return !hex(c) }) < 0
}

// withoutLongNumbers has a mark for each number of five digits and more: what names a process or a file made for the moment.
func withoutLongNumbers(w string) string {
	const long = 5
	var out strings.Builder
	for len(w) > 0 {
		digits := len(w) - len(strings.TrimLeft(w, "0123456789"))
		switch {
		case digits == 0:
			other := max(1, strings.IndexAny(w+"0", "0123456789"))
			out.WriteString(w[:other])
			w = w[other:]
			continue
		case digits >= long:
			out.WriteByte('#')
		default:
			out.WriteString(w[:digits])
		}
		w = w[digits:]
	}
	return out.String()
}
