package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/files"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// filesWords are what `restore files` is told.
type filesWords struct {
	which            whichFiles
	to, output       string
	paths            []string
	delta, overwrite bool
	dryRun, yes      bool
}

func restoreFilesCommand() *cobra.Command {
	var w filesWords
	cmd := &cobra.Command{
		Use:   "files NAME --to DIR",
		Short: "Restore a file set, or part of it, to a directory",
		Long: `Writes a backup of a file set to an empty directory: contents, owners, modes, times, links, extended attributes, ACLs,
holes and special files, as they were. It needs no agent: the plan and the data root are enough, or a vault and its
key alone. Space is checked before anything is written. A restore that was interrupted is gone on with by the same
command. Nothing is ever written outside DIR.

--path restores a part, with all that is below it. Parts of different backups, and files and a database of different
moments, may not agree with each other.

Into a directory with files: --delta replaces what differs in size or time and leaves the rest unread; --overwrite
replaces everything. What the backup does not have stays either way.`,
		Example: `  holdfast restore files attachments --to /srv/back
  holdfast restore files attachments --at "2026-11-20 14:30" --path letters/2026 --path index --to /srv/back
  holdfast restore files attachments --to /srv/clinic/attachments --delta --dry-run
  holdfast restore files attachments --to /srv/back --vault file:///mnt/vault --key vault.key --output json`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
			defer stop()
			return w.run(ctx, cmd, args[0])
		},
	}
	w.which.add(cmd)
	cmd.Flags().StringVar(&w.to, "to", "", "an empty or absent directory, or one that an interrupted restore left")
	cmd.Flags().StringArrayVar(&w.paths, "path", nil, "a path below the set, as holdfast files ls shows it; may be given several times (default: everything)")
	cmd.Flags().BoolVar(&w.delta, "delta", false, "--to may hold files: what differs in size or time is replaced")
	cmd.Flags().BoolVar(&w.overwrite, "overwrite", false, "--to may hold files: everything is replaced")
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "say what would be restored and whether there is room, and write nothing")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "with --delta or --overwrite: do not ask")
	outputFlag(cmd, &w.output)
	return cmd
}

func (w *filesWords) check() error {
	if err := errors.Join(checkOutput(w.output), w.which.check()); err != nil {
		return err
	}
	switch {
	case w.to == "":
		return fmt.Errorf("--to says which empty directory to restore to: %w", errUsage)
	case w.delta && w.overwrite:
		return fmt.Errorf("--delta leaves what is right, --overwrite replaces it too; give one of them: %w", errUsage)
	}
	return nil
}

func (w *filesWords) onto() string {
	switch {
	case w.delta:
		return files.OntoDelta
	case w.overwrite:
		return files.OntoAll
	}
	return files.OntoNothing
}

// restoredFiles is what `restore files` came to, or with DryRun would write.
type restoredFiles struct {
	DryRun   bool             `json:"dry_run"`
	Backup   vault.FileBackup `json:"backup"`
	Paths    []string         `json:"paths,omitempty"` // none = everything
	Place    files.Place      `json:"place"`
	Size     files.Size       `json:"size"`
	Restored files.Restored   `json:"restored"`
	Took     event.Duration   `json:"took,omitempty"`
	Warnings []string         `json:"warnings,omitempty"`
	Receipt  string           `json:"receipt,omitempty"` // where it is, or why there is none
}

func (w *filesWords) run(ctx context.Context, cmd *cobra.Command, name string) error {
	dir, err := filepath.Abs(w.to)
	if err != nil {
		return fmt.Errorf("find %s: %w", w.to, err)
	}
	v, tree, err := w.which.open(cmd, name)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	line := newProgressLine(cmd.ErrOrStderr())
	defer line.end()
	o := files.RestoreOptions{Tree: tree, Paths: files.ParseSelection(w.paths), To: dir, Onto: w.onto(), Progress: func(r files.Restored) {
		line.show("restoring files", progressText(r.Bytes+r.Kept, r.Of.Bytes, time.Since(line.since)))
	}}
	out := restoredFiles{DryRun: w.dryRun, Backup: tree.Backup, Paths: o.Paths, Warnings: filesWarnings(tree.Backup, o.Paths)}
	if out.Size, err = files.Measure(ctx, tree, o.Paths); err != nil {
		return err
	}
	if out.Size.Names == 0 {
		return noSuchPath(tree.Backup, strings.Join(o.Paths, ", "))
	}
	if out.Place, err = files.Survey(cmd.Context(), o, out.Size); err != nil {
		return err
	}
	if w.dryRun {
		return w.tell(cmd, out)
	}
	if out.Place.State == "occupied" && !w.yes {
		if ok, err := confirm(cmd, fmt.Sprintf("%s holds files. Those that %s has too are replaced by what they were on %s. Go on?", dir, tree.Backup.ID, momentText(tree.Backup.Started))); err != nil || !ok {
			return err
		}
	}
	began := time.Now()
	line.show("restoring files", "")
	out.Restored, err = files.Restore(ctx, o)
	line.end()
	out.Took = event.Duration(time.Since(began))
	if err != nil && ctx.Err() != nil {
		return &problem.Problem{Code: "restore.interrupted", Subject: name, Severity: problem.Note, Title: "was not restored: interrupted",
			Meaning: dir + " does not hold all of it. The vault is as it was.",
			Remedy:  "give the same command again: it goes on with what is there"}
	}
	if err != nil {
		return err
	}
	if out.Receipt, err = w.receipt(ctx, cmd, v, dir, out); err != nil {
		return err
	}
	return w.tell(cmd, out)
}

// receipt writes the receipt of restored files, and says where it is.
func (w *filesWords) receipt(ctx context.Context, cmd *cobra.Command, v *vault.Vault, dir string, out restoredFiles) (string, error) {
	if w.which.from.url != "" { // nobody here has a certificate to sign with
		return restoredAlone(ctx, cmd, v, dir, filesReceipt(out)), nil
	}
	a, err := findApplication(cmd, w.which.from.root)
	if err != nil {
		return "", err
	}
	set, err := a.fileSet(out.Backup.Set)
	if err != nil {
		return "", err
	}
	if err := a.restoredOrSay(ctx, cmd, set.Backup.Vault, filesReceipt(out)); err != nil {
		return "not in the vault: " + err.Error(), nil
	}
	return "signed, in vault " + set.Backup.Vault, nil
}

// filesWarnings says what whoever restores should know of a backup.
func filesWarnings(b vault.FileBackup, paths []string) []string {
	var out []string
	if len(paths) > 0 {
		out = append(out, "parts may not agree with each other, nor with the database: it is not known what else was changed with them")
	} else if b.Point == nil {
		out = append(out, "the backup belongs to no recovery point: a database of another moment may name files that are not there, and the other way round")
	}
	if n := b.Unreadable.Count; n > 0 {
		out = append(out, fmt.Sprintf("%d names could not be read when the backup was made and are not in it", n))
	}
	if n := b.Changed.Count; n > 0 {
		out = append(out, fmt.Sprintf("%d files changed whenever they were read, and may be of two moments", n))
	}
	return out
}

func (w *filesWords) tell(cmd *cobra.Command, o restoredFiles) error {
	if w.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), o); err != nil {
			return err
		}
	} else if err := writeRestoredFiles(cmd.OutOrStdout(), o); err != nil {
		return err
	}
	if o.Restored.Lacks.Count > 0 {
		return exitError{1}
	}
	return nil
}

func writeRestoredFiles(out io.Writer, o restoredFiles) error {
	var s strings.Builder
	what := "all of it"
	if len(o.Paths) > 0 {
		what = printable(strings.Join(o.Paths, ", "))
	}
	if o.DryRun {
		fmt.Fprintf(&s, "%s of %s on %s would be restored to %s. Nothing was written.\n  backup      %s, %s\n  part        %s: %d files, %s\n  directory   %s\n  room        %s needed, %s free\n",
			o.Backup.Set, o.Backup.Path, o.Backup.Host, o.Place.Dir, o.Backup.ID, momentText(o.Backup.Started), what, o.Size.Files, sizeText(o.Size.Bytes), filesPlaceText(o.Place), sizeText(o.Place.Need), sizeText(o.Place.Free))
	} else {
		r := o.Restored
		fmt.Fprintf(&s, "restored %s of %s on %s to %s in %s\n  from        %s, %s\n  part        %s: %d files, %d directories, %d links and special files\n  written     %s; %s were right already\n",
			o.Backup.Set, o.Backup.Path, o.Backup.Host, o.Place.Dir, tookText(time.Duration(o.Took)), o.Backup.ID, momentText(o.Backup.Started), what, r.Files, r.Dirs, r.Others, sizeText(r.Bytes), sizeText(r.Kept))
		if !r.Owners {
			fmt.Fprintf(&s, "  owners      all belong to you: only root can give files away\n")
		}
		for _, n := range r.Lacks.First {
			fmt.Fprintf(&s, "  NOT AS IT WAS  %s\n", printable(n))
		}
		if more := r.Lacks.Count - len(r.Lacks.First); more > 0 {
			fmt.Fprintf(&s, "  and %d more\n", more)
		}
	}
	for _, x := range o.Warnings {
		fmt.Fprintf(&s, "  WARNING     %s\n", x)
	}
	if o.Receipt != "" {
		fmt.Fprintf(&s, "  receipt     %s\n", o.Receipt)
	}
	_, err := io.WriteString(out, s.String())
	return err
}

func filesPlaceText(p files.Place) string {
	switch p.State {
	case "absent":
		return "will be made"
	case "interrupted":
		return "left by a restore that never ended; it will be gone on with"
	case "occupied":
		return "holds files such as " + printable(p.Found) + "; those of the same names will be REPLACED"
	}
	return p.State
}
