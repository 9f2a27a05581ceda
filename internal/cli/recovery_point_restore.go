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
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/point"
)

// pointWords are what `recovery-point restore` is told.
type pointWords struct {
	from                   vaultFlags
	set, to, owner, binDir string
	output                 string
	dryRun, yes, without   bool
	inPlace                bool
	spaces                 map[string]string
}

func pointRestoreCommand() *cobra.Command {
	var w pointWords
	cmd := &cobra.Command{
		Use:   "restore POINT|latest --to DIR|--in-place",
		Short: "Bring back the files and the database of one moment, beside the live ones or in their place",
		Long: `Restores the files to DIR/files and the database to DIR/database, as both were in that moment. The live ones are not
touched. Every file is compared with what was stored. Then a server that nobody else can reach runs on the database, and
the plan's commands after_restore and check work on both; with exit status 0 of all of them the point has passed. What
they said is kept in DIR/recovery-point.json, and in a signed receipt where there is a plan.

It needs no agent: the plan and the data root are enough, or a vault and its key alone, without commands then. Space is
checked before anything is written. What was interrupted, or did not pass, is gone on with by the same command: what was
restored is not restored again, and the commands run again.

With --in-place the application itself goes back. The same is done beside first, and nothing live is changed until the
point has passed and its SQL databases are loaded into the live server. Then the plan's command before brings the
application to stand still, the names of SQL databases and directories are exchanged, and after lets it go on. What was
live stays beside, and holdfast recovery-point undo gives it its names again. It runs on the machine where the set's
directory and the primary are.

latest is the newest point that can be restored: its files are complete and the log up to it is in the vault.`,
		Example: `  holdfast recovery-point restore latest --to /srv/back --dry-run
  holdfast recovery-point restore attachments-20261121T010000Z-a1b2c3 --to /srv/back
  holdfast recovery-point restore latest --files attachments --to /srv/back --output json | jq .outcome
  holdfast recovery-point restore latest --to /srv/back --vault file:///mnt/vault --key vault.key
  holdfast recovery-point restore latest --in-place --dry-run`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT) // servers and commands end too
			defer stop()
			if w.inPlace {
				return w.goBack(ctx, cmd, args[0])
			}
			return w.run(ctx, cmd, args[0])
		},
	}
	w.from.add(cmd)
	cmd.Flags().StringVar(&w.to, "to", "", "an empty or absent directory, or one that an interrupted restore of the point left")
	cmd.Flags().BoolVar(&w.inPlace, "in-place", false, "the running application goes back: directory and SQL databases get the content of the point, and what is live now is kept beside")
	cmd.Flags().StringVar(&w.set, "files", "", "with latest: of which file set (default: the only one that has points)")
	cmd.Flags().BoolVar(&w.without, "no-commands", false, "run no command of the plan: only the files are compared; with --in-place you see to it that the application stands still")
	cmd.Flags().StringVar(&w.owner, "owner", "", "user whom the database's files are to belong to"+ownerDefault)
	cmd.Flags().StringVar(&w.binDir, "bin-dir", "", binDirUsage)
	cmd.Flags().StringToStringVar(&w.spaces, "tablespace", nil, "NAME=DIR: where a tablespace shall lie; may be given more than once")
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "say what would be taken, what would run and whether there is room, and write nothing")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "do not ask before the plan's commands run")
	outputFlag(cmd, &w.output)
	return cmd
}

func (w *pointWords) check() error {
	switch {
	case w.inPlace && (w.to != "" || w.owner != "" || len(w.spaces) > 0):
		return fmt.Errorf("--in-place restores to where files and database are; --to, --owner and --tablespace belong to a restore beside: %w", errUsage)
	case w.inPlace && w.from.url != "":
		return fmt.Errorf("--in-place needs a plan and a primary; with --vault alone restore --to a directory: %w", errUsage)
	case w.to == "" && !w.inPlace:
		return fmt.Errorf("--to says which empty directory to restore to: %w", errUsage)
	case w.dryRun && w.yes:
		return fmt.Errorf("--dry-run changes nothing, so there is nothing to say --yes to: %w", errUsage)
	}
	return errors.Join(checkOutput(w.output), w.from.check())
}

// broughtPoint is what `recovery-point restore` came to, or with DryRun would do.
type broughtPoint struct {
	DryRun   bool           `json:"dry_run"`
	Passed   bool           `json:"passed"`
	Dir      string         `json:"dir"`
	Because  []string       `json:"chosen_because"`
	Place    point.Place    `json:"place"`
	Commands [][]string     `json:"commands,omitempty"` // that run, in turn; check is the last
	Asked    bool           `json:"application_asked"`  // the plan's check has run, or with DryRun would
	Result   *point.Record  `json:"result,omitempty"`
	Took     event.Duration `json:"took,omitempty"`
	Receipt  string         `json:"receipt"` // where it is, or why there is none
	Warnings []string       `json:"warnings,omitempty"`

	HoldsChange *problem.Problem `json:"holds_change,omitempty"` // pages that changed behind the log may be in the database
}

func (w *pointWords) run(ctx context.Context, cmd *cobra.Command, name string) error {
	dir, err := filepath.Abs(w.to)
	if err != nil {
		return fmt.Errorf("find %s: %w", w.to, err)
	}
	s, err := w.openSource(ctx, cmd)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	o, because, err := s.find(ctx, name, w.set)
	if err != nil {
		return err
	}
	warnUnseen(cmd, s.hidden)
	o.Dir = dir
	if err := w.complete(&o, s.app); err != nil {
		return err
	}
	out := broughtPoint{DryRun: w.dryRun, Dir: dir, Because: because, Warnings: filesWarnings(o.Tree.Backup, nil), Asked: len(o.Commands.Check) > 0}
	if out.Commands = o.Commands.After; out.Asked {
		out.Commands = append(slices.Clone(out.Commands), o.Commands.Check)
	}
	out.HoldsChange = warnChanged(ctx, cmd, o.Vault, o.Choice.Backup)
	if !w.dryRun {
		if err := point.EndLeft(ctx, o); err != nil {
			return err
		}
	}
	if out.Place, err = point.Survey(ctx, o); err != nil {
		return err
	}
	if w.dryRun {
		return w.tellDryRun(cmd, o, out)
	}
	if len(out.Commands) > 0 && !w.yes {
		if ok, err := confirm(cmd, fmt.Sprintf("%d commands of the plan would run on what is restored to %s, as %s. Go on?", len(out.Commands), dir, userText(o.Commands.User))); err != nil || !ok {
			return err
		}
	}
	line := newProgressLine(cmd.ErrOrStderr())
	o.Progress = line.pointed
	began := time.Now()
	r, err := point.Restore(ctx, o)
	line.end()
	if err != nil && ctx.Err() != nil {
		return &problem.Problem{Code: "restore.interrupted", Subject: o.Tree.Backup.Point.ID, Severity: problem.Note, Title: "was not restored: interrupted",
			Meaning: dir + " does not hold all of it, or was not looked at. What is live and the vault are as they were.",
			Remedy:  "give the same command again: it goes on with what is there"}
	}
	if err != nil {
		return err
	}
	out.Result, out.Passed, out.Took = &r, r.Outcome.Outcome == point.Passed, event.Duration(time.Since(began))
	if out.Asked = r.Check != nil; r.Again {
		out.Receipt = "none now: it had passed before, at " + momentText(r.Ended) + ", and was not looked at again"
	} else {
		out.Receipt = s.receipt(ctx, cmd, o, r, time.Duration(out.Took))
	}
	return w.tell(cmd, o, out)
}

// complete adds what flags and plan say on how to restore.
func (w *pointWords) complete(o *point.Options, a *application) (err error) {
	if o.Owner, err = ownerNamed(w.owner); err != nil {
		return err
	}
	o.Tablespaces = w.spaces
	for name, to := range w.spaces {
		if w.spaces[name], err = filepath.Abs(to); err != nil {
			return fmt.Errorf("find %s: %w", to, err)
		}
	}
	p := o.Tree.Backup.Point
	o.Commands = point.Commands{}
	if o.BinDir = w.binDir; a != nil {
		d, _ := a.plan.DatabaseNamed(p.Database)
		if o.BinDir == "" {
			o.BinDir = d.BinDir
		}
		if set, ok := a.plan.FileSetNamed(o.Tree.Backup.Set); ok && !w.without && set.Moment.Database == p.Database {
			o.Commands = commandsOf(a.plan, set, d)
		}
	}
	o.BinDir, err = restore.Programs(o.BinDir, o.Choice.Backup.ServerVersion/10000) // before an hour of copying
	return err
}

// commandsOf are the plan's commands after a restore.
func commandsOf(p *plan.Plan, set plan.FileSet, d plan.Database) point.Commands {
	m := set.Moment
	c := point.Commands{After: m.AfterRestore, Check: m.Check, Limit: m.RestoreLimit, User: m.RestoreUser, Application: p.Application}
	if role, inside, ok := d.Login(); ok {
		c.Role, c.Inside = role.Name, inside
	}
	return c
}

func userText(name string) string {
	if name == "" {
		return whoami()
	}
	return name
}

func (w *pointWords) tellDryRun(cmd *cobra.Command, o point.Options, out broughtPoint) error {
	if w.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), out); err != nil {
			return err
		}
	} else if err := writeWouldBring(cmd.OutOrStdout(), o, out); err != nil {
		return err
	}
	if !out.Place.Fits() {
		return exitError{1}
	}
	return nil
}

func writeWouldBring(to io.Writer, o point.Options, out broughtPoint) error {
	var s strings.Builder
	b, p := o.Tree.Backup, out.Place
	fmt.Fprintf(&s, "recovery point %s of %s would be restored to %s. Nothing was written.\n", b.Point.ID, momentText(b.Point.At), p.Dir)
	writePointParts(&s, o, p)
	switch {
	case p.State == "begun":
		s.WriteString("  directory    begun by a restore of the same point; it will be gone on with\n")
	case p.State == "restored":
		s.WriteString("  directory    both are restored already; they would be looked at\n")
	}
	fmt.Fprintf(&s, "  room         %s needed, %s free\n", sizeText(p.Need), sizeText(p.Free))
	for _, c := range out.Commands {
		fmt.Fprintf(&s, "  would run    %s, as %s, for %s at most\n", printable(strings.Join(c, " ")), userText(o.Commands.User), plan.FormatDuration(o.Commands.Limit))
	}
	for _, x := range append(slices.Clone(out.Because), out.Warnings...) {
		fmt.Fprintf(&s, "  note         %s\n", x)
	}
	if !p.Fits() {
		s.WriteString("It would be refused: name another directory with --to.\n")
	}
	_, err := io.WriteString(to, s.String())
	return err
}

func writePointParts(s *strings.Builder, o point.Options, p point.Place) {
	b := o.Tree.Backup
	fmt.Fprintf(s, "  files        %s of %s: backup %s, %d files, %s\n", b.Path, b.Host, b.ID, p.Files.Files, sizeText(p.Files.Bytes))
	fmt.Fprintf(s, "  database     %s at %s: base backup %s (%s) and %s of log\n", b.Point.Database, b.Point.LSN, o.Choice.Backup.ID, sizeText(o.Choice.Backup.Bytes),
		planCount(len(o.Choice.Pieces), "piece"))
}

func (w *pointWords) tell(cmd *cobra.Command, o point.Options, out broughtPoint) error {
	if w.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), out); err != nil {
			return err
		}
		if !out.Passed {
			return exitError{1}
		}
		return nil
	}
	if _, err := io.WriteString(cmd.OutOrStdout(), broughtText(o, out)); err != nil {
		return err
	}
	if out.Passed {
		return nil
	}
	return &problem.Problem{Code: "restore.point-failed", Subject: out.Result.Point.ID, Severity: problem.Critical, Title: "was restored and did not pass: " + out.Result.Because,
		Meaning: "It is not to be opened as it is. What is live and the vault are as they were; both parts lie in " + out.Dir + ".",
		Remedy:  "see what was said above; correct it and give the same command again, which only looks again; or take an earlier point: holdfast recovery-point list"}
}

func broughtText(o point.Options, out broughtPoint) string {
	var s strings.Builder
	r := *out.Result
	if r.Again {
		fmt.Fprintf(&s, "recovery point %s of %s was restored to %s before, and had passed. Nothing was done now.\n", r.Point.ID, momentText(r.Point.At), out.Dir)
	} else {
		fmt.Fprintf(&s, "restored recovery point %s of %s to %s in %s\n", r.Point.ID, momentText(r.Point.At), out.Dir, tookText(time.Duration(out.Took)))
	}
	writePointParts(&s, o, out.Place)
	if v := r.Verified; v != nil {
		fmt.Fprintf(&s, "  compared     %d names, %d files, %s with what was stored; %d are wrong\n", v.Names, v.Files, sizeText(v.Bytes), v.Wrong.Count)
		for _, n := range v.Wrong.First[:min(len(v.Wrong.First), 10)] {
			fmt.Fprintf(&s, "  WRONG        %s\n", printable(n))
		}
	}
	for _, n := range r.Lacks.First[:min(len(r.Lacks.First), 10)] {
		fmt.Fprintf(&s, "  NOT AS IT WAS  %s\n", printable(n))
	}
	for _, x := range r.After {
		s.WriteString(ranText("after", x))
	}
	if r.Check != nil {
		s.WriteString(ranText("check", *r.Check))
	} else if out.Passed {
		s.WriteString("  check        the application was not asked whether database and files agree\n")
	}
	for _, x := range append(slices.Clone(out.Because), out.Warnings...) {
		fmt.Fprintf(&s, "  note         %s\n", x)
	}
	fmt.Fprintf(&s, "  receipt      %s\n", out.Receipt)
	if out.Passed {
		fmt.Fprintf(&s, "The database stays to itself. Let a server on it listen and archive again:\n  holdfast restore release %s\n", point.DatabaseDir(out.Dir))
	}
	return s.String()
}

// ranText is a command that ran, with the end of what it said.
func ranText(what string, r point.Ran) string {
	text := fmt.Sprintf("  %-12s %s: exit status %d, %s\n", what, printable(strings.Join(r.Argv, " ")), r.Status, tookText(r.Took))
	if r.Error != "" {
		text = fmt.Sprintf("  %-12s %s: %s\n", what, printable(strings.Join(r.Argv, " ")), r.Error)
	}
	lines := strings.Split(strings.TrimRight(r.Output, "\n"), "\n")
	for _, l := range lines[max(0, len(lines)-10):] {
		if l != "" {
			text += "    | " + printable(l) + "\n"
		}
	}
	return text
}
