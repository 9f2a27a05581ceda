package database

import (
	"fmt"
	"slices"
	"time"
)

// A host whose silence has moved the primary again and again comes and goes. Each move costs every client its session, and
// the next silence is likely to end as the last did: so more and more of it is asked for, and among equals another host is
// chosen. A host that is truly dead is still replaced.

// Silenced is one change of primary that the silence of its host brought about.
type Silenced struct {
	Host  string `json:"host"`
	Epoch int64  `json:"epoch"` // that it began
}

// SilenceSeen is when this host first saw one in the record.
type SilenceSeen struct {
	Epoch int64
	At    time.Duration
}

const (
	flapMoves  = 3                // moves by one host's silence within flapWindow, after which more is asked of the next
	flapWindow = 10 * time.Minute // by each host's own clock, from when it first saw a move
	flapMax    = 8                // so many times the usual silence suffices for ever
	flapKept   = 12
)

// rememberSilences notes when this host first saw what the record tells: there is no clock that all hosts share.
func (j *judgement) rememberSilences() {
	var seen []SilenceSeen
	for _, s := range j.v.Record.Silences {
		i := slices.IndexFunc(j.m.SilencesSeen, func(x SilenceSeen) bool { return x.Epoch == s.Epoch })
		if i >= 0 {
			seen = append(seen, j.m.SilencesSeen[i])
		} else {
			seen = append(seen, SilenceSeen{s.Epoch, j.v.Now})
		}
	}
	j.m.SilencesSeen = seen
}

// lately reports whether a move lies within the window. One that was never seen before is taken for recent.
func (j *judgement) lately(s Silenced) bool {
	i := slices.IndexFunc(j.m.SilencesSeen, func(x SilenceSeen) bool { return x.Epoch == s.Epoch })
	return i < 0 || j.v.Now-j.m.SilencesSeen[i].At < flapWindow
}

// flaps counts how often a host's silence has moved the primary lately.
func (j *judgement) flaps(host string) (n int) {
	for _, s := range j.v.Record.Silences {
		if s.Host == host && j.lately(s) {
			n++
		}
	}
	return n
}

// flapping reports whether a host comes and goes.
func (j *judgement) flapping(host string) bool { return j.flaps(host) >= flapMoves }

// steadier is above for a host that does not come and go.
func (j *judgement) steadier(host string) int {
	if j.flapping(host) {
		return 0
	}
	return 1
}

// suspectAfter is the silence after which a host is suspected: the usual one, twice it after so many moves, and then
// twice more with each.
func (j *judgement) suspectAfter(host string) time.Duration {
	after := j.p.Times.Suspect
	for n := j.flaps(host); n >= flapMoves && after < flapMax*j.p.Times.Suspect; n-- {
		after *= 2
	}
	return after
}

// withSilence adds to a next record that this host's silence began it.
func (j *judgement) withSilence(next Record, host string) Record {
	next.Silences = slices.DeleteFunc(next.Silences, func(s Silenced) bool { return !j.lately(s) })
	next.Silences = append(next.Silences, Silenced{Host: host, Epoch: next.Epoch})
	if n := len(next.Silences) - flapKept; n > 0 {
		next.Silences = next.Silences[n:]
	}
	return next
}

// Flap is a host that comes and goes, and what follows from that.
type Flap struct {
	Host  string        `json:"host"`
	Moves int           `json:"moves"` // of the primary, by its silence, within ten minutes
	After time.Duration `json:"after"` // the silence that would move the primary from it once more
}

// flappingHosts are those of a record.
func (j *judgement) flappingHosts() (all []Flap) {
	for _, h := range j.v.Record.Members {
		if j.flapping(h) {
			all = append(all, Flap{Host: h, Moves: j.flaps(h), After: j.suspectAfter(h)})
		}
	}
	return all
}

// Words say a flap to an operator.
func (f Flap) Words() string {
	return fmt.Sprintf("its silence moved the primary %d times within %s: only %s of it would do so again, and among equals another is chosen",
		f.Moves, flapWindow, f.After)
}
