package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/restore"
)

// dueMoment reads --at of what shall happen later. A time of the day is the next one. Empty = now, the zero time.
func dueMoment(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if rest, ok := strings.CutPrefix(s, "in "); ok {
		d, err := parseSpan(rest)
		if err != nil || d <= 0 {
			return time.Time{}, fmt.Errorf("--at %q: it reads like \"in 2h\", \"in 90m\" or \"in 2 days\": %w", s, errUsage)
		}
		return now.Add(d), nil
	}
	at, ok, err := clockTime(s, now)
	if ok && err == nil { // the last one
		return at.AddDate(0, 0, 1), nil
	}
	if !ok {
		at, ok, err = restore.ParseTime(s, now.Location())
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("--at %q: %w: %w", s, err, errUsage)
	}
	if ok {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("--at %q: a moment looks like 04:00, \"2026-11-21 04:00:00\" or \"in 2h\": %w", s, errUsage)
}

func switchoverArgs(to string, due time.Time) map[string]string {
	args := map[string]string{agent.ArgTo: to}
	if !due.IsZero() {
		args[agent.ArgAt] = due.UTC().Format(time.RFC3339Nano)
	}
	return args
}

// writeSettled writes how a request ended, as JSON. What was not done ends with status 1, as it does in words.
func writeSettled(out io.Writer, done agent.Settled) error {
	err := json.NewEncoder(out).Encode(done)
	if err == nil && !done.OK {
		err = exitError{1}
	}
	return err
}

// writeAsked tells of a request that is taken and not waited for.
func writeAsked(cmd *cobra.Command, q agent.Asked, output, words string) error {
	if output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(q)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\nTo see it: holdfast database requests. To end it: holdfast database cancel %s\n", words, q.ID)
	return err
}

func requestsCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:     "requests",
		Short:   "What operators asked for and is not settled: pauses, restarts, switchovers that wait",
		Example: "  holdfast database requests",
		Args:    cobra.NoArgs,
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, _ []string) error {
			open, err := client.Open(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(open)
			}
			if len(open) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "Nothing is asked for.")
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "ID\tOF\tWHAT\tBY\tHOW FAR") // Flush tells the error
			for _, q := range open {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", q.ID, q.Subject, wish(q), q.By, q.Words)
			}
			return w.Flush()
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}

// wish is what a request asks for, in words.
func wish(q api.OpenRequest) string {
	words := api.Wish(q.Asked, time.Local)
	if why := q.Args[agent.ArgReason]; why != "" {
		words += " (" + why + ")"
	}
	return words
}

func cancelCommand() *cobra.Command {
	var root, output string
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "End a request that is not settled yet; a change of primary that has begun is not cut short",
		Example: `  holdfast database requests
  holdfast database cancel 3f9a6c0d5e7b1a24`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: asOperator(&root, func(cmd *cobra.Command, client *api.Client, args []string) error {
			q, err := client.Cancel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(q)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Cancelled: %s of %s.\n", q.Kind, q.Subject)
			return err
		}),
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	outputFlag(cmd, &output)
	return cmd
}
