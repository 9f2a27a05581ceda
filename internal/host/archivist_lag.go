package host

import (
	"context"
	"time"

	"holdfast/internal/backup"
)

const (
	// saidFor is how long a word of the archive stands before the next one is on its way to the other hosts: until it is said again,
	// and in the two rounds of an agent that one of them takes at most.
	saidFor = archivePace + 500*time.Millisecond
	// lagUnknown is said while nothing is known of what the vault has: the vault took nothing yet, and no agent before this one has
	// written anything down since the machine was started.
	lagUnknown = -1
)

// lag is how long ago a commit may have been acknowledged at most that the vault lacks, by whoever hears it within saidFor; in
// whole seconds. Pure.
func lag(covered, now time.Time) time.Duration {
	if covered.IsZero() {
		return lagUnknown
	}
	return (max(now.Sub(covered), 0) + saidFor).Truncate(time.Second) + time.Second
}

// covers keeps until when the vault has everything. What was known of that stays true, whatever receiver follows. The caller
// holds the lock.
func (a *archivist) covers(s backup.Status, now time.Time) {
	if at := now.Add(-s.Behind); s.Behind >= 0 && at.After(a.covered) {
		a.covered = at
	}
}

// say puts what is known into this host's report. The caller holds the lock.
func (a *archivist) say() {
	a.told.Lag = lag(a.covered, a.host.clock.Now())
	a.host.agent.Archive(a.db.Name, a.told, true)
}

// keepSaying says it again and again for as long as it is this host's turn: while the vault cannot be opened, or hangs, nothing
// else makes it older.
func (a *archivist) keepSaying(ctx context.Context) error {
	for a.host.sleep(ctx, archivePace) {
		if !a.named() {
			continue
		}
		a.mu.Lock()
		if a.told.Vault != "" {
			a.say()
		}
		a.mu.Unlock()
	}
	return nil
}
