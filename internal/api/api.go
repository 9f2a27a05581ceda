// Package api is how operators ask a running agent: what is, what happened, and what shall be done. It reads the
// newest round's snapshot and writes requests into the agreed state; it never acts by itself.
package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Source is what the API speaks for.
type Source struct {
	Plan    *plan.Plan        // that this host was started with
	Applied func() *plan.Plan // with what was applied since over it; nil = Plan
	// Check refuses a plan that could not be followed on the host that answers; nil = nothing is asked. It changes nothing.
	Check    func(ctx context.Context, now, next *plan.Plan) *problem.Problem
	Prepare  func(*plan.Plan) *plan.Plan // makes of a parsed plan what Plan is; nil = as parsed
	Self     string
	Store    cluster.Store
	Snapshot func() agent.Snapshot
	Events   func() []event.Event
	Note     func(event.Event) // keeps what was asked for in the diary that Events shows; nil = nobody does
	Members  func() []string   // hosts that gossip believes alive
	Policy   func(database string) database.Policy
	Cluster  Cluster
	Log      *slog.Logger
	Salvage  Salvages // what was put aside on this host; nil = nothing can be
}

// requestMax bounds a request's body, in bytes.
const requestMax = 64 << 10

// Handler serves /v1/. Everybody who gets here has shown a certificate of the application; only an operator's
// may ask for something to be done.
func Handler(s Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		snap := s.Snapshot()
		st := Describe(s.current(), s.Self, snap).later(time.Since(snap.At))
		alive := s.Members()
		for i := range st.Hosts {
			st.Hosts[i].Member = slices.Contains(alive, st.Hosts[i].Name)
		}
		s.answer(w, http.StatusOK, st)
	})
	mux.HandleFunc("GET /v1/databases/{name}/candidates", s.candidates)
	mux.HandleFunc("GET /v1/databases/{name}/explanation", s.explain)
	mux.HandleFunc("GET /v1/databases/{name}/restart", s.restartSteps)
	mux.HandleFunc("GET /v1/databases/{name}/failover", s.failover)
	mux.HandleFunc("GET /v1/salvage", s.salvages)
	mux.HandleFunc("GET /v1/salvage/{name}/{id}", s.operator(s.salvage))
	mux.HandleFunc("GET /v1/salvage/{name}/{id}/bundle", s.operator(s.bundle))
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.Events()) })
	mux.HandleFunc("POST /v1/requests", s.operator(s.ask))
	mux.HandleFunc("GET /v1/requests", s.operator(s.open))
	mux.HandleFunc("GET /v1/requests/{id}", s.operator(s.settled))
	mux.HandleFunc("DELETE /v1/requests/{id}", s.operator(s.cancel))
	s.clusterRoutes(mux)
	mux.HandleFunc("POST /v1/plan", s.operator(s.applyPlan))
	mux.HandleFunc("PUT /v1/stopping", s.operator(s.stopping))
	mux.HandleFunc("DELETE /v1/stopping", s.operator(s.going))
	return mux
}

func (s Source) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.Log.Debug("answer not sent", "err", err)
	}
}

func (s Source) refuse(w http.ResponseWriter, status int, p problem.Problem) { s.answer(w, status, p) }

// operator lets only an operator's certificate through.
func (s Source) operator(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, role, err := auth.PeerName(r.TLS)
		if err != nil || role != auth.Admin {
			s.refuse(w, http.StatusForbidden, problem.Problem{
				Code: "api.not-an-operator", Subject: name, Severity: problem.Note,
				Title: "this certificate may look, and may not ask for changes", Meaning: "Nothing was changed.",
				Remedy: "use an operator's certificate",
			})
			return
		}
		next(w, r)
	}
}

// ask puts a request into the agreed state; the agents whose matter it is take it up and settle it.
func (s Source) ask(w http.ResponseWriter, r *http.Request) {
	var q agent.Asked
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestMax))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		s.refuse(w, http.StatusBadRequest, problem.Problem{
			Code: "api.bad-request", Severity: problem.Note, Title: "the request was not understood: " + err.Error(),
			Meaning: "Nothing was changed.", Remedy: "use a command line of the same version as the agents",
		})
		return
	}
	bad := s.wrong(q)
	if bad == nil {
		bad = s.complete(r.Context(), &q, time.Now())
	}
	if bad != nil {
		s.refuse(w, http.StatusUnprocessableEntity, *bad)
		return
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		s.unavailable(w, err)
		return
	}
	q.ID = hex.EncodeToString(id)
	q.By, _, _ = auth.PeerName(r.TLS) // checked by operator
	q.Progress, q.Host = "", ""
	value, err := json.Marshal(q)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	// Is there anything that can agree now? A leader of etcd that has just lost the others takes a write and keeps it: whoever
	// asked is told that it failed, and it is agreed on, and carried out, when they are back.
	if _, err = s.Store.Get(r.Context(), agent.KeyRequests+q.ID); err == nil {
		_, err = s.Store.Put(r.Context(), agent.KeyRequests+q.ID, value, 0)
		s.noteAsked(q, err)
	}
	if err != nil {
		s.unavailable(w, err)
		return
	}
	s.answer(w, http.StatusAccepted, q)
}

// wrong says what a request names that does not exist.
func (s Source) wrong(q agent.Asked) *problem.Problem {
	known := map[string][]string{"database": {"switchover", "pause", "resume", "restart", "failover", "settle"}, "backup": {"base", "validate", "prune", "cancel"}, "files": {"backup", "point", "prune", "cancel"}}
	p := &problem.Problem{Code: "api.unknown", Subject: q.Subject, Severity: problem.Note, Meaning: "Nothing was changed."}
	switch {
	case !slices.Contains(known[q.Room], q.Kind):
		p.Title = fmt.Sprintf("nothing is known by the name %s %s", q.Room, q.Kind)
		p.Remedy = "holdfast --help lists what can be asked for"
		return p
	}
	now := s.current()
	if q.Room == "files" {
		return wrongFiles(q, now)
	}
	if _, ok := now.DatabaseNamed(q.Subject); !ok {
		*p = UnknownDatabase(q.Subject, now)
		return p
	}
	if to := q.Args["to"]; to != "" {
		if _, ok := now.Host(to); !ok {
			*p = UnknownHost(to, now.HostNames())
			return p
		}
	}
	return nil
}

// wrongFiles says what a request about a file set names that does not exist.
func wrongFiles(q agent.Asked, now *plan.Plan) *problem.Problem {
	set, ok := now.FileSetNamed(q.Subject)
	if p := UnknownFiles(q.Subject, now); !ok {
		return &p
	}
	if q.Kind == "point" && set.Moment.Database == "" {
		return &problem.Problem{Code: "files.no-moment", Subject: q.Subject, Severity: problem.Note, Title: "the plan does not say how it stands still",
			Meaning: "Nothing was asked and nothing was changed.", Remedy: "add moment with database, before and after below files." + q.Subject + " in the plan"}
	}
	if on := q.Args[agent.ArgOn]; q.Kind != "prune" && !slices.Contains(set.Hosts, on) {
		p := UnknownHost(on, set.Hosts)
		return &p
	}
	return nil
}

func (s Source) unavailable(w http.ResponseWriter, err error) {
	s.refuse(w, http.StatusServiceUnavailable, problem.Problem{
		Code: "cluster.unreachable", Severity: problem.Degraded, Title: "the agreed state (etcd) does not answer: " + err.Error(),
		Meaning: "The request may or may not have been taken; what runs goes on with its last orders.",
		Remedy:  "see that a majority of the hosts is up (holdfast status) and that it was not taken (holdfast database requests), then ask again",
	})
}

// candidates says who could take over a database, and why the others could not: what a dry run shows. Only the
// primary's own agent sees who streams from it.
func (s Source) candidates(w http.ResponseWriter, r *http.Request) {
	name, snap := r.PathValue("name"), s.Snapshot()
	for _, d := range snap.Facts.Databases {
		if d.Name != name {
			continue
		}
		if d.Record.Primary != s.Self {
			s.refuse(w, http.StatusMisdirectedRequest, problem.Problem{Code: "api.not-the-primary", Subject: name, Severity: problem.Note,
				Title: s.Self + " is not the primary's host; ask " + d.Record.Primary, Meaning: "Nothing was changed.", Remedy: "ask again"})
			return
		}
		s.answer(w, http.StatusOK, Candidates{
			Primary: d.Record.Primary, Open: d.Record.Opened, Refused: database.Candidates(s.Policy(name), agent.ViewOf(s.Self, snap.Facts, d)),
		})
		return
	}
	s.refuse(w, http.StatusNotFound, UnknownDatabase(name, s.Plan))
}

// settled tells how far a request is: 404 unknown, 202 under way, 200 settled.
func (s Source) settled(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	e, err := s.Store.Get(r.Context(), agent.KeyAnswers+id)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	if e.Revision != 0 {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(e.Value) // a reader that left needs no answer
		return
	}
	q, err := s.Store.Get(r.Context(), agent.KeyRequests+id)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	if q.Revision == 0 {
		s.refuse(w, http.StatusNotFound, problem.Problem{Code: "api.unknown", Subject: id, Severity: problem.Note,
			Title: "no such request", Meaning: "Nothing was changed.", Remedy: "ask again"})
		return
	}
	var asked agent.Asked
	if err := json.Unmarshal(q.Value, &asked); err != nil {
		s.unavailable(w, err)
		return
	}
	asked.Progress = s.words(asked, s.Snapshot())
	s.answer(w, http.StatusAccepted, asked)
}

// stopping tells all hosts that the whole application is being stopped, so that nobody takes over anything.
func (s Source) stopping(w http.ResponseWriter, r *http.Request) {
	if _, err := s.Store.Set(r.Context(), agent.KeyStopping, []byte(`true`)); err != nil {
		s.unavailable(w, err)
		return
	}
	s.note("cluster", s.Plan.Application, "the whole application is being stopped", asker(r)+" asked for it")
	s.answer(w, http.StatusOK, true)
}

// going takes that back, and tells whether it stood. A stop that is written anew between the look and the deletion is another
// one: it stands, and the answer is no "not reached", with which a client would have the next agent delete it.
func (s Source) going(w http.ResponseWriter, r *http.Request) {
	e, err := s.Store.Get(r.Context(), agent.KeyStopping)
	if err == nil && e.Revision != 0 {
		if err = s.Store.Delete(r.Context(), agent.KeyStopping, e.Revision); err == nil {
			s.note("cluster", s.Plan.Application, "the application is not being stopped any more", asker(r)+" asked for it")
		}
	}
	switch {
	case errors.Is(err, cluster.ErrConflict) && !s.takenBack(r):
		s.refuse(w, http.StatusConflict, problem.Problem{
			Code: "cluster.stopping-again", Subject: s.Plan.Application, Severity: problem.Note, Title: "it was stopped once more meanwhile",
			Meaning: "The stop stands.", Remedy: "if it shall run: holdfast cluster start",
		})
	case err != nil && !errors.Is(err, cluster.ErrConflict):
		s.unavailable(w, err)
	default:
		s.answer(w, http.StatusOK, e.Revision != 0)
	}
}

// takenBack reports whether no stop stands any more, though it was not we who took it back. Without an answer one may stand,
// and whoever wrote it is not overruled.
func (s Source) takenBack(r *http.Request) bool {
	e, err := s.Store.Get(r.Context(), agent.KeyStopping)
	return err == nil && e.Revision == 0
}
