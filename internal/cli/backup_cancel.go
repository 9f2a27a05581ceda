package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

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

func backupCancelCommand() *cobra.Command {
	var root, output string
	var yes bool
	cmd := &cobra.Command{
		Use:   "cancel NAME",
		Short: "End a base backup that was asked for and is not made yet",
		Long: `Ends base backups of a database that somebody asked for, whether they have begun or not. What they have stored stays
in the vault unlisted, and the next one finds it there. Those that the plan's schedule makes are not ended.`,
		Example: "  holdfast backup cancel records\n  holdfast backup cancel records --yes",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := operatorOf(root)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := knownNames(cmd.Context(), client, args[0], ""); err != nil {
				return err
			}
			open, err := client.Open(cmd.Context())
			if err != nil {
				return err
			}
			open = slices.DeleteFunc(open, func(q api.OpenRequest) bool {
				return q.Room != "backup" || q.Kind != "base" || q.Subject != args[0]
			})
			if len(open) > 0 && !yes {
				if ok, err := confirm(cmd, fmt.Sprintf("End %s of %s?", planCount(len(open), "base backup"), args[0])); err != nil || !ok {
					return err
				}
			}
			ended := []agent.Asked{}
			for _, q := range open {
				done, err := client.Cancel(cmd.Context(), q.ID)
				if err != nil {
					return err
				}
				ended = append(ended, done)
			}
			if len(ended) == 0 {
				return &problem.Problem{Code: "backup.none-asked", Subject: args[0], Severity: problem.Note, Title: "no base backup is asked for",
					Meaning: "Nothing was changed.", Remedy: "see what is asked for: holdfast database requests"}
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), ended)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Cancelled: %s of %s.\n", planCount(len(ended), "base backup"), args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	outputFlag(cmd, &output)
	return cmd
}
