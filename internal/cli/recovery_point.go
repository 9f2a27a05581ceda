package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func recoveryPointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recovery-point",
		Short: "Join files and a database of one moment under one name",
		Long: `A recovery point is a backup of a file set and a position in a database's log, both of a moment in which the
application changed neither: the plan's commands bring it to stand still, for 60 s at most, and let it go on.`,
		Example: `  holdfast recovery-point create attachments
  holdfast recovery-point list
  holdfast recovery-point restore latest --to /srv/back`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(pointCreateCommand(), pointListCommand(), pointRestoreCommand(), pointUndoCommand(), pointForgetCommand())
	return cmd
}

func pointCreateCommand() *cobra.Command {
	var root, output string
	var dryRun bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "create FILES",
		Short: "Make a recovery point of a file set and its database now",
		Long: `First an ordinary backup takes what has changed. Then the plan's command before runs, the database's position is
noted and what changed since is taken, and the command after runs, whatever happened. What takes longer than the plan
allows is given up: nothing is listed, and the application goes on. Status 1 also when the point was made and the command
after did not succeed: the application is still frozen then.`,
		Example: `  holdfast recovery-point create attachments
  holdfast recovery-point create attachments --output json | jq .backup.point.id`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			set, err := a.fileSet(args[0])
			if err != nil {
				return err
			}
			if m := set.Moment; dryRun {
				if m.Database == "" {
					return &problem.Problem{Code: "files.no-moment", Subject: set.Name, Severity: problem.Note, Title: "the plan does not say how it stands still",
						Meaning: "Nothing was asked and nothing was changed.", Remedy: "add moment with database, before and after below files." + set.Name + " in the plan"}
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "on %s %v would run, for at most %s until %v; nothing was asked\n", set.Hosts[0], m.Before, m.Freeze, m.After)
				return err
			}
			return createPoint(cmd, a, set.Name, set.Hosts[0], output, limit)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say which commands would run, and run nothing")
	cmd.Flags().DurationVar(&limit, "timeout", backupMax, "how long to wait")
	outputFlag(cmd, &output)
	return cmd
}

func createPoint(cmd *cobra.Command, a application, name, on, output string, limit time.Duration) error {
	client, err := operatorIn(cmd, a.Context)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	q, err := client.Ask(ctx, agent.Asked{Room: "files", Kind: "point", Subject: name, Args: map[string]string{agent.ArgOn: on}})
	if err != nil {
		return err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	answer := filesAnswer{Request: q.ID, Host: on}
	err = answer.await(ctx, client, name, began, line)
	line.end()
	if err != nil {
		return err
	}
	if output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), answer); err != nil {
			return err
		}
	}
	switch {
	case answer.OK && output == "json":
		return nil
	case output == "json":
		return exitError{1}
	case answer.Backup == nil || answer.Backup.Point == nil:
		return &problem.Problem{Code: "files.no-point", Subject: name, Severity: problem.Critical, Title: answer.Text,
			Meaning: "No recovery point was made. The application was let go on, unless holdfast status says otherwise.",
			Remedy:  "correct what is said, then again: holdfast recovery-point create " + name}
	}
	b := answer.Backup
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "recovery point %s\n  files     %s on %s: backup %s, %d files\n  database  %s at %s\n  stood still for %s\n%sBring both back beside the live ones, once the log up to there is in the vault:\n  %s\n",
		b.Point.ID, b.Path, b.Host, b.ID, b.Files, b.Point.Database, b.Point.LSN, b.Point.Stood(), troubles(*b), restorePointText(*b))
	switch {
	case err != nil || answer.OK:
		return err
	case b.Point.Stuck != "":
		return stillFrozen(name, *b.Point)
	}
	return exitError{1}
}

// stillFrozen is the problem of a recovery point after which the application was not let go on.
func stillFrozen(set string, p vault.Point) *problem.Problem {
	return &problem.Problem{Code: "files.still-frozen", Subject: set, Severity: problem.Critical,
		Title:   "the application is STILL FROZEN: the recovery point was made, and files and database were not let go on: " + p.Stuck,
		Meaning: "The application may wait. The command after is run again every few seconds until it succeeds; holdfast status tells for as long as it does not.",
		Remedy:  "correct the command after of the plan, or what it needs, and apply the plan; or let the application go on by hand"}
}

func restorePointText(b vault.FileBackup) string {
	return fmt.Sprintf("holdfast recovery-point restore %s --to DIR", b.Point.ID)
}

func restoreFilesText(b vault.FileBackup) string {
	return fmt.Sprintf("holdfast restore files %s --backup %s --to DIR", b.Set, b.ID)
}

func restoreDatabaseText(b vault.FileBackup) string {
	timeline := ""
	if b.Point.Timeline != 0 {
		timeline = fmt.Sprintf(" --timeline %d", b.Point.Timeline)
	}
	return fmt.Sprintf("holdfast restore database %s --at name:%s@%s%s --to DIR", b.Point.Database, b.Point.ID, b.Point.LSN, timeline)
}

// listedPoint is a recovery point, for a person or a program.
type listedPoint struct {
	vault.Point
	Files    string         `json:"files"`
	Backup   string         `json:"backup"`
	Complete bool           `json:"complete"` // every file was read
	Changed  int            `json:"changed"`  // files that did not stand still, and may be of two moments
	Age      event.Duration `json:"age"`
	Bring    string         `json:"bring"`   // what brings both back
	Restore  []string       `json:"restore"` // what brings each back by itself
}

// restless names what did not stand still.
func (p listedPoint) restless() string {
	if p.Changed == 0 {
		return ""
	}
	return fmt.Sprintf(", but %d files changed meanwhile", p.Changed)
}

func pointListCommand() *cobra.Command {
	var from vaultFlags
	var output string
	cmd := &cobra.Command{
		Use:   "list [FILES]",
		Short: "List the recovery points that a vault holds, with what brings them back",
		Example: `  holdfast recovery-point list
  holdfast recovery-point list attachments --vault /mnt/vault --key vault.key --output json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), from.check()); err != nil {
				return err
			}
			held, err := heldFiles(cmd, from, args)
			if err != nil {
				return err
			}
			all := []listedPoint{}
			for _, h := range held {
				for _, b := range h.Backups {
					if b.Point != nil {
						all = append(all, listedPoint{*b.Point, b.Set, b.ID, b.Complete(), b.Changed.Count, event.Duration(time.Since(b.Point.At)), restorePointText(b), []string{restoreFilesText(b), restoreDatabaseText(b)}})
					}
				}
			}
			slices.SortStableFunc(all, func(a, b listedPoint) int { return b.At.Compare(a.At) })
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			return writePoints(cmd.OutOrStdout(), all)
		},
	}
	from.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func writePoints(out io.Writer, all []listedPoint) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	if len(all) == 0 {
		p("there are no recovery points\n")
	}
	for _, x := range all {
		p("%s\t%s\tfiles %s\tdatabase %s at %s\tstood still for %s%s\n", x.ID, momentText(x.At), x.Files, x.Database, x.LSN, x.Stood(), x.restless())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, x := range all[:min(1, len(all))] {
		if _, err := fmt.Fprintf(out, "The newest comes back with:\n  %s\n", x.Bring); err != nil {
			return err
		}
	}
	return nil
}
