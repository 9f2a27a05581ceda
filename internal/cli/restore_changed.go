package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// warnChanged tells a person, before anything is restored, that what was chosen begins with a base backup that holds pages which
// changed behind the log, as nobody has accepted; nil = it does not. A vault that does not say so holds up no restore.
func warnChanged(ctx context.Context, cmd *cobra.Command, v *vault.Vault, from vault.Backup) *problem.Problem {
	p, err := holdsChange(ctx, v, from)
	if err != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "not known whether %s holds pages that changed behind the log: %v\n", from.ID, err) // a word alone
		return nil
	}
	if p != nil {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), p.Text()) // in the JSON it stands too
	}
	return p
}

func holdsChange(ctx context.Context, v *vault.Vault, from vault.Backup) (*problem.Problem, error) {
	made, err := v.ReadableBackups(ctx, from.Database)
	if err != nil {
		return nil, err
	}
	made = slices.DeleteFunc(slices.Clone(made), func(b vault.Backup) bool { return b.SystemID != from.SystemID })
	changed, err := backup.StandingChangeIn(ctx, v, made)
	if err != nil || changed == nil {
		return nil, err
	}
	return changeIn(*changed, made, from.ID), nil
}

// changeIn is the warning when a restore begins with a backup, of those of one cluster, oldest first, while a change stands; nil =
// the backup is from before it. Pure.
func changeIn(c backup.Changed, made []vault.Backup, id string) *problem.Problem {
	at := func(id string) int { return slices.IndexFunc(made, func(b vault.Backup) bool { return b.ID == id }) }
	if at(id) < at(c.Backup) && at(id) <= max(at(c.Before), at(earlierOf(made, c.Backup))) {
		return nil
	}
	p := &problem.Problem{Code: "restore.holds-change", Subject: made[0].Database, Severity: problem.Degraded,
		Title:   "what is restored begins with base backup " + id + ", which may hold pages that changed on the disk though no log changed them, as " + c.Backup + " found in " + backup.ChangedPlaces(c.Objects),
		Meaning: "Nobody has accepted that. What is read in those places may be wrong; everything else is as it was at the moment that was asked for. ",
		Remedy:  "see what they are: holdfast backup status " + made[0].Database}
	if c.Before == "" || c.BeforeAt.IsZero() {
		p.Meaning += "No backup from before is left."
		return p
	}
	p.Meaning += "The last good copy is " + c.Before + "."
	p.Remedy = c.RestoreBefore(made[0].Database) + " restores it; compare what both hold in those places"
	return p
}

// earlierOf is what a backup was compared with.
func earlierOf(made []vault.Backup, id string) string {
	for _, b := range made {
		if b.ID == id {
			return b.Earlier
		}
	}
	return ""
}
