package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/host"
	"holdfast/internal/problem"
)

// pruneAnswer is what `backup prune` judged, and what became of it.
type pruneAnswer struct {
	Judged backup.Pruned   `json:"judged"`
	Done   []host.Retained `json:"done,omitempty"` // missing with --dry-run
	Host   string          `json:"host,omitempty"`
	Text   string          `json:"text,omitempty"`
}

func backupPruneCommand() *cobra.Command {
	w := &pruneWords{room: "backup", judge: application.judgeBackups}
	cmd := &cobra.Command{
		Use:   "prune NAME",
		Short: "Say of each base backup why it stays or goes, and let go of what is not to stay",
		Long: `Judges every backup by the plan's tiers (all, half_daily, daily, weekly, pitr), pins and holds, and says why. Then the host
that looks after the vault carries it out, as it does by itself at the hours of upkeep: in two steps, with 72 hours between
a backup's mark and its end. The last backup that a restore has proven never goes. Nothing goes while a copy of the vault
is away or damaged, while clocks differ, or without the right to delete.`,
		Example: `  holdfast backup prune records --dry-run
  holdfast backup prune records --dry-run --output json | jq '.judged.backups[] | select(.keep | not)'
  holdfast backup prune records --yes`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: w.run,
	}
	w.add(cmd)
	return cmd
}

// pruneWords are what `backup prune` and `files prune` are told.
type pruneWords struct {
	room         string // of the request
	judge        func(a application, ctx context.Context, name string) (backup.Pruned, error)
	root, output string
	dryRun, yes  bool
	limit        time.Duration
}

func (w *pruneWords) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "say what stays and what goes, and change nothing")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "do not ask")
	cmd.Flags().DurationVar(&w.limit, "timeout", time.Hour, "how long to wait for the host that does it")
	outputFlag(cmd, &w.output)
}

func (w *pruneWords) run(cmd *cobra.Command, args []string) error {
	if err := checkOutput(w.output); err != nil {
		return err
	}
	a, err := findApplication(cmd, w.root)
	if err != nil {
		return err
	}
	judged, err := w.judge(a, cmd.Context(), args[0])
	if err != nil {
		return err
	}
	answer := pruneAnswer{Judged: judged}
	if w.output != "json" {
		if err := writeJudged(cmd.OutOrStdout(), judged, w.room == "backup"); err != nil {
			return err
		}
	}
	if !w.dryRun {
		if !w.yes {
			if ok, err := confirm(cmd, "Carry this out?"); err != nil || !ok {
				return err
			}
		}
		if err := a.askPrune(cmd, w.room, args[0], w.limit, &answer); err != nil {
			return err
		}
	}
	if w.output == "json" {
		return writeJSON(cmd.OutOrStdout(), answer)
	}
	text := "nothing was changed"
	if !w.dryRun {
		text = "done on " + answer.Host + ": " + answer.Text
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// judgeBackups judges from what the vault holds now, and changes nothing.
func (a application) judgeBackups(ctx context.Context, name string) (backup.Pruned, error) {
	_, b, err := a.backupOf(name)
	if err != nil {
		return backup.Pruned{}, err
	}
	v, err := a.openVault(ctx, b.Vault)
	if err != nil {
		return backup.Pruned{}, err
	}
	defer closeVault(ctx, v)
	points, err := a.pointsOf(ctx, v, name)
	if err != nil {
		return backup.Pruned{}, err
	}
	return backup.Prune(ctx, backup.PruneOptions{Vault: v, Database: name, Policy: backup.PolicyOf(b), Points: points, Now: time.Now(), Behind: backup.BehindOf(b), DryRun: true})
}

// askPrune has the host that looks after the vault carry it out.
func (a application) askPrune(cmd *cobra.Command, room, name string, limit time.Duration, answer *pruneAnswer) error {
	client, err := operatorIn(cmd, a.Context)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	q, err := client.Ask(ctx, agent.Asked{Room: room, Kind: "prune", Subject: name})
	if err != nil {
		return err
	}
	done, err := client.Wait(ctx, q.ID, func(agent.Asked) {})
	if err != nil {
		return fmt.Errorf("wait for the host that looks after the vault (it goes on without): %w", err)
	}
	answer.Host, answer.Text = done.Host, done.Text
	if done.OK {
		return json.Unmarshal(done.Result, &answer.Done)
	}
	var why problem.Problem
	if len(done.Result) > 0 && json.Unmarshal(done.Result, &why) == nil && why.Code != "" {
		return &why
	}
	return fmt.Errorf("prune %s on %s: %s", name, done.Host, done.Text)
}

func writeJudged(out io.Writer, p backup.Pruned, log bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	if len(p.Fates) == 0 {
		line("no backup of %s\n", p.Database)
	} else {
		line("BACKUP\tFINISHED\tFATE\tBECAUSE\n")
	}
	for _, f := range p.Fates {
		if f.Point != "" {
			f.Because = "recovery point: " + f.Because
		}
		fate := fateText(f, p.At)
		if p.Waits != "" && fate == "goes now" {
			fate = "goes later"
		}
		line("%s\t%s\t%s\t%s\n", f.ID, momentText(f.At), fate, f.Because)
	}
	if log {
		line("\nlog: %d pieces go; %s\n", p.Segments, p.Because)
	}
	if p.Agreed != "" {
		line("%s\n", p.Agreed)
	}
	if p.Waits != "" {
		line("\nnothing goes now: %s\n", p.Waits)
	}
	return w.Flush()
}

func fateText(f backup.Fate, now time.Time) string {
	switch {
	case f.Keep:
		return "stays"
	case f.Marked.IsZero():
		return "is marked, goes " + momentText(f.Goes)
	case f.Goes.After(now):
		return "goes " + momentText(f.Goes)
	}
	return "goes now"
}
