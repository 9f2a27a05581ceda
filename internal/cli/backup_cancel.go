package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// backupArgs are what a request for a base backup says besides the database.
func backupArgs(mode, rate string) (map[string]string, error) {
	if !slices.Contains([]string{"full", "proven", "fast", "auto"}, mode) {
		return nil, fmt.Errorf("--mode is full, proven, fast or auto, not %q: %w", mode, errUsage)
	}
	args := map[string]string{agent.ArgMode: mode}
	if rate == "" {
		return args, nil
	}
	n, err := parseBytes(rate)
	if err != nil || n <= 0 {
		return nil, fmt.Errorf("--limit %q: a rate looks like 50MiB, in bytes a second: %w", rate, errUsage)
	}
	args[agent.ArgLimit] = strconv.FormatInt(n, 10)
	return args, nil
}

// parseBytes reads 1048576, 50MB or 50MiB.
func parseBytes(s string) (int64, error) {
	units := []struct {
		unit  string
		bytes float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || n < 0 || n*u.bytes > 1<<50 {
			return 0, fmt.Errorf("read %q as bytes: not a number", s)
		}
		return int64(n * u.bytes), nil
	}
	return 0, fmt.Errorf("read %q as bytes: no unit", s)
}

// cancelMax is how long the host that makes a backup may take to end it: it looks every second, and removes what a trial restored.
const cancelMax = 2 * time.Minute

// ended is one thing that `backup cancel` ended.
type ended struct {
	OK      bool   `json:"ok"`
	Kind    string `json:"kind"`              // base, validate, of files backup, point; prove, files = a trial, a backup of files by itself
	Request string `json:"request,omitempty"` // what asked for it; "" = it had begun by itself
	By      string `json:"by,omitempty"`      // who had asked for it
	Run     any    `json:"run,omitempty"`     // as the status had it last; missing = somebody asked for it
	Text    string `json:"text"`              // what came of it
}

func backupCancelCommand() *cobra.Command {
	var root, output string
	var yes bool
	cmd := &cobra.Command{
		Use:   "cancel NAME",
		Short: "End the base backup that is being made, or the trial of one, and what is asked for",
		Long: `Ends base backups and trials of a database: those that somebody asked for, whether they have begun or not, and those that
began by themselves. Of a base backup that was not complete nothing is listed; what it has stored stays in the vault, and the
next one finds it there. One that is complete and on trial stays, not proven by that. NAME may be a file set too: its backups
on all of its hosts are ended, and a recovery point that is being made, whose files and database go on.

What was ended is not begun again at once: the next is the next one that the plan's schedule wants, which is said. Somebody can
ask for one at any time.`,
		Example: "  holdfast backup cancel records\n  holdfast backup cancel records --yes",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := operatorOf(cmd, root)
			if err != nil {
				return err
			}
			defer client.Close()
			return backupCancel(cmd, client, args[0], output, yes)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	outputFlag(cmd, &output)
	return cmd
}

func backupCancel(cmd *cobra.Command, client *api.Client, name, output string, yes bool) error {
	asked, runs, err := toCancel(cmd.Context(), client, name)
	if err != nil {
		return err
	}
	if len(asked)+len(runs) == 0 {
		return &problem.Problem{Code: "backup.none-asked", Subject: name, Severity: problem.Note, Title: "no backup of it is being made or asked for, and none is on trial",
			Meaning: "Nothing was changed.", Remedy: "see how the backups stand: holdfast backup status " + name}
	}
	if !yes {
		if ok, err := confirm(cmd, cancelQuestion(name, asked, runs)); err != nil || !ok {
			return err
		}
	}
	ctx, stop := context.WithTimeout(cmd.Context(), cancelMax)
	defer stop()
	all, err := cancelAll(ctx, client, name, asked, runs)
	if err != nil {
		return err
	}
	if output == "json" {
		err = writeJSON(cmd.OutOrStdout(), all)
	}
	for _, e := range all {
		if err == nil && output != "json" {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", e.Text)
		}
	}
	if err == nil && slices.ContainsFunc(all, func(e ended) bool { return !e.OK }) {
		err = exitError{1}
	}
	return err
}

// underWay is something that goes on and that nobody asked for.
type underWay struct {
	host, kind, words string
	run               any         // as the status has it
	end               agent.Asked // ends it
}

// toCancel is what of a database's or a file set's backups is asked for, and what goes on that nobody asked for.
func toCancel(ctx context.Context, client *api.Client, name string) ([]api.OpenRequest, []underWay, error) {
	st, err := client.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	set := slices.ContainsFunc(st.Files, func(f api.FilesStatus) bool { return f.Name == name })
	if _, err := databaseIn(st, name); err != nil && !set {
		return nil, nil, err
	}
	open, err := client.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	open = slices.DeleteFunc(open, func(q api.OpenRequest) bool {
		return q.Subject != name || !slices.Contains([]string{"backup/base", "backup/validate", "files/backup", "files/point"}, q.Room+"/"+q.Kind)
	})
	return open, runsToEnd(st, name), nil
}

// runsToEnd is what goes on of a name and nobody asked for. Pure.
func runsToEnd(st api.Status, name string) []underWay {
	var runs []underWay
	for _, d := range st.Databases {
		for _, r := range runsOf(d) {
			if d.Name == name && r.Request == "" {
				runs = append(runs, underWay{r.Host, r.Kind, runText(r, time.Now()), r,
					agent.Asked{Room: "backup", Kind: "cancel", Subject: name, Args: map[string]string{agent.ArgRun: r.ID}}})
			}
		}
	}
	for _, f := range st.Files {
		if f.Name == name && f.Run != nil && f.Run.Request == "" {
			runs = append(runs, underWay{f.Host, agent.ChoreFiles, "backup on " + f.Host + ", by itself, " + filesRunText(*f.Run), *f.Run,
				agent.Asked{Room: "files", Kind: "cancel", Subject: name, Args: map[string]string{agent.ArgRun: f.Run.ID, agent.ArgOn: f.Host}}})
		}
	}
	return runs
}

func cancelQuestion(name string, asked []api.OpenRequest, runs []underWay) string {
	var text strings.Builder
	for _, q := range asked {
		fmt.Fprintf(&text, "%s, asked for by %s %s\n", requestedText(q.Kind), q.By, q.Words)
	}
	for _, r := range runs {
		fmt.Fprintf(&text, "%s\n", r.words)
	}
	return fmt.Sprintf("%sEnd that of %s?", text.String(), name)
}

func requestedText(kind string) string {
	if words, ok := map[string]string{"validate": "trial", "backup": "backup", "point": "recovery point"}[kind]; ok {
		return words
	}
	return "base backup"
}

// cancelAll ends requests, and asks the host that does it for the end of what began by itself.
func cancelAll(ctx context.Context, client *api.Client, name string, asked []api.OpenRequest, runs []underWay) ([]ended, error) {
	all := []ended{}
	for _, q := range asked {
		done, err := client.Cancel(ctx, q.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, ended{OK: true, Kind: done.Kind, Request: done.ID, By: done.By, Text: "Cancelled: the " + requestedText(done.Kind) + " of " + name + " that " + done.By + " asked for."})
	}
	for _, r := range runs {
		q, err := client.Ask(ctx, r.end)
		if err != nil {
			return nil, err
		}
		done, err := client.Wait(ctx, q.ID, nil)
		if err != nil {
			return nil, notEnded(name, r.host, err)
		}
		text := strings.ToUpper(done.Text[:min(1, len(done.Text))]) + done.Text[min(1, len(done.Text)):] + "."
		if !done.OK {
			text = "Not cancelled: " + done.Text + "."
		}
		all = append(all, ended{OK: done.OK, Kind: r.kind, Run: r.run, Text: text})
	}
	return all, nil
}

// notEnded says that the host was asked and has not said that it has ended.
func notEnded(name, host string, cause error) error {
	return &problem.Problem{Code: "backup.not-ended", Subject: name, Severity: problem.Note, Title: host + " has not said that it ended: " + cause.Error(),
		Meaning: "It is asked for, and " + host + " ends it as soon as it hears of that.",
		Remedy:  "see whether it goes on: holdfast backup status " + name + "; and that the agent of " + host + " runs, in the version of the others"}
}
