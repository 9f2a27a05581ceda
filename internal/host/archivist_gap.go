package host

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/wal"
)

// gaps is what an archivist knows of log that is lost. The archivist's lock guards it.
type gaps struct {
	lost      string          // what is lost that no base backup stands behind yet; "" = nothing
	told      backup.GapError // the gap that the diary was told of last
	heard     bool            // in this turn the server itself has said that log is lost
	judged    bool            // in this turn the vault has been looked through for lost log
	streaming bool            // the log comes in
}

// turn begins another turn as the archivist: others may have been it meanwhile.
func (a *archivist) turn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps.heard, a.gaps.judged, a.gaps.streaming = false, false, false
}

// lost keeps that log is lost until a base backup was made behind it, and reports whether that is news.
func (a *archivist) lost(g *backup.GapError) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps.lost, a.gaps.heard, a.gaps.streaming = g.Error(), true, false
	a.told.Gap = a.gaps.lost
	news := a.gaps.told.Timeline != g.Timeline || a.gaps.told.From != g.From
	a.gaps.told = *g
	return news
}

// gapNow is the log that is lost, "" when none is, and whether log comes in now.
func (a *archivist) gapNow() (lost string, streaming bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gaps.lost, a.gaps.streaming
}

// judged reports whether the vault has been looked through in this turn.
func (a *archivist) judged() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gaps.judged
}

// bridged forgets lost log that a base backup begun afterwards stands behind; what was lost meanwhile stays.
func (a *archivist) bridged(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gaps.lost == what {
		a.gaps.lost, a.told.Gap = "", ""
	}
}

// leadsOn reports whether a base backup was made that a restore may begin with. Whether it is proven yet does not matter:
// what proves it goes on trying, and one that is then found bad is looked for behind it again.
func leadsOn(b vault.Backup) bool {
	return b.ID != "" && (b.Validation == nil || b.Validation.Passed)
}

// restAfter is the pause before the next base backup that nobody asks for; lost: log was lost before this one.
func restAfter(b vault.Backup, err error, lost bool) time.Duration {
	switch {
	case lost && b.ID != "" && !leadsOn(b): // a server whose backups are bad does not make a good one a moment later
		return badRetry
	case err != nil:
		return baseRetry
	}
	return 0
}

// lookForGap finds lost log that no base backup stands behind, though this archivist was not there when it was lost. It
// judges only when every copy of the vault answers, and leaves the question open otherwise.
func (a *archivist) lookForGap(ctx context.Context, v *vault.Vault) {
	hole, missing, err := a.beyond(ctx, v)
	if err == nil && missing { // looked at twice: a list that is read while the log comes in can miss a piece that was replaced
		var again wal.Hole
		again, missing, err = a.beyond(ctx, v)
		missing = missing && again.Timeline == hole.Timeline && again.From == hole.From
	}
	switch {
	case errors.Is(err, copies.ErrCopyAway):
		a.host.cfg.Log.Debug("not known yet whether log is lost", "database", a.db.Name, "err", err)
	case err != nil:
		a.host.cfg.Log.Warn("not known whether log is lost", "database", a.db.Name, "err", err)
	default:
		a.judge(backup.GapError{Database: a.db.Name, Timeline: hole.Timeline, From: hole.From, To: hole.To}, missing)
	}
}

// beyond is the log that is missing in the whole vault. A copy that is away is passed over by reads without an error, so
// what only it holds would seem to be missing: then the error is [copies.ErrCopyAway].
func (a *archivist) beyond(ctx context.Context, v *vault.Vault) (wal.Hole, bool, error) {
	if err := v.Whole(); err != nil {
		return wal.Hole{}, false, err
	}
	c, err := restore.Load(ctx, v, a.db.Name)
	if err = errors.Join(err, v.Whole()); err != nil {
		return wal.Hole{}, false, err
	}
	hole, missing := restore.Beyond(c)
	return hole, missing, nil
}

// judge takes what the whole vault says: g is missing in it, or nothing is. What the server said in this turn counts more:
// the vault shows a gap only when something is stored behind it.
func (a *archivist) judge(g backup.GapError, missing bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps.judged = true
	switch {
	case missing && (a.gaps.lost == "" || !a.gaps.heard):
		a.gaps.lost = g.Error()
	case !missing && !a.gaps.heard:
		a.gaps.lost = ""
	}
	a.told.Gap = a.gaps.lost
}
