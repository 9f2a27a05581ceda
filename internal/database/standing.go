package database

import (
	"cmp"
	"fmt"
	"slices"
)

// Promote is how gladly a member is made the primary.
type Promote string

// Priorities. Between standbys that hold equally much the gladder one is chosen.
const (
	PromoteNormal Promote = ""      // the default
	PromoteNever  Promote = "never" // only when an election could not be held without it and it holds the most
	PromoteLow    Promote = "low"
	PromoteHigh   Promote = "high"
)

// Standing is how one member takes part, as the plan says. The zero value but for its host is a synchronous
// standby that may be promoted.
type Standing struct {
	Host    string  `json:"host"`
	Async   bool    `json:"async,omitempty"` // no commit waits for it, so it is never a voter
	Promote Promote `json:"promote,omitempty"`
	Follows string  `json:"follows,omitempty"` // member that it streams from in place of the primary; then it is async
}

// Votes reports whether the member may be a voter when it is a standby.
func (s Standing) Votes() bool { return !s.Async && s.Follows == "" }

func (s Standing) usual() bool { return s == Standing{Host: s.Host} }

func standingOf(all []Standing, host string) Standing {
	if i := slices.IndexFunc(all, func(s Standing) bool { return s.Host == host }); i >= 0 {
		return all[i]
	}
	return Standing{Host: host}
}

// Standing is how a host stands by the agreed record.
func (r *Record) Standing(host string) Standing { return standingOf(r.Standings, host) }

// cascades reports whether a standby may stream from another member than the primary.
func (r *Record) cascades(host, from string) bool {
	return r.Standing(host).Follows == from && r.Holds(from) && !slices.ContainsFunc(r.Voters, func(v Voter) bool { return v.Host == host })
}

// members are the hosts that the plan wants to hold the database, best first.
func (p Policy) members() []string { return p.Hosts[:min(p.Standbys+1, len(p.Hosts))] }

// wants reports whether the plan wants a copy on a host.
func (p Policy) wants(host string) bool { return slices.Contains(p.members(), host) }

// standings are those of the plan's members that do not stand as usual, sorted by host.
func (p Policy) standings() []Standing {
	var out []Standing
	for _, host := range p.members() {
		if s := standingOf(p.Standings, host); !s.usual() {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Standing) int { return cmp.Compare(a.Host, b.Host) })
	return out
}

// promotes is a host's priority as a number, higher is gladder.
func (j *judgement) promotes(host string) int {
	switch j.v.Record.Standing(host).Promote {
	case PromoteNever:
		return 0
	case PromoteLow:
		return 1
	case PromoteHigh:
		return 3
	default:
		return 2
	}
}

// willing leaves out the answers of those that shall never be promoted, as long as enough others have answered: any
// E answers hold every acknowledged commit, so nothing is lost by not asking more.
func (j *judgement) willing(answers []recruit) []recruit {
	others := slices.DeleteFunc(slices.Clone(answers), func(a recruit) bool { return j.promotes(a.voter.Host) == 0 })
	if len(others) < max(j.v.Record.E, 1) {
		return answers
	}
	return others
}

// standsAside says why the plan keeps a member from taking over in a planned or automatic move, or "".
func (j *judgement) standsAside(host string) string {
	r := &j.v.Record
	switch s := r.Standing(host); {
	case !r.Holds(host):
		return ""
	case s.Follows != "":
		return fmt.Sprintf("%s is asynchronous (it follows %s) and may lack acknowledged commits", host, s.Follows)
	case s.Async:
		return host + " is asynchronous and may lack acknowledged commits"
	case s.Promote == PromoteNever:
		return "the plan says that " + host + " is never promoted"
	}
	return ""
}
