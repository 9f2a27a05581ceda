package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/problem"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// drillWords are what `restore drill` is told.
type drillWords struct {
	from          vaultFlags
	at, scratch   string
	owner, binDir string
	output        string
	timeline      uint32
	runs          int
}

func restoreDrillCommand() *cobra.Command {
	var w drillWords
	cmd := &cobra.Command{
		Use:   "drill NAME",
		Short: "Rehearse a restore: expected and measured time by phase, what would be lost, and a signed receipt",
		Long: `Restores a database from the vault to a scratch directory as a real restore does, at full speed and to the latest moment (or
--at), lets a server start on it that nobody else can reach, replays the log, asks each SQL database and the plan's probes,
and removes all of it again, also when it fails or is interrupted. After a kill -9 the copy and its server stay until the next drill
(or another trial restore) with the same scratch directory begins, which ends and removes them. Before, it says how long each phase is expected to take and by which evidence;
afterwards, how long each took. The whole is the time to recover (RTO); what is lost (RPO) is the time from the newest moment
that could be restored until the drill began.

With --vault and --key it works on any machine with PostgreSQL of the same major version: at the site where you would have to
do it in earnest. Its receipt is kept beside the scratch directory then, signed with a key made for it; with a plan it is the
operator's, in the vault. holdfast receipt verify proves it offline.

holdfast backup validate looks into every page and index, and gives way to others while it does; a drill asks how fast it goes.

Exit status 1 when a restore failed. A forecast that missed by more than a quarter is told, and is no failure.`,
		Example: `  holdfast restore drill records
  holdfast restore drill records --at "10m ago" --runs 5 --output json
  holdfast restore drill records --vault file:///mnt/vault --key vault.key --scratch /srv/drill`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT) // the scratch server ends too
			defer stop()
			return w.run(ctx, cmd, args[0])
		},
	}
	w.from.add(cmd)
	cmd.Flags().StringVar(&w.at, "at", "latest", atUsage)
	cmd.Flags().IntVar(&w.runs, "runs", 1, "how many times, one after the other")
	cmd.Flags().StringVar(&w.scratch, "scratch", "", "where the copy is made (default: scratch below the data root; with --vault /var/tmp)")
	cmd.Flags().StringVar(&w.owner, "owner", "", "user as whom the server runs"+ownerDefault)
	cmd.Flags().StringVar(&w.binDir, "bin-dir", "", binDirUsage)
	cmd.Flags().Uint32Var(&w.timeline, "timeline", 0, timelineUsage)
	outputFlag(cmd, &w.output)
	return cmd
}

func (w *drillWords) check() error {
	err := errors.Join(checkOutput(w.output), w.from.check())
	if w.runs < 1 || w.runs > 1000 {
		err = errors.Join(err, fmt.Errorf("--runs %d: 1 to 1000: %w", w.runs, errUsage))
	}
	return err
}

// drills is what `restore drill` came to.
type drills struct {
	OK       bool    `json:"ok"` // every restore was answered for
	Database string  `json:"database"`
	Vault    string  `json:"vault"`
	At       string  `json:"at"`
	Machine  string  `json:"machine"`
	Runs     []drill `json:"runs"`
	Ended    string  `json:"ended,omitempty"` // why there are no more runs than these, though more were wanted

	Unseen *problem.Problem `json:"unseen,omitempty"` // a copy that could not be read, and what is not known for that
}

// drill is one rehearsal.
type drill struct {
	OK     bool     `json:"ok"`
	Fault  string   `json:"fault,omitempty"` // why it was not restored
	Backup string   `json:"backup"`
	End    string   `json:"log_end_lsn"`
	Bytes  int64    `json:"bytes"`
	Log    int64    `json:"log_bytes"`
	Asked  []string `json:"asked"`            // the SQL databases that answered
	Probes string   `json:"probes,omitempty"` // what they answered
	timed
	Receipt string `json:"receipt"` // where it is, or why there is none

	HoldsChange *problem.Problem `json:"holds_change,omitempty"` // pages that changed behind the log may be in it
}

// rehearsal is what all runs of one command share.
type rehearsal struct {
	*drillWords
	cmd     *cobra.Command
	v       *vault.Vault
	app     *application // nil = without a plan
	name    string
	target  restore.Target
	options backup.DrillOptions

	warned string           // the base backup of the last run
	holds  *problem.Problem // what was warned of in it; nil = nothing
}

func (w *drillWords) run(ctx context.Context, cmd *cobra.Command, name string) error {
	at, err := moment(w.at, time.Now())
	if err != nil {
		return err
	}
	tellMoment(cmd, at)
	at.Timeline = w.timeline
	v, a, err := w.from.openVaultOf(cmd, name)
	if err != nil {
		return err
	}
	defer closeVault(ctx, v)
	r := rehearsal{drillWords: w, cmd: cmd, v: v, app: a, name: name, target: at}
	if err := r.prepare(); err != nil {
		return err
	}
	all := drills{OK: true, Database: name, Vault: v.Name(), At: at.String(), Machine: thisMachine()}
	for n := range w.runs {
		d, unseen, err := r.once(ctx)
		if err != nil {
			return r.ended(ctx, all, err)
		}
		if n == 0 {
			warnUnseen(cmd, unseen)
		}
		all.OK, all.Runs, all.Unseen = all.OK && d.OK, append(all.Runs, d), unseen
		if w.output != "json" {
			if _, err := io.WriteString(cmd.OutOrStdout(), drillText(n+1, w.runs, all, d)); err != nil {
				return err
			}
		}
	}
	return r.tell(all)
}

// prepare fills in what flags and plan say on how to restore.
func (r *rehearsal) prepare() (err error) {
	o := &r.options
	o.Vault, o.BinDir = r.v, r.binDir
	if o.Owner, err = ownerNamed(r.owner); err != nil {
		return err
	}
	o.Dir = "/var/tmp"
	if r.app == nil {
		if r.scratch != "" {
			o.Dir, err = filepath.Abs(r.scratch)
		}
		return err
	}
	d, b, err := r.app.backupOf(r.name)
	if err != nil {
		return err
	}
	if o.BinDir == "" {
		o.BinDir = d.BinDir
	}
	o.Probes, o.Usual = b.Validate.Probes, r.name
	if _, inside, ok := d.Login(); ok {
		o.Usual = inside
	}
	o.Dir, err = r.app.scratchDir(r.scratch)
	return err
}

// once rehearses one time.
func (r *rehearsal) once(ctx context.Context) (d drill, unseen *problem.Problem, err error) {
	c, err := loadKnown(ctx, r.v, r.name)
	if err != nil {
		return d, nil, err
	}
	began := time.Now() // what came into the vault while it was read is not from the future
	o := r.options
	if o.Choice, err = restore.Choose(c, r.target); err != nil {
		return d, c.Unseen, err
	}
	if o.BinDir, err = restore.Programs(o.BinDir, o.Choice.Backup.ServerVersion/10000); err != nil { // before an hour of copying
		return d, c.Unseen, err
	}
	if err := backup.DrillRoom(ctx, o); err != nil { // the sample is written there too
		return d, c.Unseen, err
	}
	b := o.Choice.Backup
	d = drill{Backup: b.ID, End: o.Choice.End.String(), Bytes: b.Bytes, Log: restore.Work(o.Choice, true).Log, timed: timed{Began: began.UTC(), Loss: lossAt(began, c)}}
	d.HoldsChange = r.change(ctx, b)
	f := foresight{options: restore.Options{Vault: r.v, Choice: o.Choice, Dir: filepath.Join(o.Dir, "data"), Owner: o.Owner}, checks: true, limit: restore.SampleOf(o.Choice)}
	if d.Expected, _, err = foresee(ctx, r.cmd, r.v, c, f, o.Dir); err != nil {
		return d, c.Unseen, err
	}
	writeForecast(r.cmd.ErrOrStderr(), d.Expected)
	line := newProgressLine(r.cmd.ErrOrStderr())
	line.expected = d.Expected
	o.Progress = line.restored
	went, err := backup.Drill(ctx, o)
	line.end()
	if err != nil {
		return d, c.Unseen, err
	}
	d.rehearsed(went)
	d.Receipt = r.keep(ctx, drillReceipt(r.name, r.target.String(), r.v.Address(), d))
	return d, c.Unseen, nil
}

// change warns of what a base backup holds, once for all runs in a row that begin with it.
func (r *rehearsal) change(ctx context.Context, from vault.Backup) *problem.Problem {
	if r.warned != from.ID {
		r.warned, r.holds = from.ID, warnChanged(ctx, r.cmd, r.v, from)
	}
	return r.holds
}

// rehearsed notes how it went.
func (d *drill) rehearsed(went backup.Drilled) {
	d.OK, d.Fault, d.Asked, d.Probes, d.Loss.Commit = went.Passed, went.Fault, went.Asked, went.Detail, went.Commit
	d.measure(went.Took(), went.Times.Replayed)
	if !d.OK {
		d.failed()
	}
}

// loadKnown reads a catalogue; a vault that does not know the database says which it knows.
func loadKnown(ctx context.Context, v *vault.Vault, name string) (restore.Catalogue, error) {
	c, err := restore.LoadReadable(ctx, v, name)
	if err != nil || len(c.Backups) > 0 || c.Unseen != nil {
		return c, err
	}
	return c, unknownIn(ctx, v, name)
}

// unknownIn is why a vault has no base backup of a database: it has some of others alone; nil = it has none at all.
func unknownIn(ctx context.Context, v *vault.Vault, name string) error {
	others, err := databasesIn(ctx, v)
	if err != nil || len(others) == 0 {
		return err
	}
	return &problem.Problem{Code: "restore.unknown-database", Subject: name, Severity: problem.Note,
		Title: "the vault holds no base backup of it", Meaning: "Nothing was written.", Remedy: fmt.Sprintf("name one that it holds: %v", others)}
}

// keep writes the receipt, and says where it is.
func (r *rehearsal) keep(ctx context.Context, what receipt.Event) string {
	if r.app == nil { // nobody here has a certificate to sign with
		return restoredAlone(ctx, r.cmd, r.v, filepath.Join(r.options.Dir, r.name+".drill"), what)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptMax)
	defer cancel()
	id, err := r.app.receipt(ctx, r.v.Name(), what)
	_, late := errors.AsType[*receipt.NotCarriedError](err)
	switch {
	case late:
		return fmt.Sprintf("%s: %v", id, err)
	case err != nil:
		_, _ = fmt.Fprintf(r.cmd.ErrOrStderr(), "done; no receipt was written: %v\n", err)
		return "none: " + err.Error()
	}
	return id + ", in vault " + r.v.Name() + "; verify all of them: holdfast receipt verify"
}

// drillReceipt is evidence of a rehearsal, passed or failed.
func drillReceipt(database, at, address string, d drill) receipt.Event {
	e := receipt.Event{Kind: receipt.Drill, Subject: database, Outcome: receipt.Passed,
		Figures: map[string]float64{"bytes": float64(d.Bytes), "log_bytes": float64(d.Log), "took_seconds": d.Measured.Seconds},
		Says: fmt.Sprintf("%s at %s was restored from base backup %s and the log up to %s to a scratch server, which answered; it was removed again",
			database, at, d.Backup, d.End)}
	d.figures(e.Figures)
	if !d.OK {
		e.Outcome = receipt.Failed
		e.Says = fmt.Sprintf("%s at %s could not be restored from base backup %s and the log up to %s: %s", database, at, d.Backup, d.End, d.Fault)
		for _, name := range []string{"rto_seconds", "expected_rto_seconds"} { // there was no recovery whose time it could be
			delete(e.Figures, name)
		}
	}
	raw, err := json.Marshal(struct {
		recorded
		Backup string   `json:"backup"`
		At     string   `json:"at"`
		End    string   `json:"end_lsn"`
		Asked  []string `json:"asked"`
		Probes string   `json:"probes,omitempty"`
	}{recorded{thisMachine(), address, d.timed}, d.Backup, at, d.End, d.Asked, d.Probes})
	if err == nil {
		e.Details = raw
	}
	return e
}

// ended says why the runs ended before all were made, and what the last one left. Those that were made are told all the same.
func (r *rehearsal) ended(ctx context.Context, all drills, err error) error {
	if ctx.Err() != nil {
		err = drillInterrupted(r.name, err)
	}
	if r.output != "json" || len(all.Runs) == 0 { // else each was told when it was done
		return err
	}
	all.OK, all.Ended = false, err.Error()
	if bad := writeJSON(r.cmd.OutOrStdout(), all); bad != nil {
		return errors.Join(err, bad)
	}
	return err
}

// drillInterrupted says what an interrupted drill left: nothing, unless it could not be removed. Pure.
func drillInterrupted(name string, err error) *problem.Problem {
	p := &problem.Problem{Code: "restore.interrupted", Subject: name, Severity: problem.Note, Title: "the drill was interrupted",
		Meaning: "Nothing was found out by it, and its scratch copy is removed. The live database and the vault are as they were.", Remedy: "give the same command again"}
	if left, ok := errors.AsType[*backup.LeftError](err); ok {
		p.Severity = problem.Degraded
		p.Meaning = fmt.Sprintf("Nothing was found out by it, and its scratch copy in %s COULD NOT BE REMOVED: %v. The live database and the vault are as they were.", left.Dir, left.Err)
		p.Remedy = "mend that and give the same command again: it removes what is left first"
	}
	return p
}

func (r *rehearsal) tell(all drills) error {
	if r.output == "json" {
		if err := writeJSON(r.cmd.OutOrStdout(), all); err != nil {
			return err
		}
		if !all.OK {
			return exitError{1}
		}
		return nil
	}
	if all.OK {
		return nil
	}
	fault := ""
	for _, d := range all.Runs {
		if !d.OK {
			fault = d.Fault
		}
	}
	return &problem.Problem{Code: "restore.drill-failed", Subject: all.Database, Severity: problem.Critical, Title: "could not be restored on this machine: " + fault,
		Meaning: "A restore in earnest would fail here in the same way. The live database and the vault are as they were; the scratch copy is removed.",
		Remedy:  "mend what is named and drill again; whether the backup itself is good: holdfast backup validate " + all.Database}
}

func drillText(n, of int, all drills, d drill) string {
	var s strings.Builder
	how := "was restored, and answered"
	if !d.OK {
		how = "COULD NOT BE RESTORED: " + d.Fault
	}
	fmt.Fprintf(&s, "drill %d of %d: %s at %s %s\n  from base backup %s (%s) and %s of log\n", n, of, all.Database, all.At, how, d.Backup, sizeText(d.Bytes), sizeText(d.Log))
	s.WriteString(timesText(d.timed))
	if len(d.Asked) > 0 {
		fmt.Fprintf(&s, "  answered   %s\n", strings.Join(d.Asked, ", "))
	}
	if d.Probes != "" {
		fmt.Fprintf(&s, "  probes     %s\n", d.Probes)
	}
	fmt.Fprintf(&s, "  receipt    %s\n", d.Receipt)
	return s.String()
}
