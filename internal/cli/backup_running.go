package cli

import (
	"fmt"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/api"
)

// runsOf are the base backups and trials of a database that go on, as its archiving host tells.
func runsOf(d api.DatabaseStatus) []agent.Run {
	if d.Archive == nil {
		return nil
	}
	return d.Archive.Running
}

// runText says what goes on, since when, where, and how far it is.
func runText(r agent.Run, now time.Time) string {
	what := "base backup"
	switch {
	case r.Kind == agent.ChoreProve:
		what = "trial of " + r.Backup
	case r.Backup != "":
		what += " " + r.Backup
	}
	by := "by itself"
	if r.Request != "" {
		by = "asked for"
	}
	text := fmt.Sprintf("%s on %s, %s, since %s (%s ago): %s", what, r.Host, by, momentText(r.Since), ageText(now.Sub(r.Since)), backupPhase(r.Phase))
	if r.Check != "" {
		text += ", " + r.Check
	}
	if far := farText(r.Done, r.Total, r.Rate, time.Duration(r.Left)*time.Second); far != "" {
		text += ", " + far
	}
	return text
}
