package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

func filesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "files",
		Short: "Back up file sets now, list their backups, and look for files in them",
		Long: `A file set is a directory of the plan that is backed up as it is, every six hours unless the plan says otherwise.
A backup is whole by itself; only what changed since the one before is read and stored. Restoring is
holdfast restore files.`,
		Example: `  holdfast files backup attachments                 a backup now
  holdfast files list attachments                   what there is
  holdfast files ls attachments letters/2026        what was in a directory
  holdfast files find attachments "*.pdf"           where a file is, in the newest backup
  holdfast files mount attachments /mnt/look        a backup as a directory
  holdfast files prune attachments --dry-run        what stays, what goes, and why
  holdfast restore files attachments --to /srv/back`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(filesBackupCommand(), filesListCommand(), filesLsCommand(), filesFindCommand(), filesMountCommand(), filesPruneCommand())
	return cmd
}

// filesBackupWords are what `files backup` is told.
type filesBackupWords struct {
	root, output, on string
	full, empty      bool
	wait, dryRun     bool
	limit            time.Duration
}

func filesBackupCommand() *cobra.Command {
	var w filesBackupWords
	cmd := &cobra.Command{
		Use:   "backup NAME",
		Short: "Back up a file set now, on each of its hosts",
		Long: `Asks each host that has the directory for a backup, and waits until it is made. Ctrl-C ends the waiting, not the
backup. Files that have the inode, size and times of the backup before are taken over unread; --full reads all.

Files that change while they are read are read again, three times at most, and are named when they went on changing.
What could not be read is named, and the backup counts as incomplete: exit status 1.

A directory that holds no file, though its last backup has some, is refused: most often its disk is not mounted.
--allow-empty says that it is meant to be empty.`,
		Example: `  holdfast files backup attachments
  holdfast files backup attachments --full
  holdfast files backup attachments --host east-1 --output json`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(w.output); err != nil {
				return err
			}
			return w.run(cmd, args[0])
		},
	}
	cmd.Flags().StringVar(&w.root, "root", "", rootUsage)
	cmd.Flags().StringVar(&w.on, "host", "", "the one host whose directory is meant (default: each that has it)")
	cmd.Flags().BoolVar(&w.full, "full", false, "read every file, whatever the backup before says")
	cmd.Flags().BoolVar(&w.empty, "allow-empty", false, "the directory may hold no file")
	cmd.Flags().BoolVar(&w.wait, "wait", true, "wait until it is made")
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "say what would be asked of whom, and ask nothing")
	cmd.Flags().DurationVar(&w.limit, "timeout", backupMax, "how long to wait")
	outputFlag(cmd, &w.output)
	return cmd
}

// filesAnswer is what `files backup` came to on one host.
type filesAnswer struct {
	OK      bool              `json:"ok"` // made, and nothing is missing
	Request string            `json:"request"`
	Host    string            `json:"host"`
	Text    string            `json:"text"`
	Took    event.Duration    `json:"took"`
	Backup  *vault.FileBackup `json:"backup,omitempty"` // nil = none was made
}

func (w *filesBackupWords) run(cmd *cobra.Command, name string) error {
	a, err := findApplication(cmd, w.root)
	if err != nil {
		return err
	}
	set, err := a.fileSet(name)
	if err != nil {
		return err
	}
	hosts := set.Hosts
	if w.on != "" {
		if !slices.Contains(hosts, w.on) {
			p := api.UnknownHost(w.on, hosts)
			return &p
		}
		hosts = []string{w.on}
	}
	if w.dryRun {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s on %s would be backed up to vault %s; nothing was asked\n", set.Path, strings.Join(hosts, ", "), set.Backup.Vault)
		return err
	}
	client, err := operatorIn(cmd, a.Context)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, w.limit)
	defer cancel()
	var all []filesAnswer
	began := time.Now()
	for _, h := range hosts {
		q, err := client.Ask(ctx, agent.Asked{Room: "files", Kind: "backup", Subject: name, Args: w.args(h)})
		if err != nil {
			return err
		}
		all = append(all, filesAnswer{Request: q.ID, Host: h, OK: !w.wait, Text: "asked for; see holdfast files list " + name})
	}
	if w.wait {
		line := newProgressLine(cmd.ErrOrStderr())
		defer line.end()
		for i := range all {
			if err := all[i].await(ctx, client, name, began, line); err != nil {
				return err
			}
		}
		line.end()
	}
	return w.tell(cmd, name, all)
}

func (w *filesBackupWords) args(host string) map[string]string {
	args := map[string]string{agent.ArgOn: host}
	if w.full {
		args[agent.ArgMode] = "full"
	}
	if w.empty {
		args[agent.ArgAllowEmpty] = "true"
	}
	return args
}

func (a *filesAnswer) await(ctx context.Context, client *api.Client, name string, began time.Time, line *progressLine) error {
	phase := "backing up " + name + " on " + a.Host
	line.show(phase, "")
	done, err := client.Wait(ctx, a.Request, func(q agent.Asked) { line.show(phase, q.Progress) })
	if err != nil {
		title := "the answer of " + a.Host + " was not waited for"
		if errors.Is(err, context.DeadlineExceeded) {
			title = a.Host + " did not answer within the time"
		}
		return &problem.Problem{Code: "files.not-awaited", Subject: name, Severity: problem.Note, Title: title,
			Meaning: "The request stands: the backup goes on, or begins as soon as that host can make it.",
			Remedy:  "see how it went: holdfast files list " + name}
	}
	a.OK, a.Text, a.Took = done.OK, done.Text, event.Duration(time.Since(began))
	if len(done.Result) > 0 {
		a.Backup = &vault.FileBackup{}
		if err := json.Unmarshal(done.Result, a.Backup); err != nil {
			return fmt.Errorf("read what %s answered: %w", done.Host, err)
		}
	}
	return nil
}

func (w *filesBackupWords) tell(cmd *cobra.Command, name string, all []filesAnswer) error {
	if w.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), all); err != nil {
			return err
		}
	}
	var bad []string
	for _, a := range all {
		if !a.OK {
			bad = append(bad, a.Host+": "+a.Text)
		}
		if w.output == "json" {
			continue
		}
		text := a.Text + " (" + a.Host + ")\n"
		if b := a.Backup; b != nil {
			text = fmt.Sprintf("backup %s of %s on %s, made in %s\n  holds     %d files, %s; %d directories, %d links and special files\n  read      %s; %d files were as before\n  stored    %s\n%s",
				b.ID, b.Path, a.Host, tookText(b.Ended.Sub(b.Started)), b.Files, sizeText(b.Bytes), b.Dirs, b.Others, sizeText(b.Read), b.Reused, sizeText(b.Stored), troubles(*b))
		} else if !a.OK {
			continue // the problem that follows says it
		}
		if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	if w.output == "json" {
		return exitError{1}
	}
	return &problem.Problem{Code: "files.not-backed-up", Subject: name, Severity: problem.Critical, Title: strings.Join(bad, "; "),
		Meaning: "The directory and the earlier backups are as they were; a backup that was made holds everything but what is named.",
		Remedy:  "correct what is said, then again: holdfast files backup " + name}
}

// troubles says what is not as it should be in a backup.
func troubles(b vault.FileBackup) string {
	var s strings.Builder
	if b.Vanished > 0 {
		fmt.Fprintf(&s, "  vanished  %d names while they were looked at\n", b.Vanished)
	}
	for _, n := range b.Changed.First {
		fmt.Fprintf(&s, "  CHANGED   %s, whenever it was read: what is stored may be of two moments\n", printable(n))
	}
	for _, n := range b.Unreadable.First {
		fmt.Fprintf(&s, "  MISSING   %s\n", printable(n))
	}
	if more := b.Unreadable.Count - len(b.Unreadable.First) + b.Changed.Count - len(b.Changed.First); more > 0 {
		fmt.Fprintf(&s, "  and %d more\n", more)
	}
	return s.String()
}

// printable keeps a name from breaking a line or a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// fileSet is a file set of the plan that is backed up.
func (a application) fileSet(name string) (plan.FileSet, error) {
	s, ok := a.plan.FileSetNamed(name)
	if !ok {
		p := api.UnknownFiles(name, a.plan)
		return s, &p
	}
	if s.Backup.Vault == "" {
		return s, &problem.Problem{Code: "backup.not-planned", Subject: name, Severity: problem.Critical,
			Title: "the plan does not back it up", Meaning: "There is no vault for it, so nothing can be stored or restored.",
			Remedy: "add it below backup: in " + a.Plan + "; see holdfast plan --help"}
	}
	return s, nil
}

func filesListCommand() *cobra.Command {
	var from vaultFlags
	var output string
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List the backups of file sets as the vault holds them",
		Long: `Reads the vault itself, not what agents remember of it. Works without any agent, and with --vault and --key
without a plan.`,
		Example: `  holdfast files list
  holdfast files list attachments --output json | jq '.[].backups[] | {id, files, stored}'
  holdfast files list --vault /mnt/vault --key vault.key`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkOutput(output), from.check()); err != nil {
				return err
			}
			all, err := heldFiles(cmd, from, args)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			return writeHeldFiles(cmd.OutOrStdout(), all)
		},
	}
	from.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// fileSetHeld is what a vault holds of one file set.
type fileSetHeld struct {
	Set     string             `json:"files"`
	Vault   string             `json:"vault"`
	Backups []vault.FileBackup `json:"backups"`          // newest first
	Unseen  *problem.Problem   `json:"unseen,omitempty"` // why backups may be missing here
}

// heldFiles lists what is held of the named file set, or of all. Where a list may lack backups, it warns.
func heldFiles(cmd *cobra.Command, from vaultFlags, names []string) ([]fileSetHeld, error) {
	all := []fileSetHeld{}
	if from.url != "" {
		v, err := from.openAlone(cmd.Context())
		if err != nil {
			return nil, err
		}
		defer closeVault(cmd.Context(), v)
		found, err := v.ReadableFileBackups(cmd.Context(), strings.Join(names, ""))
		if err != nil {
			return nil, err
		}
		hidden, err := v.Hides(cmd.Context())
		if err != nil {
			return nil, err
		}
		if hidden != nil && len(found) == 0 {
			return nil, hidden
		}
		warnUnseen(cmd, hidden)
		bySet := map[string][]vault.FileBackup{}
		for _, b := range slices.Backward(found) {
			bySet[b.Set] = append(bySet[b.Set], b)
		}
		for _, set := range slices.Sorted(maps.Keys(bySet)) {
			all = append(all, fileSetHeld{set, v.Name(), bySet[set], hidden})
		}
		return all, nil
	}
	a, err := findApplication(cmd, from.root)
	if err != nil {
		return nil, err
	}
	sets := slices.DeleteFunc(slices.Clone(a.plan.Files), func(s plan.FileSet) bool { return s.Backup.Vault == "" })
	if len(names) > 0 {
		s, err := a.fileSet(names[0])
		if err != nil {
			return nil, err
		}
		sets = []plan.FileSet{s}
	}
	told := map[string]bool{}
	for _, s := range sets {
		v, err := a.openVault(cmd.Context(), s.Backup.Vault)
		if err != nil {
			return nil, err
		}
		found, err := v.ReadableFileBackups(cmd.Context(), s.Name)
		var hidden *problem.Problem
		if err == nil {
			hidden, err = v.Hides(cmd.Context())
		}
		closeVault(cmd.Context(), v)
		if err != nil {
			return nil, err
		}
		if !told[s.Backup.Vault] {
			warnUnseen(cmd, hidden)
			told[s.Backup.Vault] = true
		}
		slices.Reverse(found)
		all = append(all, fileSetHeld{s.Name, s.Backup.Vault, append([]vault.FileBackup{}, found...), hidden})
	}
	return all, nil
}

func writeHeldFiles(out io.Writer, all []fileSetHeld) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	for i, h := range all {
		if i > 0 {
			p("\n")
		}
		p("FILES %s in vault %s\n", h.Set, h.Vault)
		if len(h.Backups) == 0 {
			p("  no backup yet\n")
			continue
		}
		p("  BACKUP\tHOST\tBEGAN\tTOOK\tFILES\tSIZE\tREAD\tSTORED\tCOMPLETE\n")
		for _, b := range h.Backups {
			p("  %s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", b.ID, b.Host, momentText(b.Started), tookText(b.Ended.Sub(b.Started)), b.Files, sizeText(b.Bytes), sizeText(b.Read), sizeText(b.Stored), completeText(b))
		}
	}
	if len(all) == 0 {
		p("there are no file sets\n")
	}
	return w.Flush()
}

func completeText(b vault.FileBackup) string {
	text := "yes"
	if !b.Complete() {
		text = fmt.Sprintf("NO, %d missing", b.Unreadable.Count)
	}
	if b.Changed.Count > 0 {
		text += fmt.Sprintf(", %d changed as read", b.Changed.Count)
	}
	return text
}

// writeFilesStatus is the part of a status about file sets.
func writeFilesStatus(p func(string, ...any), all []api.FilesStatus) {
	if len(all) == 0 {
		return
	}
	p("\nFILES\tHOST\tLAST BACKUP\tTOOK\tFILES\tSIZE\tREAD\tSTORED\tNEXT\n")
	for _, f := range all {
		switch b := f.Last; {
		case !f.Heard:
			p("%s\t%s\tits host does not answer\n", f.Name, f.Host)
		case b == nil:
			p("%s\t%s\tnone yet\t\t\t\t\t\t%s\n", f.Name, f.Host, nextText(f))
		default:
			p("%s\t%s\t%s, %s\t%s\t%d\t%s\t%s\t%s\t%s\n", f.Name, f.Host, b.At.Local().Format("2006-01-02 15:04:05"), agentComplete(*b), tookText(b.Took), b.Files, sizeText(b.Bytes), readText(*b), sizeText(b.Stored), nextText(f))
		}
	}
}

// readText is how much of the files was read, and how fast; what had not changed since the backup before is not read.
func readText(b agent.FileBackup) string {
	text := sizeText(b.Read)
	if took := b.Took.Seconds(); took > 0 && b.Read > 0 {
		text += ", " + sizeText(int64(float64(b.Read)/took)) + "/s"
	}
	return text
}

func agentComplete(b agent.FileBackup) string {
	if b.Unreadable > 0 {
		return fmt.Sprintf("INCOMPLETE: %d missing", b.Unreadable)
	}
	return "complete"
}

// filesRunText says since when a backup is made, and how far it is.
func filesRunText(r agent.FilesRun) string {
	text := "under way since " + r.Since.Local().Format("15:04:05")
	if r.Names == 0 {
		return text
	}
	text += fmt.Sprintf(": %d names", r.Names)
	if r.Of > 0 {
		text = strings.TrimSuffix(text, " names") + fmt.Sprintf(" of about %d names", max(r.Of, r.Names))
	}
	text += fmt.Sprintf(", %s read at %s/s, %s stored", sizeText(r.Read), sizeText(r.Rate), sizeText(r.Stored))
	if r.Left > 0 {
		text += fmt.Sprintf(", about %s left", time.Duration(r.Left)*time.Second)
	}
	return text
}

func nextText(f api.FilesStatus) string {
	switch {
	case f.Running && f.Run != nil:
		return filesRunText(*f.Run)
	case f.Running:
		return "under way"
	case f.Trouble != "":
		return "tried again: " + f.Trouble
	case f.Next.IsZero():
		return ""
	}
	return f.Next.Local().Format("2006-01-02 15:04:05")
}
