package api

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/event"
)

// note tells the diary of the host that answers what an operator wanted of it.
func (s Source) note(room, subject, what string, because ...string) {
	if s.Note != nil {
		s.Note(event.Event{Room: room, Subject: subject, What: what, Because: because})
	}
}

// asker is who made a call, in words.
func asker(r *http.Request) string {
	by, _, _ := auth.PeerName(r.TLS) // checked by operator
	return cmp.Or(by, "an operator")
}

// noteAsked tells of a request that was written. err != nil: it may have been, or not.
func (s Source) noteAsked(q agent.Asked, err error) {
	what := Wish(q, time.UTC) + ": asked for"
	if err != nil {
		what += ", and whether it was taken is not known: " + err.Error()
	}
	if s.Note != nil {
		s.Note(event.Event{Room: q.Room, Subject: q.Subject, What: what, Because: Reasons(q), Request: q.ID})
	}
}

// Wish is what a request asks for, in words, its moments as clocks in zone show them.
func Wish(q agent.Asked, zone *time.Location) string {
	words := q.Kind
	if to := q.Args[agent.ArgTo]; to != "" {
		words += " to " + to
	}
	for _, moment := range []struct{ arg, word string }{{agent.ArgAt, "at"}, {agent.ArgUntil, "until"}} {
		if at, err := time.Parse(time.RFC3339Nano, q.Args[moment.arg]); err == nil {
			words += " " + moment.word + " " + at.In(zone).Format("2006-01-02 15:04:05 MST")
		}
	}
	said := []string{agent.ArgTo, agent.ArgAt, agent.ArgAsked, agent.ArgUntil, agent.ArgFor, agent.ArgReason, agent.ArgText, agent.ArgLives, agent.ArgVia, agent.ArgFormer, agent.ArgFloor}
	for _, name := range slices.Sorted(maps.Keys(q.Args)) {
		if value := q.Args[name]; value != "" && !slices.Contains(said, name) {
			words += ", " + name + " " + value
		}
	}
	return words
}

// Reasons are who asked for something, why, and what of it was shown beforehand.
func Reasons(q agent.Asked) []string {
	out := []string{cmp.Or(q.By, "an operator") + " asked for it"}
	if why := cmp.Or(q.Args[agent.ArgReason], q.Args[agent.ArgText]); why != "" {
		out[0] += ": " + why
	}
	if q.Kind == "failover" {
		out = append(out, fmt.Sprintf("it was shown by %s that the log of the new primary goes up to %s at least, and what lies behind it may be lost", q.Args[agent.ArgVia], q.Args[agent.ArgFloor]))
	}
	return out
}
