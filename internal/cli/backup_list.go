package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
)

// held is what one vault holds of one database, for a person or a program.
type held struct {
	Database string           `json:"database"`
	Vault    string           `json:"vault"`
	Backups  []listedBackup   `json:"backups"`          // newest first
	Windows  []listedWindow   `json:"windows"`          // newest backup first
	Unseen   *problem.Problem `json:"unseen,omitempty"` // a copy that could not be read, and what is not known for that

	Restore *forecast.Forecast `json:"restore,omitempty"` // how long the latest moment takes to restore, without a sample; missing = nothing can be restored
}

// listedBackup is a backup with what a list adds to it.
type listedBackup struct {
	vault.Backup
	Age    event.Duration `json:"age"` // since it was complete
	Proven bool           `json:"proven"`
}

// listedWindow is what can be restored from one backup.
type listedWindow struct {
	Backup string    `json:"backup"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	End    string    `json:"end_lsn"`
}

func backupListCommand() *cobra.Command {
	var from vaultFlags
	var output string
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List base backups as the vault holds them, and the moments that can be restored",
		Long: `Reads the vault itself, not what agents remember of it. Works without any agent, and with --vault and --key
without a plan.`,
		Example: `  holdfast backup list
  holdfast backup list records --output json | jq '.[].backups[] | select(.proven | not)'
  holdfast backup list --vault /mnt/vault --key vault.key`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showHeld(cmd, from, args, output, writeBackups)
		},
	}
	from.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func backupWindowCommand() *cobra.Command {
	var from vaultFlags
	var output string
	cmd := &cobra.Command{
		Use:   "window [NAME]",
		Short: "Say which moments of a database can be restored",
		Example: `  holdfast backup window records
  holdfast backup window --vault /mnt/vault --key vault.key --output json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showHeld(cmd, from, args, output, writeWindows)
		},
	}
	from.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// showHeld reads what is held of the named database, or of all, and prints it.
func showHeld(cmd *cobra.Command, from vaultFlags, args []string, output string, table func(io.Writer, []held) error) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	if err := from.check(); err != nil {
		return err
	}
	all, err := readHeld(cmd, from, args)
	if err != nil {
		return err
	}
	for _, h := range all {
		warnUnseen(cmd, h.Unseen)
	}
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), all)
	}
	return table(cmd.OutOrStdout(), all)
}

func readHeld(cmd *cobra.Command, from vaultFlags, names []string) ([]held, error) {
	if from.url != "" {
		return readHeldAlone(cmd.Context(), from, names)
	}
	a, err := findApplication(cmd, from.root)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		for _, b := range a.plan.Backups {
			names = append(names, b.Of)
		}
	}
	all := []held{}
	for _, name := range names {
		_, b, err := a.backupOf(name)
		if err != nil {
			return nil, err
		}
		h, err := a.heldOf(cmd.Context(), b.Vault, name)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

func (a application) heldOf(ctx context.Context, vaultName, name string) (held, error) {
	v, err := a.openVault(ctx, vaultName)
	if err != nil {
		return held{}, err
	}
	defer closeVault(ctx, v)
	return holdings(ctx, v, name)
}

// readHeldAlone lists what a vault holds when nothing else is known.
func readHeldAlone(ctx context.Context, from vaultFlags, names []string) ([]held, error) {
	v, err := from.openAlone(ctx)
	if err != nil {
		return nil, err
	}
	defer closeVault(ctx, v)
	if len(names) == 0 {
		names, err = databasesIn(ctx, v)
		if err == nil && len(names) == 0 {
			err = hides(ctx, v)
		}
		if err != nil {
			return nil, err
		}
	}
	all := []held{}
	for _, name := range names {
		h, err := holdings(ctx, v, name)
		if err != nil {
			return nil, err
		}
		if len(h.Backups) == 0 && h.Unseen == nil {
			if err := unknownIn(ctx, v, name); err != nil {
				return nil, err
			}
		}
		all = append(all, h)
	}
	return all, nil
}

// hides is the problem that keeps a vault from listing what it holds; nil = none.
func hides(ctx context.Context, v *vault.Vault) error {
	p, err := v.Hides(ctx)
	if err != nil || p == nil {
		return err
	}
	return p
}

// mayBeHidden refuses to choose from a list that may lack what is wanted. why says what the list has, take names it by itself.
func mayBeHidden(hides *problem.Problem, why, take string) error {
	p := *hides
	p.Meaning = why + "; what is wanted may be among those that are not listed. Nothing was read or written. " + p.Meaning
	if take != "" {
		p.Remedy += "; or take what is listed: " + take
	}
	return &p
}

func databasesIn(ctx context.Context, v *vault.Vault) ([]string, error) {
	backups, err := v.ReadableBackups(ctx, "")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, b := range backups {
		names = append(names, b.Database)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func holdings(ctx context.Context, v *vault.Vault, name string) (held, error) {
	c, err := restore.LoadReadable(ctx, v, name)
	if err != nil {
		return held{}, err
	}
	h := held{Database: name, Vault: v.Name(), Backups: []listedBackup{}, Windows: []listedWindow{}, Unseen: c.Unseen}
	for _, b := range slices.Backward(c.Backups) {
		h.Backups = append(h.Backups, listedBackup{Backup: b, Age: event.Duration(time.Since(b.Stopped)), Proven: b.Validated()})
	}
	for _, w := range restore.Windows(c) {
		h.Windows = append(h.Windows, listedWindow{Backup: w.Backup, From: w.From, To: w.To, End: w.End.String()})
	}
	if ch, err := restore.Choose(c, restore.Target{Kind: restore.Latest}); err == nil {
		runs, err := evidence(ctx, v, name, c.Backups, "")
		if err != nil && ctx.Err() != nil { // else less is known, and the list is as it is
			return h, err
		}
		f := forecast.Expect(restore.Work(ch, false), runs, nil)
		h.Restore = &f
	}
	return h, nil
}

// restoreLine says how long a restore of the latest moment takes; "" = there is nothing to restore.
func restoreLine(h held) string {
	switch {
	case h.Restore == nil:
		return ""
	case h.Restore.Known:
		return fmt.Sprintf("restoring the latest moment is expected to take %s; try it: holdfast restore drill %s", wholeText(*h.Restore), h.Database)
	}
	return fmt.Sprintf("how long it takes to restore the latest moment is %s; measure it: holdfast restore drill %s", wholeText(*h.Restore), h.Database)
}

func writeBackups(out io.Writer, all []held) error {
	if len(all) == 0 {
		return noBackups("")
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // Flush tells the error
	for i, h := range all {
		if i > 0 {
			p("\n")
		}
		p("DATABASE %s in vault %s\n", h.Database, h.Vault)
		if len(h.Backups) == 0 && h.Unseen != nil {
			p("  none can be listed: what could not be read may hold some\n")
			continue
		}
		if len(h.Backups) == 0 {
			p("  no base backup yet; make one: holdfast backup run %s\n", h.Database)
			continue
		}
		p("  BACKUP\tFINISHED\tAGE\tSIZE\tSTORED\tTIMELINE\tPROVEN\n")
		for _, b := range h.Backups {
			p("  %s\t%s\t%s\t%s\t%s\t%d\t%s\n", b.ID, momentText(b.Stopped), ageText(time.Duration(b.Age)), sizeText(b.Bytes), sizeText(b.Stored), b.Timeline, proofText(b.Backup)+changedText(b.Backup))
		}
		p("\n")
		for _, line := range append(windowLines(h), restoreLine(h)) {
			if line == "" {
				continue
			}
			p("  %s\n", line)
		}
	}
	return w.Flush()
}

// changedText says that a backup was found to be made of pages that changed behind the log.
func changedText(b vault.Backup) string {
	if len(b.Differs) == 0 {
		return ""
	}
	return fmt.Sprintf("; CHANGED since %s though no log changed it, in %s: %s", b.Earlier, backup.ChangedPlaces(b.Differs), b.Differs[0])
}

func writeWindows(out io.Writer, all []held) error {
	if len(all) == 0 {
		return noBackups("")
	}
	for _, h := range all {
		if _, err := fmt.Fprintf(out, "DATABASE %s in vault %s\n", h.Database, h.Vault); err != nil {
			return err
		}
		for _, line := range windowLines(h) {
			if _, err := fmt.Fprintf(out, "  %s\n", line); err != nil {
				return err
			}
		}
	}
	return nil
}

func noBackups(name string) error {
	return &problem.Problem{Code: "restore.no-backup", Subject: name, Severity: problem.Critical, Title: "the vault holds no base backup",
		Meaning: "There is nothing to restore from.", Remedy: "look into another vault, or make a backup: holdfast backup run NAME"}
}

// windowLines say which moments can be restored: windows that meet are one.
func windowLines(h held) []string {
	if len(h.Windows) == 0 {
		return []string{"no moment can be restored; make a base backup at once: holdfast backup run " + h.Database}
	}
	var lines []string
	for _, s := range joinWindows(h.Windows) {
		text := fmt.Sprintf("any moment from %s to %s can be restored", firstText(s.From, s.To), momentText(s.To))
		if !s.To.After(s.From) {
			text = fmt.Sprintf("%s can be restored, and nothing known behind it", s.From.Local().Format(momentLayout))
		}
		lines = append(lines, text+" (log up to "+s.End+")")
	}
	return lines
}

// joinWindows merges windows that overlap, oldest first.
func joinWindows(windows []listedWindow) []listedWindow {
	sorted := slices.SortedFunc(slices.Values(windows), func(a, b listedWindow) int {
		return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To))
	})
	var out []listedWindow
	for _, w := range sorted {
		if n := len(out); n > 0 && !w.From.After(out[n-1].To) {
			if w.To.After(out[n-1].To) {
				out[n-1].To, out[n-1].End = w.To, w.End
			}
			continue
		}
		out = append(out, w)
	}
	return out
}
