package api

import (
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// ChoreStatus is how something that hosts do by themselves for a vault or a database last went, and when it does next.
type ChoreStatus struct {
	agent.Chore
	Next time.Time `json:"next,omitzero"` // zero = never, or no host has the duty
}

// describeUpkeep lists the chores of the plan's vaults and databases.
func describeUpkeep(p *plan.Plan, self string, s agent.Snapshot) []ChoreStatus {
	next := map[string]time.Time{}
	for _, h := range p.AllHosts() {
		rep := reportOf(self, h.Name, s)
		if rep == nil {
			continue
		}
		for name, at := range rep.Planned {
			next[name] = at
		}
	}
	out := []ChoreStatus{}
	for _, c := range agent.Chores(s.Agreed) {
		_, isVault := p.VaultNamed(c.Subject)
		_, isBackup := p.BackupOf(c.Subject)
		if !isVault && !isBackup {
			continue // the plan does not have it any more
		}
		out = append(out, ChoreStatus{c, next[c.Name()]})
		delete(next, c.Name())
	}
	for name, at := range next { // never run yet
		kind, subject, _ := strings.Cut(name, "/")
		out = append(out, ChoreStatus{agent.Chore{Kind: kind, Subject: subject, OK: true, Text: "not run yet"}, at})
	}
	slices.SortFunc(out, func(a, b ChoreStatus) int { return strings.Compare(a.Name(), b.Name()) })
	return out
}

// upkeepProblems are chores that did not succeed.
func upkeepProblems(st Status) []problem.Problem {
	var out []problem.Problem
	for _, c := range st.Upkeep {
		if !c.OK && c.Problem != nil {
			out = append(out, *c.Problem)
		}
	}
	return out
}
