package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

func databaseCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "database", Short: "Move and inspect databases", Args: cobra.NoArgs}
	cmd.AddCommand(switchoverCommand(), failoverCommand(), salvageCommand(), restartCommand(), pauseCommand(), resumeCommand(), requestsCommand(), cancelCommand(), explainCommand())
	return cmd
}

func explainCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "explain NAME",
		Short: "Who is the primary and why, who would take over now, why not the others, and what keeps it where it is",
		Long: `Shows who is the primary and why; who could take over in a switchover; who would win an election if the primary were
gone this moment, and why not each of the others; what keeps anybody from taking over by itself (a pause, too few standbys
that answer, a failover that could not help); and what a forced failover would lose. Nothing is changed.`,
		Example: `  holdfast database explain records
  holdfast database explain records --output json | jq .election.blocks`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			st, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			d, err := databaseIn(st, args[0])
			if err != nil {
				return err
			}
			c, err := client.Candidates(cmd.Context(), args[0])
			x, xerr := client.Explain(cmd.Context(), args[0])
			if xerr != nil {
				return fmt.Errorf("ask who would take over: %w", xerr)
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"database": d, "candidates": c.Refused, "election": x})
			}
			if err := writeExplanation(cmd.OutOrStdout(), d, c, err); err != nil {
				return err
			}
			return writeElection(cmd.OutOrStdout(), args[0], x)
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

// writeExplanation says what stands, why, and what would follow. Without a primary that answers nobody can say
// who streams from it.
func writeExplanation(out io.Writer, d api.DatabaseStatus, c api.Candidates, unknown error) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	state := "open to clients"
	if away := d.Away(); !d.Open {
		state = "not open to clients"
	} else if away != "" {
		state = away
	}
	p("%s: the primary is on %s (epoch %d, timeline %d, %s, %s)\n", d.Name, d.Primary, d.Epoch, d.Timeline, d.Phase, state)
	for _, why := range d.Because {
		p("  because %s\n", why)
	}
	p("A commit is acknowledged once %d of its standbys hold it; an unplanned takeover needs answers of %d.\n\n", d.AcknowledgedBy, d.ElectionNeeds)
	p("In a switchover now:\n")
	for _, s := range d.Servers {
		if s.Host == d.Primary {
			continue
		}
		why, known := c.Refused[s.Host]
		switch {
		case unknown != nil:
			why = "cannot be said: " + s.State
		case !known:
			why = "counts for no commit now: " + s.State
		case why == "":
			why = "could take over"
		}
		p("%s\t%s\n", s.Host, why)
	}
	return w.Flush()
}

// writeElection says what would follow if the primary were gone now.
func writeElection(out io.Writer, name string, x api.Explained) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	p("\nIf the primary were gone now, as %s sees it:\n", x.Via)
	if x.Wins != "" {
		p("%s\twould be elected: its log goes to %s; %d of %d needed standbys answer\n", x.Wins, x.At, x.Able, x.Needed)
	} else {
		p("nobody would be elected\n")
	}
	for _, o := range x.Others {
		p("%s\tnot: %s\n", o.Host, o.Why)
	}
	for _, b := range x.Blocks {
		p("But nobody takes over by itself: %s.\n", b)
	}
	if len(x.Blocks) == 0 {
		p("Nothing keeps it from that.\n")
	}
	for _, f := range x.Flaps {
		p("%s comes and goes: %s.\n", f.Host, f.Words())
	}
	p("\nIf only its server crashed, a %s would come first: %s.\n", x.Ways.First, x.Ways.Why)
	for _, way := range []struct {
		name  string
		parts []database.Part
	}{{"restart", x.Ways.Restart}, {"failover", x.Ways.Failover}} {
		for _, part := range way.parts {
			p("%s\t%s\t%.1f s\t%s\n", way.name, part.Name, part.Takes.Seconds(), part.Source)
		}
	}
	p("\nFor a primary in trouble, one after the other:\n")
	for i, rung := range x.Ladder {
		p("  %d. %s\n", i+1, rung)
	}
	k := x.Forced
	switch {
	case k.Chosen == "":
		p("\nA forced failover could choose nobody.\n")
	default:
		p("\nA forced failover would choose %s. %s", k.Chosen, loss(k))
	}
	if k.Refused != "" {
		p("It would be refused now: %s\n", k.Refused)
	}
	p("More: holdfast database failover %s --force --dry-run\n", name)
	return w.Flush()
}

// switchoverMax is how long a switchover may take, its checkpoint included.
const switchoverMax = 2 * time.Minute

func switchoverCommand() *cobra.Command {
	var root, to, at, output string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "switchover NAME",
		Short: "Make a standby the primary, with nothing lost; refuses when that cannot be",
		Long: `The primary is stopped in good order, the standby that has every record takes over, and the old primary follows
it. Clients keep their address: new sessions wait for the moment of the change, sessions that exist are ended.
If anything goes wrong before the change, the old primary takes over again.

With --at it waits for that moment, and is judged then: a standby that is not fit at that time is refused, and what
happened stands in the history. "holdfast database requests" lists what waits, "holdfast database cancel" ends it.`,
		Example: `  holdfast database switchover records
  holdfast database switchover records --to east-2 --yes
  holdfast database switchover records --at 04:00`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			due, err := dueMoment(at, time.Now())
			if err != nil {
				return err
			}
			if dryRun {
				return showCandidates(cmd, client, args[0], to, output)
			}
			if err := knownNames(cmd.Context(), client, args[0], to); err != nil {
				return err
			}
			if !yes {
				ok, err := confirm(cmd, fmt.Sprintf("Sessions of %s are ended once and come back within about a second. Go on?", args[0]))
				if err != nil || !ok {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), switchoverMax)
			defer cancel()
			q, err := client.Ask(ctx, agent.Asked{Room: "database", Subject: args[0], Kind: "switchover", Args: switchoverArgs(to, due)})
			if err != nil {
				return err
			}
			if !due.IsZero() {
				return writeAsked(cmd, q, output, fmt.Sprintf("The switchover waits for %s.", due.Format("2006-01-02 15:04:05 MST")))
			}
			began := time.Now()
			done, err := awaitChange(ctx, client, q)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeSettled(cmd.OutOrStdout(), done)
			}
			if !done.OK {
				return notSwitched(args[0], "the switchover did not happen: "+done.Text,
					"The host that was asked for did not take over. Who is the primary now, the message or holdfast status says.")
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s (%s)\n", done.Text, time.Since(began).Round(10*time.Millisecond))
			return err
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&to, "to", "", "the standby's host (default: the furthest)")
	cmd.Flags().StringVar(&at, "at", "", `not before that moment: "04:00" (the next one), "2026-11-21 04:00:00", or "in 2h"`)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say who would take over, and why not the others; change nothing")
	outputFlag(cmd, &output)
	return cmd
}

// databaseIn finds a database of the plan.
func databaseIn(st api.Status, name string) (api.DatabaseStatus, error) {
	var known []string
	for _, d := range st.Databases {
		if d.Name == name {
			return d, nil
		}
		known = append(known, d.Name)
	}
	unknown := api.UnknownName("database", name, known)
	return api.DatabaseStatus{}, &unknown
}

// knownNames refuses a database, and a host ("" = none is named), that the plan does not have: before anybody is asked
// whether to go on.
func knownNames(ctx context.Context, client *api.Client, name, host string) error {
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if _, err := databaseIn(st, name); err != nil || host == "" {
		return err
	}
	var known []string
	for _, h := range st.Hosts {
		if h.Name == host {
			return nil
		}
		known = append(known, h.Name)
	}
	unknown := api.UnknownHost(host, known)
	return &unknown
}

// showCandidates says what a switchover would do.
func showCandidates(cmd *cobra.Command, client *api.Client, name, to, output string) error {
	c, err := client.Candidates(cmd.Context(), name)
	if err != nil {
		return err
	}
	if output == "json" {
		err := json.NewEncoder(cmd.OutOrStdout()).Encode(c)
		if err == nil && !couldTakeOver(c, to) {
			err = exitError{1}
		}
		return err
	}
	if _, known := c.Refused[to]; to != "" && to != c.Primary && !known {
		p := api.UnknownHost(to, append([]string{c.Primary}, slices.Sorted(maps.Keys(c.Refused))...))
		p.Title = "no server of " + name + " lies on such a host"
		return &p
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "primary\t%s\n", c.Primary) // Flush tells the error
	for _, host := range slices.Sorted(maps.Keys(c.Refused)) {
		why := c.Refused[host]
		if why == "" {
			why = "could take over"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\n", host, why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if !couldTakeOver(c, to) {
		return notSwitched(name, "a switchover would be refused now: "+refusal(c, to), "Nothing was changed.")
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), "Nothing was changed. Sessions would be ended once; new ones wait for the change.")
	return err
}

// couldTakeOver reports whether a host could, or with "" any.
func couldTakeOver(c api.Candidates, to string) bool {
	for host, why := range c.Refused {
		if why == "" && (to == "" || to == host) {
			return true
		}
	}
	return false
}

// refusal says why no switchover can be: to one host, or with "" to any.
func refusal(c api.Candidates, to string) string {
	switch {
	case to == "":
		return "no standby could take over"
	case to == c.Primary:
		return to + " is the primary already"
	}
	return c.Refused[to]
}

// notSwitched is a switchover that would be refused, was refused, or ended otherwise than asked: with the primary of before, or
// with a third host where the primary died meanwhile. So who asks says what it means.
func notSwitched(name, title, meaning string) error {
	return &problem.Problem{
		Code: "database.not-switched", Subject: name, Severity: problem.Note, Title: title,
		Meaning: meaning,
		Remedy:  "see who could take over, and why the others could not: holdfast database switchover " + name + " --dry-run",
	}
}

// confirm asks a person; without a terminal the answer is no.
func confirm(cmd *cobra.Command, question string) (bool, error) {
	if _, err := fmt.Fprint(cmd.ErrOrStderr(), question+" [y/N] "); err != nil {
		return false, err
	}
	var word string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &word); err != nil || (word != "y" && word != "yes") {
		return false, fmt.Errorf("nothing was changed; --yes goes on without asking: %w", errUsage)
	}
	return true, nil
}
