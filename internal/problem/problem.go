// Package problem is what is wrong now, worded once for alarms, status and CLI failures.
package problem

import "strings"

// Severity says how soon a person is needed.
type Severity string

// Severities, mildest first.
const (
	Note     Severity = "note"     // worth knowing; every promise holds
	Degraded Severity = "degraded" // a promise holds with less margin
	Critical Severity = "critical" // a promise is broken or about to be
)

// Problem is one thing that is wrong, for a tired person. Secrets never appear in it.
type Problem struct {
	Code     string   `json:"code"`    // stable, room.kind: database.no-candidate
	Subject  string   `json:"subject"` // what it is about: a database, host, service or vault name
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`   // one line without the subject's name in front
	Meaning  string   `json:"meaning"` // what it means for the application
	Remedy   string   `json:"remedy"`  // what to do next, a command where there is one
}

// Error makes a problem usable as the failure of a command.
func (p *Problem) Error() string { return p.Text() }

// Text is the problem as a terminal shows it.
func (p *Problem) Text() string {
	var b strings.Builder
	b.WriteString(p.Code + "   ")
	if p.Subject != "" {
		b.WriteString(p.Subject + ": ")
	}
	b.WriteString(p.Title)
	if p.Meaning != "" {
		b.WriteString("\n  " + p.Meaning)
	}
	if p.Remedy != "" {
		b.WriteString("\n  Do: " + p.Remedy)
	}
	return b.String()
}
