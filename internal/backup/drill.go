package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/plan"
	"holdfast/internal/restore"
	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault"
)

// DrillOptions say what to rehearse and where there is room for it.
type DrillOptions struct {
	Vault    *vault.Vault
	Choice   restore.Choice // from restore.Choose
	Dir      string         // a directory below which the scratch copy is made; PostgreSQL's user must be able to reach it
	Owner    restore.Owner
	BinDir   string
	Probes   []plan.Probe // the plan's questions
	Usual    string       // the SQL database that a probe is asked in which names none
	Progress func(restore.Progress)
	Log      *slog.Logger // nil = silent
}

// Drilled is how a drill went. The phases of its times add up to the time from its beginning until the server had answered.
type Drilled struct {
	Passed bool
	Fault  string // why it did not; "" = it did
	Times  restore.Times
	Checks time.Duration
	Asked  []string  // the SQL databases that answered
	Detail string    // what probes answered
	Commit time.Time // of the newest transaction that came back, by the original's clock; zero = none was replayed
}

// Total is the time that it took to be served again.
func (d Drilled) Total() time.Duration { return d.Times.Total() + d.Checks }

// Took gives the times by their phase. What was not come to is missing.
func (d Drilled) Took() map[string]time.Duration {
	took := d.Times.Took()
	if d.Passed || d.Checks > 0 {
		took[forecast.Checks] = d.Checks
	}
	return took
}

// LeftError says that a scratch copy could not be removed, or the server on it could not be ended.
type LeftError struct {
	Dir string
	Err error
}

func (e *LeftError) Error() string {
	return fmt.Sprintf("remove the scratch copy in %s: %v", e.Dir, e.Err)
}

func (e *LeftError) Unwrap() error { return e.Err }

// Drill rehearses a restore: at full speed, durable, to the moment of the choice, until a server has answered on it; and removes
// all of it again. A restore that fails is a Drilled with Passed false. An error means that it was not tried, was interrupted, or
// that something of it was left, which is a [LeftError].
func Drill(ctx context.Context, o DrillOptions) (d Drilled, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(restore.Progress) {}
	}
	if err := DrillRoom(ctx, o); err != nil {
		return d, err
	}
	t, err := restore.NewTrial(o.Dir, restore.ForDrill, o.Choice.Backup.ID)
	if err != nil {
		return d, err
	}
	defer func() {
		if left := t.Remove(context.WithoutCancel(ctx)); left != nil {
			err = errors.Join(err, &LeftError{Dir: t.Dir, Err: left})
		}
	}()
	failed := d.run(ctx, o, t)
	if ctx.Err() != nil {
		return d, fmt.Errorf("drill %s: %w", o.Choice.Backup.Database, context.Cause(ctx))
	}
	if d.Passed = failed == nil; !d.Passed {
		d.Fault = failed.Error()
	}
	o.Log.InfoContext(ctx, "restore drilled", "database", o.Choice.Backup.Database, "backup", o.Choice.Backup.ID, "passed", d.Passed, "took", d.Total())
	return d, nil
}

// DrillRoom makes the directory, removes what drills that were killed have left there, and refuses with a *problem.Problem when the
// drill would leave its disk with too little room. Drill begins with it; who writes there before asks first.
func DrillRoom(ctx context.Context, o DrillOptions) error {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	if _, err := SweepTrials(ctx, o.Dir); err != nil {
		return err
	}
	return checkDrillRoom(o.Dir, o.Choice.Backup, restore.Work(o.Choice, true).Log)
}

// run restores, starts and asks. What it measured before it failed stays.
func (d *Drilled) run(ctx context.Context, o DrillOptions, t *restore.Trial) (err error) {
	began := time.Now()
	_, err = restore.Run(ctx, restore.Options{Vault: o.Vault, Choice: o.Choice, Dir: t.Data(), Owner: o.Owner, Progress: o.Progress, LogMax: noLogMax, Log: o.Log})
	d.Times.Fetch = time.Since(began)
	if err != nil {
		return err
	}
	o.Progress(restore.Progress{Phase: forecast.Replay})
	rec, err := restore.Recover(ctx, o.Choice, restore.Promote, restore.ScratchOptions{
		Dir: t.Data(), BinDir: o.BinDir, Owner: o.Owner, RunDir: t.Run, Log: o.Log, Settings: map[string]string{"fsync": "on"},
	})
	recovered := time.Since(began)
	if err != nil {
		d.Times.Start = recovered - d.Times.Fetch
		return err
	}
	defer func() { err = errors.Join(err, rec.Stop(context.WithoutCancel(ctx))) }()
	fetch := d.Times.Fetch
	d.Times = rec.Times(recovered - fetch)
	d.Times.Fetch = fetch
	o.Progress(restore.Progress{Phase: forecast.Checks})
	err = d.ask(ctx, o, rec)
	d.Checks = time.Since(began) - recovered
	return err
}

// noLogMax lets any amount of log lie beside the data: whether there is room was looked at before.
const noLogMax = 1 << 62

// ask sees that the server serves: in each SQL database, and as the plan's probes want it.
func (d *Drilled) ask(ctx context.Context, o DrillOptions, rec *restore.Recovered) error {
	names, _, err := databases(ctx, rec.ConnString("template1"))
	if err != nil {
		return err
	}
	if d.Commit, err = lastCommit(ctx, rec.ConnString("template1")); err != nil {
		return err
	}
	for _, name := range names {
		answers := func(ctx context.Context, c *pgx.Conn) (f findings, err error) {
			return f, c.QueryRow(ctx, "select count(*) from pg_catalog.pg_class").Scan(&f.looked)
		}
		if _, err := inDatabase(ctx, rec.ConnString(name), answers); err != nil {
			return fmt.Errorf("ask database %s: %w", name, err)
		}
		d.Asked = append(d.Asked, name)
	}
	if len(o.Probes) == 0 {
		return nil
	}
	bad, detail, err := runProbes(ctx, o.Probes, o.Usual, rec, o.Choice.Backup.Stopped)
	d.Detail = detail
	if err == nil && len(bad) > 0 {
		err = errors.New(bad[0])
	}
	return err
}

// lastCommit is when the newest transaction committed that was replayed; zero when none was.
func lastCommit(ctx context.Context, conn string) (at time.Time, err error) {
	c, err := openForLook(ctx, conn)
	if err != nil {
		return at, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // only asked
	var told *time.Time
	if err := c.QueryRow(ctx, "select pg_catalog.pg_last_xact_replay_timestamp()").Scan(&told); err != nil {
		return at, fmt.Errorf("ask for the newest commit that came back: %w", err)
	}
	if told != nil {
		at = told.UTC()
	}
	return at, nil
}
