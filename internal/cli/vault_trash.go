package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// openOne opens a vault of the plan, or the one that --vault names, for reading alone.
func (f *vaultFlags) openOne(cmd *cobra.Command, args []string) (*vault.Vault, string, error) {
	if f.url != "" {
		v, err := f.openAlone(cmd.Context())
		return v, f.url, err
	}
	a, name, err := oneVault(cmd, f.root, args)
	if err != nil {
		return nil, "", err
	}
	v, err := a.openVault(cmd.Context(), name)
	return v, name, err
}

func vaultTrashCommand() *cobra.Command {
	var from vaultFlags
	var output string
	cmd := &cobra.Command{
		Use:   "trash [NAME]",
		Short: "Say of each copy of a vault what it still has of what was deleted",
		Long: `A copy in a directory keeps what is deleted for the time that the plan says with undelete (7 days), in a bucket of versions it
stays as a version until the bucket's lifecycle rules remove it. No list and no backup uses it.`,
		Example: `  holdfast vault trash main
  holdfast vault trash main --output json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), from.check()); err != nil {
				return err
			}
			v, name, err := from.openOne(cmd, args)
			if err != nil {
				return err
			}
			defer closeVault(cmd.Context(), v)
			all, err := v.Trash(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			for _, t := range all {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), trashText(name, t)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	from.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func trashText(name string, t vault.InTrash) string {
	where := name
	if t.Copy != "" {
		where += ", copy " + t.Copy
	}
	switch {
	case t.None != "":
		return where + ": " + t.None
	case t.Objects == 0:
		return where + ": nothing that was deleted is there"
	}
	return fmt.Sprintf("%s: %d objects, %s, the first deleted %s", where, t.Objects, sizeText(t.Bytes), whenText(t.Oldest))
}

// undeleteFlags say what comes back.
type undeleteFlags struct {
	vaultFlags
	since, prefix, at, to string
	dryRun, yes           bool
}

func vaultUndeleteCommand() *cobra.Command {
	var f undeleteFlags
	cmd := &cobra.Command{
		Use:   "undelete [NAME]",
		Short: "Bring back what was deleted from a vault, or the whole vault as it was at a moment",
		Long: `With --at and --to: makes a vault of its own in an empty directory, with the same key, that holds what the vault held at that
moment, what was deleted since included, as far as its copies still have it. Nothing else is changed. That is the way to backups
that were let go of, by mistake or by a thief: list and restore them from there with --vault and --key.
Without: brings deleted objects back where they were, all of them, or those deleted --since, or whose names begin with --prefix
(wal/ is the log). What is there stays. A backup that was taken off the list is not listed again by that.`,
		Example: `  holdfast vault undelete main --at "2026-11-20 09:00" --to /mnt/big/as-it-was
  holdfast backup list --vault /mnt/big/as-it-was --key vault.key
  holdfast vault undelete main --since "2026-11-20 09:00" --prefix wal/ --dry-run`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			now := time.Now()
			at, atErr := momentFlag("--at", f.at, now)
			since, sinceErr := momentFlag("--since", f.since, now)
			if err := errors.Join(atErr, sinceErr); err != nil {
				return err
			}
			switch {
			case (f.at == "") != (f.to == ""):
				return fmt.Errorf("--at and --to go together: %w", errUsage)
			case f.at != "" && (f.since != "" || f.prefix != ""):
				return fmt.Errorf("--at brings back the whole vault, --since and --prefix parts of it; give one of them: %w", errUsage)
			case f.at != "":
				return f.asItWas(cmd, args, at)
			}
			return f.inPlace(cmd, args, since)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.at, "at", "", `a moment, local time or RFC 3339, or "2 days ago": make the vault as it was then; needs --to`)
	cmd.Flags().StringVar(&f.to, "to", "", "an empty directory, or one that is to be made; needs --at")
	cmd.Flags().StringVar(&f.since, "since", "", "bring back only what was deleted then or later")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "bring back only objects whose names begin so")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would come back, and change nothing")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	return cmd
}

// momentFlag reads a moment; "" is none.
func momentFlag(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, read := range []func(string, time.Time) (time.Time, bool, error){
		clockTime, agoTime, func(s string, now time.Time) (time.Time, bool, error) { return restore.ParseTime(s, now.Location()) },
	} {
		if at, ok, err := read(text, now); ok {
			if err != nil {
				err = fmt.Errorf("%s %q: %w: %w", flag, text, err, errUsage)
			}
			return at, err
		}
	}
	return time.Time{}, fmt.Errorf("%s %q is no moment such as 2026-11-20 09:00, 14:30, \"2 days ago\" or 2026-11-20T09:00:00Z: %w", flag, text, errUsage)
}

func (f *undeleteFlags) asItWas(cmd *cobra.Command, args []string, at time.Time) (failed error) {
	dir, err := filepath.Abs(f.to)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); f.dryRun && errors.Is(err, os.ErrNotExist) {
		tmp, err := os.MkdirTemp("", "holdfast-dry-run-*")
		if err != nil {
			return err
		}
		defer func() { failed = errors.Join(failed, os.RemoveAll(tmp)) }()
		dir = tmp
	}
	v, name, err := f.openOne(cmd, args)
	if err != nil {
		return err
	}
	defer closeVault(cmd.Context(), v)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	done, err := v.AsItWas(cmd.Context(), at, dir, f.dryRun)
	if err != nil {
		return err
	}
	verb := "made"
	if f.dryRun {
		verb = "would make"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s as it was %s in %s: %d objects, %s\n", verb, name, at.Format("2006-01-02 15:04:05 MST"), f.to, done.Objects, sizeText(done.Bytes))
	return err
}

func (f *undeleteFlags) inPlace(cmd *cobra.Command, args []string, since time.Time) (failed error) {
	o := vault.UndeleteOptions{Since: since, Prefix: f.prefix, DryRun: true}
	if f.url != "" {
		return fmt.Errorf("bringing back where it was needs the plan; with --vault give --at and --to: %w", errUsage)
	}
	a, name, err := oneVault(cmd, f.root, args)
	if err != nil {
		return err
	}
	v, err := a.openToWrite(cmd.Context(), name)
	if err != nil {
		return err
	}
	defer closeWritten(cmd.Context(), v, &failed)
	say := func(verb string, u vault.Undeleted) error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %d objects, %s; %d more are there already\n", verb, u.Objects, sizeText(u.Bytes), u.There)
		return err
	}
	would, err := v.Undelete(cmd.Context(), o)
	if err != nil {
		return err
	}
	if f.dryRun || would.Objects == 0 {
		return say("would bring back", would)
	}
	if !f.yes {
		if ok, err := confirm(cmd, fmt.Sprintf("Bring back %d objects, %s?", would.Objects, sizeText(would.Bytes))); err != nil || !ok {
			return err
		}
	}
	o.DryRun = false
	did, err := v.Undelete(cmd.Context(), o)
	return errors.Join(err, say("brought back", did))
}
