package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/event"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
)

// databaseWords are what `restore database` is told.
type databaseWords struct {
	from           vaultFlags
	at, to, as     string
	binDir, output string
	timeline       uint32
	dryRun, delta  bool
	noSample       bool
	yes            bool
	beside         asWords
	spaces         map[string]string
	inPlace        inPlaceWords
}

func restoreDatabaseCommand() *cobra.Command {
	var w databaseWords
	cmd := &cobra.Command{
		Use:   "database NAME --to DIR | --as NEWNAME | --in-place",
		Short: "Restore a whole database at a moment: to a directory, as a server of another name, or in place",
		Long: `Takes the base backup and the log that lead to the moment from the vault, writes them to an empty directory and
replays the log once, so that what lies there afterwards is a whole database. The live one is not touched.

It needs no agent and no server: the plan and the data root are enough, or a vault and its key alone. Space is
checked before anything is written. A restore that was interrupted leaves a directory that cannot start; the
same command goes on with it, and what is right there is not read from the vault again. PostgreSQL of the same
major version must be installed.

--delta restores onto an older or broken copy of the same database on which no server runs, and reads only what is
not right there. It changes that copy from its first moment on.

What was restored stays to itself: it listens on no address and archives nothing, until
  holdfast restore release DIR

--as NEWNAME restores and lets a server of that name run, on this machine's host, which listens on loopback with the
roles and passwords of that moment. The agent keeps it running and holdfast status lists it, until holdfast restore stop
NEWNAME. It archives nothing, follows nobody and nobody can follow it.

--in-place brings the running, highly available database back to the moment, by its content: each SQL database as it was
then is loaded on the primary beside the live one, and then their names are exchanged in one transaction. What was live is
kept under another name; holdfast restore undo NAME takes it back. Standbys, listeners and the archive go on. Roles, and the
SQL database postgres, are left as they are. It takes room for both, and runs on the machine of the primary.`,
		Example: `  holdfast restore database records --to /srv/restored
  holdfast restore database records --at "2026-11-20 14:30:00" --to /srv/restored --dry-run
  holdfast restore database records --at before:xid:812 --to /srv/restored
  holdfast restore database records --at "10m ago" --to /srv/restored --output json
  holdfast restore database records --to /srv/restored --delta --dry-run
  holdfast restore database records --to /srv/restored --tablespace fast=/ssd/restored
  holdfast restore database records --to /srv/restored --vault file:///mnt/vault --key vault.key
  holdfast restore database records --at "10m ago" --as records-before
  holdfast restore database records --at "10m ago" --in-place --dry-run
  holdfast restore database records --at "10m ago" --in-place --database clinic`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			at, err := moment(w.at, time.Now())
			if err != nil {
				return err
			}
			tellMoment(cmd, at)
			at.Timeline = w.timeline
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT) // the server that replays ends too
			defer stop()
			if w.inPlace.wanted {
				return w.goBack(ctx, cmd, args[0], at)
			}
			return w.run(ctx, cmd, args[0], at)
		},
	}
	w.from.add(cmd)
	cmd.Flags().StringVar(&w.at, "at", "latest", atUsage)
	cmd.Flags().StringVar(&w.to, "to", "", "an empty or absent directory, or one that an interrupted restore left")
	cmd.Flags().BoolVar(&w.delta, "delta", false, "--to may hold an older or broken copy of the same database, stopped; it is written over")
	cmd.Flags().BoolVar(&w.yes, "yes", false, "with --delta: do not ask")
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "say what would be taken, how long that is expected to take and whether there is room, and restore nothing")
	cmd.Flags().BoolVar(&w.noSample, "no-sample", false, "read and write no sample to find out how long it will take (a dry run reads 256 MiB at most, for 20 s at most; it is removed)")
	cmd.Flags().StringVar(&w.as, "owner", "", "user whom the files are to belong to"+ownerDefault)
	cmd.Flags().StringVar(&w.binDir, "bin-dir", "", binDirUsage)
	cmd.Flags().Uint32Var(&w.timeline, "timeline", 0, timelineUsage)
	cmd.Flags().StringToStringVar(&w.spaces, "tablespace", nil, "NAME=DIR: where a tablespace shall lie (default: in a directory beside --to that ends in .tablespaces); may be given more than once")
	w.beside.add(cmd)
	w.inPlace.add(cmd)
	outputFlag(cmd, &w.output)
	return cmd
}

func (w *databaseWords) check() error {
	if err := checkOutput(w.output); err != nil {
		return err
	}
	if err := w.beside.check(w); err != nil {
		return err
	}
	if err := w.inPlace.check(w); err != nil {
		return err
	}
	if w.to == "" && w.beside.name == "" && !w.inPlace.wanted {
		return fmt.Errorf("--to says which empty directory to restore to, --as under which name to let a server run, --in-place that the running one goes back: %w", errUsage)
	}
	return w.from.check()
}

// restoredDatabase is what `restore database` came to, or with DryRun would take.
type restoredDatabase struct {
	Database string         `json:"database"`
	Vault    string         `json:"vault"`
	At       string         `json:"at"`
	DryRun   bool           `json:"dry_run"`
	Backup   vault.Backup   `json:"backup"`
	Timeline uint32         `json:"timeline"`
	Pieces   int            `json:"log_pieces"`
	Log      int64          `json:"log_bytes"`
	End      string         `json:"log_end_lsn"`
	Covered  time.Time      `json:"log_covers"` // every commit up to then is among it; zero = unknown
	Because  []string       `json:"because"`
	Place    restore.Place  `json:"place"`
	Owner    string         `json:"-"`
	BinDir   string         `json:"bin_dir"`
	Kept     int64          `json:"kept,omitempty"` // bytes that were right in the directory already
	Took     event.Duration `json:"took,omitempty"`
	As       *standing      `json:"as,omitempty"`      // the server that runs on it
	Receipt  string         `json:"receipt,omitempty"` // of a restore without a plan: where it is, or why there is none
	Times    timed          `json:"times"`             // expected and measured
	Address  string         `json:"-"`                 // of the vault

	Unseen      *problem.Problem `json:"unseen,omitempty"`       // a copy that could not be read, and what is not known for that
	HoldsChange *problem.Problem `json:"holds_change,omitempty"` // pages that changed behind the log may be in it
}

func (w *databaseWords) run(ctx context.Context, cmd *cobra.Command, name string, at restore.Target) error {
	v, a, err := w.from.openVaultOf(cmd, name)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	for name, to := range w.spaces {
		if w.spaces[name], err = filepath.Abs(to); err != nil {
			return fmt.Errorf("find %s: %w", to, err)
		}
	}
	if w.beside.name != "" {
		if err := w.beside.place(ctx, *a, w.dryRun); err != nil {
			return err
		}
		w.to = w.beside.data()
	}
	dir, err := filepath.Abs(w.to)
	if err != nil {
		return fmt.Errorf("find %s: %w", w.to, err)
	}
	if a != nil && w.binDir == "" {
		d, _ := a.plan.DatabaseNamed(name) // openVaultOf found it
		w.binDir = d.BinDir
	}
	known, err := loadKnown(ctx, v, name)
	if err != nil {
		return err
	}
	began := time.Now() // what came into the vault while it was read is not from the future
	choice, err := restore.Choose(known, at)
	if err = w.from.inRemedy(name, err); err != nil {
		return err
	}
	warnUnseen(cmd, choice.Unseen)
	changed := warnChanged(ctx, cmd, v, choice.Backup)
	out := restoredDatabase{
		Address: v.Address(), Times: timed{Began: began.UTC(), Loss: lossAt(began, known)}, Database: name, Vault: v.Name(), At: at.String(), DryRun: w.dryRun, Backup: choice.Backup, Timeline: choice.Timeline, Pieces: len(choice.Pieces),
		Log: int64(len(choice.Pieces)) * int64(choice.Backup.SegmentSize), End: choice.End.String(), Covered: choice.Covered, Because: choice.Because, BinDir: w.binDir, Unseen: choice.Unseen, HoldsChange: changed,
	}
	if out.BinDir, err = restore.Programs(w.binDir, choice.Backup.ServerVersion/10000); err != nil { // before an hour of copying
		return err
	}
	if out.Place, err = restore.Survey(dir, choice, w.delta, w.spaces); err != nil {
		return err
	}
	if !w.dryRun { // before anything is read for a forecast, or told of one
		if err := out.Place.Refusal(name); err != nil {
			return err
		}
	}
	out.Times.Expected, err = w.foresee(ctx, cmd, v, known, choice, out.Place)
	if err != nil && ctx.Err() != nil {
		return interrupted(name, "Nothing was restored, and nothing of the sample is left.")
	}
	if err != nil {
		return err
	}
	if w.dryRun {
		return w.tellDryRun(cmd, out)
	}
	writeForecast(cmd.ErrOrStderr(), out.Times.Expected)
	if out.Place.State == "same" && !w.yes {
		if ok, err := confirm(cmd, fmt.Sprintf("%s holds a copy of %s. It becomes the one of %s, and what it holds now is gone. Go on?", dir, name, at)); err != nil || !ok {
			return err
		}
	}
	if err := w.restore(ctx, cmd, v, choice, &out); err != nil {
		return err
	}
	if w.beside.name != "" {
		if out.As, err = w.beside.run(ctx, choice, out.BinDir, w.as); err != nil {
			return err
		}
	}
	if a != nil {
		a.restored(ctx, cmd, v.Name(), restoreReceipt(out))
	} else { // without a plan nobody here has a certificate to sign with
		out.Receipt = restoredAlone(ctx, cmd, v, out.Place.Dir, restoreReceipt(out))
	}
	if w.output == "json" {
		return writeJSON(cmd.OutOrStdout(), out)
	}
	return writeRestored(cmd.OutOrStdout(), out)
}

// warnUnseen tells a person which copy of the vault had no part in what was chosen.
func warnUnseen(cmd *cobra.Command, p *problem.Problem) {
	if p != nil {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), p.Text()) // in the JSON it stands too
	}
}

// foresee says how long it is expected to take. A sample is read where it can tell something: with a dry run, and before a restore
// that takes a hundred times as long.
func (w *databaseWords) foresee(ctx context.Context, cmd *cobra.Command, v *vault.Vault, known restore.Catalogue, choice restore.Choice, p restore.Place) (forecast.Forecast, error) {
	owner, err := ownerNamed(w.as)
	if err != nil {
		return forecast.Forecast{}, err
	}
	again := p.State == "interrupted" || p.State == "same"
	f := foresight{options: restore.Options{Vault: v, Choice: choice, Dir: p.Dir, Owner: owner}, limit: sampleBefore(choice)}
	if w.dryRun {
		f.limit = restore.SampleOf(choice)
	}
	if w.noSample || again || !p.Fits() {
		f.limit = restore.SampleLimit{}
	}
	out, _, err := foresee(ctx, cmd, v, known, f, filepath.Dir(p.Dir))
	if err == nil && again {
		out.Assumes = strings.TrimPrefix(out.Assumes+"; all of it is read, and what is right in the directory already is not", "; ")
	}
	return out, err
}

func (w *databaseWords) restore(ctx context.Context, cmd *cobra.Command, v *vault.Vault, choice restore.Choice, out *restoredDatabase) error {
	owner, err := ownerNamed(w.as)
	if err != nil {
		return err
	}
	if out.Owner = w.as; owner.Set && out.Owner == "" {
		out.Owner = "postgres"
	}
	line := newProgressLine(cmd.ErrOrStderr())
	defer line.end()
	line.expected = out.Times.Expected
	began := time.Now()
	res, err := restore.Database(ctx, restore.Options{
		Vault: v, Choice: choice, Dir: out.Place.Dir, Delta: w.delta, Tablespaces: w.spaces, Owner: owner, Progress: line.restored,
		LogMax: math.MaxInt64, // there is room: that is checked first
	}, restore.ScratchOptions{BinDir: out.BinDir})
	out.Took, out.Kept = event.Duration(time.Since(began)), res.Kept
	out.Times.measureRestore(res.Times)
	if err != nil && ctx.Err() != nil {
		return interrupted(out.Database, out.Place.Dir+" is not a whole database. The live one and the vault are as they were.")
	}
	return err
}

func interrupted(database, meaning string) error {
	return &problem.Problem{Code: "restore.interrupted", Subject: database, Severity: problem.Note, Title: "was not restored: interrupted",
		Meaning: meaning, Remedy: "give the same command again: it goes on with what is there"}
}

func (w *databaseWords) tellDryRun(cmd *cobra.Command, o restoredDatabase) error {
	if w.output == "json" {
		if err := writeJSON(cmd.OutOrStdout(), o); err != nil {
			return err
		}
	} else if err := writeWouldRestore(cmd.OutOrStdout(), o); err != nil {
		return err
	}
	if !o.Place.Fits() {
		return exitError{1}
	}
	return nil
}

func writeWouldRestore(out io.Writer, o restoredDatabase) error {
	b := o.Backup
	_, err := fmt.Fprintf(out, `%s at %s would be restored to %s. Nothing was restored.
  base backup  %s, %s, finished %s, proven: %s
  log          %s (%s) up to %s on timeline %d, known to be whole up to %s
  directory    %s
  room         %s needed, %s free
`, o.Database, o.At, o.Place.Dir, b.ID, sizeText(b.Bytes), momentText(b.Stopped), proofText(b),
		planCount(o.Pieces, "piece"), sizeText(o.Log), o.End, o.Timeline, momentText(o.Covered), placeText(o.Place), sizeText(o.Place.Need), sizeText(o.Place.Free))
	if err != nil {
		return err
	}
	if o.HoldsChange != nil {
		if _, err := fmt.Fprintf(out, "  CHANGED      %s\n  instead      %s\n", o.HoldsChange.Title, o.HoldsChange.Remedy); err != nil {
			return err
		}
	}
	for _, s := range o.Place.Tablespaces {
		if _, err := fmt.Fprintf(out, "  tablespace   %s (was %s) to %s\n", s.Name, s.Was, s.Dir); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(out, forecastText(o.Times.Expected)); err != nil {
		return err
	}
	for _, why := range o.Because {
		if _, err := fmt.Fprintf(out, "  because      %s\n", why); err != nil {
			return err
		}
	}
	if !o.Place.Fits() {
		_, err = fmt.Fprintln(out, "It would be refused: name another directory with --to.")
	}
	return err
}

func placeText(p restore.Place) string {
	switch p.State {
	case "absent":
		return "will be made"
	case "interrupted":
		return "left by a restore that never ended; it will be gone on with"
	case "same":
		return "a copy of the same database; it will be WRITTEN OVER"
	case "occupied":
		return "NOT EMPTY: it holds " + p.Found
	}
	return p.State
}

func writeRestored(out io.Writer, o restoredDatabase) error {
	if o.As != nil {
		return o.As.write(out, o)
	}
	who, superuser := "", cmp.Or(o.Backup.Superuser, "postgres")
	if o.Owner != "" {
		who = "runuser -u " + o.Owner + " -- "
	}
	_, err := fmt.Fprintf(out, `restored %s at %s to %s in %s
  from base backup %s (%s, %s of it right there already) and %s of log, replayed; shut down in good order
  It stays to itself: no address, no archive. Look at it beside the live one:
    %s%s -D %s -l %s -o "-k /tmp -p 5499" -w start
    %spsql -h /tmp -p 5499 -U %s postgres
  Nobody else comes in over the socket. For other roles put into its pg_hba.conf, in front of the first line that ends in reject:
    local all all scram-sha-256
  Let a server on it listen and archive again:
    holdfast restore release %s
`, o.Database, o.At, o.Place.Dir, tookText(time.Duration(o.Took)), o.Backup.ID, sizeText(o.Backup.Bytes), sizeText(o.Kept), sizeText(o.Log),
		who, filepath.Join(o.BinDir, "pg_ctl"), o.Place.Dir, filepath.Join(o.Place.Dir, "server.log"), who, superuser, o.Place.Dir)
	if err == nil {
		_, err = io.WriteString(out, timesText(o.Times))
	}
	if err == nil && o.Receipt != "" {
		_, err = fmt.Fprintf(out, "  receipt: %s\n", o.Receipt)
	}
	return err
}

func restoreReleaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release DIR",
		Short: "Let a server on a restored directory listen, archive and replicate again",
		Long: `A restored directory carries settings that keep a server on it away from the world of its original. This takes
them out. The server must not run. Where the certificate of its old host is not there, it starts without TLS.`,
		Example: `  holdfast restore release /srv/restored`,
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("find %s: %w", args[0], err)
			}
			if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err != nil {
				return &problem.Problem{Code: "restore.not-restored", Subject: dir, Severity: problem.Note, Title: "is no data directory of PostgreSQL",
					Meaning: "Nothing was changed.", Remedy: "name the directory that was given to --to"}
			}
			r, err := restore.Release(dir)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), releasedText(dir, r))
			return err
		},
	}
}

// releasedText says what a released server does when it is started, and what an operator has still to decide.
func releasedText(dir string, r restore.Released) string {
	var b strings.Builder
	fmt.Fprintf(&b, "a server on %s may listen, archive and replicate again\n", dir)
	if !r.Holdfasts {
		return b.String()
	}
	fmt.Fprintf(&b, "  listens   on localhost, port 5432: listen_addresses and port in its postgresql.conf say where else\n")
	if r.Missing != "" {
		fmt.Fprintf(&b, "  TLS       off, for %s is not there: ssl, ssl_cert_file, ssl_key_file and ssl_ca_file at the end of its\n            postgresql.auto.conf name others\n", r.Missing)
	}
	b.WriteString("  lets in   whom its pg_hba.conf names, and the first line that fits decides: applications over TLS at most, and over the\n" +
		"            socket nobody but the superuser. For others, in front of the first line that ends in reject, as:\n" +
		"              host  all  all  10.0.0.0/8  scram-sha-256\n" +
		"              local all  all              scram-sha-256\n")
	return b.String()
}
