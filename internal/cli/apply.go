package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/local"
	"holdfast/internal/plan"
)

func applyCommand() *cobra.Command {
	var root, output string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "apply [PLAN]",
		Short: "Make the running application follow a changed plan",
		Long: `Shows what the plan would start, reload, pause or stop, asks, and hands it to the running application: every agent
takes it over while it runs. Nothing is ever deleted: a copy that the plan does not want any more is stopped, and its
data are kept.

Services with their routes and checks, databases with their standbys, settings, listeners, roles and programs, and when
backups are made and how long they stay change at run time. So do hosts: a plan may have some more, or some less that
nothing counts on any more. Holdfast's own ports, addresses of hosts, the release, vaults, and which databases there are
do not in this version: they are refused by name, and nothing is changed then.

Each change is shown with its effect: reload (nobody notices), restart (instances one at a time), pending (a setting
that PostgreSQL reads at its start: holdfast database restart NAME --pending), pause (sessions are cut), stop.`,
		Example: `  holdfast apply holdfast.yaml --dry-run
  holdfast apply holdfast.yaml --yes`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := planFileDefault
			if len(args) > 0 {
				file = args[0]
			}
			p, err := goodPlan(cmd, file)
			if err != nil {
				return err
			}
			c, err := findContext(root)
			if err != nil {
				return err
			}
			client, err := operatorIn(cmd, c)
			if err != nil {
				return err
			}
			defer client.Close()
			done, err := applyPlan(cmd, client, string(p.Source), output, dryRun, yes)
			if err != nil || !done {
				return err
			}
			return local.Follow(c, p) // commands find the hosts of the new plan
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change, restart or pause; change nothing")
	outputFlag(cmd, &output)
	return cmd
}

// applyPlan reports whether the plan is the one that counts now.
func applyPlan(cmd *cobra.Command, client *api.Client, text, output string, dryRun, yes bool) (applied bool, err error) {
	would, err := client.Apply(cmd.Context(), api.Apply{Text: text, DryRun: true})
	if err != nil {
		return false, err
	}
	if dryRun || output != "json" {
		if err := writeApplied(cmd.OutOrStdout(), would, output); err != nil || dryRun {
			return false, err
		}
	}
	if len(would.Changes) > 0 && !yes {
		if ok, err := confirm(cmd, "Apply this plan?"); err != nil || !ok {
			return false, err
		}
	}
	done, err := client.Apply(cmd.Context(), api.Apply{Text: text, Revision: would.Revision})
	if err != nil {
		return false, err
	}
	if output == "json" {
		return true, writeApplied(cmd.OutOrStdout(), done, output)
	}
	words := "The application follows this plan already."
	if done.Done {
		words = "Applied. Each step is carried out while the application runs: holdfast status shows how far it is."
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), words)
	return true, err
}

// writeApplied shows what changes, what troubles clients most first.
func writeApplied(out io.Writer, a api.Applied, output string) error {
	if output == "json" {
		return json.NewEncoder(out).Encode(a)
	}
	if len(a.Changes) == 0 {
		_, err := fmt.Fprintln(out, "Nothing would change.")
		return err
	}
	order := []plan.Effect{plan.Pauses, plan.Restarts, plan.Stops, plan.Pends, plan.Reloads, plan.Starts, plan.Nothing}
	changes := slices.Clone(a.Changes)
	slices.SortStableFunc(changes, func(x, y plan.Change) int { return slices.Index(order, x.Effect) - slices.Index(order, y.Effect) })
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, c := range changes {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", c.Effect, c.Subject, c.What) // Flush tells the error
	}
	return w.Flush()
}
