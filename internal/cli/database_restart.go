package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
)

// restartWait is how long the command follows a restart; the restart itself has no such limit.
const restartWait = 30 * time.Minute

func restartCommand() *cobra.Command {
	var root, output string
	var pending, yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "restart NAME",
		Short: "Restart the servers of a database one after the other, the primary last and by switchover",
		Long: `Standbys restart one at a time; the next waits until the one before counts for commits again. Then a standby takes over
from the primary by switchover, and the old primary restarts as a standby. With --pending only those restart whose next
start would change something: a setting that PostgreSQL reads at start, or a newer release of its programs.

A setting that standbys may not have lower than their primary (max_connections and four others) goes up on the standbys
first. Where it goes down, the primary restarts in place first, and clients wait for about two seconds.

Any host carries it on if another fails. What has not begun is ended by "holdfast database cancel".`,
		Example: `  holdfast database restart records --pending --dry-run
  holdfast database restart records --pending
  holdfast database restart records --yes`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			needed, err := showRestart(cmd, client, args[0], pending, dryRun, output)
			if err != nil || dryRun || !needed {
				return err
			}
			if !yes {
				ok, err := confirm(cmd, "Sessions are ended once, when the primary changes. Go on?")
				if err != nil || !ok {
					return err
				}
			}
			return followRestart(cmd, client, args[0], pending, output)
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&pending, "pending", false, "only servers whose next start would change something")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say which servers would restart, in which order and why; change nothing")
	outputFlag(cmd, &output)
	return cmd
}

// showRestart says what would happen, and whether anything would.
func showRestart(cmd *cobra.Command, client *api.Client, name string, pending, dryRun bool, output string) (bool, error) {
	steps, err := client.RestartSteps(cmd.Context(), name, pending)
	if err != nil {
		return false, err
	}
	needed := false
	for _, s := range steps {
		needed = needed || !pending || len(s.Why) > 0
	}
	if output == "json" {
		if dryRun {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(steps)
		}
		return needed, err
	}
	if !needed {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "No server of %s waits for a restart; nothing was changed.\n", name)
		return false, err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	for _, s := range steps {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Host, s.State, strings.Join(s.Why, ", "), s.How) // Flush tells the error
	}
	if dryRun {
		_, _ = fmt.Fprintln(w, "Nothing was changed.")
	}
	return needed, w.Flush()
}

// followRestart asks for the restart and tells how it goes.
func followRestart(cmd *cobra.Command, client *api.Client, name string, pending bool, output string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), restartWait)
	defer cancel()
	q, err := client.Ask(ctx, agent.Asked{Room: "database", Subject: name, Kind: "restart", Args: map[string]string{agent.ArgPending: fmt.Sprint(pending)}})
	if err != nil {
		return err
	}
	began, last := time.Now(), ""
	done, err := client.Wait(ctx, q.ID, func(q agent.Asked) {
		if output != "json" && q.Progress != last {
			last = q.Progress
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%6.1f s  %s\n", time.Since(began).Seconds(), last) // progress alone
		}
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return fmt.Errorf("the restart of %s goes on without this command; see it: holdfast database requests; end it: holdfast database cancel %s", name, q.ID)
	case err != nil:
		return fmt.Errorf("wait for the restart: %w", err)
	case output == "json":
		return writeSettled(cmd.OutOrStdout(), done)
	case !done.OK:
		return fmt.Errorf("the restart of %s did not come to its end: %s", name, done.Text)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s (%s)\n", done.Text, time.Since(began).Round(100*time.Millisecond))
	return err
}

// waiting are the servers of a database whose next start would change something, for the status.
func waiting(d api.DatabaseStatus) []string {
	var out []string
	for _, s := range d.Servers {
		if len(s.Pending) > 0 {
			out = append(out, s.Host+": "+strings.Join(s.Pending, ", "))
		}
	}
	slices.Sort(out)
	return out
}
