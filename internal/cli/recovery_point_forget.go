package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

func pointForgetCommand() *cobra.Command {
	var root string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "forget VAULT",
		Short: "Keep nothing any more for recovery points in a vault that is gone for good",
		Long: `What leads to a recovery point (a base backup, and log) stays in the vault of the database for as long as the vault of the files has the
point. When that vault is in the plan no more nobody can ask it, and everything stays as it was heard last. This forgets what was
heard of it: then tiers and the window of the database alone say what stays. The vault itself is not touched. Of a vault that the plan
names nothing is forgotten but what was heard of another one, which was gone when this was made under its name.`,
		Example: `  holdfast recovery-point forget old --dry-run
  holdfast recovery-point forget old`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			present, err := a.presentVault(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("forget the points in vault %s: the plan names it, and it must say which vault it is now: %w", args[0], err)
			}
			var done []string
			found := false
			for _, b := range a.plan.Backups {
				if b.Vault == "" || slices.Contains(done, b.Vault) {
					continue
				}
				done = append(done, b.Vault)
				had, err := a.forgetPoints(cmd, b.Vault, args[0], present, dryRun, yes)
				if err != nil {
					return err
				}
				found = found || had
			}
			if !found && present != "" {
				return fmt.Errorf("forget the points in vault %s: the plan names it, and it is asked itself; nothing is kept for another one of that name: %w", args[0], errUsage)
			}
			if !found {
				return fmt.Errorf("forget the points in vault %s: nothing is kept for any: %w", args[0], errUsage)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say which points it is about, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// presentVault is the identifier of the vault that lies now where the plan's of that name does; "" = the plan has none.
func (a application) presentVault(ctx context.Context, name string) (string, error) {
	if _, there := a.plan.VaultNamed(name); !there {
		return "", nil
	}
	v, err := a.openVault(ctx, name)
	if err != nil {
		return "", err
	}
	return v.Identity().ID, v.Close(context.WithoutCancel(ctx))
}

// forgetPoints takes out of one vault of databases what was noted of others by a name, but for the one that has it now, and
// reports whether there was anything.
func (a application) forgetPoints(cmd *cobra.Command, in, of, present string, dryRun, yes bool) (had bool, failed error) {
	ctx := cmd.Context()
	v, err := a.openToWrite(ctx, in)
	if err != nil {
		return false, err
	}
	defer closeWritten(ctx, v, &failed)
	noted, err := v.NotedPoints(ctx)
	if err != nil {
		return false, err
	}
	var b strings.Builder
	left := slices.DeleteFunc(slices.Clone(noted), func(x vault.NotedPoints) bool {
		if x.Name != of || x.ID == present {
			return false
		}
		for _, p := range x.Points {
			fmt.Fprintf(&b, "%s of %s at %s: what leads to it in vault %s is kept for it no more\n", plain(p.ID), plain(p.Database), p.LSN, in)
		}
		return true
	})
	if len(left) == len(noted) {
		return false, nil
	}
	if _, err := io.WriteString(cmd.OutOrStdout(), b.String()); err != nil {
		return true, err
	}
	if dryRun {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing was changed")
		return true, err
	}
	if !yes {
		if ok, err := confirm(cmd, "Forget these recovery points?"); err != nil || !ok {
			return true, err
		}
	}
	if err := v.NotePoints(ctx, left); err != nil {
		return true, err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "forgotten; what is to go is judged by the tiers alone: holdfast backup prune NAME --dry-run\n")
	return true, err
}
