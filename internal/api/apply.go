package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Apply is a plan that an operator wants the running application to follow.
type Apply struct {
	Text     string `json:"text"`
	DryRun   bool   `json:"dry_run"`
	Revision int64  `json:"revision"` // of the plan that the difference was shown against; not read with DryRun
}

// Applied is what applying would do, or did.
type Applied struct {
	Revision int64         `json:"revision"` // of the plan that counts: before with a dry run, else the new one
	Changes  []plan.Change `json:"changes"`
	Done     bool          `json:"done"`
}

// current is the plan that counts.
func (s Source) current() *plan.Plan {
	if s.Applied != nil {
		return s.Applied()
	}
	return s.Plan
}

// applyPlan publishes a plan, or says what that would do. All that could refuse is asked before anything changes,
// and the plan is written only over the one that the difference was shown against.
func (s Source) applyPlan(w http.ResponseWriter, r *http.Request) {
	var q Apply
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*requestMax))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		s.refuse(w, http.StatusBadRequest, problem.Problem{
			Code: "api.bad-request", Severity: problem.Note, Title: "the request was not understood: " + err.Error(),
			Meaning: "Nothing was changed.", Remedy: "use a command line of the same version as the agents",
		})
		return
	}
	entry, err := s.Store.Get(r.Context(), agent.KeyPlan)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	now := s.at(entry.Value)
	next, refused := s.parsed(now, q.Text)
	if refused == nil {
		refused = s.hostsRefused(r.Context(), now, next)
	}
	if refused == nil && s.Check != nil {
		refused = s.Check(r.Context(), now, next)
	}
	if refused == nil { // last, for looking takes time, and who answers must be true when the plan is written
		refused = s.unready(now, next, time.Now())
	}
	if refused != nil {
		s.refuse(w, http.StatusUnprocessableEntity, *refused)
		return
	}
	out := Applied{Revision: entry.Revision, Changes: plan.Diff(now, next)}
	if q.DryRun || string(entry.Value) == q.Text {
		s.answer(w, http.StatusOK, out)
		return
	}
	out.Revision, err = s.Store.Put(r.Context(), agent.KeyPlan, []byte(q.Text), q.Revision)
	switch {
	case errors.Is(err, cluster.ErrConflict):
		s.refuse(w, http.StatusConflict, problem.Problem{
			Code: "plan.changed-meanwhile", Subject: now.Application, Severity: problem.Note,
			Title: "somebody else applied a plan meanwhile", Meaning: "Nothing was changed by this one.",
			Remedy: "look at the difference again: holdfast apply PLAN --dry-run",
		})
	case err != nil:
		s.noteApplied(r, out, err)
		s.unavailable(w, err)
	default:
		out.Done = true
		s.noteApplied(r, out, nil)
		s.answer(w, http.StatusOK, out)
	}
}

// noteApplied tells of a plan that was written, and what it changes. err != nil: it may have been, or not.
func (s Source) noteApplied(r *http.Request, done Applied, err error) {
	what := "applied"
	if err != nil {
		what += ", and whether it counts is not known: " + err.Error()
	}
	because := []string{asker(r) + " asked for it"}
	for _, c := range done.Changes {
		because = append(because, c.String())
	}
	s.note("plan", s.Plan.Application, what, because...)
}

// at is the plan that counts where text is the one that was applied last.
func (s Source) at(text []byte) *plan.Plan {
	over, _ := plan.Parse(s.Plan.File, text)
	if over == nil {
		return s.Plan // none yet, or one of another version
	}
	if s.Prepare != nil {
		over = s.Prepare(over)
	}
	return s.Plan.WithHosts(over).Overlay(over)
}

// parsed reads a plan and refuses, by name, what this version cannot do to a running application.
func (s Source) parsed(now *plan.Plan, text string) (*plan.Plan, *problem.Problem) {
	next, mistakes := plan.Parse(s.Plan.File, []byte(text))
	if next == nil {
		var lines []string
		for _, m := range mistakes {
			lines = append(lines, m.Error())
		}
		return nil, &problem.Problem{
			Code: "plan.mistakes", Subject: s.Plan.Application, Severity: problem.Note, Title: strings.Join(lines, "; "),
			Meaning: "Nothing was changed.", Remedy: "correct the file: holdfast plan check PLAN",
		}
	}
	if s.Prepare != nil {
		next = s.Prepare(next)
	}
	fixed := plan.Fixed(now, next)
	if len(fixed) == 0 {
		return next, nil
	}
	var words []string
	remedy := "take these out of the plan and apply the rest; or stop the application, and start it with the new plan: holdfast down, holdfast up PLAN, then holdfast apply PLAN for the rest"
	for _, c := range fixed {
		words = append(words, c.Subject+": "+c.What)
		if strings.HasPrefix(c.Subject, "host ") {
			remedy = "give a machine at another address another name, and apply a plan that has it beside the old one; then move what runs there, and take the old name away (handbook, hosts)"
		}
	}
	return nil, &problem.Problem{
		Code: "plan.not-at-run-time", Subject: s.Plan.Application, Severity: problem.Note,
		Title:   "not available in this version while the application runs: " + strings.Join(words, "; "),
		Meaning: "Nothing was changed.",
		Remedy:  remedy,
	}
}

// unready names a host that shall hold a copy and cannot: its agent does not answer, or it has no PostgreSQL. It believes
// no look that is as old as a host's silence may be.
func (s Source) unready(now, next *plan.Plan, at time.Time) *problem.Problem {
	snap := s.Snapshot()
	since := at.Sub(snap.At)
	if since >= heardMax {
		return &problem.Problem{
			Code: "plan.host-not-ready", Subject: s.Self, Severity: problem.Note,
			Title:   fmt.Sprintf("the agent of %s has not looked at the other hosts for %s: who answers is not known", s.Self, since.Round(100*time.Millisecond)),
			Meaning: "Nothing was changed.", Remedy: "apply again; if it stays so, that host is overloaded or stands still: see holdfast status and its agent's log",
		}
	}
	snap = aged(snap, since)
	for _, d := range next.Databases {
		had := map[string]bool{}
		if old, ok := now.DatabaseNamed(d.Name); ok {
			for _, h := range now.DatabasePlacement(old) {
				had[h.Name] = true
			}
		}
		for _, h := range next.DatabasePlacement(d) {
			if had[h.Name] {
				continue
			}
			why := ""
			rep := reportOf(s.Self, h.Name, snap)
			if rep == nil {
				why = "its agent does not answer"
			} else if !rep.Databases[d.Name].Local.Known {
				why = fmt.Sprintf("its agent has no PostgreSQL %d to run it with, or has not looked yet", d.Postgres)
			}
			if why != "" {
				return &problem.Problem{
					Code: "plan.host-not-ready", Subject: d.Name, Severity: problem.Note,
					Title: "a copy on " + h.Name + " cannot be made: " + why, Meaning: "Nothing was changed.",
					Remedy: "bring the agent of " + h.Name + " up, with PostgreSQL found on the host, then apply again",
				}
			}
		}
	}
	return s.unfenced(now, next, snap)
}

// aged is a snapshot as it reads so much later: nothing was heard of anybody meanwhile.
func aged(snap agent.Snapshot, since time.Duration) agent.Snapshot {
	snap.Facts.Peers = slices.Clone(snap.Facts.Peers)
	for i := range snap.Facts.Peers {
		if p := &snap.Facts.Peers[i]; p.AgentAge < heardMax { // no more than that is asked, and Never stays what it is
			p.AgentAge += since
		}
	}
	return snap
}

// unfenced refuses to make a singleton of a service of which an instance may run where nobody answers: it has no
// deadline yet, and would run on beside the one that is left. Of a host that is silent for long nothing is placed any
// more, and it may run all the same.
func (s Source) unfenced(now, next *plan.Plan, snap agent.Snapshot) *problem.Problem {
	for _, svc := range next.Services {
		old, had := now.ServiceNamed(svc.Name)
		if !had || old.Singleton() || !svc.Singleton() {
			continue
		}
		for _, h := range now.ServiceHosts(old) {
			if reportOf(s.Self, h.Name, snap) == nil {
				return &problem.Problem{
					Code: "plan.host-not-ready", Subject: svc.Name, Severity: problem.Note,
					Title:   fmt.Sprintf("%s cannot become one instance alone: another one may run on %s, whose agent does not answer", svc.Name, h.Name),
					Meaning: "Nothing was changed. That one would run on beside the one that is left.",
					Remedy:  "bring the agent of " + h.Name + " up, then apply again; or, if that host is surely down, first apply a plan whose hosts of " + svc.Name + " leave it out",
				}
			}
		}
	}
	return nil
}
