package host

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// want judges the plan's schedules, and tells when the next base backup is.
func (a *archivist) want(made []vault.Backup, now time.Time) (backup.Wanted, error) {
	w, err := backup.Want(a.wanted(), made, a.cancelled(agent.ChoreBase).Cancelled, now)
	if err != nil {
		return w, err
	}
	next := w.Next
	if w.Now {
		next = now
	}
	a.host.agent.Planned(agent.Chore{Kind: agent.ChoreBase, Subject: a.db.Name}.Name(), next)
	return w, nil
}

// proveDue is which backup is to be tried again, and when. Each counts as tried when it was made, so that the first
// trial of a database waits for its hour.
func (a *archivist) proveDue(ctx context.Context, b plan.Backup, made []vault.Backup, now time.Time) (string, backup.Due, error) {
	id, since := backup.ToProve(made)
	last, known := agent.ChoreOf(a.host.agent.Last().Agreed, agent.ChoreProve, a.db.Name)
	if id == "" || b.Prove == (plan.Schedule{}) {
		return "", backup.Due{}, nil
	}
	if !known {
		first := agent.Chore{Kind: agent.ChoreProve, Subject: a.db.Name, Host: a.host.cfg.Self, Since: now.UTC(), OK: true, Text: "not run yet"}
		_, err := agent.ChoreKey(agent.ChoreProve, a.db.Name).Swap(ctx, a.host.store, 0, first)
		if errors.Is(err, cluster.ErrConflict) || errors.Is(err, cluster.ErrUnavailable) {
			err = nil // another look comes
		}
		return "", backup.Due{}, err
	}
	if last.Since.After(since) {
		since = last.Since
	}
	cancelled := a.cancelled(agent.ChoreProve).Cancelled
	due, err := backup.NextBut(backup.Timing{Schedule: b.Prove, Zone: b.Zone, Jitter: b.Jitter, Of: b.Of + agent.ChoreProve}, since, cancelled, now)
	if again := last.Ended.Add(careRetry); err == nil && !last.OK && now.Before(again) && !due.At.After(again) {
		due = backup.Due{At: again}
	}
	return id, due, err
}

// proveAgain restores a backup on trial once more when the schedule wants it, and tells when it next does.
func (a *archivist) proveAgain(ctx context.Context, v *vault.Vault) error {
	made, err := v.Backups(ctx, a.db.Name)
	if err != nil {
		return err
	}
	id, due, err := a.proveDue(ctx, a.wanted(), made, time.Now())
	a.host.agent.Planned(agent.Chore{Kind: agent.ChoreProve, Subject: a.db.Name}.Name(), due.At)
	if err != nil || !due.Now {
		return err
	}
	began := time.Now()
	r := a.underWay(ctx, agent.ChoreProve, nil)
	b, err := a.prove(r, v, id, true)
	if a.trialEnded(ctx, v, r, id, err) {
		return ctx.Err()
	}
	text := "base backup " + id + " was restored on trial again and is good"
	switch {
	case err != nil:
		text = "base backup " + id + " could not be tried: " + firstLine(err.Error())
	case !b.Validated():
		text = "base backup " + id + " was restored on trial again and is BAD"
		a.host.cfg.Log.Error("a backup that was tried again is bad", "database", a.db.Name, "backup", id)
	}
	since := began
	if err == nil && !b.Validated() {
		err = &problem.Problem{Code: "backup.not-proven", Subject: a.db.Name, Severity: problem.Critical, Title: text,
			Meaning: "It is never chosen for a restore. The vault may be damaged, or the backup was bad before anybody could tell.",
			Remedy:  "see what failed: holdfast backup list " + a.db.Name + "; then holdfast vault scrub"}
	} else if err != nil {
		last, _ := agent.ChoreOf(a.host.agent.Last().Agreed, agent.ChoreProve, a.db.Name)
		since = last.Since
	}
	a.host.choreEnded(ctx, agent.ChoreProve, a.db.Name, id, began, since, text, err)
	a.host.diary.Note("backup", a.db.Name, text, nil, time.Since(began))
	return nil // a schedule has its own pause after what did not succeed
}

// provenSince takes it back that a base backup did not succeed when it was made, its trial came to nothing, and a later one
// has proven it.
func (a *archivist) provenSince(ctx context.Context, made []vault.Backup) error {
	key := agent.ChoreKey(agent.ChoreBase, a.db.Name)
	now, ok := succeeded(a.host.agent.Last().Agreed, a.db.Name, made)
	if !ok {
		return nil
	}
	_, err := key.Swap(ctx, a.host.store, a.host.agent.Last().Agreed[string(key)].Revision, now)
	if errors.Is(err, cluster.ErrConflict) || errors.Is(err, cluster.ErrUnavailable) {
		err = nil // another look comes
	}
	return err
}

// succeeded is the chore of making base backups as it stands by what is proven now; false = nothing has changed. Pure.
func succeeded(agreed map[string]cluster.Entry, database string, made []vault.Backup) (agent.Chore, bool) {
	c, known := agent.ChoreOf(agreed, agent.ChoreBase, database)
	if !known || c.OK || c.Backup == "" {
		return c, false
	}
	for _, b := range made {
		if b.ID == c.Backup && b.Validated() {
			c.OK, c.Problem, c.Text = true, nil, sayProof(b)
			return c, true
		}
	}
	return c, false
}
