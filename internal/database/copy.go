package database

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/problem"
)

// copyPauseMax is the longest pause between two tries to make a copy: a cause that lasts, such as a full disk, is
// not helped by haste, and the database lacks a copy meanwhile.
const copyPauseMax = 10 * time.Second

// makeCopy makes our copy anew, once there is a primary that it can follow.
func (j *judgement) makeCopy(why string) {
	l := &j.v.Local
	j.copyTrouble()
	if _, ok := j.primaryReport(); !ok || j.v.Record.Phase != Steady {
		j.because("%s; wait for a primary to follow", why)
		return
	}
	if len(j.v.Busy) > 0 || len(j.d.Actions) > 0 {
		j.do(Action{Kind: KindClone, Why: why}) // says what it waits for
		return
	}
	if l.Failed == "" {
		j.m.CopyTries = 0
	}
	pause := min(copyPauseMax, time.Duration(j.m.CopyTries)*time.Second)
	if left := j.m.CopyAt + pause - j.v.Now; j.m.CopyTries > 0 && left > 0 {
		j.because("%s; the last copy failed, the next is tried in %s", why, left.Round(time.Second))
		j.d.Wake = min(j.d.Wake, left)
		return
	}
	from, reason := j.copySource()
	j.m.CopyAt, j.m.CopyTries = j.v.Now, j.m.CopyTries+1
	j.do(Action{Kind: KindClone, From: from, Why: why + "; " + reason})
}

// copyTrouble says why the last copy failed, as long as there is none.
func (j *judgement) copyTrouble() {
	l := &j.v.Local
	switch {
	case l.Failed == "" || slices.Contains(j.v.Busy, KindClone) || slices.Contains(j.v.Busy, KindRewind):
	case l.FailedProblem != nil:
		j.problem(*l.FailedProblem)
	default:
		j.problem(problem.Problem{
			Code: "database.copy-failed", Severity: problem.Degraded,
			Title:   fmt.Sprintf("%s could not become a copy: %s", j.v.Self, l.Failed),
			Meaning: "The database has one copy less than the plan asks for. Holdfast tries again.",
			Remedy:  "look at the host's log if this stays: holdfast status --output json",
		})
	}
}

// copySource chooses whom to copy, and says why: a standby rather than the primary, for the primary's clients would
// feel it; nobody who gives a copy already, while another can; and not the one from whom the last copy failed.
func (j *judgement) copySource() (host, why string) {
	r := &j.v.Record
	type choice struct {
		host    string
		failed  bool
		giving  int
		primary bool
		order   int
	}
	var all []choice
	for i, h := range r.Members {
		rep, ok := j.heard(h)
		if h == j.v.Self || !ok || h != r.Primary && !j.givesCopy(rep) {
			continue
		}
		all = append(all, choice{h, j.v.Local.Failed != "" && j.v.Local.FailedFrom == h, rep.Local.Giving, h == r.Primary, i})
	}
	if len(all) == 0 {
		return r.Primary, "only the primary can be copied"
	}
	rank := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	best := slices.MinFunc(all, func(a, b choice) int {
		return cmp.Or(cmp.Compare(rank(a.failed), rank(b.failed)), cmp.Compare(a.giving, b.giving),
			cmp.Compare(rank(a.primary), rank(b.primary)), cmp.Compare(a.order, b.order))
	})
	switch {
	case !best.primary:
		return best.host, fmt.Sprintf("copied from the standby on %s, so that the primary's clients do not feel it", best.host)
	case len(all) == 1:
		return best.host, "copied from the primary, for no standby that streams can give a copy"
	default:
		return best.host, "copied from the primary, for each standby gives another copy, or has failed to give this one"
	}
}

// givesCopy reports whether a standby can be copied: it follows this epoch, streams, and is of this history.
func (j *judgement) givesCopy(rep *Report) bool {
	r, l := &j.v.Record, &rep.Local
	return l.Data == DataPresent && l.Role == Standby && l.Ready && l.Receiving && l.PromiseOK && l.Promise.Epoch == r.Epoch &&
		l.Following == r.Epoch && l.Timeline == r.Timeline && (r.SystemID == 0 || l.SystemID == r.SystemID)
}
