package cli

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/files"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// whichFiles says which backup of a file set is meant.
type whichFiles struct {
	from           vaultFlags
	backup, at, on string
}

func (w *whichFiles) add(cmd *cobra.Command) {
	w.from.add(cmd)
	cmd.Flags().StringVar(&w.backup, "backup", "", "the backup, as holdfast files list names it (default: the newest)")
	cmd.Flags().StringVar(&w.at, "at", "", `the newest backup that began by then: a time ("2026-11-20 14:30:00", 14:30, "10m ago", "2 days ago")`)
	cmd.Flags().StringVar(&w.on, "host", "", "the host whose directory it was (default: whichever the newest is of)")
}

func (w *whichFiles) check() error {
	if w.backup != "" && (w.at != "" || w.on != "") {
		return fmt.Errorf("--backup names one backup; --at and --host look for one: %w", errUsage)
	}
	return w.from.check()
}

// open opens the vault and picks the backup.
func (w *whichFiles) open(cmd *cobra.Command, set string) (*vault.Vault, *vault.Tree, error) {
	var by time.Time
	if w.at != "" {
		at, err := moment(w.at, time.Now())
		if err != nil {
			return nil, nil, err
		}
		if at.Kind != restore.AtTime && at.Kind != restore.Latest {
			return nil, nil, fmt.Errorf("--at %q: backups of files are found by a time: %w", w.at, errUsage)
		}
		by = at.Time
	}
	v, err := w.openVault(cmd, set)
	if err != nil {
		return nil, nil, err
	}
	b, err := w.pick(cmd, v, set, by)
	if err != nil {
		closeVault(cmd.Context(), v)
		return nil, nil, err
	}
	return v, v.OpenTree(b), nil
}

func (w *whichFiles) openVault(cmd *cobra.Command, set string) (*vault.Vault, error) {
	if w.from.url != "" {
		return w.from.openAlone(cmd.Context())
	}
	a, err := findApplication(cmd, w.from.root)
	if err != nil {
		return nil, err
	}
	s, err := a.fileSet(set)
	if err != nil {
		return nil, err
	}
	return a.openVault(cmd.Context(), s.Backup.Vault)
}

// pick finds the backup that is meant. While some may be hidden, only one that is named by itself is taken: a better one may be
// among them.
func (w *whichFiles) pick(cmd *cobra.Command, v *vault.Vault, set string, by time.Time) (vault.FileBackup, error) {
	all, err := v.ReadableFileBackups(cmd.Context(), set)
	if err != nil {
		return vault.FileBackup{}, err
	}
	hidden, err := v.Hides(cmd.Context())
	if err != nil {
		return vault.FileBackup{}, err
	}
	fits := slices.DeleteFunc(slices.Clone(all), func(b vault.FileBackup) bool {
		return w.backup != "" && b.ID != w.backup || w.on != "" && b.Host != w.on || !by.IsZero() && b.Started.After(by)
	})
	switch {
	case len(fits) > 0 && (hidden == nil || w.backup != ""):
		warnUnseen(cmd, hidden)
		return fits[len(fits)-1], nil
	case len(fits) > 0:
		b := fits[len(fits)-1]
		return b, mayBeHidden(hidden, fmt.Sprintf("The newest that is listed and fits is %s of %s", b.ID, momentText(b.Started)), "--backup "+b.ID)
	case hidden != nil:
		return vault.FileBackup{}, mayBeHidden(hidden, "None that is listed fits", "")
	}
	remedy := "see what there is: holdfast files list"
	if len(all) > 0 {
		remedy = fmt.Sprintf("there are %d, the oldest of %s, the newest of %s: holdfast files list %s", len(all), momentText(all[0].Started), momentText(all[len(all)-1].Started), set)
	}
	return vault.FileBackup{}, &problem.Problem{Code: "files.no-backup", Subject: set, Severity: problem.Note,
		Title: "the vault holds no such backup of it", Meaning: "Nothing was read or written.", Remedy: remedy}
}

// entry is one name of a backup, for a person or a program.
type entry struct {
	Path    string    `json:"path"`
	Kind    string    `json:"kind"`
	Mode    string    `json:"mode"`
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mtime"`
	Target  string    `json:"target,omitempty"`
	Link    string    `json:"hard_link_to,omitempty"`
	Attrs   []string  `json:"attributes,omitempty"`
}

func entryOf(n vault.Node) entry {
	e := entry{Path: n.Path, Mode: fmt.Sprintf("%04o", n.Mode), UID: n.UID, GID: n.GID, Size: n.Size, ModTime: n.ModTime().UTC(), Target: string(n.Target), Link: n.Link}
	e.Kind = map[string]string{vault.KindFile: "file", vault.KindDir: "directory", vault.KindSymlink: "link", vault.KindPipe: "pipe",
		vault.KindChar: "character device", vault.KindBlock: "block device", vault.KindSocket: "socket"}[n.Kind]
	for _, x := range n.Attrs {
		e.Attrs = append(e.Attrs, x.Name)
	}
	return e
}

// listing is what `files ls` and `files find` show.
type listing struct {
	Backup  vault.FileBackup `json:"backup"`
	Entries []entry          `json:"entries"`
}

func filesLsCommand() *cobra.Command {
	var w whichFiles
	var output string
	cmd := &cobra.Command{
		Use:   "ls NAME [PATH]",
		Short: "List a directory as a backup of a file set has it",
		Example: `  holdfast files ls attachments
  holdfast files ls attachments letters/2026 --at "2 days ago"
  holdfast files ls attachments --vault /mnt/vault --key vault.key --output json`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if s := files.ParseSelection(args[1:]); len(s) > 0 {
				dir = s[0]
			}
			found := false
			list, err := w.list(cmd, args[0], output, func(n vault.Node) bool {
				found = found || n.Path == dir
				return n.Path == dir && n.Kind != vault.KindDir || n.Path != "." && path.Dir(n.Path) == dir
			})
			if err != nil {
				return err
			}
			if !found {
				return noSuchPath(list.Backup, dir)
			}
			return writeListing(cmd.OutOrStdout(), output, list)
		},
	}
	w.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func filesFindCommand() *cobra.Command {
	var w whichFiles
	var output string
	cmd := &cobra.Command{
		Use:   "find NAME PATTERN",
		Short: "Find names in a backup of a file set",
		Long: `Lists what fits a pattern (* any letters, ? one, [a-z] one of these). A pattern without / fits a name in any
directory, another one the whole path. Status 1 when nothing does.`,
		Example: `  holdfast files find attachments "invoice-*.pdf"
  holdfast files find attachments "letters/2026/*" --backup attachments-20261120T060000Z-1a2b3c`,
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := plan.JudgeExclude(args[1]); err != nil {
				return fmt.Errorf("%w: %w", err, errUsage)
			}
			list, err := w.list(cmd, args[0], output, func(n vault.Node) bool {
				return n.Path != "." && files.Excluded(args[1:], n.Path, n.Kind == vault.KindDir)
			})
			if err != nil {
				return err
			}
			if err := writeListing(cmd.OutOrStdout(), output, list); err != nil {
				return err
			}
			if len(list.Entries) == 0 {
				return exitError{1}
			}
			return nil
		},
	}
	w.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func (w *whichFiles) list(cmd *cobra.Command, set, output string, fits func(vault.Node) bool) (listing, error) {
	if err := errors.Join(checkOutput(output), w.check()); err != nil {
		return listing{}, err
	}
	v, tree, err := w.open(cmd, set)
	if err != nil {
		return listing{}, err
	}
	defer closeVault(cmd.Context(), v)
	list := listing{Backup: tree.Backup, Entries: []entry{}}
	return list, tree.Each(cmd.Context(), func(n vault.Node) error {
		if fits(n) {
			list.Entries = append(list.Entries, entryOf(n))
		}
		return nil
	})
}

func noSuchPath(b vault.FileBackup, p string) error {
	return &problem.Problem{Code: "restore.no-such-path", Subject: b.Set, Severity: problem.Note,
		Title: fmt.Sprintf("backup %s holds nothing of %s", b.ID, p), Meaning: "Nothing was written.",
		Remedy: "look for it: holdfast files find " + b.Set + " NAME --backup " + b.ID}
}

func writeListing(out io.Writer, output string, list listing) error {
	if output == "json" {
		return writeJSON(out, list)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	for _, e := range list.Entries {
		name := printable(e.Path)
		switch {
		case e.Kind == "directory":
			name += "/"
		case e.Kind == "link":
			name += " -> " + printable(e.Target)
		case e.Kind != "file":
			name += " (" + e.Kind + ")"
		}
		p("%s\t%d:%d\t%s\t%s\t  %s\n", e.Mode, e.UID, e.GID, sizeText(e.Size), momentText(e.ModTime), name)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s in backup %s of %s, %s\n", strings.TrimSpace(planCount(len(list.Entries), "name")), list.Backup.ID, momentText(list.Backup.Started), list.Backup.Host)
	return err
}
