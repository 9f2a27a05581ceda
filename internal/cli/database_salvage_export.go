package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/durable"
)

// exportMax is how long a bundle may take: its host copies the whole data directory first.
const exportMax = 6 * time.Hour

func salvageExportCommand() *cobra.Command {
	var root, to string
	var dryRun, keepWaiting bool
	cmd := &cobra.Command{
		Use:   "export NAME ID --to DIR",
		Short: "Write the list and the rows of lost commits to a folder; their server may then come back",
		Long: `Writes report.json, the whole list, and rows.sql, to replay with psql once you have read it: rows whose key is
absent are inserted, rows that are still as they were where the histories parted are updated, and what was changed
on both sides or deleted stands there for review. Rows are found by primary key; tables without one are named.

When both files are written and synced, the decision is noted, and the server that waited is made a copy again.`,
		Example: "  holdfast database salvage export records epoch-7-0a1b2c3d4e5f --to ./lost",
		Args:    usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return fmt.Errorf("--to names the folder: %w", errUsage)
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
			if dryRun {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d commits of %s would be written to %s, and %s might come back. Nothing was changed.\n", x.Commits, x.Host, to, x.Host)
				return err
			}
			if err := exportSalvage(cmd, client, x, to); err != nil {
				return err
			}
			if !x.Waits || keepWaiting {
				return nil
			}
			return settleSalvage(cmd, client, x, "exported")
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().StringVar(&to, "to", "", "a folder, made if it is not there; files in it are not overwritten")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be written; change nothing")
	cmd.Flags().BoolVar(&keepWaiting, "keep-waiting", false, "only write; the server goes on waiting for a decision")
	return cmd
}

// exportSalvage writes both files. When it fails, nothing is decided, and it can be asked for again: the rows come first, for
// they need room, and a list of the same salvage is written anew.
func exportSalvage(cmd *cobra.Command, client *api.Client, x api.Salvaged, to string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), exportMax)
	defer cancel()
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	list, rows := filepath.Join(to, "report.json"), filepath.Join(to, "rows.sql")
	if err := exportable(list, rows, x); err != nil {
		return err
	}
	if err := writeRows(ctx, client, x, rows); err != nil {
		return fmt.Errorf("write the rows: %w", err)
	}
	if err := writeList(ctx, client, x, list); err != nil {
		return errors.Join(fmt.Errorf("write the list of commits: %w", err), os.Remove(rows))
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s and %s are written.\n", list, rows)
	return err
}

// exportable refuses a folder with files of something else.
func exportable(list, rows string, x api.Salvaged) error {
	there := func(path string) error { return fmt.Errorf("%s is there already, and is not overwritten", path) }
	if _, err := os.Lstat(rows); err == nil {
		return there(rows)
	}
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var of database.Salvage
	if err != nil || json.Unmarshal(text, &of) != nil || of.ID != x.ID || of.Database != x.Database || of.Host != x.Host {
		return there(list)
	}
	return nil
}

func writeList(ctx context.Context, client *api.Client, x api.Salvaged, path string) error {
	report, err := client.Salvage(ctx, x.Database, x.ID)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600)
}

func writeRows(ctx context.Context, client *api.Client, x api.Salvaged, path string) error {
	making := path + ".part"
	f, err := os.OpenFile(making, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(making) }() // renamed when it is whole
	defer func() { _ = f.Close() }()         // synced before
	if err := client.Bundle(ctx, x.Database, x.ID, f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(making, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
