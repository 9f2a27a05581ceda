package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// validateWords are what `backup validate` is told.
type validateWords struct {
	from                vaultFlags
	id, dir, binDir     string
	output, rate        string
	noRecord            bool
	wait                time.Duration
	limitBytesPerSecond int64
}

func backupValidateCommand() *cobra.Command {
	var w validateWords
	cmd := &cobra.Command{
		Use:   "validate NAME",
		Short: "Restore a base backup on trial and look at everything in it",
		Long: `Asks the host that archives the database to restore a base backup to a scratch server that nobody else can reach, to
replay its log, and to look at it: every page's checksum, every index and table by amcheck, the visibility map, each table
counted by an index alone and by its pages, and the plan's own probes, in every SQL database. What is bad is named; the
outcome is kept in the vault, and a bad backup is never chosen for a restore. The scratch server is removed again.

With --vault and --key it does so on this machine, where PostgreSQL of the same major version must be installed; the plan's
probes are not known then.

Exit status 1 when the backup was found bad, or nothing was found out.`,
		Example: `  holdfast backup validate records
  holdfast backup validate records --backup records-20261121-010000-3f9c --output json
  holdfast backup validate records --vault file:///mnt/vault --key vault.key --dir /var/tmp --limit 50MiB`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT) // the scratch server ends, too
			defer stop()
			if w.from.url != "" {
				return w.here(ctx, cmd, args[0])
			}
			return w.ask(ctx, cmd, args[0])
		},
	}
	w.from.add(cmd)
	cmd.Flags().StringVar(&w.id, "backup", "", "which base backup (default: the newest that has not been restored on trial)")
	cmd.Flags().StringVar(&w.dir, "dir", "/var/tmp", "with --vault: where the scratch copy is made")
	cmd.Flags().StringVar(&w.binDir, "bin-dir", "", "with --vault: "+binDirUsage)
	cmd.Flags().StringVar(&w.rate, "limit", "", "with --vault: write and read no more than this a second, such as 50MiB (default: no limit)")
	cmd.Flags().BoolVar(&w.noRecord, "no-record", false, "with --vault: say the outcome, and write nothing into the vault")
	cmd.Flags().DurationVar(&w.wait, "timeout", backupMax, "how long to wait for the host")
	outputFlag(cmd, &w.output)
	return cmd
}

func (w *validateWords) check() error {
	if err := errors.Join(checkOutput(w.output), w.from.check()); err != nil {
		return err
	}
	if w.from.url == "" && (w.binDir != "" || w.rate != "" || w.noRecord) {
		return fmt.Errorf("--bin-dir, --limit and --no-record are for --vault; what a host of the plan does is in the plan, below validate: %w", errUsage)
	}
	if w.rate == "" {
		return nil
	}
	n, err := parseBytes(w.rate)
	if err != nil || n <= 0 {
		return fmt.Errorf("--limit %q: a rate looks like 50MiB, in bytes a second: %w", w.rate, errUsage)
	}
	w.limitBytesPerSecond = n
	return nil
}

// validated is what `backup validate` came to.
type validated struct {
	OK       bool           `json:"ok"` // found good
	Database string         `json:"database"`
	Host     string         `json:"host,omitempty"`
	Text     string         `json:"text,omitempty"`
	Took     event.Duration `json:"took"`
	Backup   *vault.Backup  `json:"backup,omitempty"`
}

// ask lets the host that archives the database do it.
func (w *validateWords) ask(ctx context.Context, cmd *cobra.Command, name string) error {
	a, err := findApplication(cmd, w.from.root)
	if err != nil {
		return err
	}
	if _, _, err := a.backupOf(name); err != nil {
		return err
	}
	client, err := operatorIn(cmd, a.Context)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, w.wait)
	defer cancel()
	args := map[string]string{}
	if w.id != "" {
		args[agent.ArgBackup] = w.id
	}
	began := time.Now()
	q, err := client.Ask(ctx, agent.Asked{Room: "backup", Kind: "validate", Subject: name, Args: args})
	if err != nil {
		return err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	line.show("waiting for the host that archives "+name, "")
	done, err := client.Wait(ctx, q.ID, func(q agent.Asked) {
		if phase, detail, _ := strings.Cut(q.Progress, " "); phase != "" {
			line.show(backupPhase(phase)+" on "+q.Host, detail)
		}
	})
	line.end()
	if err != nil {
		return stillWaiting(name, line.phase, err)
	}
	answer := validated{OK: done.OK, Database: name, Host: done.Host, Text: done.Text, Took: event.Duration(time.Since(began))}
	if len(done.Result) > 0 {
		answer.Backup = &vault.Backup{}
		if err := json.Unmarshal(done.Result, answer.Backup); err != nil {
			return fmt.Errorf("read what %s answered: %w", done.Host, err)
		}
	}
	return w.tell(cmd, answer)
}

// here does it on this machine, with nothing but the vault and its key.
func (w *validateWords) here(ctx context.Context, cmd *cobra.Command, name string) (err error) {
	place, err := placeAlone(ctx, w.from.url, w.from.key)
	if err != nil {
		return err
	}
	place.ReadOnly = w.noRecord
	v, err := vault.Open(ctx, place)
	if err != nil {
		return err
	}
	defer closeWritten(ctx, v, &err)
	owner, err := restore.DefaultOwner()
	if err != nil {
		return err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	began := time.Now()
	b, val, err := backup.Validate(ctx, backup.ValidateOptions{
		Vault: v, Database: name, Backup: w.id, Dir: w.dir, Owner: owner, BinDir: w.binDir, Limit: w.limitBytesPerSecond, NoRecord: w.noRecord,
		Progress: func(p backup.Progress) {
			rate, left := p.Rate()
			line.show("restoring it on trial", strings.TrimSpace(p.Phase+" "+farText(p.Done, p.Total, rate, left)))
		},
	})
	line.end()
	if err != nil {
		return err
	}
	b.Validation = &val
	return w.tell(cmd, validated{OK: val.Passed, Database: name, Took: event.Duration(time.Since(began)), Backup: &b})
}

func (w *validateWords) tell(cmd *cobra.Command, a validated) error {
	if w.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), a); err != nil {
			return err
		}
		if !a.OK {
			return exitError{1}
		}
		return nil
	}
	if a.Backup == nil || a.Backup.Validation == nil {
		return &problem.Problem{Code: "backup.not-validated", Subject: a.Database, Severity: problem.Degraded, Title: a.Text,
			Meaning: "No backup was judged. What the vault holds is as it was.", Remedy: "see holdfast backup list " + a.Database + ", mend what is named, and ask again"}
	}
	if err := writeValidation(cmd.OutOrStdout(), *a.Backup); err != nil {
		return err
	}
	if a.OK {
		return nil
	}
	return &problem.Problem{Code: "backup.not-proven", Subject: a.Database, Severity: problem.Critical,
		Title:   "base backup " + a.Backup.ID + " was restored on trial and found bad: " + backup.FirstBad(*a.Backup),
		Meaning: "It is never chosen for a restore. Older backups are as they were; the live database may be damaged in the same place.",
		Remedy:  "look at the objects that are named, and keep the older backups until this is understood"}
}

// writeValidation shows each step with its time, and everything that was found.
func writeValidation(out io.Writer, b vault.Backup) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	outcome := "proven: it was restored and found good"
	if !b.Validation.Passed {
		outcome = "BAD"
	}
	p("base backup %s of %s: %s, in %s\n", b.ID, b.Database, outcome, tookText(b.Validation.Took))
	for _, c := range b.Validation.Checks {
		p("  %s\t%s\t%s\t%s\n", c.Name, c.Outcome, tookText(c.Took), c.Detail)
		for _, o := range c.Objects {
			p("  \t\t\t%s\n", o)
		}
	}
	return w.Flush()
}
