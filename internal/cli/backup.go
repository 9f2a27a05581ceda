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
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Make base backups, list them, and say which moments can be restored",
		Long: `A base backup is a copy of a database's files; the log that follows it is stored all the time. Together they
lead to any moment between. Each base backup is restored on trial and looked at before it counts as proven.`,
		Example: `  holdfast backup run records        a base backup now
  holdfast backup cancel records     end one that was asked for
  holdfast backup validate records   restore the newest on trial, and look at it
  holdfast backup status             how it stands, and what comes next
  holdfast backup list               what there is, and what is proven
  holdfast backup window records     which moments can be restored
  holdfast backup accept BACKUP --reason "the disk was exchanged"   end the alarm of pages that changed behind the log`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(backupRunCommand(), backupCancelCommand(), backupValidateCommand(), backupListCommand(), backupWindowCommand(),
		backupStatusCommand(), backupPruneCommand(), backupPinCommand(), backupUnpinCommand(), backupHoldCommand(), backupReleaseCommand(), backupAcceptCommand())
	return cmd
}

// usageArgs makes a wrong number of arguments a mistake in the words, not in the work.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) == nil {
			return nil
		}
		_, takes, _ := strings.Cut(cmd.Use, " ")
		got := "no word"
		if len(args) > 0 {
			got = planCount(len(args), "word")
		}
		return fmt.Errorf("%s takes %s, and got %s: %w", strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "), takes, got, errUsage)
	}
}

// checkOutput refuses what --output does not know.
func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return fmt.Errorf("--output is table or json, not %q: %w", output, errUsage)
	}
	return nil
}

func writeJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// backupMax is how long `backup run` waits unless it is told otherwise.
const backupMax = 12 * time.Hour

func backupRunCommand() *cobra.Command {
	var root, output, mode, rate string
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Make a base backup of a database now, and prove it by restoring it",
		Long: `Asks the host that archives the database for a base backup, and waits until it is made, restored on trial and
looked at. The backup reads beside the server; clients notice nothing. Ctrl-C ends the waiting, not the backup:
holdfast backup cancel does. A backup that was cut off goes on from what the vault already holds.

--mode says how it learns what has changed. Whatever it is, the backup is whole and depends on no other.
  full    reads and hashes everything, and tells pages that changed although no log changed them
  proven  the same reading, counted as an incremental
  fast    takes over what no log changed since the backup before; everything is read where that is doubtful, and weekly
  auto    fast from 128 GiB on, else proven

Exit status 1 when it was not made, or was made and is not proven, or when pages were found that changed though no log
changed them.`,
		Example: `  holdfast backup run records
  holdfast backup run records --mode fast
  holdfast backup run records --limit 50MiB
  holdfast backup run records --wait=false
  holdfast backup run records --output json | jq .backup.id`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			how, err := backupArgs(mode, rate)
			if err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			if _, _, err := a.backupOf(args[0]); err != nil {
				return err
			}
			return backupRun(cmd, a, args[0], how, output, wait, limit)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&mode, "mode", "full", "full, proven, fast or auto")
	cmd.Flags().StringVar(&rate, "limit", "", "read no more than this a second, such as 50MiB (default: no limit)")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is made and proven")
	cmd.Flags().DurationVar(&limit, "timeout", backupMax, "how long to wait")
	outputFlag(cmd, &output)
	return cmd
}

// backupAnswer is what `backup run` came to.
type backupAnswer struct {
	OK      bool           `json:"ok"` // made and proven, and no page changed behind the log
	Request string         `json:"request"`
	Host    string         `json:"host,omitempty"`
	Text    string         `json:"text"`
	Took    event.Duration `json:"took"`
	Backup  *vault.Backup  `json:"backup,omitempty"` // nil = none was made
}

func backupRun(cmd *cobra.Command, a application, name string, how map[string]string, output string, wait bool, limit time.Duration) error {
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
	q, err := client.Ask(ctx, agent.Asked{Room: "backup", Kind: "base", Subject: name, Args: how})
	if err != nil {
		return err
	}
	if !wait {
		return writeBackupAnswer(cmd.OutOrStdout(), output, backupAnswer{OK: true, Request: q.ID, Text: "asked for; see holdfast backup list " + name})
	}
	line := newProgressLine(cmd.ErrOrStderr())
	line.show("waiting for the host that archives "+name, "")
	done, err := client.Wait(ctx, q.ID, func(q agent.Asked) {
		if q.Progress != "" {
			phase, detail, _ := strings.Cut(q.Progress, " ")
			line.show(backupPhase(phase)+" on "+q.Host, detail)
		}
	})
	line.end()
	if err != nil {
		return stillWaiting(name, line.phase, err)
	}
	answer := backupAnswer{OK: done.OK, Request: q.ID, Host: done.Host, Text: done.Text, Took: event.Duration(time.Since(began))}
	if len(done.Result) > 0 {
		answer.Backup = &vault.Backup{}
		if err := json.Unmarshal(done.Result, answer.Backup); err != nil {
			return fmt.Errorf("read what %s answered: %w", done.Host, err)
		}
	}
	if err := writeBackupAnswer(cmd.OutOrStdout(), output, answer); err != nil {
		return err
	}
	if done.OK {
		return nil
	}
	if output == "json" {
		return exitError{1}
	}
	return backupProblem(name, answer)
}

// backupPhase says a base backup's phase in words.
func backupPhase(phase string) string {
	switch phase = strings.TrimSuffix(phase, ":"); phase {
	case "checkpoint":
		return "waiting for a checkpoint"
	case "copy":
		return "copying files"
	case "log":
		return "waiting for the log that makes it consistent"
	case "commit":
		return "listing it in the vault"
	case "prove":
		return "restoring it on trial"
	}
	return phase
}

// stillWaiting says that the answer was not awaited to its end.
func stillWaiting(name, phase string, cause error) error {
	title := "the answer was not waited for; last seen: " + phase
	if errors.Is(cause, context.DeadlineExceeded) {
		title = "no answer within the time; last seen: " + phase
	}
	return &problem.Problem{Code: "backup.not-awaited", Subject: name, Severity: problem.Note, Title: title,
		Meaning: "The request stands: the backup goes on, or begins as soon as a host can make it.",
		Remedy:  "see how it went: holdfast backup list " + name + "; and whether the archive is well: holdfast status"}
}

func backupProblem(name string, a backupAnswer) error {
	if a.Backup != nil && a.Backup.Validation != nil && !a.Backup.Validation.Passed {
		return &problem.Problem{Code: "backup.not-proven", Subject: name, Severity: problem.Critical,
			Title:   "base backup " + a.Backup.ID + " was made, and restoring it on trial found it bad: " + proofText(*a.Backup),
			Meaning: "It is never chosen for a restore. Older backups are as they were; the live database may be damaged in the same place.",
			Remedy:  "look at the objects that are named, and keep the older backups until this is understood"}
	}
	if b := a.Backup; b != nil && len(b.Differs) > 0 {
		c := backup.Changed{Backup: b.ID, At: b.Stopped, Before: b.Earlier, Objects: b.Differs}.Problem(name)
		return &c
	}
	return &problem.Problem{Code: "backup.failed", Subject: name, Severity: problem.Critical, Title: a.Text,
		Meaning: "Older backups are as they were. The database was not touched.",
		Remedy:  "see what is wrong with the archive: holdfast status; then ask again: holdfast backup run " + name}
}

func writeBackupAnswer(out io.Writer, output string, a backupAnswer) error {
	if output == "json" {
		return writeJSON(out, a)
	}
	b := a.Backup
	if b == nil {
		if !a.OK {
			return nil // the problem that follows says it
		}
		_, err := fmt.Fprintln(out, a.Text)
		return err
	}
	_, err := fmt.Fprintf(out, "base backup %s, made on %s in %s\n  size      %s in %d files; stored %s\n  restores  from %s on\n  proven    %s\n",
		b.ID, a.Host, tookText(time.Duration(a.Took)), sizeText(b.Bytes), b.Files, sizeText(b.Stored), momentText(b.Stopped), proofText(*b))
	for _, list := range []struct {
		words string
		pages []string
	}{{"BAD PAGES, their checksum is wrong", b.BadPages}, {"CHANGED since " + b.Earlier + " though no log changed them", b.Differs}} {
		if err == nil && len(list.pages) > 0 {
			_, err = fmt.Fprintf(out, "  %s: %s\n", list.words, strings.Join(list.pages, ", "))
		}
	}
	return err
}

// proofText says whether a backup was restored on trial, and what was found.
func proofText(b vault.Backup) string {
	if b.Validation == nil {
		return "not yet"
	}
	if b.Validation.Passed {
		var not []string
		for _, c := range b.Validation.Checks {
			if c.Outcome == "skipped" {
				not = append(not, c.Name)
			}
		}
		if len(not) > 0 {
			return "yes, by restoring it; not looked at: " + strings.Join(not, ", ")
		}
		return "yes, by restoring it"
	}
	var bad []string
	for _, c := range b.Validation.Checks {
		if c.Outcome != "failed" {
			continue
		}
		text := c.Name
		if c.Detail != "" {
			text += " (" + c.Detail + ")"
		}
		if len(c.Objects) > 0 {
			text += ": " + strings.Join(c.Objects, ", ")
		}
		bad = append(bad, text)
	}
	return "NO, " + strings.Join(bad, "; ")
}
