package api

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// PauseStatus is a pause that stands.
type PauseStatus struct {
	ID      string         `json:"id"`
	By      string         `json:"by"`
	Reason  string         `json:"reason,omitempty"`
	Left    event.Duration `json:"left"`
	Unaware []string       `json:"unaware,omitempty"` // hosts that hold a copy, answer, and do not keep to it yet
}

// describePause is the pause of a database as this host counts it; nil = none.
func describePause(r database.Record, name, self string, s agent.Snapshot) *PauseStatus {
	p := s.Outcome.Decisions[name].Pause
	if p == nil {
		return nil
	}
	out := &PauseStatus{ID: p.ID, By: p.By, Reason: p.Reason, Left: event.Duration(p.Left)}
	for _, host := range r.Members {
		if rep := reportOf(self, host, s); rep != nil && rep.Databases[name].Paused != p.ID {
			out.Unaware = append(out.Unaware, host)
		}
	}
	slices.Sort(out.Unaware)
	return out
}

// PlannedMove is a switchover that waits for its moment.
type PlannedMove struct {
	ID string    `json:"id"`
	To string    `json:"to,omitempty"` // "" = the standby that is furthest then
	At time.Time `json:"at"`           // by the clock of the primary's host
	By string    `json:"by"`
}

// plannedMoves are the switchovers of a database that are planned.
func plannedMoves(name string, s agent.Snapshot) []PlannedMove {
	var out []PlannedMove
	for _, q := range agent.Open(s.Agreed) {
		if q.Room != "database" || q.Subject != name || q.Kind != "switchover" {
			continue
		}
		if at, err := time.Parse(time.RFC3339Nano, q.Args[agent.ArgAt]); err == nil {
			out = append(out, PlannedMove{ID: q.ID, To: q.Args[agent.ArgTo], At: at, By: q.By})
		}
	}
	return out
}

// pauseProblems are databases that nothing would help by itself now.
func pauseProblems(st Status) []problem.Problem {
	var out []problem.Problem
	for _, d := range st.Databases {
		if d.Paused == nil {
			continue
		}
		title := fmt.Sprintf("%s paused it; %s are left", d.Paused.By, time.Duration(d.Paused.Left).Round(time.Second))
		if d.Paused.Reason != "" {
			title += ": " + d.Paused.Reason
		}
		out = append(out, problem.Problem{
			Code: "database.paused", Subject: d.Name, Severity: problem.Degraded, Title: title,
			Meaning: "Until then nobody takes over, nothing is started again, copied or taken out by itself. No acknowledged commit can be lost by it.",
			Remedy:  "when the work is done: holdfast database resume " + d.Name,
		})
	}
	return out
}

// withBackup names the newest backup where one may be all that helps.
func withBackup(x problem.Problem, p *plan.Plan, st Status) problem.Problem {
	if x.Code != "database.failover-cannot-help" {
		return x
	}
	if _, wanted := p.BackupOf(x.Subject); !wanted {
		x.Remedy += ". The plan has no backup of it"
		return x
	}
	i := slices.IndexFunc(st.Databases, func(d DatabaseStatus) bool { return d.Name == x.Subject })
	if i >= 0 && st.Databases[i].Archive != nil && st.Databases[i].Archive.Last != nil && st.Databases[i].Archive.Last.Proven {
		b := st.Databases[i].Archive.Last
		x.Remedy += fmt.Sprintf(". The newest base backup is proven: %s of %s", b.ID, b.At.UTC().Format("2006-01-02 15:04:05 MST"))
		return x
	}
	x.Remedy += ". Which backups are proven: holdfast backup list " + x.Subject
	return x
}
