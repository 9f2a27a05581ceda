package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/problem"
)

func clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cluster", Args: cobra.NoArgs,
		Short: "The agreed state (etcd): its members, a dead member's place, the loss of most of them, and a stop of everything",
	}
	cmd.AddCommand(clusterStatusCommand(), clusterStartCommand(), clusterReplaceCommand(), clusterCertifyCommand(), clusterRecoverCommand())
	return cmd
}

func clusterStatusCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Who keeps the agreed state, how well, and when it was last saved to a vault",
		Example: `  holdfast cluster status
  holdfast cluster status --output json`,
		Args: cobra.NoArgs,
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, _ []string) error {
			all, err := client.Clusters(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(all)
			}
			return writeClusters(cmd.OutOrStdout(), all, time.Now())
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

func clusterStartCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Take back a stop of the whole application (holdfast down)",
		Long: `A stop of the whole application stands in the agreed state until it is taken back, so that hosts which are started one
after the other do not take each other for dead. Start the agent of each host first: this takes the stop back once a
majority of them runs, and every host whose agent runs starts its databases and services then. On one machine,
holdfast up does both.`,
		Example: `  holdfast cluster start`,
		Args:    cobra.NoArgs,
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, _ []string) error {
			stood, err := client.Start(cmd.Context())
			if err != nil {
				return err
			}
			text := "the stop is taken back: every host whose agent runs starts its databases and services (holdfast status)"
			if !stood {
				text = "no stop stands, so there is nothing to take back (holdfast status)"
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	return cmd
}

// best is the view of a host that reaches a majority, of the latest rebuilding; else any.
func best(all []api.ClusterStatus) api.ClusterStatus {
	rank := func(s api.ClusterStatus) (able, number int64) {
		if s.Reachable && s.WrittenOff == "" {
			able = 1
		}
		if s.Recovery != nil {
			number = s.Recovery.Number
		}
		return able, number
	}
	return slices.MaxFunc(all, func(a, b api.ClusterStatus) int {
		ableA, numberA := rank(a)
		ableB, numberB := rank(b)
		return cmp.Or(cmp.Compare(ableA, ableB), cmp.Compare(numberA, numberB))
	})
}

// writeClusters says first whether the hosts can agree on anything.
func writeClusters(out io.Writer, all []api.ClusterStatus, now time.Time) error {
	b := best(all)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	need, serve := b.Majority()
	switch {
	case !b.Reachable:
		p("The hosts cannot agree on anything now: %d of %d needed members answer %s. What runs goes on with its last orders.\n", serve, need, b.Host)
		p("If the others are gone for good: holdfast cluster recover --dry-run\n\n")
	case serve > need:
		p("The hosts agree: %d members answer, %d are needed; any %d may be lost.\n\n", serve, need, serve-need)
	default:
		p("The hosts agree: %d members answer, %d are needed; no further one may be lost.\n\n", serve, need)
	}
	p("MEMBER\tROLE\tSERVES\tLEADER\tSIZE\tSYNC\t\n")
	for _, s := range b.Seats {
		p("%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Host, s.Role, serves(s), yes(s.Leader), size(s.Bytes), syncOf(all, s.Host), s.Trouble)
	}
	p("\n")
	for _, s := range all {
		if s.WrittenOff != "" {
			p("%s takes no part: %s\n", s.Host, s.WrittenOff)
		} else if !s.Reachable && b.Reachable {
			p("%s does not reach a majority: %s\n", s.Host, s.Trouble)
		}
	}
	if r := b.Recovery; r != nil {
		p("Rebuilt %d times, last on %s by %s from %s; written off then: %s\n", r.Number, r.At.Local().Format("2006-01-02 15:04:05"), r.Survivor, r.From, strings.Join(r.Lost, ", "))
	}
	for _, s := range b.Saved {
		p("Saved to vault %s at revision %d, %s ago\n", s.Vault, s.Revision, now.Sub(s.At).Round(time.Second))
	}
	if len(b.Saved) == 0 {
		p("Saved to no vault: should most hosts be lost, nothing of it would be left\n")
	}
	return w.Flush()
}

func serves(s api.SeatStatus) string {
	if s.Serves {
		return "yes"
	}
	return "no"
}

func syncOf(all []api.ClusterStatus, host string) string {
	for _, s := range all {
		if s.Host == host && s.Fsync > 0 {
			return time.Duration(s.Fsync).Round(100 * time.Microsecond).String()
		}
	}
	return ""
}

// replaceMax is how long an empty member may take to catch up: the agreed state is small.
const replaceMax = 2 * time.Minute

func clusterReplaceCommand() *cobra.Command {
	var root string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "replace HOST",
		Short: "Take a host in again whose etcd data are gone, or that was written off",
		Long: `The host's place among the members is given to an empty one, which catches up and then votes. The host's agent
must run; what its member held before is put aside on its disk and not deleted. Databases are not touched: their copies
on that host are made good by the usual rules. A member that serves is refused, by --dry-run too. A host that keeps no
member enters the cluster again, and votes as little as before.

Voters stay odd: after the loss of two of three hosts the first one that comes back follows without a vote until the
second one is there.`,
		Example: `  holdfast cluster replace east-2
  holdfast cluster replace east-2 --dry-run`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := findContext(root)
			if err != nil {
				return err
			}
			client, err := operatorIn(cmd, c)
			if err != nil {
				return err
			}
			defer client.Close()
			address, ok := c.Agents[args[0]]
			if !ok {
				p := api.UnknownHost(args[0], slices.Sorted(maps.Keys(c.Agents)))
				return &p
			}
			if dryRun || !yes {
				if err := sayReplace(cmd, client, args[0], address); err != nil || dryRun {
					return err
				}
				ok, err := confirm(cmd, "Give its place to an empty member?")
				if err != nil || !ok {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), replaceMax)
			defer cancel()
			return replaceMember(ctx, cmd.OutOrStdout(), client, args[0], address)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would happen; change nothing")
	return cmd
}

// sayReplace says what stands and what would happen, or refuses what would be refused.
func sayReplace(cmd *cobra.Command, client *api.Client, host, address string) error {
	if err := client.MayReplace(cmd.Context(), host, address); err != nil {
		return err
	}
	all, err := client.Clusters(cmd.Context())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), wouldReplace(best(all), host)+"\nNothing was changed yet.")
	return err
}

// wouldReplace says what stands, and what a replacement would do.
func wouldReplace(s api.ClusterStatus, host string) string {
	for _, x := range s.Seats {
		if x.Host == host {
			return strings.TrimSpace(fmt.Sprintf("%s: it has a seat (%s) and serves: %s %s", host, x.Role, serves(x), x.Trouble)) +
				".\nIts seat would be given to an empty member on the same host; the host's old etcd data would be put aside."
		}
	}
	return host + ": it has no seat.\nWhere the plan gives it one, an empty member would take it; else its agent would only enter the cluster again. Old etcd data would be put aside."
}

// replaceMember carries the order from the cluster to the host, and waits until the host takes part. etcd refuses a
// change of members while another is settling, and the host may be about to restart: both are tried again.
func replaceMember(ctx context.Context, out io.Writer, client *api.Client, host, address string) error {
	order, err := persist(ctx, func() (api.JoinOrder, error) { return client.ReplaceMember(ctx, host, address) })
	if err != nil {
		return fmt.Errorf("give the place of %s away: %w", host, err)
	}
	all, err := persist(ctx, func() ([]api.ClusterStatus, error) { return client.Clusters(ctx) })
	if err != nil {
		return fmt.Errorf("see whether %s has a place: %w", host, err)
	}
	said := "the place of " + host + " is an empty member's now"
	if !hasSeat(best(all), host) {
		said = host + " keeps no member; its agent is told to enter the cluster"
	}
	if _, err := fmt.Fprintln(out, said); err != nil {
		return err
	}
	if _, err := persist(ctx, func() (bool, error) { return true, client.Join(ctx, address, order) }); err != nil {
		return fmt.Errorf("its agent was not told (start it, and repeat the command): %w", err)
	}
	for {
		all, err := client.Clusters(ctx)
		if err == nil {
			if text := takenIn(all, host); text != "" {
				_, err := fmt.Fprintln(out, text)
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s takes part (it goes on by itself): %w", host, errors.Join(ctx.Err(), err))
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func hasSeat(s api.ClusterStatus, host string) bool {
	return slices.ContainsFunc(s.Seats, func(x api.SeatStatus) bool { return x.Host == host })
}

// takenIn says that a host takes part again, or "": by its member; one that keeps none, by its own word that the agreed
// state of the others answers it and that it is not written off.
func takenIn(all []api.ClusterStatus, host string) string {
	b := best(all)
	if hasSeat(b, host) {
		return seated(b, host)
	}
	for _, s := range all {
		if s.Host == host && s.Reachable && s.WrittenOff == "" && s.ClusterID == b.ClusterID {
			return host + " takes part again; it keeps no member, so it has no vote"
		}
	}
	return ""
}

// seated says that a host's member takes part, or "".
func seated(s api.ClusterStatus, host string) string {
	voters, learners := 0, 0
	for _, x := range s.Seats {
		if x.Role == "voter" {
			voters++
		} else {
			learners++
		}
	}
	for _, x := range s.Seats {
		switch {
		case x.Host != host || !x.Serves:
		case x.Role == "voter":
			return fmt.Sprintf("%s votes: %d members do", host, voters)
		case voters%2 == 1 && learners == 1:
			return fmt.Sprintf("%s follows; it votes once another host is there, for %d voters survive no more losses than %d", host, voters+1, voters)
		}
	}
	return ""
}

// persist repeats what an unreachable host or an unsettled cluster refused, until ctx ends. A refusal with a reason of its own ends it.
func persist[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for {
		v, err := do()
		var p *problem.Problem
		if err == nil || errors.As(err, &p) && p.Code != "api.no-agent" && p.Code != "cluster.unreachable" {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}
