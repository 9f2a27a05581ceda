package host

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

const (
	// proveRetry is the pause after a validation that found nothing out; it doubles up to proveRetryMax.
	proveRetry    = 2 * time.Minute
	proveRetryMax = 6 * time.Hour
)

// scratchDir is where this host restores on trial.
func (h *Host) scratchDir() string { return filepath.Join(h.cfg.Dir, "scratch") }

// sweepTrials ends and removes what validations and salvages have left that were killed with an agent before this one, whether or not
// this host archives any more. No other begins meanwhile: there may be no room for it before.
func (h *Host) sweepTrials(ctx context.Context) error {
	select {
	case h.trial <- struct{}{}:
		defer func() { <-h.trial }()
	case <-ctx.Done():
		return nil
	}
	removed, err := backup.SweepTrials(ctx, h.scratchDir())
	for _, dir := range removed {
		h.cfg.Log.InfoContext(ctx, "what a killed validation or salvage left was removed", "dir", dir)
	}
	if err != nil {
		h.cfg.Log.WarnContext(ctx, "what a killed validation or salvage left is still there", "err", err)
	}
	return nil
}

// prove restores one base backup on trial and looks at it. One at a time on this host, whatever the number of databases.
// One that was proven while this waited is not proven again, unless again says so.
func (a *archivist) prove(r *run, v *vault.Vault, id string, again bool) (vault.Backup, error) {
	ctx := r.ctx
	r.trial(id)
	r.proves(backup.Progress{Phase: "waits for its turn"})
	select {
	case a.host.trial <- struct{}{}:
		defer func() { <-a.host.trial }()
	case <-ctx.Done():
		return vault.Backup{ID: id}, context.Cause(ctx)
	}
	if made, err := a.backupNamed(ctx, v, id); err != nil {
		return vault.Backup{ID: id}, err
	} else if made.Validation != nil && !again {
		return made, nil
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		return vault.Backup{ID: id}, err
	}
	want := a.wanted().Validate
	_, usual, _ := a.db.Login() // none: the database's own name
	b, _, err := backup.Validate(ctx, backup.ValidateOptions{
		Vault: v, Database: a.db.Name, Backup: id, Dir: a.host.scratchDir(), Owner: owner, BinDir: a.host.servers[a.db.Name].BinDir(), Log: a.host.cfg.Log,
		Probes: want.Probes, Usual: usual, Limit: want.Limit,
		Progress: r.proves,
	})
	if err == nil {
		a.host.receipt(ctx, v, proofReceipt(b))
		if !leadsOn(b) { // it may be the one that stood behind lost log
			a.lookForGap(ctx, v)
		}
	}
	return b, err
}

func (a *archivist) backupNamed(ctx context.Context, v *vault.Vault, id string) (vault.Backup, error) {
	all, err := v.Backups(ctx, a.db.Name)
	if err != nil {
		return vault.Backup{}, err
	}
	for _, b := range all {
		if b.ID == id {
			return b, nil
		}
	}
	return vault.Backup{}, fmt.Errorf("%w: %s", vault.ErrNoBackup, id)
}

// proveLater proves backups whose validation was cut off, and those that somebody asks for. Nothing waits for it.
func (a *archivist) proveLater(ctx context.Context, v *vault.Vault) {
	a.host.carryReceipts(ctx, v)
	next, pause := a.host.clock.Now().Add(duePace), proveRetry
	for a.host.sleep(ctx, basePace) {
		if q := a.askedFor("validate"); q != nil {
			a.proveAsked(ctx, v, *q)
			continue
		}
		if a.host.clock.Now().Before(next) {
			continue
		}
		next = a.host.clock.Now().Add(duePace)
		err := a.proveOne(ctx, v)
		if err == nil {
			err = a.proveAgain(ctx, v)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			pause = proveRetry
		default:
			a.host.cfg.Log.WarnContext(ctx, "base backup not proven, tried again later", "database", a.db.Name, "pause", pause, "err", err)
			next, pause = a.host.clock.Now().Add(pause), min(2*pause, proveRetryMax)
		}
	}
}

// proveOne proves the newest backup that has not been, if there is any. A backup that was just made is proven by whoever
// made it: that one waits for its turn, too.
func (a *archivist) proveOne(ctx context.Context, v *vault.Vault) error {
	all, err := v.Backups(ctx, a.db.Name)
	if err != nil {
		return err
	}
	left := a.cancelled(agent.ChoreProve)
	for i := len(all) - 1; i >= 0; i-- {
		b := all[i]
		if b.ID == left.Backup && !left.Cancelled.IsZero() || !b.Written.After(left.Cancelled) {
			continue // somebody ended its trial: it waits for the next one of the schedule
		}
		if b.Validation == nil && time.Since(b.Written) > duePace {
			r := a.underWay(ctx, agent.ChoreProve, nil)
			done, err := a.prove(r, v, b.ID, false)
			if a.trialEnded(ctx, v, r, b.ID, err) {
				return ctx.Err()
			}
			if err == nil {
				a.host.diary.Note("backup", a.db.Name, sayProof(done), nil, done.Validation.Took)
			}
			return err
		}
	}
	return nil
}

func (a *archivist) proveAsked(ctx context.Context, v *vault.Vault, q agent.Asked) {
	id := q.Args[agent.ArgBackup]
	all, err := v.Backups(ctx, a.db.Name)
	for i := len(all) - 1; err == nil && id == "" && i >= 0; i-- {
		if all[i].Validation == nil {
			id = all[i].ID
		}
	}
	var b vault.Backup
	if err == nil && id == "" {
		err = backup.ErrNothingToValidate
	}
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		r := a.underWay(ctx, agent.ChoreProve, &q)
		b, err = a.prove(r, v, id, true)
		if a.trialEnded(ctx, v, r, id, err) {
			return // it is settled, or is taken up again by the next agent
		}
	}
	text := ""
	if err != nil {
		text = "nothing was found out: " + firstLine(err.Error())
	} else {
		text = sayProof(b)
		a.host.diary.Note("backup", a.db.Name, text, nil, b.Validation.Took)
	}
	a.settleWith(ctx, q, b, err == nil && b.Validated(), text)
}

// trialEnded reports whether a trial was cut off, by somebody or with this agent, so that nothing was found out; the former is noted.
func (a *archivist) trialEnded(ctx context.Context, v *vault.Vault, r *run, id string, err error) bool {
	if ctx.Err() != nil || err == nil || r.cancelled() == "" {
		r.over(ctx, false, "it came to its end before: holdfast backup list "+a.db.Name)
		return ctx.Err() != nil
	}
	r.over(ctx, true, a.wasCancelled(ctx, v.Backups, r, id, ""))
	return true
}

func sayProof(b vault.Backup) string {
	if bad := backup.FirstBad(b); bad != "" {
		return "base backup " + b.ID + " was restored on trial and found bad: " + bad
	}
	return "base backup " + b.ID + " was proven by restoring it"
}
