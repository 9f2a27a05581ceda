package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/vault"
)

// RecordsOptions say which rows of a live table to bring back, and from when.
type RecordsOptions struct {
	Vault    *vault.Vault
	Database string // the plan's name
	At       Target
	Live     *pgx.ConnConfig // to the SQL database that holds the table
	Table    string          // schema.name
	Where    string          // SQL condition; "" = every row
	PutBack  bool            // false: only the difference
	DryRun   bool            // with PutBack: tell, and roll back
	Dir      string          // directory below which the scratch copy is made; PostgreSQL's user must reach it
	Owner    Owner
	BinDir   string
	Progress func(Progress)
	Settings map[string]string // for the scratch server, for instance shared_preload_libraries
}

// RecordsReport is what came of it.
type RecordsReport struct {
	Choice  Choice
	Diff    DiffReport
	PutBack *PutBackReport // nil when only the difference was asked for
}

// Records restores the database to a moment beside the live one, compares one table, puts back what is
// missing if that is wanted, and removes the copy again, whatever happened.
func Records(ctx context.Context, o RecordsOptions) (rep RecordsReport, err error) {
	c, err := Load(ctx, o.Vault, o.Database)
	if err != nil {
		return rep, err
	}
	if rep.Choice, err = Choose(c, o.At); err != nil {
		return rep, err
	}
	if o.BinDir, err = Programs(o.BinDir, rep.Choice.Backup.ServerVersion/10000); err != nil {
		return rep, err
	}
	live, err := pgx.ConnectConfig(ctx, o.Live)
	if err != nil {
		return rep, fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = live.Close(context.WithoutCancel(ctx)) }() // PutBack has committed or not
	if _, err := liveShape(ctx, live, o.Table); err != nil {      // before an hour of restoring
		return rep, err
	}
	trial, err := openTrial(ctx, o.Dir, ForRecords, rep.Choice.Backup.ID)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, trial.Remove(context.WithoutCancel(ctx))) }()
	data := trial.Data()
	if _, err := Run(ctx, Options{Vault: o.Vault, Choice: rep.Choice, Dir: data, Owner: o.Owner, Throwaway: true, Progress: o.Progress}); err != nil {
		return rep, err
	}
	rec, err := Recover(ctx, rep.Choice, Promote, ScratchOptions{Dir: data, RunDir: trial.Run, BinDir: o.BinDir, Owner: o.Owner, Settings: o.Settings})
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, rec.Stop(context.WithoutCancel(ctx))) }()
	then, err := pgx.Connect(ctx, rec.ConnString(o.Live.Database))
	if err != nil {
		return rep, fmt.Errorf("reach the restored database: %w", err)
	}
	defer func() { _ = then.Close(context.WithoutCancel(ctx)) }() // only read
	if rep.Diff, err = Diff(ctx, live, then, o.Table, o.Where); err != nil {
		return rep, err
	}
	if !o.PutBack {
		return rep, nil
	}
	done, err := PutBack(ctx, live, then, rep.Diff, o.DryRun)
	rep.PutBack = &done
	return rep, err
}
