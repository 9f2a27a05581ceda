package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// pauseMax is how long a database may be paused at once: whoever needs more asks again, and so does not forget it.
const pauseMax = 7 * 24 * time.Hour

// aheadMax is how far ahead a switchover may be asked for.
const aheadMax = 366 * 24 * time.Hour

// requestArgs are the arguments that each kind of request may have.
func requestArgs() map[string][]string {
	return map[string][]string{
		"database/switchover": {agent.ArgTo, agent.ArgAt},
		"database/failover":   {agent.ArgTo, agent.ArgVia, agent.ArgFormer, agent.ArgFloor},
		"database/settle":     {agent.ArgTo, agent.ArgKept, agent.ArgText},
		"database/pause":      {agent.ArgFor, agent.ArgReason},
		"database/resume":     {},
		"database/restart":    {agent.ArgPending, agent.ArgLives},
		"backup/base":         {agent.ArgMode, agent.ArgLimit},
		"backup/validate":     {agent.ArgBackup},
		"files/point":         {agent.ArgOn},
		"files/backup":        {agent.ArgOn, agent.ArgMode, agent.ArgAllowEmpty},
		"backup/prune":        {},
		"backup/cancel":       {agent.ArgRun},
		"files/cancel":        {agent.ArgRun, agent.ArgOn},
	}
}

// complete checks what a request says, and adds what only the host that takes it knows. nil = it may be taken.
func (s Source) complete(ctx context.Context, q *agent.Asked, now time.Time) *problem.Problem {
	bad := func(remedy, format string, args ...any) *problem.Problem {
		return &problem.Problem{Code: "api.bad-request", Subject: q.Subject, Severity: problem.Note, Title: fmt.Sprintf(format, args...),
			Meaning: "Nothing was changed.", Remedy: remedy}
	}
	allowed := requestArgs()[q.Room+"/"+q.Kind]
	for _, name := range slices.Sorted(maps.Keys(q.Args)) {
		if !slices.Contains(allowed, name) {
			return bad("holdfast --help lists what can be asked for", "a %s has no %q", q.Kind, name)
		}
	}
	switch q.Kind {
	case "pause":
		d, err := time.ParseDuration(q.Args[agent.ArgFor])
		if err != nil || d <= 0 || d > pauseMax {
			return bad("say how long, such as 30m or 2h", "%q is no time that a pause can last (more than nothing, at most %s)", q.Args[agent.ArgFor], pauseMax)
		}
		q.Args[agent.ArgUntil] = now.Add(d).UTC().Format(time.RFC3339Nano)
	case "restart":
		return s.restartable(q)
	case "base":
		if mode := q.Args[agent.ArgMode]; !slices.Contains([]string{"", "full", "proven", "fast", "auto"}, mode) {
			return bad("say full, proven, fast or auto", "%q is no way to make a base backup", mode)
		}
		if limit := q.Args[agent.ArgLimit]; limit != "" {
			if n, err := strconv.ParseInt(limit, 10, 64); err != nil || n <= 0 {
				return bad("say how many bytes a second", "%q is no limit", limit)
			}
		}
	case "cancel":
		if q.Args[agent.ArgRun] == "" {
			return bad("use holdfast backup cancel, which looks what goes on", "it does not name what is to be ended")
		}
	case "failover":
		if _, err := database.ParseLSN(q.Args[agent.ArgFloor]); err != nil || q.Args[agent.ArgVia] == "" || q.Args[agent.ArgFormer] == "" {
			return bad("use holdfast database failover, which shows the loss first", "a forced failover names what it was shown to lose")
		}
		q.Args[agent.ArgAt] = now.UTC().Format(time.RFC3339Nano)
	case "settle":
		if q.Args[agent.ArgTo] == "" || q.Args[agent.ArgText] == "" {
			return bad("use holdfast database salvage", "it names no host, or does not say what becomes of its commits")
		}
	case "switchover":
		at := q.Args[agent.ArgAt]
		if at == "" {
			if q.Args == nil {
				q.Args = map[string]string{}
			}
			q.Args[agent.ArgAsked] = now.UTC().Format(time.RFC3339Nano) // one that nobody can take up ends, as a planned one does
			break
		}
		due, err := time.Parse(time.RFC3339Nano, at)
		switch {
		case err != nil:
			return bad("a moment looks like 2026-11-21T04:00:00Z", "%q is no moment", at)
		case due.Before(now):
			return bad("name a moment that is still to come, by this host's clock", "%s is over", at)
		case due.Sub(now) > aheadMax:
			return bad("name a moment within a year", "%s is too far ahead", at)
		}
		return s.plannedOnce(ctx, q.Subject)
	}
	return nil
}

// plannedOnce refuses a planned switchover beside another one: each of them would be an outage.
func (s Source) plannedOnce(ctx context.Context, name string) *problem.Problem {
	for _, m := range plannedMoves(name, s.Snapshot()) {
		if answer, err := s.Store.Get(ctx, agent.KeyAnswers+m.ID); err == nil && answer.Revision != 0 {
			continue // settled since the snapshot
		}
		return &problem.Problem{Code: "database.not-switched", Subject: name, Severity: problem.Note,
			Title: fmt.Sprintf("a switchover is planned already, for %s (request %s)", m.At.UTC().Format("2006-01-02 15:04:05 MST"), m.ID), Meaning: "Nothing was changed.",
			Remedy: "see it: holdfast database requests; end it: holdfast database cancel " + m.ID}
	}
	return nil
}

// OpenRequest is what an operator asked for and nobody has settled, for a list.
type OpenRequest struct {
	agent.Asked
	Words string `json:"words"` // what it waits for, or how far it is
}

// open lists what is asked for and not settled.
func (s Source) open(w http.ResponseWriter, _ *http.Request) {
	out := []OpenRequest{}
	snap := s.Snapshot()
	for _, q := range agent.Open(snap.Agreed) {
		out = append(out, OpenRequest{Asked: q, Words: s.words(q, snap)})
	}
	s.answer(w, http.StatusOK, out)
}

// words says how far a request is, as far as this host can see.
func (s Source) words(q agent.Asked, snap agent.Snapshot) string {
	if q.Progress != "" || q.Room != "database" {
		return q.Progress
	}
	for _, d := range snap.Facts.Databases {
		if d.Name == q.Subject {
			if why := s.primaryAway(d, snap); why != "" && q.Kind == "switchover" && d.Record.Switch != q.ID && isDue(q, snap.At) {
				return "waits: " + why
			}
			return database.Progress(s.Policy(d.Name), agent.ViewOf(s.Self, snap.Facts, d), q.ID)
		}
	}
	return ""
}

// isDue reports whether a switchover's moment has come.
func isDue(q agent.Asked, now time.Time) bool {
	at, err := time.Parse(time.RFC3339Nano, q.Args[agent.ArgAt])
	return err != nil || !at.After(now)
}

// primaryAway says why nobody could begin a switchover: the primary's own agent does that. "" = it is there.
func (s Source) primaryAway(d agent.DatabaseFacts, snap agent.Snapshot) string {
	primary := d.Record.Primary
	rep := reportOf(s.Self, primary, snap)
	switch {
	case primary == "":
		return ""
	case rep == nil || rep.Databases[d.Name] == nil:
		return primary + ", where the primary is, does not answer"
	case rep.Databases[d.Name].Local.Known && !rep.Databases[d.Name].Local.Running:
		return "the primary's server on " + primary + " does not run"
	}
	return ""
}

// cancel settles a request as cancelled. What has begun and must be brought to its end is not cancelled any more.
func (s Source) cancel(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	by, _, _ := auth.PeerName(r.TLS) // checked by operator
	note := func(status int, title, remedy string) {
		s.refuse(w, status, problem.Problem{Code: "api.not-cancelled", Subject: id, Severity: problem.Note, Title: title,
			Meaning: "Nothing was changed.", Remedy: remedy})
	}
	q, err := s.Store.Get(r.Context(), agent.KeyRequests+id)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	var asked agent.Asked
	if q.Revision == 0 || json.Unmarshal(q.Value, &asked) != nil {
		note(http.StatusNotFound, "there is no such request", "holdfast database requests lists those that are open")
		return
	}
	if asked.Room == "database" {
		record, _, err := agent.Records(s.Store, asked.Subject).Read(r.Context())
		if err != nil {
			s.unavailable(w, err)
			return
		}
		if record.Switch == id && record.Phase != database.Steady || record.Forced != nil && record.Forced.Request == id {
			note(http.StatusConflict, "the change of primary is under way, and ends within seconds", "see how it ended: holdfast status")
			return
		}
	}
	value, err := json.Marshal(agent.Settled{ID: id, Text: cmp.Or(by, "an operator") + " cancelled it", Host: s.Self})
	if err == nil {
		_, err = s.Store.Put(r.Context(), agent.KeyAnswers+id, value, 0)
	}
	switch {
	case errors.Is(err, cluster.ErrConflict):
		note(http.StatusConflict, "it has been settled already", "see how it ended: holdfast history")
	case err != nil:
		s.unavailable(w, err)
	default:
		s.answer(w, http.StatusOK, asked)
	}
}
