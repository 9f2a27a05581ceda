package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/files/mount"
	"holdfast/internal/vault"
)

func filesMountCommand() *cobra.Command {
	var w whichFiles
	var output string
	cmd := &cobra.Command{
		Use:   "mount NAME DIR",
		Short: "Show a backup of a file set as a directory that can be read",
		Long: `Mounts a backup on an empty directory, read-only, until Ctrl-C or until somebody unmounts it. Everything is there
as it was: names, contents, owners, modes, times, links, extended attributes and ACLs. Only the user who mounts it
can look into it, whatever the modes say, and nothing in it can be run.

Contents are read from the vault when they are asked for, and nothing else is fetched. When the vault does not
answer, whoever reads gets an I/O error after 30 seconds at most, and may read again. It needs no agent: the plan and
the data root are enough, or a vault and its key alone. The list of names is kept in /var/tmp while it lasts (or in
$TMPDIR), enciphered.

It needs /dev/fuse, and root or the program fusermount3. Files that are copied out one by one, from different backups
most of all, may not agree with each other or with a database.`,
		Example: `  holdfast files mount attachments /mnt/look
  holdfast files mount attachments /mnt/look --at "2026-11-20 14:30"
  holdfast files mount attachments /mnt/look --vault file:///mnt/vault --key vault.key`,
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), w.check()); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
			defer stop()
			return w.mount(ctx, cmd, args[0], args[1], output)
		},
	}
	w.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// shown is what `files mount` says when the directory can be read.
type shown struct {
	Dir    string           `json:"directory"`
	End    string           `json:"unmount"` // the command
	Backup vault.FileBackup `json:"backup"`
}

func (w *whichFiles) mount(ctx context.Context, cmd *cobra.Command, set, dir, output string) error {
	if _, err := mount.Check(dir); err != nil { // before a vault is opened in vain
		return err
	}
	v, tree, err := w.open(cmd, set)
	if err != nil {
		return err
	}
	defer closeVault(cmd.Context(), v)
	out, trouble := cmd.OutOrStdout(), cmd.ErrOrStderr()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(trouble, "holdfast: "+format+"\n", args...) } // who cannot hear it is not served worse
	ended, err := mount.Run(ctx, mount.Options{
		Tree: tree, Dir: dir,
		Ready: func(s mount.Shown) {
			if err := tellShown(out, output, shown{s.Dir, s.End, tree.Backup}); err != nil {
				say("say where it is mounted: %v", err)
			}
		},
		Failed: func(err error) {
			say("a read failed, and whoever asked gets an I/O error: %v; more of the same are not told", err)
		},
		Again: func(n int) { say("reads succeed again; %d failed", n) },
	})
	if err != nil {
		return err
	}
	if ended.Failed > 0 {
		say("%d reads failed; what was copied meanwhile is not whole", ended.Failed)
	}
	if ended.Busy {
		say("%s was still in use: it is unmounted all the same, and whoever has something open there gets I/O errors", dir)
	}
	if output != "json" {
		_, err = fmt.Fprintf(out, "%s is unmounted\n", dir)
	}
	return err
}

func tellShown(out io.Writer, output string, s shown) error {
	if output == "json" {
		return writeJSON(out, s)
	}
	b := s.Backup
	_, err := fmt.Fprintf(out, "backup %s of %s on %s, begun %s: %d files, %s\n%smounted read-only on %s, for this user alone\nend it with Ctrl-C here, or elsewhere with: %s\n",
		b.ID, b.Path, b.Host, momentText(b.Started), b.Files, sizeText(b.Bytes), troubles(b), s.Dir, s.End)
	return err
}
