package api

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// Salvages reads what was put aside on one host. A report that is not there is [fs.ErrNotExist].
type Salvages interface {
	List() ([]Salvaged, error)
	Report(name, id string) (database.Salvage, error)
	// Rows are those of a report's commits as SQL, in a file that is gone once it is closed. It takes as long as a copy
	// of the data does, and the rows may be more than fit into memory.
	Rows(ctx context.Context, name, id string) (*os.File, error)
}

// Salvaged is what was put aside of one diverged server, in short.
type Salvaged struct {
	Database     string    `json:"database"`
	Host         string    `json:"host"`
	ID           string    `json:"id"`
	Made         time.Time `json:"made"`
	Given        bool      `json:"given"` // a forced failover gave it up; else nobody was told of any of it
	Bytes        uint64    `json:"bytes"`
	Commits      int       `json:"commits"`
	Acknowledged int       `json:"acknowledged"`
	Waits        bool      `json:"waits"`             // its server waits until somebody has decided
	Settled      string    `json:"settled,omitempty"` // what was decided
}

// Failover is what a forced failover would do, as one host sees it.
type Failover struct {
	Via   string        `json:"via"` // that host
	Epoch int64         `json:"epoch"`
	Risk  database.Risk `json:"risk"`
}

// failover says what a forced failover would lose now. It changes nothing.
func (s Source) failover(w http.ResponseWriter, r *http.Request) {
	name, snap := r.PathValue("name"), s.Snapshot()
	if to := r.URL.Query().Get("to"); to != "" && !slices.Contains(s.Plan.HostNames(), to) {
		s.refuse(w, http.StatusNotFound, UnknownHost(to, s.Plan.HostNames()))
		return
	}
	for _, d := range snap.Facts.Databases {
		if d.Name != name {
			continue
		}
		closed := snap.Outcome.Decisions[name].Closed
		s.answer(w, http.StatusOK, Failover{
			Via: s.Self, Epoch: d.Record.Epoch,
			Risk: database.FailoverRisk(s.Policy(name), agent.ViewOf(s.Self, snap.Facts, d), closed, r.URL.Query().Get("to")),
		})
		return
	}
	s.refuse(w, http.StatusNotFound, UnknownDatabase(name, s.Plan))
}

// salvages lists what was put aside on this host, with what became of it.
func (s Source) salvages(w http.ResponseWriter, _ *http.Request) {
	if s.Salvage == nil {
		s.answer(w, http.StatusOK, []Salvaged{})
		return
	}
	all, err := s.Salvage.List()
	if err != nil {
		s.unreadable(w, err)
		return
	}
	snap := s.Snapshot()
	for i := range all {
		for _, d := range snap.Facts.Databases {
			if d.Name == all[i].Database {
				all[i].Waits, all[i].Settled = decided(d.Record, all[i])
			}
		}
	}
	s.answer(w, http.StatusOK, all)
}

// decided looks in the agreed record for what became of one thing that was put aside.
func decided(r database.Record, x Salvaged) (waits bool, settled string) {
	for _, l := range slices.Backward(r.Losses) {
		for _, left := range l.Left {
			if left.Host == x.Host && (left.Kept == x.ID || left.Kept == "" && x.Given && left.Settled == "") {
				return left.Settled == "", left.Settled
			}
		}
	}
	return false, ""
}

// commitsAtOnce is how many commits one answer holds.
const commitsAtOnce = 5000

// salvage gives one report, its commits from ?from= on.
func (s Source) salvage(w http.ResponseWriter, r *http.Request) {
	if s.Salvage == nil {
		s.unreadable(w, fs.ErrNotExist)
		return
	}
	report, err := s.Salvage.Report(r.PathValue("name"), r.PathValue("id"))
	if err != nil {
		s.unreadable(w, err)
		return
	}
	from, err := strconv.Atoi(r.URL.Query().Get("from"))
	if err != nil || from < 0 {
		from = 0
	}
	total := len(report.Commits)
	report.Commits = report.Commits[min(from, total):min(from+commitsAtOnce, total)]
	s.answer(w, http.StatusOK, SalvagePage{Salvage: report, Total: total})
}

// SalvagePage is a report with some of its commits.
type SalvagePage struct {
	database.Salvage
	Total int `json:"total"` // commits of the whole report
}

func (s Source) unreadable(w http.ResponseWriter, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		s.refuse(w, http.StatusNotFound, problem.Problem{Code: "api.unknown", Subject: s.Self, Severity: problem.Note,
			Title: "nothing of that name was put aside on this host", Meaning: "Nothing was changed.", Remedy: "holdfast database salvage list NAME lists what there is"})
		return
	}
	s.refuse(w, http.StatusInternalServerError, problem.Problem{Code: "database.salvage-unreadable", Subject: s.Self, Severity: problem.Degraded,
		Title: "what was put aside cannot be read: " + err.Error(), Meaning: "Nothing of it was changed or removed.", Remedy: "look at the disk of " + s.Self})
}

// bundle gives the rows of one report as SQL, whole or not at all.
func (s Source) bundle(w http.ResponseWriter, r *http.Request) {
	if s.Salvage == nil {
		s.unreadable(w, fs.ErrNotExist)
		return
	}
	file, err := s.Salvage.Rows(r.Context(), r.PathValue("name"), r.PathValue("id"))
	if err != nil {
		if p := (*problem.Problem)(nil); errors.As(err, &p) {
			s.refuse(w, http.StatusConflict, *p)
			return
		}
		s.unreadable(w, err)
		return
	}
	defer func() { _ = file.Close() }() // read only, and gone with it
	w.Header().Set("Content-Type", "application/sql")
	if info, err := file.Stat(); err == nil {
		w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10)) // who reads less knows it
	}
	_, _ = io.Copy(w, file) // a reader that left needs no answer
}
