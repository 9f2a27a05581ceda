package database

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// CopySource is what a copy may be made of.
type CopySource string

// The sources of copies.
const (
	CopyStandby CopySource = "standby" // a server that follows
	CopyVault   CopySource = "vault"   // the newest base backup, and the log that leads on from it
	CopyPrimary CopySource = "primary"
)

// FromVault stands where a copy's source is named and is no host: no host can be called so.
const FromVault = "(vault)"

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
	if from == "" {
		j.noSource(why)
		return
	}
	j.m.CopyAt, j.m.CopyTries = j.v.Now, j.m.CopyTries+1
	j.do(Action{Kind: KindClone, From: from, Why: why + "; " + reason})
}

// noSource says that none of the sources that the plan allows can give a copy now.
func (j *judgement) noSource(why string) {
	var allowed []string
	for _, s := range j.p.copyFrom() {
		allowed = append(allowed, string(s))
	}
	j.because("%s; wait for a source: the plan allows %s alone", why, strings.Join(allowed, ", "))
	j.problem(problem.Problem{
		Code: "database.no-copy-source", Severity: problem.Degraded,
		Title:   fmt.Sprintf("%s needs a copy, and none of the sources that the plan allows can give one: %s", j.v.Self, strings.Join(allowed, ", ")),
		Meaning: "The database has one copy less than the plan asks for. Nothing was touched; Holdfast looks again by itself.",
		Remedy:  "bring a standby back, or name primary in databases." + j.p.Name + ".copy_from",
	})
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

// copyFrom are the sources that the plan allows, best first.
func (p Policy) copyFrom() []CopySource {
	if len(p.CopyFrom) == 0 {
		return []CopySource{CopyStandby, CopyPrimary}
	}
	return p.CopyFrom
}

// copyChoice is one source that could be asked now.
type copyChoice struct {
	from   string // a host, or [FromVault]
	kind   CopySource
	rank   int // of kind in the plan
	failed bool
	giving int
	order  int // among its kind
}

// copySource chooses what to copy, and says why; "" when there is nothing. Not what failed since the last success, while
// another is left; nobody who gives a copy already, while another can; then as the plan ranks them: by itself a standby
// rather than the primary, whose clients would feel it.
func (j *judgement) copySource() (from, why string) {
	all := j.copyChoices()
	if len(all) == 0 {
		return "", ""
	}
	best := slices.MinFunc(all, func(a, b copyChoice) int {
		return cmp.Or(cmp.Compare(rankOf(a.failed), rankOf(b.failed)), cmp.Compare(a.giving, b.giving), cmp.Compare(a.rank, b.rank), cmp.Compare(a.order, b.order))
	})
	return best.from, j.copyReason(best, all)
}

// copyChoices are all sources that could be asked now. When each of them has failed, they are asked anew, the last one last.
func (j *judgement) copyChoices() []copyChoice {
	r, l := &j.v.Record, &j.v.Local
	if l.Failed == "" {
		j.m.CopyFailed = nil
	} else if l.FailedFrom != "" && !slices.Contains(j.m.CopyFailed, l.FailedFrom) {
		j.m.CopyFailed = append(slices.Clone(j.m.CopyFailed), l.FailedFrom)
	}
	var all []copyChoice
	for rank, kind := range j.p.copyFrom() {
		switch kind {
		case CopyVault:
			all = append(all, copyChoice{from: FromVault, kind: kind, rank: rank})
		case CopyPrimary:
			rep, _ := j.heard(r.Primary) // makeCopy has seen that it is one
			all = append(all, copyChoice{from: r.Primary, kind: kind, rank: rank, giving: rep.Local.Giving})
		default:
			for i, h := range r.Members {
				if rep, ok := j.heard(h); ok && h != j.v.Self && h != r.Primary && j.givesCopy(rep) {
					all = append(all, copyChoice{from: h, kind: kind, rank: rank, giving: rep.Local.Giving, order: i})
				}
			}
		}
	}
	if !slices.ContainsFunc(all, func(c copyChoice) bool { return !slices.Contains(j.m.CopyFailed, c.from) }) {
		j.m.CopyFailed = nil
		if l.Failed != "" && l.FailedFrom != "" {
			j.m.CopyFailed = []string{l.FailedFrom}
		}
	}
	for i := range all {
		all[i].failed = slices.Contains(j.m.CopyFailed, all[i].from)
	}
	return all
}

func rankOf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// copyReason says why a source was chosen, and what was wrong with those that the plan ranks before it.
func (j *judgement) copyReason(best copyChoice, all []copyChoice) string {
	why := ""
	switch best.kind {
	case CopyVault:
		why = "restored from the vault, so that no server here feels it"
	case CopyStandby:
		why = fmt.Sprintf("copied from the standby on %s, so that the primary's clients do not feel it", best.from)
	default:
		why = "copied from the primary"
		if !slices.ContainsFunc(all, func(c copyChoice) bool { return c.kind == CopyStandby }) && slices.Contains(j.p.copyFrom(), CopyStandby) {
			why += ", for no standby that streams can give a copy"
		} else if slices.ContainsFunc(all, func(c copyChoice) bool { return c.kind == CopyStandby && (c.failed || c.giving > 0) }) {
			why += ", for each standby gives another copy, or has failed to give this one"
		}
	}
	if l := &j.v.Local; l.Failed != "" && l.FailedFrom != "" && l.FailedFrom != best.from {
		failed, _, _ := strings.Cut(l.Failed, "\n") // a problem goes on with what it means
		why += fmt.Sprintf(" (%s could not: %s)", sourceName(l.FailedFrom), failed)
	}
	return why
}

// sourceName is a source for people.
func sourceName(from string) string {
	if from == FromVault {
		return "the vault"
	}
	return from
}

// givesCopy reports whether a standby can be copied: it follows this epoch, streams, and is of this history.
func (j *judgement) givesCopy(rep *Report) bool {
	r, l := &j.v.Record, &rep.Local
	return l.Data == DataPresent && l.Role == Standby && l.Ready && l.Receiving && l.PromiseOK && l.Promise.Epoch == r.Epoch &&
		l.Following == r.Epoch && l.Timeline == r.Timeline && (r.SystemID == 0 || l.SystemID == r.SystemID)
}
