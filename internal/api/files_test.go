package api

import (
	"testing"

	"holdfast/internal/agent"
	"holdfast/internal/plan"
)

// What a request names is looked for in the plan that counts: with what was applied since the start.
func TestARecoveryPointIsAskedForByThePlanThatWasApplied(t *testing.T) {
	with := func(database string) *plan.Plan {
		p := clinic()
		p.Files = []plan.FileSet{{Name: "letters", Hosts: []string{"b1"}, Moment: plan.Moment{Database: database}}}
		return p
	}
	for _, c := range []struct {
		name           string
		start, applied *plan.Plan
		code           string
	}{
		{"nothing was applied", with("records"), nil, ""},
		{"a moment was added", with(""), with("records"), ""},
		{"a moment was taken out", with("records"), with(""), "files.no-moment"},
		{"there is none", with(""), nil, "files.no-moment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Source{Plan: c.start}
			if c.applied != nil {
				s.Applied = func() *plan.Plan { return c.applied }
			}
			code := ""
			if p := s.wrong(agent.Asked{Room: "files", Kind: "point", Subject: "letters", Args: map[string]string{agent.ArgOn: "b1"}}); p != nil {
				code = p.Code
			}
			if code != c.code {
				t.Errorf("%q, want %q", code, c.code)
			}
		})
	}
}
