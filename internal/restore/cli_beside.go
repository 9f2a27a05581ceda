package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Beside is a database at an earlier moment, running next to the live one for as long as somebody looks. It
// lets a person see a difference before anything is put back; [Records] does the same in one go.
type Beside struct {
	Choice Choice
	Dir    string // of the copy; removed by Close

	trial      *Trial
	scratch    *Recovered
	live, then *pgx.Conn
}

// OpenBeside restores to the moment in o and connects to both sides. o.PutBack and o.DryRun mean nothing here.
// It must end with Close.
func OpenBeside(ctx context.Context, o RecordsOptions) (b *Beside, err error) {
	c, err := Load(ctx, o.Vault, o.Database)
	if err != nil {
		return nil, err
	}
	b = &Beside{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close(context.WithoutCancel(ctx), false))
		}
	}()
	if b.Choice, err = Choose(c, o.At); err != nil {
		return b, err
	}
	if o.BinDir, err = Programs(o.BinDir, b.Choice.Backup.ServerVersion/10000); err != nil {
		return b, err
	}
	if b.live, err = pgx.ConnectConfig(ctx, o.Live); err != nil {
		return b, fmt.Errorf("reach the live database: %w", err)
	}
	if _, err := liveShape(ctx, b.live, o.Table); err != nil { // before an hour of restoring
		return b, err
	}
	if b.trial, err = openTrial(ctx, o.Dir, ForDiff, b.Choice.Backup.ID); err != nil {
		return b, err
	}
	b.Dir = b.trial.Dir
	data := b.trial.Data()
	if _, err := Run(ctx, Options{Vault: o.Vault, Choice: b.Choice, Dir: data, Owner: o.Owner, Throwaway: true, Progress: o.Progress}); err != nil {
		return b, err
	}
	if b.scratch, err = Recover(ctx, b.Choice, Promote, ScratchOptions{Dir: data, RunDir: b.trial.Run, BinDir: o.BinDir, Owner: o.Owner, Settings: o.Settings}); err != nil {
		return b, err
	}
	if b.then, err = pgx.Connect(ctx, b.scratch.ConnString(o.Live.Database)); err != nil {
		return b, fmt.Errorf("reach the restored database: %w", err)
	}
	return b, nil
}

// Close ends the copy's server and removes the copy, unless it is to be kept: then its files stay, with no
// server on them.
func (b *Beside) Close(ctx context.Context, keep bool) error {
	var errs []error
	for _, c := range []*pgx.Conn{b.then, b.live} {
		if c != nil {
			_ = c.Close(ctx) // what was put back has been committed or not
		}
	}
	if b.scratch != nil {
		errs = append(errs, b.scratch.Stop(ctx))
	}
	switch {
	case b.trial == nil:
	case keep:
		errs = append(errs, b.trial.Keep())
	default:
		errs = append(errs, b.trial.Remove(ctx))
	}
	return errors.Join(errs...)
}

// Diff compares one table by its primary key; see the function [Diff].
func (b *Beside) Diff(ctx context.Context, table, where string) (DiffReport, error) {
	return Diff(ctx, b.live, b.then, table, where)
}

// PutBack inserts what a diff found missing; see the function [PutBack].
func (b *Beside) PutBack(ctx context.Context, diff DiffReport, dryRun bool) (PutBackReport, error) {
	return PutBack(ctx, b.live, b.then, diff, dryRun)
}

// RowPair is one row at both moments, as JSON objects in the order of the columns; null where it is not there.
type RowPair struct {
	Key  string          `json:"key"`
	Then json.RawMessage `json:"then"`
	Now  json.RawMessage `json:"now"`
}

// Rows shows rows of a diff by their keys, in the keys' order.
func (b *Beside) Rows(ctx context.Context, diff DiffReport, keys []string) ([]RowPair, error) {
	out := make([]RowPair, len(keys))
	at := make(map[string]int, len(keys))
	for i, k := range keys {
		out[i].Key, at[k] = k, i
	}
	if len(keys) == 0 {
		return out, nil
	}
	query := fmt.Sprintf("select holdfast_key, to_json(r)::text from (select %s as holdfast_key, %s from %s) x cross join lateral (select %s) r where holdfast_key = any ($1)",
		keyText(diff.Key), strings.Join(diff.Columns, ", "), diff.Table, strings.Join(diff.Columns, ", "))
	for _, side := range []struct {
		conn *pgx.Conn
		put  func(*RowPair, string)
	}{
		{b.then, func(p *RowPair, text string) { p.Then = json.RawMessage(text) }},
		{b.live, func(p *RowPair, text string) { p.Now = json.RawMessage(text) }},
	} {
		rows, err := side.conn.Query(ctx, query, keys)
		if err != nil {
			return nil, fmt.Errorf("read rows of %s: %w", diff.Table, err)
		}
		var key, text string
		if _, err := pgx.ForEachRow(rows, []any{&key, &text}, func() error {
			side.put(&out[at[key]], text)
			return nil
		}); err != nil {
			return nil, fmt.Errorf("read rows of %s: %w", diff.Table, err)
		}
	}
	return out, nil
}
