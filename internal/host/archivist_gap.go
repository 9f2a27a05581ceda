package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/copies"
	"holdfast/internal/vault/wal"
)

// gaps is what an archivist knows of log that is lost. The archivist's lock guards it.
type gaps struct {
	lost      string          // what is lost that no base backup stands behind yet; "" = nothing
	twice     string          // of that, what came with other content than the vault holds; "" = nothing did
	told      backup.GapError // the gap that the diary was told of last
	heard     bool            // in this turn the server itself has said that log is lost
	judged    bool            // in this turn the vault has been looked through for lost log
	streaming bool            // the log comes in
	doubts    int             // of the receiver, when the vault was last begun to be looked through: see [backup.Vote]
}

// turn begins another turn as the archivist: others may have been it meanwhile.
func (a *archivist) turn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps.heard, a.gaps.judged, a.gaps.streaming = false, false, false
	a.from, a.listed = vault.Backup{}, ""
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
		a.gaps.lost, a.gaps.twice, a.told.Gap = "", "", ""
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
// judges only when every copy of the vault answers, and leaves the question open otherwise. Where votes are asked for, the same
// look finds the base backup that the log leads on from.
func (a *archivist) lookForGap(ctx context.Context, v *vault.Vault) {
	a.looking.Lock()
	defer a.looking.Unlock()
	a.mu.Lock()
	a.gaps.doubts = a.second.Doubts // before the first look: what comes meanwhile is doubted again
	a.mu.Unlock()
	f, err := a.beyond(ctx, v)
	if err == nil && f.lost() { // looked at twice: a list that is read while the log comes in can miss a piece that was replaced
		var again found
		again, err = a.beyond(ctx, v)
		again.missing = again.missing && f.missing && again.hole.Timeline == f.hole.Timeline && again.hole.From == f.hole.From
		again.none = again.none && f.none
		f = again
	}
	switch {
	case errors.Is(err, copies.ErrCopyAway):
		if f.from.ID != "" { // what can be restored from the copies that answer can be restored
			a.leads(f.from)
		}
		a.host.cfg.Log.Debug("not known yet whether log is lost", "database", a.db.Name, "err", err)
	case err != nil:
		a.host.cfg.Log.Warn("not known whether log is lost", "database", a.db.Name, "err", err)
	default:
		a.judge(f.says(a.db.Name, a.plan.Vault), f.from)
	}
}

// found is what one look through a vault says.
type found struct {
	hole    wal.Hole
	missing bool         // hole is: log lies behind it
	from    vault.Backup // newest base backup that the log leads on from; its ID is "" when there is none, or nobody asks for votes
	none    bool         // commits wait for the vault, base backups are listed, and not one of them can be restored
}

func (f found) lost() bool { return f.missing || f.none }

// says what is lost; "" = nothing is.
func (f found) says(database, vault string) string {
	switch {
	case f.missing:
		return (&backup.GapError{Database: database, Timeline: f.hole.Timeline, From: f.hole.From, To: f.hole.To}).Error()
	case f.none:
		return fmt.Sprintf("no base backup of %s in vault %s can be restored with the log that is there", database, vault)
	}
	return ""
}

// beyond looks through the whole vault. A copy that is away is passed over by reads without an error, so what only it holds
// would seem to be missing: then the error is [copies.ErrCopyAway], and of what was found only from means something.
func (a *archivist) beyond(ctx context.Context, v *vault.Vault) (found, error) {
	votes := a.asksVotes()
	whole := v.Whole()
	if whole != nil && !votes {
		return found{}, whole
	}
	c, err := restore.Load(ctx, v, a.db.Name)
	if err != nil {
		return found{}, errors.Join(err, whole)
	}
	return lookThrough(c, a.record(), votes), errors.Join(whole, v.Whole())
}

// lookThrough finds lost log and, where votes are asked for, what the log leads on from. Pure.
func lookThrough(c restore.Catalogue, r database.Record, votes bool) (f found) {
	f.hole, f.missing = restore.Beyond(c)
	if votes {
		f.from, f.none = restorable(c, r)
	}
	return f
}

// restorable is the newest base backup on the committed chain from which a restore leads anywhere; none: some are listed, and
// not one of them does. Pure.
func restorable(c restore.Catalogue, r database.Record) (from vault.Backup, none bool) {
	none = slices.ContainsFunc(c.Backups, func(b vault.Backup) bool { return ofChain(b, r) })
	for made := c.Backups; ; {
		b := leadsFrom(made, r)
		if b.ID == "" {
			return vault.Backup{}, none
		}
		one := c
		one.Backups = []vault.Backup{b}
		if _, err := restore.Choose(one, restore.Target{Kind: restore.Latest}); err == nil {
			return b, false
		}
		made = made[:slices.IndexFunc(made, func(x vault.Backup) bool { return x.ID == b.ID })]
	}
}

// leads takes a base backup that the log leads on from.
func (a *archivist) leads(from vault.Backup) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.from = from
}

// judge takes what the whole vault says: what is lost in it, "" when nothing is, and the base backup that its log leads on
// from. What the server said in this turn counts more: the vault shows a gap only when something is stored behind it.
func (a *archivist) judge(lost string, from vault.Backup) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps.judged, a.from = true, from
	switch {
	case lost != "" && (a.gaps.lost == "" || !a.gaps.heard):
		a.gaps.lost = lost
	case lost == "" && !a.gaps.heard && a.gaps.twice == "": // where something else lies nothing is missing
		a.gaps.lost = ""
	}
	a.told.Gap = a.gaps.lost
}
