package backup

import (
	"fmt"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// jumpMax is how far the server's clock may go away from the time that passed while a backup was made. A clock that is only
// being set right slowly stays far below; the vault's own limit for clocks that differ is the same.
const jumpMax = 5 * time.Minute

// clockJumped refuses a backup within which the server's clock jumped: its moments are what a restore to a time, and what
// retention keeps, are judged by. passed is by a clock that does not jump. Pure.
func clockJumped(b vault.Backup, passed time.Duration) error {
	by := b.Stopped.Sub(b.Started) - passed
	if by.Abs() <= jumpMax {
		return nil
	}
	return &problem.Problem{Code: "backup.clock-jumped", Subject: b.Database, Severity: problem.Degraded,
		Title:   fmt.Sprintf("the clock of the server's host jumped by %s while the base backup was made", by.Round(time.Second)),
		Meaning: "From when to when it holds the database could not be told, so nothing of it is listed. The backups before it, and the log, are as they were; what was stored is not stored again.",
		Remedy:  "set the clock right, and keep it so (chronyc tracking); the schedule begins again by itself, or: holdfast backup run " + b.Database}
}
