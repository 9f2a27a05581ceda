package database

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Span is how long one part of a change of primary took, by the clock of the host that carried it out.
type Span struct {
	Name string        `json:"name"` // stop, promise, level; recruit; promote, open
	Took time.Duration `json:"took"`
}

// spanWords is them all in words: "0.41 s: stop 0.20 s, ...".
func spanWords(all []Span) string {
	var parts []string
	for _, s := range all {
		parts = append(parts, fmt.Sprintf("%s %.2f s", s.Name, s.Took.Seconds()))
	}
	return fmt.Sprintf("%.2f s: %s", total(all).Seconds(), strings.Join(parts, ", "))
}

func total(all []Span) (sum time.Duration) {
	for _, s := range all {
		sum += s.Took
	}
	return sum
}

// timeSwitch notes when a switchover's stop and promise were seen to be done.
func (j *judgement) timeSwitch() {
	l := &j.v.Local
	if !l.Running && j.m.Stopped == 0 {
		j.m.Stopped = j.phaseAge()
	}
	if j.m.Stopped != 0 && l.Position.Epoch == j.v.Record.Epoch+1 && j.m.Promised == 0 {
		j.m.Promised = j.phaseAge()
	}
}

// spans are those of the next record: what this phase took is added when it ends.
func (j *judgement) spans(next Record) []Span {
	r, age := &j.v.Record, j.phaseAge()
	switch {
	case r.Phase == next.Phase && r.Opened == next.Opened && r.Epoch == next.Epoch:
		return r.Spans
	case r.Phase == Switching && next.Phase == Promoting && j.m.Promised > 0:
		return []Span{{"stop", j.m.Stopped}, {"promise", j.m.Promised - j.m.Stopped}, {"level", age - j.m.Promised}}
	case r.Phase == Switching && next.Phase == Promoting:
		return []Span{{"stop", age}}
	case r.Phase == Recruiting && next.Phase == Promoting:
		return []Span{{"recruit", age}}
	case r.Phase == Promoting && next.Phase == Steady:
		return append(slices.Clone(r.Spans), Span{"promote", age})
	case r.Phase == Steady && !r.Opened && next.Opened:
		return append(slices.Clone(r.Spans), Span{"open", age})
	}
	return nil
}

// changeWords is a change of primary or members in words, for the history; "" for what is none.
func (j *judgement) changeWords(next Record) string {
	r := &j.v.Record
	switch {
	case j.v.Revision == 0:
		return "a new database is being made, on " + next.Primary
	case next.Halt != nil && r.Halt == nil && next.Phase == Steady:
		return "automatic moves have ended, for another host cannot help: " + haltWords(&next)
	case next.Halt == nil && r.Halt != nil:
		return "automatic moves go on"
	case next.Phase == Switching && r.Phase != Switching && next.SwitchTo == next.Primary:
		return "the primary on " + next.Primary + " restarts in place"
	case next.Phase == Switching && r.Phase != Switching:
		return fmt.Sprintf("switchover from %s to %s begins", r.Primary, next.SwitchTo)
	case next.Phase == Recruiting && next.Forced != nil && r.Forced == nil:
		return fmt.Sprintf("a forced failover begins (epoch %d)", next.Epoch)
	case next.Phase == Recruiting && next.Epoch != r.Epoch:
		return fmt.Sprintf("failover begins: %s does not serve any more (epoch %d)", r.Primary, next.Epoch)
	case next.Phase == Promoting && next.Alone:
		return fmt.Sprintf("%s becomes the primary again by itself (epoch %d)", next.Primary, next.Epoch)
	case next.Phase == Promoting && r.Phase != Promoting:
		return fmt.Sprintf("%s is chosen as the primary (epoch %d)", next.Primary, next.Epoch)
	case next.Opened && !r.Opened && next.Phase == Steady && len(next.Spans) > 0:
		return fmt.Sprintf("%s is the primary, open to clients (epoch %d) after %s", next.Primary, next.Epoch, spanWords(next.Spans))
	case next.Opened && !r.Opened && next.Phase == Steady:
		return fmt.Sprintf("%s is the primary, open to clients (epoch %d)", next.Primary, next.Epoch)
	}
	if r.Phase == Promoting {
		return "" // told when it opens
	}
	if n := len(next.Hooks); n > 0 && !slices.ContainsFunc(r.Hooks, func(h HookRun) bool { return h.ID == next.Hooks[n-1].ID }) {
		return fmt.Sprintf("the primary on %s is in trouble: on_trouble runs there", next.Primary)
	}
	for i, h := range next.Hooks {
		if i < len(r.Hooks) && h.Ended && !r.Hooks[i].Ended {
			return "on_trouble is over on " + h.Host
		}
	}
	var parts []string
	for _, v := range next.Voters {
		if !r.Has(v) {
			parts = append(parts, v.Host+" counts for commits")
		}
	}
	for _, v := range r.Voters {
		if !next.Has(v) {
			parts = append(parts, v.Host+" counts no more")
		}
	}
	for _, m := range next.Members {
		if !r.Holds(m) {
			parts = append(parts, m+" is a member")
		}
	}
	for _, m := range r.Members {
		if !next.Holds(m) {
			parts = append(parts, m+" is a member no more")
		}
	}
	if next.W != r.W {
		parts = append(parts, fmt.Sprintf("a commit is acknowledged by %d standbys (was %d)", next.W, r.W))
	}
	return strings.Join(parts, "; ")
}
