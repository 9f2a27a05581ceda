package database

import (
	"cmp"
	"fmt"
	"time"

	"holdfast/internal/problem"
)

// Pause is the operator's wish that nothing moves by itself for a while, as one host counts it. It is an open
// request and nothing else: whoever finds that its time is over, or that somebody wants it ended, settles it.
type Pause struct {
	ID     string
	By     string
	Reason string
	Left   time.Duration // > 0
}

// pause finds out whether the database is paused. Each host counts on its own monotonic clock from when it first saw
// the pause, and believes the wall clock only where that makes it shorter: no jump of any clock keeps it for ever.
func (j *judgement) pause() {
	var stands, resume *Request
	for i, q := range j.v.Requests {
		switch q.Kind {
		case "pause":
			if stands != nil {
				j.answer(*stands, true, "another pause has taken its place")
			}
			stands = &j.v.Requests[i]
		case "resume":
			resume = &j.v.Requests[i]
		}
	}
	if stands == nil {
		j.m.PauseID = ""
		if resume != nil && j.v.Record.Halt == nil {
			j.answer(*resume, true, "nothing is paused any more, and automatic moves go on")
		}
		return
	}
	if j.m.PauseID != stands.ID {
		j.m.PauseID, j.m.PauseAt = stands.ID, j.v.Now
		j.m.PauseFor = min(max(stands.Left, 0), stands.For)
	}
	left := j.m.PauseFor - (j.v.Now - j.m.PauseAt)
	switch {
	case resume != nil: // settled once the pause is: else a lost write would leave it standing
		j.answer(*stands, true, cmp.Or(resume.By, "an operator")+" ended the pause")
	case left <= 0:
		j.answer(*stands, true, "the pause ended by itself after "+stands.For.String())
	default:
		j.d.Pause = &Pause{ID: stands.ID, By: cmp.Or(stands.By, "an operator"), Reason: stands.Reason, Left: left}
		j.d.Wake = min(j.d.Wake, left)
	}
}

func (j *judgement) paused() bool { return j.d.Pause != nil }

// held says what a paused database does not do by itself, or "". What an operator asks for, and what had begun, goes
// on to its end: only a steady database is held. Fencing, promises and the guard of the names never are.
func (j *judgement) held(a Action) string {
	if !j.paused() || j.v.Record.Phase != Steady {
		return ""
	}
	switch a.Kind {
	case KindClone, KindRewind, KindPreserve:
		return "no copy is made"
	case KindSwap:
		switch {
		case a.Record.Phase == Recruiting && a.Record.Forced == nil:
			return "no standby takes over"
		case a.Record.Phase == Promoting && a.Record.Alone:
			return "the primary is not started again"
		}
	}
	return ""
}

// hold says that something would be done now if the database were not paused.
func (j *judgement) hold(what, why string) {
	j.because("paused: %s (%s)", what, why)
	j.problem(problem.Problem{
		Code: "database.paused", Severity: problem.Critical, Title: fmt.Sprintf("while it is paused %s: %s", what, why),
		Meaning: "An operator asked that nothing moves by itself. Acknowledged commits are safe; service may be away until the pause ends.",
		Remedy:  "holdfast database resume " + j.p.Name,
	})
}

// rests reports whether a stopped standby is left alone: somebody stopped it while the database is paused. One that
// has not followed this epoch yet is part of a change that had begun.
func (j *judgement) rests() bool {
	r, l := &j.v.Record, &j.v.Local
	if !j.paused() || r.Phase != Steady || l.Running || l.Following != r.Epoch {
		return false
	}
	if _, asked := j.restartAsked(); asked {
		return false
	}
	j.because("paused: our stopped server is left as it is")
	return true
}
