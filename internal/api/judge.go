package api

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// serviceProblems are services with fewer ready instances than the plan asks for.
func serviceProblems(st Status) []problem.Problem {
	var out []problem.Problem
	for _, s := range st.Services {
		switch {
		case s.Ready >= s.Wanted:
		case s.Ready == 0:
			out = append(out, problem.Problem{
				Code: "service.away", Subject: s.Name, Severity: problem.Critical, Title: "no instance is ready",
				Meaning: "Nobody is served by it. Holdfast restarts it in place, then on another host.",
				Remedy:  "none if this passes; else see its log on the hosts that status names",
			})
		default:
			out = append(out, problem.Problem{
				Code: "service.short", Subject: s.Name, Severity: problem.Degraded,
				Title:   fmt.Sprintf("%d of %d instances are ready", s.Ready, s.Wanted),
				Meaning: "It is served, with less margin against the next fault.",
				Remedy:  "none if this passes: Holdfast replaces what was lost",
			})
		}
	}
	return out
}

// archiveLagMax is how far the vault may be behind before it is said; the log is stored every two seconds.
const archiveLagMax = 30 * time.Second

// backupProblems are databases whose vault does not have what the plan promises.
func backupProblems(p *plan.Plan, st Status) []problem.Problem {
	var out []problem.Problem
	for _, d := range st.Databases {
		if _, wanted := p.BackupOf(d.Name); !wanted || !d.Open {
			continue
		}
		add := func(code, title string) {
			out = append(out, problem.Problem{
				Code: code, Subject: d.Name, Severity: problem.Degraded, Title: title,
				Meaning: "The database goes on. What is not in the vault could not be restored from it.",
				Remedy:  "see `holdfast status`; if it stays, look at the log of the host that archives",
			})
		}
		if a := d.Archive; a != nil && a.Gap != "" {
			add("backup.log-lost", a.Gap)
			lost := &out[len(out)-1]
			lost.Severity, lost.Meaning = problem.Critical, "No moment from there to the next base backup can be restored. Log that comes now is stored; a whole base backup is begun at once."
			lost.Remedy = "see that it succeeds: holdfast backup list " + d.Name + "; then find out why the vault was away for so long"
			if waived(st, d.Name, a.Gap) {
				lost.Meaning = "No moment from there to the next base backup can be restored. Log that comes now is stored. Somebody ended the base backup that was begun for it: none comes before the next one of the schedule."
				lost.Remedy = "holdfast backup run " + d.Name
			}
		}
		switch a := d.Archive; {
		case a == nil:
			add("backup.no-archive", "no host takes its log into the vault")
		case a.Trouble != "":
			add("backup.archive-trouble", "its log does not reach the vault: "+a.Trouble)
		case a.Lag == nil:
			add("backup.archive-behind", "it is not known yet how far the vault is behind")
		case time.Duration(*a.Lag) > archiveLagMax:
			add("backup.archive-behind", fmt.Sprintf("the vault may be %s behind", time.Duration(*a.Lag).Round(time.Second)))
		case a.Last == nil:
			add("backup.none", "there is no base backup yet")
		case a.Last.Bad != "":
			add("backup.not-proven", "base backup "+a.Last.ID+" was restored on trial and found bad: "+a.Last.Bad)
			bad := &out[len(out)-1]
			bad.Severity, bad.Meaning = problem.Critical, "It is never chosen for a restore. The live database may be damaged in the same place."
			bad.Remedy = "look at the objects that are named (holdfast backup list " + d.Name + "), and keep older backups until it is understood"
		case !a.Last.Proven:
			add("backup.unproven", "the newest base backup has not been proven by restoring it")
		}
	}
	return out
}

// waived reports whether somebody ended the base backup of a database that was begun for log that is lost.
func waived(st Status, database, gap string) bool {
	return slices.ContainsFunc(st.Upkeep, func(c ChoreStatus) bool {
		return c.Kind == agent.ChoreBase && c.Subject == database && c.Waived == gap
	})
}

// planProblems says when hosts follow different plans.
func planProblems(st Status) []problem.Problem {
	first, differs := "", false
	for _, h := range st.Hosts {
		if !h.Heard {
			continue
		}
		if first == "" {
			first = h.Plan
		}
		differs = differs || h.Plan != first
	}
	if !differs {
		return nil
	}
	return []problem.Problem{{
		Code: "plan.differs", Subject: st.Application, Severity: problem.Degraded, Title: "the hosts follow different plans",
		Meaning: "Each host keeps what its own plan says; together they may never come to rest.",
		Remedy:  "give every host the same plan file and start its agent again",
	}}
}
