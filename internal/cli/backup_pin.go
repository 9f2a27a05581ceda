package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// noting is one of the commands that say whether a backup stays.
type noting struct {
	said                 string
	question             string // asked before; "" = nothing is lost by it
	reasoned             bool   // it needs a reason
	root, output, reason string
	yes                  bool

	do func(ctx context.Context, v *vault.Vault, backup, reason string) error
}

func backupPinCommand() *cobra.Command {
	n := &noting{
		said: "is pinned: it stays until holdfast backup unpin",
		do: func(ctx context.Context, v *vault.Vault, backup, reason string) error {
			return v.PutNote(ctx, vault.Note{Backup: backup, Kind: vault.Pin, By: whoami(), At: time.Now(), Reason: reason})
		},
	}
	cmd := &cobra.Command{
		Use: "pin BACKUP", Short: "Keep a backup, however old it becomes",
		Long:    "A pinned backup, of a database or of a file set, is not let go of by retention, and the log that makes it consistent\nstays with it. With a backup that belongs to a recovery point stays what leads to that point.",
		Example: `  holdfast backup pin records-20261121T010000Z-a1b2c3 --reason "before the move"`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    n.run,
	}
	n.flags(cmd)
	return cmd
}

func backupUnpinCommand() *cobra.Command {
	n := &noting{
		said: "is not pinned any more", question: "Let retention judge it again?",
		do: func(ctx context.Context, v *vault.Vault, backup, _ string) error {
			return v.DropNotes(ctx, backup, vault.Pin)
		},
	}
	cmd := &cobra.Command{
		Use: "unpin BACKUP", Short: "Let retention judge a pinned backup again",
		Long:    "Retention judges it with its next run; what it does not keep goes 72 hours after that.",
		Example: "  holdfast backup unpin records-20261121T010000Z-a1b2c3",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    n.run,
	}
	n.flags(cmd)
	return cmd
}

func backupHoldCommand() *cobra.Command {
	n := &noting{
		said: "is under a legal hold: it stays until holdfast backup release", reasoned: true,
		do: func(ctx context.Context, v *vault.Vault, backup, reason string) error {
			return v.PutNote(ctx, vault.Note{Backup: backup, Kind: vault.Hold, By: whoami(), At: time.Now(), Reason: reason})
		},
	}
	cmd := &cobra.Command{
		Use: "hold BACKUP", Short: "Put a backup under a legal hold",
		Long:    "As a pin, with a reason that stays with it. Who lifts it, and why, is noted too.",
		Example: `  holdfast backup hold records-20261121T010000Z-a1b2c3 --reason "case 14/2026"`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    n.run,
	}
	n.flags(cmd)
	return cmd
}

func backupReleaseCommand() *cobra.Command {
	n := &noting{
		said: "is not under a legal hold any more", question: "Lift the legal hold?", reasoned: true,
		do: func(ctx context.Context, v *vault.Vault, backup, reason string) error {
			return v.Lift(ctx, backup, whoami(), reason, time.Now())
		},
	}
	cmd := &cobra.Command{
		Use: "release BACKUP", Short: "Lift the legal hold of a backup",
		Long:    "Retention judges it with its next run. Who lifted the hold, and why, stays noted with the backup.",
		Example: `  holdfast backup release records-20261121T010000Z-a1b2c3 --reason "case 14/2026 is closed"`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    n.run,
	}
	n.flags(cmd)
	return cmd
}

func backupAcceptCommand() *cobra.Command {
	n := &noting{
		said: "is accepted: what changed behind the log up to it is taken as it is", question: "Take the data as it is, and let the backups from before go by the plan?", reasoned: true,
		do: accept,
	}
	cmd := &cobra.Command{
		Use: "accept BACKUP", Short: "Take a backup's data as it is, though pages changed behind the log",
		Long: `Ends the problem backup.changed-silently for this backup and those before it: the next reading of everything is compared
with the newest backup again, and retention judges the backups from before by the plan alone. Who did it, and why, stays
noted with the backup, and with each before it that found a change.`,
		Example: `  holdfast backup accept records-20261121T010000Z-a1b2c3 --reason "the disk was exchanged, the table restored"`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    n.run,
	}
	n.flags(cmd)
	return cmd
}

// accept notes it on the backup, and on each from before that found a change. The named one comes last: what is interrupted
// leaves the problem standing, and is asked for again.
func accept(ctx context.Context, v *vault.Vault, id, reason string) error {
	all, err := v.Backups(ctx, "")
	if err != nil {
		return err
	}
	notes, err := v.Notes(ctx)
	if err != nil {
		return err
	}
	ids, ok := backup.ToAccept(all, notes, id)
	if !ok {
		return &problem.Problem{Code: "backup.unknown", Subject: id, Severity: problem.Note, Title: "it is no base backup of a database, so no pages of it changed behind a log",
			Meaning: "Nothing was changed.", Remedy: "see those there are: holdfast backup list"}
	}
	for _, x := range ids {
		err := v.PutNote(ctx, vault.Note{Backup: x, Kind: vault.Accepted, By: whoami(), At: time.Now(), Reason: reason})
		if err != nil && (x == id || !errors.Is(err, vault.ErrNoBackup)) { // retention may take an earlier one off the list meanwhile
			return err
		}
	}
	return nil
}

func (n *noting) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.root, "root", "", rootUsage)
	cmd.Flags().StringVar(&n.reason, "reason", "", "why, for whoever reads it later")
	if n.question != "" {
		cmd.Flags().BoolVar(&n.yes, "yes", false, "do not ask")
	}
	outputFlag(cmd, &n.output)
}

func (n *noting) run(cmd *cobra.Command, args []string) error {
	if err := checkOutput(n.output); err != nil {
		return err
	}
	if n.reasoned && n.reason == "" {
		return fmt.Errorf("--reason says why: %w", errUsage)
	}
	a, err := findApplication(cmd, n.root)
	if err != nil {
		return err
	}
	name, err := a.vaultWith(cmd.Context(), args[0])
	if err != nil {
		return err
	}
	if n.question != "" && !n.yes {
		if ok, err := confirm(cmd, n.question); err != nil || !ok {
			return err
		}
	}
	notes, err := n.note(cmd.Context(), a, name, args[0])
	switch {
	case err != nil:
		return err
	case n.output == "json":
		return writeJSON(cmd.OutOrStdout(), notes)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "backup %s %s\n", args[0], n.said)
	return err
}

// note does it, and gives all that is noted on the backup then.
func (n *noting) note(ctx context.Context, a application, name, backup string) (notes []vault.Note, failed error) {
	v, err := a.openToWrite(ctx, name)
	if err != nil {
		return nil, err
	}
	defer closeWritten(ctx, v, &failed)
	if err := n.do(ctx, v, backup, n.reason); err != nil {
		return nil, err
	}
	all, err := v.Notes(ctx)
	return slices.DeleteFunc(append([]vault.Note{}, all...), func(x vault.Note) bool { return x.Backup != backup }), err
}

// vaultWith is the vault of the plan that lists a backup, of a database or of a file set. One that cannot be asked matters only
// when no other lists it.
func (a application) vaultWith(ctx context.Context, backup string) (string, error) {
	var silent []string
	for _, x := range a.plan.Vaults {
		found, err := a.lists(ctx, x.Name, backup)
		switch {
		case found:
			return x.Name, nil
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case err != nil:
			silent = append(silent, x.Name+" ("+reasonOf(err)+")")
		}
	}
	p := &problem.Problem{Code: "backup.unknown", Subject: backup, Severity: problem.Note, Title: "no vault of the plan lists such a backup",
		Meaning: "Nothing was changed.", Remedy: "see those there are: holdfast backup list"}
	if len(silent) > 0 {
		p.Title = "no vault that could be asked lists such a backup; not asked: " + strings.Join(silent, ", ")
		p.Meaning = "Nothing was changed. It may lie where nobody could look."
		p.Remedy = "bring back what does not answer (holdfast vault status), then give the same command again"
	}
	return "", p
}

// lists reports whether a vault lists a backup.
func (a application) lists(ctx context.Context, name, backup string) (bool, error) {
	v, err := a.openVault(ctx, name)
	if err != nil {
		return false, err
	}
	defer closeVault(ctx, v)
	all, err := v.Backups(ctx, "")
	if slices.ContainsFunc(all, func(b vault.Backup) bool { return b.ID == backup }) {
		return true, nil
	}
	sets, failed := v.FileBackups(ctx, "")
	return slices.ContainsFunc(sets, func(b vault.FileBackup) bool { return b.ID == backup }), errors.Join(err, failed)
}

// reasonOf is why something did not work, in one line.
func reasonOf(err error) string {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p.Code + ": " + p.Title
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
