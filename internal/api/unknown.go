package api

import (
	"fmt"
	"strings"

	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// UnknownDatabase refuses a name that the plan does not have, and says which was probably meant.
func UnknownDatabase(name string, p *plan.Plan) problem.Problem {
	var known []string
	for _, d := range p.Databases {
		known = append(known, d.Name)
	}
	return UnknownName("database", name, known)
}

// UnknownFiles refuses a file set that the plan does not have, and says which was probably meant.
func UnknownFiles(name string, p *plan.Plan) problem.Problem {
	var known []string
	for _, f := range p.Files {
		known = append(known, f.Name)
	}
	return UnknownName("file set", name, known)
}

// UnknownHost refuses a host that the plan does not have, and says which was probably meant.
func UnknownHost(name string, known []string) problem.Problem {
	return UnknownName("host", name, known)
}

// UnknownName refuses a name of any kind of thing that the plan has.
func UnknownName(kind, name string, known []string) problem.Problem {
	remedy := fmt.Sprintf("name one of: %s", strings.Join(known, ", "))
	if near := plan.Nearest(name, known); near != "" {
		remedy = fmt.Sprintf("did you mean %s? The plan has: %s", near, strings.Join(known, ", "))
	}
	if len(known) == 0 {
		remedy = "the plan has none at all; see holdfast plan show"
	}
	return problem.Problem{
		Code: "api.unknown", Subject: name, Severity: problem.Note, Title: "the plan has no such " + kind,
		Meaning: "Nothing was changed.", Remedy: remedy,
	}
}
