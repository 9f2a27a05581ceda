package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

func salvageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "salvage",
		Short: "What a forced failover lost: list it, get it out, or waive it",
		Long: `A server whose log went another way than the database is never made a copy again before what it alone holds has
been put aside and listed. Where a forced failover gave commits up, it also waits until somebody has decided about
them: exported, or waived by name.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(salvageListCommand(), salvageShowCommand(), salvageExportCommand(), salvageWaiveCommand())
	return cmd
}

func salvageListCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:     "list NAME",
		Short:   "What was put aside, on every host that answers",
		Example: "  holdfast database salvage list records",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			all, silent, err := salvagesOf(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
			}
			return writeSalvages(cmd.OutOrStdout(), args[0], all, silent)
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

func salvagesOf(ctx context.Context, client *api.Client, name string) ([]api.Salvaged, []string, error) {
	if err := knownNames(ctx, client, name, ""); err != nil {
		return nil, nil, err
	}
	all, silent, err := client.Salvages(ctx)
	if err != nil {
		return nil, nil, err
	}
	all = slices.DeleteFunc(append([]api.Salvaged{}, all...), func(x api.Salvaged) bool { return x.Database != name })
	slices.SortFunc(all, func(a, b api.Salvaged) int { return a.Made.Compare(b.Made) })
	return all, silent, nil
}

func writeSalvages(out io.Writer, name string, all []api.Salvaged, silent []string) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	if len(all) == 0 {
		p("Nothing of %s has been put aside on the hosts that answer.\n", name)
	} else {
		p("ID\tHOST\tMADE\tCOMMITS\tACKNOWLEDGED\tWHAT BECOMES OF IT\n")
	}
	for _, x := range all {
		what := "nobody was told of any of it: nothing to decide"
		switch {
		case x.Waits:
			what = "waits for you: export it, or waive it"
		case x.Settled != "":
			what = x.Settled
		case x.Given:
			what = "was decided; holdfast history has it"
		}
		p("%s\t%s\t%s\t%d\t%d\t%s\n", x.ID, x.Host, x.Made.Format(time.RFC3339), x.Commits, x.Acknowledged, what)
	}
	if len(silent) > 0 {
		p("%d hosts do not answer; there may be more on them.\n", len(silent))
	}
	return w.Flush()
}

func salvageShowCommand() *cobra.Command {
	var root, output string
	var pick salvagePick
	cmd := &cobra.Command{
		Use:   "show NAME [ID]",
		Short: "The commits that were put aside: number, time, position, tables, acknowledged or in doubt",
		Long: `Tables have the names that the primary knew them by when the server came back; a table that was made, rewritten or
dropped since is shown by the number of its file. --table and --state choose among the commits, and --skip and --limit page
through those.`,
		Example: `  holdfast database salvage show records
  holdfast database salvage show records --table public.orders --state acknowledged --skip 40
  holdfast database salvage show records epoch-7-0a1b2c3d4e5f --output json`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			id := ""
			if len(args) == 2 {
				id = args[1]
			}
			x, err := oneSalvage(cmd.Context(), client, args[0], id)
			if err != nil {
				return err
			}
			if err := pick.check(); err != nil {
				return err
			}
			report, err := client.Salvage(cmd.Context(), args[0], x.ID)
			if err != nil {
				return err
			}
			if output == "json" {
				if !cmd.Flags().Changed("limit") {
					pick.limit = 0
				}
				report.Commits, _ = pick.of(report.Commits)
				return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			}
			return writeReport(cmd.OutOrStdout(), report, pick)
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&pick.table, "table", "", "only commits that changed this table (schema.table, or file NUMBER)")
	cmd.Flags().StringVar(&pick.state, "state", "", "only commits that are acknowledged, or in-doubt")
	cmd.Flags().IntVar(&pick.skip, "skip", 0, "commits to pass over first")
	cmd.Flags().IntVar(&pick.limit, "limit", 40, "commits to show; 0 = all (default with --output json: all)")
	outputFlag(cmd, &output)
	return cmd
}

// oneSalvage finds what is meant; without an id, the only one that waits, else the newest.
func oneSalvage(ctx context.Context, client *api.Client, name, id string) (api.Salvaged, error) {
	all, silent, err := salvagesOf(ctx, client, name)
	if err != nil {
		return api.Salvaged{}, err
	}
	for _, x := range slices.Backward(all) {
		if x.ID == id || id == "" && x.Waits {
			return x, nil
		}
	}
	if id == "" && len(all) > 0 {
		return all[len(all)-1], nil
	}
	title := "nothing was put aside"
	if id != "" {
		title = "nothing of the name " + id + " was put aside"
	}
	if len(silent) > 0 {
		title += fmt.Sprintf(" on the hosts that answer; %d do not", len(silent))
	}
	return api.Salvaged{}, &problem.Problem{Code: "api.unknown", Subject: name, Severity: problem.Note,
		Title: title, Meaning: "Nothing was changed.", Remedy: "holdfast database salvage list " + name + " lists what there is"}
}

func writeReport(out io.Writer, r database.Salvage, pick salvagePick) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	p("%s: what %s alone holds of %s, from %s to %s on timeline %d (%d bytes)\n", r.ID, r.Host, r.Database, r.From, r.To, r.Timeline, r.Bytes)
	if r.Given {
		p("%d commits, given up by a forced failover: %d acknowledged, %d in doubt\n", len(r.Commits), r.Acknowledged(), len(r.Commits)-r.Acknowledged())
	} else {
		p("%d commits of which no client was ever told that they are safe\n", len(r.Commits))
	}
	if r.Unread > 0 {
		p("%d records could not be understood: the list may lack something\n", r.Unread)
	}
	if len(r.Commits) > 0 {
		p("\nXID\tTIME\tPOSITION\tSTATE\tDATABASE\tROWS\n")
	}
	shown, fit := pick.of(r.Commits)
	for _, c := range shown {
		state := string(c.State)
		if c.Outcome != "commit" {
			state = strings.TrimSpace(c.Outcome+" "+c.GID) + ", " + state
		}
		p("%d\t%s\t%s\t%s\t%s\t%s\n", c.XID, c.At.Format("2006-01-02 15:04:05.000000Z07:00"), c.LSN, state, c.Database, rowsOf(c))
	}
	if fit < len(r.Commits) {
		p("%d of %d commits are as asked for.\n", fit, len(r.Commits))
	}
	if more := fit - pick.skip - len(shown); more > 0 {
		p("... and %d more: --skip %d goes on, --limit 0 shows all\n", more, pick.skip+len(shown))
	}
	return w.Flush()
}

// rowsOf are the rows of one commit in words.
func rowsOf(c database.LostCommit) string {
	var parts []string
	catalog := false
	for _, t := range c.Tables {
		if t.Catalog {
			catalog = true
			continue
		}
		var n []string
		for _, x := range []struct {
			count int
			word  string
		}{{t.Inserted, "inserted"}, {t.Updated, "updated"}, {t.Deleted, "deleted"}} {
			if x.count != 0 {
				n = append(n, fmt.Sprintf("%d %s", x.count, x.word))
			}
		}
		if t.Truncated || t.Dropped {
			n = append(n, "truncated, rewritten or dropped")
		}
		parts = append(parts, t.Name+": "+strings.Join(n, ", "))
	}
	if catalog {
		parts = append(parts, "tables or other objects made or changed")
	}
	if c.AtLeast {
		parts = append(parts, "at least")
	}
	return strings.Join(parts, "; ")
}

func salvageWaiveCommand() *cobra.Command {
	var root, reason string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:     "waive NAME ID",
		Short:   "Decide that commits that were put aside are not needed, so that their server may come back",
		Example: `  holdfast database salvage waive records epoch-7-0a1b2c3d4e5f --reason "test data only"`,
		Args:    usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return fmt.Errorf("--reason says why nobody needs these commits; the history keeps it: %w", errUsage)
			}
			client, err := operatorOf(cmd, root)
			if err != nil {
				return err
			}
			defer client.Close()
			x, err := oneSalvage(cmd.Context(), client, args[0], args[1])
			if err != nil {
				return err
			}
			if !x.Waits {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s waits for nobody: nothing was changed.\n", x.ID)
				return err
			}
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%d commits of %s, %d of them acknowledged, will not come back into %s. What was put aside is kept.\n",
				x.Commits, x.Host, x.Acknowledged, args[0]); err != nil {
				return err
			}
			if dryRun {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "Nothing was changed.")
				return err
			}
			if !yes {
				if ok, err := confirm(cmd, "Waive them?"); err != nil || !ok {
					return err
				}
			}
			return settleSalvage(cmd, client, x, "waived: "+reason)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&reason, "reason", "", "why nobody needs these commits")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be waived; change nothing")
	return cmd
}

// settleMax is how long the primary may take to note a decision.
const settleMax = time.Minute

// settleSalvage has the primary note what became of something.
func settleSalvage(cmd *cobra.Command, client *api.Client, x api.Salvaged, text string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), settleMax)
	defer cancel()
	wish := agent.Asked{Room: "database", Subject: x.Database, Kind: "settle", Args: map[string]string{
		agent.ArgTo: x.Host, agent.ArgKept: x.ID, agent.ArgText: text,
	}}
	q, err := client.Ask(ctx, wish)
	for p := (*problem.Problem)(nil); errors.As(err, &p) && (p.Code == "api.no-agent" || p.Code == "cluster.unreachable"); {
		// Asking twice for the same decision does no harm, and what was exported need not be exported again.
		select {
		case <-ctx.Done():
			return fmt.Errorf("it was not noted; holdfast database salvage waive notes a decision later: %w", err)
		case <-time.After(time.Second):
		}
		q, err = client.Ask(ctx, wish)
	}
	if err != nil {
		return err
	}
	done, err := client.Wait(ctx, q.ID, nil)
	if err != nil {
		return fmt.Errorf("wait until it is noted: %w", err)
	}
	if !done.OK {
		return fmt.Errorf("it was not noted: %s", done.Text)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), done.Text)
	return err
}
