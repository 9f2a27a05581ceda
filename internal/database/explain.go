package database

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Explanation is what one host would expect if the primary were gone this moment, and why.
type Explanation struct {
	Wins   string      `json:"wins"`   // who would be elected; "" = nobody
	At     LSN         `json:"at"`     // how far its log goes, as it last said
	Able   int         `json:"able"`   // standbys that count and could answer
	Needed int         `json:"needed"` // so many must
	Others []Contender `json:"others"` // every other member but the primary, sorted by host
	Blocks []string    `json:"blocks"` // what keeps anybody from taking over by itself; none = nothing does
	Forced Risk        `json:"forced"` // what a forced failover would do and lose now

	Ways  Ways   `json:"ways"`  // back from a crash of the primary's server alone, and which is tried first
	Flaps []Flap `json:"flaps"` // hosts that come and go

	Ladder []string `json:"ladder"` // what is done for a primary in trouble, in order
}

// Contender is a member that would not be elected.
type Contender struct {
	Host string `json:"host"`
	At   LSN    `json:"at"` // 0 = not known
	Why  string `json:"why"`
}

// Explain judges from one host's view, without asking for anything. d is what that host decided last.
func Explain(p Policy, v View, d Decision) Explanation {
	j := &judgement{p: p, v: v, d: Decision{Pause: d.Pause}}
	r := &v.Record
	former := given(r)
	x := Explanation{Able: len(j.ableVoters()), Needed: max(r.E, 1), Forced: j.risk(d.Closed, ""), Ways: j.ways(), Flaps: j.flappingHosts(), Ladder: j.rungs()}
	var best *recruit
	var all []recruit
	for _, host := range r.Members {
		if host == former.Host {
			continue
		}
		c, pos := j.contender(host)
		if c.Why != "" {
			x.Others = append(x.Others, c)
			continue
		}
		l, _ := j.localOf(host)
		all = append(all, recruit{voter: Voter{Host: host, Incarnation: l.Incarnation}, pos: pos})
		if best == nil || j.rank(all[len(all)-1], *best) > 0 {
			best = &all[len(all)-1]
		}
	}
	x.Blocks = j.blocks(x)
	if best != nil && x.Able >= x.Needed && r.W > 0 {
		x.Wins, x.At = best.voter.Host, best.pos.LSN
	}
	for _, a := range all {
		if a.voter.Host != x.Wins {
			x.Others = append(x.Others, Contender{Host: a.voter.Host, At: a.pos.LSN, Why: j.behindWinner(a, *best, x)})
		}
	}
	slices.SortFunc(x.Others, func(a, b Contender) int { return cmp.Compare(a.Host, b.Host) })
	return x
}

// contender says why a host could not even take part in an election, or how far it goes.
func (j *judgement) contender(host string) (Contender, Position) {
	c := Contender{Host: host}
	pos, why := j.couldTakeOver(host)
	if c.At = pos.LSN; c.At == 0 {
		if l, _, ok := j.lastWord(host); ok {
			c.At = l.Flushed
		}
	}
	l, _ := j.localOf(host)
	switch {
	case j.standsAside(host) != "":
		c.Why = j.standsAside(host)
	case why != "":
		c.Why = why
	case !j.v.Record.Has(Voter{Host: host, Incarnation: l.Incarnation}):
		c.Why = host + " counts for no commit yet, so it may lack some"
	}
	return c, pos
}

// behindWinner says why a host that could take part would not be chosen.
func (j *judgement) behindWinner(a, best recruit, x Explanation) string {
	switch {
	case x.Wins == "":
		return "nobody can be elected now"
	case j.reach(a, best) < 0:
		return fmt.Sprintf("its log ends at %s, that of %s at %s", a.pos.LSN, best.voter.Host, best.pos.LSN)
	case j.steadier(a.voter.Host) < j.steadier(best.voter.Host):
		return "it is as far, and comes and goes"
	case j.promotes(a.voter.Host) != j.promotes(best.voter.Host):
		return "it is as far, and " + best.voter.Host + " has a higher priority in the plan"
	}
	return "it is as far, and " + best.voter.Host + " comes first in the plan"
}

// blocks are what keeps anybody from taking over by itself.
func (j *judgement) blocks(x Explanation) []string {
	r, v := &j.v.Record, &j.v
	var out []string
	if pause := j.d.Pause; pause != nil {
		out = append(out, fmt.Sprintf("%s paused it; %s are left", pause.By, pause.Left.Round(time.Second)))
	}
	if r.Halt != nil {
		out = append(out, "another host cannot help: "+haltWords(r))
	}
	if r.W == 0 {
		out = append(out, "no standby need hold a commit before it is acknowledged, so none is known to hold them all")
	} else if x.Able < x.Needed {
		out = append(out, fmt.Sprintf("%d of %d needed standbys answer", x.Able, x.Needed))
	}
	if r.Unsealed {
		out = append(out, "after a forced failover no standby is known yet to hold all that the primary holds")
	}
	if v.RecordAge > j.p.Times.Fence {
		out = append(out, "the agreed state cannot be read from "+v.Self)
	}
	return out
}
