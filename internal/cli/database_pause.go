package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
)

// knownMax is how long the hosts may take to hear of a pause before the command says who has not.
const knownMax = 10 * time.Second

func pauseCommand() *cobra.Command {
	var root, reason, output string
	var lasts span
	cmd := &cobra.Command{
		Use:   "pause NAME",
		Short: "Let nothing of a database move by itself for a while: nobody takes over, nothing is restarted or copied",
		Long: `While a database is paused no standby takes over, the primary is not started again when it ends, no copy is made, no
standby joins or leaves those that count, and a standby that you stop stays stopped. What you ask for is done: a
switchover, a restart. What had begun is brought to its end. Two things never pause, for they keep commits safe: a
primary that loses touch with the others is fenced by its own deadline, and a server of an older epoch is ended.

The pause ends by itself after --for, and with "holdfast database resume NAME". Another pause takes the place of the first.`,
		Example: `  holdfast database pause records --for 30m --reason "new disk in east-2"
  holdfast database resume records`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lasts <= 0 {
				return fmt.Errorf("say how long: --for 30m: %w", errUsage)
			}
			client, err := operatorOf(cmd, root)
			if err != nil {
				return err
			}
			defer client.Close()
			q, err := client.Ask(cmd.Context(), agent.Asked{Room: "database", Subject: args[0], Kind: "pause",
				Args: map[string]string{agent.ArgFor: time.Duration(lasts).String(), agent.ArgReason: reason}})
			if err != nil {
				return err
			}
			d, err := awaitPaused(cmd.Context(), client, args[0], q.ID)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(d)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is paused for %s: nothing of it moves by itself. It ends by itself, or with: holdfast database resume %s\n",
				args[0], time.Duration(d.Left).Round(time.Second), args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().Var(&lasts, "for", "how long at most, such as 30m, 2h or 2d (required)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who read the status meanwhile and the history later")
	outputFlag(cmd, &output)
	return cmd
}

// awaitPaused returns when every host that answers keeps to the pause.
func awaitPaused(ctx context.Context, client *api.Client, name, id string) (*api.PauseStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, knownMax)
	defer cancel()
	var last *api.PauseStatus
	for {
		st, err := client.Status(ctx)
		if err == nil {
			i := slices.IndexFunc(st.Databases, func(d api.DatabaseStatus) bool { return d.Name == name })
			if i >= 0 && st.Databases[i].Paused != nil && st.Databases[i].Paused.ID == id {
				if last = st.Databases[i].Paused; len(last.Unaware) == 0 {
					return last, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			who := "the hosts"
			if last != nil {
				who = strings.Join(last.Unaware, ", ")
			}
			return nil, fmt.Errorf("the pause is asked for, but %s did not say within %s that they keep to it: %w", who, knownMax, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func resumeCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:     "resume NAME",
		Short:   "End a pause, or let automatic moves go on that could not help: what is due is done at once",
		Example: "  holdfast database resume records",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), knownMax)
			defer cancel()
			q, err := client.Ask(ctx, agent.Asked{Room: "database", Subject: args[0], Kind: "resume"})
			if err != nil {
				return err
			}
			done, err := client.Wait(ctx, q.ID, nil)
			if err != nil {
				return fmt.Errorf("that is asked for, and no host has taken it up yet: %w", err)
			}
			if output == "json" {
				return writeSettled(cmd.OutOrStdout(), done)
			}
			if !done.OK {
				return fmt.Errorf("%s: nothing was resumed: %s", args[0], done.Text)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s.\n", args[0], done.Text)
			return err
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}
