package database

import (
	"fmt"

	"holdfast/internal/problem"
)

// SalvagePolicy is what the plan wants done, with nobody asked, with commits that were given up, once they are put
// aside and listed.
type SalvagePolicy string

// Salvage policies.
const (
	SalvageKeep    SalvagePolicy = ""        // nothing: a person decides
	SalvageDiscard SalvagePolicy = "discard" // they are not needed; the list and the log are kept
	SalvageExport  SalvagePolicy = "export"  // their host writes their rows to a folder
	SalvageCommand SalvagePolicy = "command" // their host gives their rows to a command of the application
)

// ToSalvage is what a host has to work on by itself: its own history that was given up, is listed from the parting on,
// and of which nothing has been decided; ok = there is such a thing. The data are on the disk as they were then.
func ToSalvage(p SalvagePolicy, r Record, host string, l Local) (k Kept, ok bool) {
	if p != SalvageExport && p != SalvageCommand || !l.Known || l.Data != DataPresent || l.Kept == nil {
		return Kept{}, false
	}
	if _, _, ok := waiting(&r, host); !ok || l.Kept.Salvaged != "" || !listed(&r, host, &l) {
		return Kept{}, false
	}
	return *l.Kept, true
}

// listed reports whether all that a server holds alone, as far as the record tells, is put aside and listed.
func listed(r *Record, host string, l *Local) bool {
	return l.Kept != nil && l.Kept.Incarnation == l.Incarnation && l.Kept.Covers(parting(r, l, host))
}

// byPolicy says what the plan has decided about what a host holds, or "". Where a rebuilding wrote the host off, nobody
// knows what it had acknowledged: that is not discarded by a plan.
func (j *judgement) byPolicy(loss Loss, host string, l *Local) string {
	switch {
	case !listed(&j.v.Record, host, l):
		return ""
	case l.Kept.Salvaged != "":
		return l.Kept.Salvaged + " (as the plan says)"
	case j.p.Salvage == SalvageDiscard && !loss.rebuilt():
		return fmt.Sprintf("%d commits discarded, %d of them acknowledged (as the plan says)", l.Kept.Commits, l.Kept.Acknowledged)
	}
	return ""
}

// salvageWaits says that we wait, and for what.
func (j *judgement) salvageWaits(loss Loss, left Left) {
	k := j.v.Local.Kept
	until, remedy := "until somebody has decided about them", "then export them, or waive them"
	switch {
	case k.Salvaged != "":
		until, remedy = "until the primary has noted that they are "+k.Salvaged, "nothing: it comes back within seconds of hearing the primary"
	case j.p.Salvage == SalvageExport:
		until, remedy = "until their rows are written to the folder that the plan names", "nothing, unless database.salvage-failed says why that does not succeed"
	case j.p.Salvage == SalvageCommand:
		until, remedy = "until the plan's command has taken them", "nothing, unless database.salvage-failed says why that does not succeed"
	case j.p.Salvage == SalvageDiscard && !loss.rebuilt():
		until, remedy = "until the primary has noted that the plan discards them", "nothing: it comes back within seconds of hearing the primary"
	}
	j.problem(problem.Problem{
		Code: "database.salvage-waits", Severity: problem.Degraded,
		Title: fmt.Sprintf("%s waits: it holds %d commits that %s gave up", left.Host, k.Commits, loss.who()),
		Meaning: fmt.Sprintf("They are put aside and listed as %s (%d were acknowledged). %s stays out of the database %s.",
			k.ID, k.Acknowledged, left.Host, until),
		Remedy: fmt.Sprintf("holdfast database salvage show %s %s; %s", j.p.Name, k.ID, remedy),
	})
}
