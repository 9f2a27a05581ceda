package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// inPlaceWords say which SQL databases go back under their own names.
type inPlaceWords struct {
	wanted bool
	only   []string
	table  tableWords // what it shares with --into
}

func (w *inPlaceWords) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wanted, "in-place", false, "the running database goes back: its SQL databases get the content of that moment, and what is live now is kept under other names")
	cmd.Flags().StringSliceVar(&w.only, "database", nil, "with --in-place: only this SQL database (default: all that were there then); may be given more than once")
	cmd.Flags().StringVar(&w.table.scratch, "scratch", "", "with --in-place: where the copy is made (default: scratch below the data root)")
}

func (w *inPlaceWords) check(all *databaseWords) error {
	say := func(text string) error { return fmt.Errorf("%s: %w", text, errUsage) }
	switch {
	case !w.wanted && (len(w.only) > 0 || w.table.scratch != ""):
		return say("--database and --scratch belong to --in-place")
	case !w.wanted:
		return nil
	case all.to != "" || all.beside.name != "" || all.delta || len(all.spaces) > 0 || all.as != "":
		return say("--in-place restores to where the database is; of the others it takes --at, --database, --timeline, --bin-dir, --scratch, --dry-run and --yes")
	case all.from.url != "":
		return say("--in-place needs a plan and a primary; with --vault alone restore --to a directory")
	case all.at == "latest":
		return say("--in-place needs --at, the moment to go back to")
	}
	return nil
}

// wentBack is what `restore database --in-place` and `restore undo` came to.
type wentBack struct {
	Database    string             `json:"database"`
	At          string             `json:"at"`
	Backup      string             `json:"backup,omitempty"`
	Since       int64              `json:"transactions_since"`
	Databases   []restore.Exchange `json:"databases"`
	Alone       []string           `json:"left_alone,omitempty"`
	Unknown     []string           `json:"room_unknown,omitempty"` // standbys whose free space nobody has told
	Unseen      *problem.Problem   `json:"unseen,omitempty"`       // a copy that could not be read, and what is not known for that
	HoldsChange *problem.Problem   `json:"holds_change,omitempty"` // pages that changed behind the log may be in it
	Doubtful    []string           `json:"doubtful,omitempty"`
	DryRun      bool               `json:"dry_run"`
	Done        bool               `json:"done"`
	Took        event.Duration     `json:"took"`
}

func (w *databaseWords) goBack(ctx context.Context, cmd *cobra.Command, name string, at restore.Target) (err error) {
	a, err := findApplication(cmd, w.from.root)
	if err != nil {
		return err
	}
	o, closeAll, err := a.intoOptions(ctx, name, at, w.inPlace.table.scratch)
	if err != nil {
		return err
	}
	defer closeAll()
	if w.binDir != "" {
		o.BinDir = w.binDir
	}
	began := time.Now()
	line := newProgressLine(cmd.ErrOrStderr())
	o.Progress = line.restored
	p, err := restore.OpenInPlace(ctx, o, w.inPlace.only)
	line.end()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close(context.WithoutCancel(ctx))) }()
	out := wentBack{Database: name, At: at.String(), Backup: p.Choice.Backup.ID, Since: p.Since, Databases: p.Databases, Alone: p.Alone, Unknown: p.Unknown, DryRun: w.dryRun, Unseen: p.Choice.Unseen}
	warnUnseen(cmd, p.Choice.Unseen)
	out.HoldsChange = warnChanged(ctx, cmd, o.Vault, p.Choice.Backup)
	if err := writeBack(shownOn(cmd, w.output), out); err != nil {
		return err
	}
	if !w.dryRun {
		if err := confirmName(cmd, name, w.yes); err != nil {
			return err
		}
		line := newProgressLine(cmd.ErrOrStderr())
		err := p.Load(ctx, func(inside string) { line.show("loading "+inside, "") })
		line.end()
		if err == nil {
			err = p.Exchange(ctx)
		}
		if err != nil {
			return err
		}
		out.Done = true
	}
	out.Took = event.Duration(time.Since(began))
	if out.Done {
		a.restored(ctx, cmd, o.Vault.Name(), backReceipt(out))
	}
	return w.tellBack(cmd, out)
}

// shownOn is where a person reads what would be done: beside the JSON, if that is wanted.
func shownOn(cmd *cobra.Command, output string) io.Writer {
	if output == "json" {
		return cmd.ErrOrStderr()
	}
	return cmd.OutOrStdout()
}

func (w *databaseWords) tellBack(cmd *cobra.Command, out wentBack) error {
	if w.output == "json" {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	text := "Nothing was changed.\n"
	if out.Done {
		text = fmt.Sprintf("%s is at %s now, after %s. What was live is kept under the names above; take it back with\n  holdfast restore undo %s\n",
			out.Database, out.At, tookText(time.Duration(out.Took)), out.Database)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), text)
	return err
}

func writeBack(out io.Writer, b wentBack) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s would go back to %s (base backup %s). %s began since then; what they did is not in it.\n", b.Database, b.At, b.Backup, planCount(int(b.Since), "transaction"))
	writeExchanges(&text, b.Databases)
	for _, x := range b.Alone {
		fmt.Fprintf(&text, "  left as it is: %s\n", x)
	}
	fmt.Fprintf(&text, "Primary and standbys each take %s more, and the log of that; their disks have room for it.\n", sizeText(b.bytes()))
	if len(b.Unknown) > 0 {
		fmt.Fprintf(&text, "NOT KNOWN is the room on %s, which does not answer.\n", strings.Join(b.Unknown, ", "))
	}
	text.WriteString("Roles are left as they are. Sessions in these SQL databases are ended when the names are exchanged.\n")
	_, err := io.WriteString(out, text.String())
	return err
}

// bytes is what the databases of the moment take.
func (b wentBack) bytes() (sum int64) {
	for _, x := range b.Databases {
		sum += x.Bytes
	}
	return sum
}

func writeExchanges(text *strings.Builder, list []restore.Exchange) {
	for _, x := range list {
		kept := "there is none of that name now"
		if x.Kept != "" {
			kept = fmt.Sprintf("what is live now (%s) stays as %s", sizeText(x.NowBytes), x.Kept)
		}
		fmt.Fprintf(text, "  %s: %s; %s\n", x.Name, sizeText(x.Bytes), kept)
		writeLaid(text, x.Tablespaces)
		for _, l := range x.LeftOut {
			fmt.Fprintf(text, "    LEFT OUT: %s\n", l)
		}
	}
}

// writeLaid says which tablespaces are used again.
func writeLaid(text *strings.Builder, list []restore.Laid) {
	for _, x := range list {
		fmt.Fprintf(text, "    in tablespace %s: %s (the room for it was looked at on the primary alone)\n", x.Tablespace, sizeText(x.Bytes))
	}
}

// confirmName lets a person type the name of what is about to change.
func confirmName(cmd *cobra.Command, name string, yes bool) error {
	if yes {
		return nil
	}
	if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "Type %s to go on: ", name); err != nil {
		return err
	}
	var word string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &word); err != nil || word != name {
		return fmt.Errorf("nothing was changed; --yes goes on without asking: %w", errUsage)
	}
	return nil
}

func restoreUndoCommand() *cobra.Command {
	var root, output string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "undo NAME",
		Short: "Take back the last restore in place",
		Long: `Gives the SQL databases that holdfast restore database NAME --in-place has set aside their names again. What has these
names now is set aside in its turn, so that this can be taken back too. It is one transaction.`,
		Example: `  holdfast restore undo records --dry-run
  holdfast restore undo records`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			return a.undo(cmd, args[0], output, dryRun, yes)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would come back, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	outputFlag(cmd, &output)
	return cmd
}

func (a application) undo(cmd *cobra.Command, name, output string, dryRun, yes bool) error {
	ctx := cmd.Context()
	d, b, err := a.backupOf(name)
	if err != nil {
		return err
	}
	primary, _, err := a.livePrimaryHost(ctx, d)
	if err != nil {
		return err
	}
	live, err := a.sockets(d, primary)
	if err != nil {
		return err
	}
	u, err := restore.FindUndo(ctx, live, name)
	if err != nil {
		return err
	}
	out := wentBack{Database: name, At: u.At, Databases: u.Databases, Doubtful: u.Doubtful, DryRun: dryRun}
	if err := writeUndo(shownOn(cmd, output), out); err != nil {
		return err
	}
	if !dryRun {
		if err := confirmName(cmd, name, yes); err != nil {
			return err
		}
		began := time.Now()
		if out.Databases, err = u.Apply(ctx, live, name); err != nil {
			return err
		}
		out.Done, out.Took = true, event.Duration(time.Since(began))
		a.restored(ctx, cmd, b.Vault, undoReceipt(out))
	}
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	text := strings.Builder{}
	if !out.Done {
		text.WriteString("Nothing was changed.\n")
	}
	for _, x := range out.Databases {
		switch {
		case !out.Done:
		case x.Kept == "":
			fmt.Fprintf(&text, "  %s is back\n", x.Name)
		default:
			fmt.Fprintf(&text, "  %s is back; what had its name is kept as %s\n", x.Name, x.Kept)
		}
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text.String())
	return err
}

// writeUndo says what would come back.
func writeUndo(out io.Writer, b wentBack) error {
	var text strings.Builder
	for _, x := range b.Databases {
		now := "nothing has that name now"
		if x.NowBytes > 0 {
			now = fmt.Sprintf("what has that name now (%s) would be set aside", sizeText(x.NowBytes))
		}
		fmt.Fprintf(&text, "  %s (%s) would be %s again, set aside by the restore to %s; %s\n", x.Kept, sizeText(x.Bytes), x.Name, b.At, now)
	}
	for _, d := range b.Doubtful {
		fmt.Fprintf(&text, "  not believed, and left as it is: %s\n", d)
	}
	_, err := io.WriteString(out, text.String())
	return err
}
