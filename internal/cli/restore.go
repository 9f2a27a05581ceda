package cli

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// tableWords are what `restore NAME` is told.
type tableWords struct {
	from vaultFlags

	output, database, table, at, where, scratch, into string

	dump, owner, binDir string // with dump alone

	diff, putBack, findDeletes, dryRun, yes, keep bool
	since                                         span
	rows, atLeast                                 int
}

func restoreCommand() *cobra.Command {
	var w tableWords
	cmd := &cobra.Command{
		Use:   "restore NAME",
		Short: "Bring back what somebody deleted, or a whole database at a moment",
		Long: `Restoring never changes what is live before it has shown what it would change.

When rows were deleted: find the moment, look at the difference, put the rows back. The database is restored to
that moment beside the live one, on a server that nobody else can reach; the table is compared by its primary
key; rows that are missing now are inserted in one transaction. Rows that exist are never changed. The copy is
removed again. This runs on the machine where the primary runs.

With --into, a table comes back under a new name instead: into a new schema of the same SQL database, with the types,
sequences, functions, indexes and constraints that it needs; it need not be there any more. Foreign keys to other
tables, triggers and row policies are left out and named. Without --table, a whole SQL database comes back as a new one.
Nothing that is live is changed either way, and what cannot be put there whole is not put there at all.

With --dump, a table or an SQL database of a moment (default: the latest) becomes a file of SQL that psql loads anywhere as one
transaction. It needs no live server, and with --vault and --key no plan either: it is restored on a scratch server, and that
is removed again. A table stands in a schema of its own in the file, restored or what --into says, with all that it needs.

When the whole database is wanted at a moment: holdfast restore database NAME --to DIR; with a vault and its key alone, when
everything else is gone: holdfast restore database NAME --vault URL --key FILE --to DIR. How long that takes, tried and
measured: holdfast restore drill NAME.`,
		Example: `  holdfast restore records --find-deletes --since 1h
  holdfast restore records --table appointments --at 10:41 --diff
  holdfast restore records --table appointments --at before:xid:812 --put-back --dry-run
  holdfast restore records --table appointments --at before:xid:812 --put-back
  holdfast restore records --table appointments --at "10m ago" --where "practice_id = 7" --put-back --yes
  holdfast restore records --table appointments --at 10:41 --into rescued
  holdfast restore records --database clinic --at 10:41 --into clinic_before
  holdfast restore records --table appointments --at 10:41 --dump appointments.sql
  holdfast restore records --vault file:///mnt/vault --key vault.key --database clinic --table appointments --dump appointments.sql
  holdfast restore records --vault file:///mnt/vault --key vault.key --database clinic --dump clinic.sql
  holdfast restore database records --at 10:41 --to /srv/restored`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT) // the copy is removed on Ctrl-C too
			defer stop()
			return w.run(ctx, cmd, args[0])
		},
	}
	w.from.add(cmd)
	cmd.Flags().BoolVar(&w.findDeletes, "find-deletes", false, "list the transactions that deleted rows, from the log in the vault")
	w.since = span(24 * time.Hour)
	cmd.Flags().Var(&w.since, "since", `with --find-deletes: how far back to look, such as 1h, 2d or "1 week"`)
	cmd.Flags().IntVar(&w.atLeast, "at-least", 1, "with --find-deletes: rows that one transaction deleted from one table")
	cmd.Flags().StringVar(&w.table, "table", "", "the table, with its schema where it is not public")
	cmd.Flags().StringVar(&w.at, "at", "", atUsage)
	cmd.Flags().BoolVar(&w.diff, "diff", false, "show which rows are missing, changed and new since then (this is what happens without --put-back)")
	cmd.Flags().BoolVar(&w.putBack, "put-back", false, "insert the rows that are missing, after showing them and asking")
	cmd.Flags().StringVar(&w.into, "into", "", "put the table into this new schema, or without --table the SQL database of --database into this new one")
	cmd.Flags().StringVar(&w.dump, "dump", "", "write the table, or without --table the SQL database, to this new file of SQL; no live server is needed")
	cmd.Flags().StringVar(&w.owner, "owner", "", "with --dump: user as whom the scratch server runs"+ownerDefault)
	cmd.Flags().StringVar(&w.binDir, "bin-dir", "", "with --dump: "+binDirUsage)
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "with --put-back: do it and take it back, to say what it would do; with --into: list what would come; with --dump: say what it takes")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "with --put-back and --into: do not ask")
	cmd.Flags().StringVar(&w.where, "where", "", "SQL condition on the rows to look at")
	cmd.Flags().IntVar(&w.rows, "rows", 0, "how many rows of each kind to show (default: 5, and all missing ones in JSON)")
	cmd.Flags().StringVar(&w.database, "database", "", "the SQL database inside NAME (default: the one that the plan's first role owns)")
	cmd.Flags().StringVar(&w.scratch, "scratch", "", "where the copy is made (default: scratch below the data root)")
	cmd.Flags().BoolVar(&w.keep, "keep", false, "keep the copy's files")
	outputFlag(cmd, &w.output)
	cmd.AddCommand(restoreDatabaseCommand(), restoreFilesCommand(), restoreDrillCommand(), restoreReleaseCommand(), restoreStopCommand(), restoreStartCommand(), restoreUndoCommand())
	return cmd
}

// check refuses words that do not go together.
func (w *tableWords) check() error {
	say := func(text string) error { return fmt.Errorf("%s: %w", text, errUsage) }
	if err := checkOutput(w.output); err != nil {
		return err
	}
	switch {
	case w.dump != "":
		return errors.Join(w.from.check(), w.checkDump())
	case w.from.url != "" || w.from.key != "":
		return say("from a vault and its key alone, without plan and agents, a table or an SQL database comes as a file: --dump FILE; all of it: holdfast restore database NAME --vault URL --key FILE --to DIR; which databases the vault holds: holdfast backup list --vault URL --key FILE")
	case w.owner != "" || w.binDir != "":
		return say("--owner and --bin-dir belong to --dump")
	case w.findDeletes && (w.at != "" || w.diff || w.putBack || w.where != "" || w.keep):
		return say("--find-deletes only lists; of the others it takes --since, --at-least, --table and --database")
	case w.findDeletes && w.since <= 0:
		return say("--since is a duration above zero, for instance 1h")
	case w.findDeletes:
		return nil
	case w.into != "" && (w.diff || w.putBack || w.where != "" || w.keep || w.rows != 0):
		return say("--into brings the whole table or database under a new name; of the others it takes --table, --database, --at, --dry-run and --yes")
	case w.into != "" && w.at == "":
		return say("--into needs --at, the moment that is wanted")
	case w.into != "" && w.table == "" && w.database == "":
		return say("--into needs --table for one table, or --database for a whole SQL database")
	case w.into != "" && w.dryRun && w.yes:
		return say("--dry-run changes nothing, so there is nothing to say --yes to")
	case w.into != "":
		return nil
	case w.table == "" && w.at == "":
		return say("say what to do: --find-deletes, or --table TABLE --at MOMENT (--diff or --put-back), or holdfast restore database NAME --to DIR for the whole database")
	case w.table == "":
		return say("--at needs --table; for the whole database: holdfast restore database NAME --to DIR")
	case w.at == "":
		return say("--table needs --at, the moment before the rows were deleted; --find-deletes lists candidates")
	case w.diff && w.putBack:
		return say("--put-back shows the difference by itself; give --diff or --put-back")
	case (w.dryRun || w.yes) && !w.putBack:
		return say("--dry-run and --yes belong to --put-back; without it nothing is changed anyway")
	case w.dryRun && w.yes:
		return say("--dry-run changes nothing, so there is nothing to say --yes to")
	case w.rows < 0:
		return say("--rows is a number of rows")
	}
	return nil
}

func (w *tableWords) run(ctx context.Context, cmd *cobra.Command, name string) error {
	now := time.Now()
	if w.findDeletes {
		return w.listDeletes(ctx, cmd, name, now)
	}
	if w.dump != "" {
		return w.writeDump(ctx, cmd, name, now)
	}
	at, err := moment(w.at, now)
	if err != nil {
		return err
	}
	tellMoment(cmd, at)
	if w.into != "" {
		return w.bringInto(ctx, cmd, name, at)
	}
	return w.bringBack(ctx, cmd, name, at)
}
