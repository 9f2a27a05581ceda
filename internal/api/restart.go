package api

import (
	"encoding/json"
	"net/http"
	"slices"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// restartable writes into a request for a restart which server processes run now: whoever is another one later has
// been restarted. All must run, or nobody could tell.
func (s Source) restartable(q *agent.Asked) *problem.Problem {
	snap := s.Snapshot()
	i := slices.IndexFunc(snap.Facts.Databases, func(d agent.DatabaseFacts) bool { return d.Name == q.Subject })
	lives := map[string]string{}
	if i >= 0 {
		for _, host := range snap.Facts.Databases[i].Record.Members {
			rep := reportOf(s.Self, host, snap)
			if rep == nil || rep.Databases[q.Subject].Local.Life == "" {
				return &problem.Problem{Code: "database.not-restarted", Subject: q.Subject, Severity: problem.Note,
					Title:   "its server on " + host + " does not answer, and a restart takes one more away at a time",
					Meaning: "Nothing was changed.", Remedy: "wait until every server answers (holdfast status), then ask again"}
			}
			lives[host] = rep.Databases[q.Subject].Local.Life
		}
		for _, open := range snap.Facts.Databases[i].Requests {
			if open.Kind == "restart" {
				return &problem.Problem{Code: "database.not-restarted", Subject: q.Subject, Severity: problem.Note,
					Title: "a restart is under way already", Meaning: "Nothing was changed.",
					Remedy: "see it: holdfast database requests; end it: holdfast database cancel " + open.ID}
			}
		}
	}
	text, err := json.Marshal(lives)
	if err != nil {
		return &problem.Problem{Code: "api.bad-request", Subject: q.Subject, Severity: problem.Note, Title: err.Error(), Meaning: "Nothing was changed.", Remedy: "ask again"}
	}
	if q.Args == nil {
		q.Args = map[string]string{}
	}
	q.Args[agent.ArgLives] = string(text)
	return nil
}

// restartSteps says what a restart would do: what a dry run shows.
func (s Source) restartSteps(w http.ResponseWriter, r *http.Request) {
	name, snap := r.PathValue("name"), s.Snapshot()
	for _, d := range snap.Facts.Databases {
		if d.Name == name {
			s.answer(w, http.StatusOK, database.PlanRestart(s.Policy(name), agent.ViewOf(s.Self, snap.Facts, d), r.URL.Query().Get("pending") == "true"))
			return
		}
	}
	s.refuse(w, http.StatusNotFound, UnknownDatabase(name, s.current()))
}
