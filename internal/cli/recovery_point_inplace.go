package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/host"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
	"holdfast/internal/restore/point"
	"holdfast/internal/vault"
)

// wentToPoint is what `recovery-point restore --in-place` and `recovery-point undo` came to, or with DryRun would do.
type wentToPoint struct {
	DryRun   bool           `json:"dry_run"`
	Done     bool           `json:"done"`
	Point    string         `json:"point"`
	Files    string         `json:"files"`
	Database string         `json:"database"`
	Because  []string       `json:"chosen_because,omitempty"`
	Bytes    int64          `json:"database_bytes,omitempty"` // of the base backup: about what each database server takes more
	Outlook  point.Outlook  `json:"outlook"`
	Before   []string       `json:"before,omitempty"` // the command that brings the application to stand still
	After    []string       `json:"after,omitempty"`
	Commands [][]string     `json:"commands,omitempty"` // that look at what lies beside; check is the last
	Journal  *point.Journal `json:"journal,omitempty"`  // what was done
	Result   *point.Record  `json:"result,omitempty"`   // of the restore beside, where this command did it
	Kept     []string       `json:"kept,omitempty"`     // where the other content lies
	Took     event.Duration `json:"took,omitempty"`
	Receipt  string         `json:"receipt,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`

	HoldsChange *problem.Problem `json:"holds_change,omitempty"` // pages that changed behind the log may be in the database
}

// stage finds where a file set and its database live on this machine.
func (a application) stage(ctx context.Context, set plan.FileSet, database string, without bool) (st point.Stage, members []restore.Member, err error) {
	m := set.Moment
	if m.Database != database && !without {
		return st, nil, &problem.Problem{Code: "files.no-moment", Subject: set.Name, Severity: problem.Note, Title: "the plan does not say how it stands still with " + database,
			Meaning: "Nothing was restored and nothing was changed.", Remedy: "add moment with database, before and after below files." + set.Name + " in the plan; or stop the application by hand and add --no-commands"}
	}
	at := local.HostDir(a.Root, set.Hosts[0])
	if !isDir(at) {
		return st, nil, &problem.Problem{Code: "restore.files-elsewhere", Subject: set.Name, Severity: problem.Note, Title: "its directory is on " + set.Hosts[0] + ", which is not on this machine",
			Meaning: "Nothing was restored and nothing was changed.", Remedy: "give the command there, as root, once the primary is there too: holdfast database switchover " + database + " --to " + set.Hosts[0]}
	}
	d, _, err := a.backupOf(database)
	if err != nil {
		return st, nil, err
	}
	primary, members, err := a.livePrimaryHost(ctx, d)
	if err != nil {
		return st, nil, err
	}
	st = point.Stage{Set: set.Name, Database: database, Base: filepath.Join(a.Root, "in-place", set.Name), Path: set.Path, Freeze: m.Freeze,
		Env: host.MomentEnv(a.plan.Application, set, set.Hosts[0]), Run: host.RunMoment, Held: host.HeldFile(at, set.Name), Note: host.StillNote(at, set.Name)}
	if !without {
		st.Before, st.After = m.Before, m.After
	}
	st.Live, err = a.sockets(d, primary)
	return st, members, err
}

// goBack is `recovery-point restore --in-place`.
func (w *pointWords) goBack(ctx context.Context, cmd *cobra.Command, name string) error {
	s, err := w.openSource(ctx, cmd)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	o, because, err := w.findInPlace(ctx, s, name)
	if err != nil {
		return err
	}
	warnUnseen(cmd, s.hidden)
	if err := w.complete(&o, s.app); err != nil {
		return err
	}
	set, err := s.app.fileSet(o.Tree.Backup.Set)
	if err != nil {
		return err
	}
	st, members, err := s.app.stage(ctx, set, o.Tree.Backup.Point.Database, w.without)
	if err != nil {
		return err
	}
	out, err := w.wouldGo(ctx, st, o, members)
	out.Warnings = append(out.Warnings, staysBehind(o.Tree.Backup, s.app.plan.Files)...)
	out.Because, out.HoldsChange = because, warnChanged(ctx, cmd, o.Vault, o.Choice.Backup)
	if err == nil {
		err = writeWouldGo(shownOn(cmd, w.output), out, o.Tree.Backup.Point.At)
	}
	if err != nil || w.dryRun {
		return tellGone(cmd, w.output, out, err)
	}
	if err := confirmName(cmd, set.Name, w.yes); err != nil {
		return err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	st.Progress = line.pointed
	began := time.Now()
	j, r, err := st.Restore(ctx, o, members)
	line.end()
	if err != nil {
		return cutOff(ctx, set.Name, err)
	}
	if out.Took = event.Duration(time.Since(began)); r.Point.ID != "" {
		out.Result = &r
	}
	out.done(j)
	out.Receipt = s.app.pointReceipt(ctx, cmd, set, out)
	return tellGone(cmd, w.output, out, nil)
}

// staysBehind says what does not go back with a recovery point: what its backup leaves out goes away with the live directory,
// and another set that is made to stand still with the same database stays as it is. Pure.
func staysBehind(b vault.FileBackup, sets []plan.FileSet) (out []string) {
	if len(b.Excluded) > 0 {
		out = append(out, "the backup leaves out "+strings.Join(b.Excluded, " ")+": what the live directory has of it is set aside with it, and is not there afterwards; after_restore can make what is needed")
	}
	for _, s := range sets {
		if s.Name != b.Set && s.Moment.Database == b.Point.Database {
			out = append(out, "files "+s.Name+" have their recovery points with database "+b.Point.Database+" too, and stay as they are")
		}
	}
	return out
}

// wouldGo is what would be done.
func (w *pointWords) wouldGo(ctx context.Context, st point.Stage, o point.Options, members []restore.Member) (wentToPoint, error) {
	b := o.Tree.Backup
	out := wentToPoint{DryRun: w.dryRun, Point: b.Point.ID, Files: b.Set, Database: b.Point.Database, Bytes: o.Choice.Backup.Bytes, Before: st.Before, After: st.After,
		Commands: slices.Clone(o.Commands.After), Warnings: filesWarnings(b, nil)}
	if len(o.Commands.Check) > 0 {
		out.Commands = append(out.Commands, o.Commands.Check)
	}
	if !w.dryRun {
		if err := st.EndLeft(ctx, o); err != nil {
			return out, err
		}
	}
	var err error
	out.Outlook, err = st.Look(ctx, o, members)
	return out, err
}

// findInPlace finds the point; latest is the one of a restore in place that was cut off, where there is such a one.
func (w *pointWords) findInPlace(ctx context.Context, s *pointSource, name string) (point.Options, []string, error) {
	o, because, err := s.find(ctx, name, w.set)
	if err != nil || name != "latest" {
		return o, because, err
	}
	set := o.Tree.Backup.Set
	j, known, err := point.ReadJournal(filepath.Join(s.app.Root, "in-place", set))
	if err != nil || !known || !j.Ended.IsZero() || j.Backup == o.Tree.Backup.ID {
		return o, because, err
	}
	o, _, err = s.find(ctx, j.Point.ID, set)
	return o, []string{"a restore in place to " + j.Point.ID + " was cut off, and goes on"}, err
}

// done fills in what was done.
func (out *wentToPoint) done(j point.Journal) {
	out.Done, out.Journal = true, &j
	if j.Done == nil {
		return
	}
	if j.CameInode != 0 {
		out.Kept = append(out.Kept, j.Beside)
	}
	for _, x := range j.Done.Names {
		if x.Out != "" {
			out.Kept = append(out.Kept, x.Out)
		}
	}
}

// cutOff is what an end before the end means.
func cutOff(ctx context.Context, set string, err error) error {
	if _, told := errors.AsType[*problem.Problem](err); told || ctx.Err() == nil {
		return err
	}
	return &problem.Problem{Code: "restore.interrupted", Subject: set, Severity: problem.Note, Title: "did not go back: interrupted",
		Meaning: "Nothing live was changed. What was restored so far lies beside.",
		Remedy:  "give the same command again: it goes on with what is there; or let go of it: holdfast recovery-point undo " + set}
}

// pointed shows how far a recovery point is.
func (l *progressLine) pointed(phase string, done, total int64) {
	if phase != l.phase {
		l.show(phase, "")
	}
	if total > 0 {
		l.show(phase, progressText(done, total, time.Since(l.since)))
	}
}

func (a application) pointReceipt(ctx context.Context, cmd *cobra.Command, set plan.FileSet, out wentToPoint) string {
	if err := a.restoredOrSay(ctx, cmd, set.Backup.Vault, inPlaceReceipt(out)); err != nil {
		return "not in the vault: " + err.Error()
	}
	return "signed, in vault " + set.Backup.Vault
}

// inPlaceReceipt is evidence that an application went back to a recovery point, or that this was taken back.
func inPlaceReceipt(out wentToPoint) receipt.Event {
	j := out.Journal
	says := fmt.Sprintf("files %s and database %s went back in place to recovery point %s", out.Files, out.Database, out.Point)
	switch {
	case j.Done == nil:
		says = fmt.Sprintf("the restore in place of files %s and database %s to recovery point %s was let go of before anything was exchanged", out.Files, out.Database, out.Point)
	case j.To == point.Was:
		says = fmt.Sprintf("files %s and database %s have what was live before recovery point %s again", out.Files, out.Database, out.Point)
	}
	if len(out.Kept) > 0 {
		says += "; what was live until then is kept as " + strings.Join(out.Kept, ", ")
	}
	return restoreEvent(out.Files, says, map[string]any{"point": out.Point, "at": j.Point.At, "how": "in-place", "to": j.To, "path": j.Path, "kept": out.Kept, "left_alone": j.Alone, "left_out": j.LeftOut},
		map[string]float64{"took_seconds": time.Duration(out.Took).Seconds(), "stood_still_seconds": j.Stood.Seconds()})
}

// stepText says what a step does.
func stepText(step point.Step, out wentToPoint) string {
	command := func(argv []string) string {
		if len(argv) == 0 {
			return "nothing runs: you see to it (--no-commands)"
		}
		return printable(strings.Join(argv, " "))
	}
	switch step {
	case point.StepRestore:
		return fmt.Sprintf("restore files and database beside, compare each file, run %s of the plan on both", planCount(len(out.Commands), "command"))
	case point.StepLoad:
		return "load the SQL databases into the live server under names of their own, while the application goes on"
	case point.StepFreeze:
		return "bring the application to stand still: " + command(out.Before)
	case point.StepSQL:
		return "exchange the names of the SQL databases, in one transaction; sessions in them are ended"
	case point.StepFiles:
		return "exchange " + out.Outlook.Path + " and " + out.Outlook.Beside
	case point.StepThaw:
		return "let the application go on: " + command(out.After)
	}
	return "remove the copy, if one is left; what was live stays"
}

func writeWouldGo(to io.Writer, out wentToPoint, at time.Time) error {
	var s strings.Builder
	what := "recovery point " + out.Point + " of " + momentText(at)
	if out.Outlook.To == point.Was {
		what = "what was live before " + what
	}
	fmt.Fprintf(&s, "files %s and database %s would have %s, where they are:\n", out.Files, out.Database, what)
	if out.Outlook.Begun {
		s.WriteString("  it goes on with what was begun before\n")
	}
	for i, step := range out.Outlook.Steps {
		fmt.Fprintf(&s, "  %d. %s\n", i+1, stepText(step, out))
	}
	if p := out.Outlook.Place; p != nil {
		fmt.Fprintf(&s, "  room         %s needed for the copy, %s free; the files take %s beside the set, and what is loaded about %s on each database server\n",
			sizeText(p.Need), sizeText(p.Free), sizeText(p.Files.Room), sizeText(out.Bytes))
	}
	if len(out.Outlook.Unsure) > 0 {
		fmt.Fprintf(&s, "  NOT KNOWN is the room on %s, which does not answer\n", strings.Join(out.Outlook.Unsure, ", "))
	}
	if k := out.Outlook.Kept; k != "" {
		fmt.Fprintf(&s, "  note         %s is kept from an earlier restore in place; undo leads there no more afterwards\n", k)
	}
	for _, x := range append(slices.Clone(out.Because), out.Warnings...) {
		fmt.Fprintf(&s, "  note         %s\n", x)
	}
	_, err := io.WriteString(to, s.String())
	return err
}

func tellGone(cmd *cobra.Command, output string, out wentToPoint, err error) error {
	if err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), goneText(out))
	return err
}

func goneText(out wentToPoint) string {
	if !out.Done {
		return "Nothing was changed.\n"
	}
	var s strings.Builder
	j := out.Journal
	what := "are at recovery point " + out.Point + " now"
	switch {
	case j.Done == nil:
		what = "are as they were: nothing had been exchanged, and what was restored beside was removed"
	case j.To == point.Was:
		what = "have what was live before recovery point " + out.Point + " again"
	}
	fmt.Fprintf(&s, "files %s and database %s %s, after %s\n", out.Files, out.Database, what, tookText(time.Duration(out.Took)))
	if j.Stood > 0 {
		fmt.Fprintf(&s, "  stood still  %s\n", tookText(j.Stood))
	}
	for _, x := range j.Alone {
		fmt.Fprintf(&s, "  left alone   SQL database %s\n", x)
	}
	for _, x := range j.LeftOut {
		fmt.Fprintf(&s, "  LEFT OUT     %s\n", x)
	}
	for _, x := range out.Kept {
		fmt.Fprintf(&s, "  kept         %s\n", x)
	}
	if out.Receipt != "" {
		fmt.Fprintf(&s, "  receipt      %s\n", out.Receipt)
	}
	if len(out.Kept) > 0 {
		fmt.Fprintf(&s, "What is kept stays until you remove it (rm -r, drop database). Back to it, and forth again:\n  holdfast recovery-point undo %s\n", out.Files)
	}
	return s.String()
}

func pointUndoCommand() *cobra.Command {
	var root, output string
	var dryRun, yes, without bool
	cmd := &cobra.Command{
		Use:   "undo FILES",
		Short: "Take back the last restore in place to a recovery point, or finish with one that was cut off",
		Long: `Gives directory and SQL databases that holdfast recovery-point restore --in-place has set aside their names again, while the
plan's command before makes the application stand still. What has the names now is set aside in its turn, so the same
command goes forth again. A restore in place that was cut off is taken back, however far it was.`,
		Example: `  holdfast recovery-point undo attachments --dry-run
  holdfast recovery-point undo attachments`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
			defer stop()
			a, err := findApplication(cmd, root)
			if err != nil {
				return err
			}
			return a.undoPoint(ctx, cmd, args[0], output, dryRun, yes, without)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", rootUsage)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&without, "no-commands", false, "run neither before nor after of the plan: you see to it that the application stands still")
	outputFlag(cmd, &output)
	return cmd
}

func (a application) undoPoint(ctx context.Context, cmd *cobra.Command, name, output string, dryRun, yes, without bool) error {
	set, err := a.fileSet(name)
	if err != nil {
		return err
	}
	database := set.Moment.Database
	if j, known, err := point.ReadJournal(filepath.Join(a.Root, "in-place", set.Name)); err != nil {
		return err
	} else if known {
		database = j.Point.Database
	}
	st, _, err := a.stage(ctx, set, database, without)
	if err != nil {
		return err
	}
	out := wentToPoint{DryRun: dryRun, Files: name, Database: database, Before: st.Before, After: st.After}
	if out.Outlook, err = st.LookBack(ctx); err != nil {
		return err
	}
	p := out.Outlook.Journal.Point
	out.Point = p.ID
	if err := writeWouldGo(shownOn(cmd, output), out, p.At); err != nil || dryRun {
		return tellGone(cmd, output, out, err)
	}
	if err := confirmName(cmd, name, yes); err != nil {
		return err
	}
	line := newProgressLine(cmd.ErrOrStderr())
	st.Progress = line.pointed
	began := time.Now()
	j, err := st.Undo(ctx)
	line.end()
	if err != nil {
		return cutOff(ctx, name, err)
	}
	out.Took = event.Duration(time.Since(began))
	out.done(j)
	out.Receipt = a.pointReceipt(ctx, cmd, set, out)
	return tellGone(cmd, output, out, nil)
}
