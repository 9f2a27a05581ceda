package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/problem"
)

// PutBackReport is what a put-back did, or with DryRun would do.
type PutBackReport struct {
	Table    string `json:"table"`
	DryRun   bool   `json:"dry_run"`
	Wanted   int    `json:"wanted"`   // rows that the diff found missing
	Inserted int    `json:"inserted"` // rows put back
	Already  int    `json:"already"`  // rows that were there again meanwhile, or that a unique rule kept out
}

// keysAtOnce is how many keys stand in one query.
const keysAtOnce = 5000

// PutBack inserts the rows that a diff found missing, as they were then, in one transaction. Rows that exist
// are never changed; triggers and foreign keys apply; sequences are left alone, for they are past these values
// already. With dryRun the transaction is carried out and rolled back, so that what it reports is what it
// would do.
func PutBack(ctx context.Context, live, then *pgx.Conn, diff DiffReport, dryRun bool) (rep PutBackReport, err error) {
	rep = PutBackReport{Table: diff.Table, DryRun: dryRun, Wanted: diff.Missing}
	if !diff.Listed {
		return rep, &problem.Problem{Code: "restore.too-many-rows", Subject: diff.Table, Severity: problem.Note,
			Title: fmt.Sprintf("%d rows are missing, more than %d", diff.Missing, KeysMax), Meaning: "Nothing was changed.",
			Remedy: "put them back in parts with --where, or restore the whole database"}
	}
	if len(diff.MissingKeys) == 0 {
		return rep, nil
	}
	l, t, err := shapes(ctx, live, then, diff.Table)
	if err != nil {
		return rep, err
	}
	var columns []string
	for _, c := range diff.Columns {
		if slices.Contains(l.plain, c) && slices.Contains(t.columns, c) {
			columns = append(columns, c)
		}
	}
	tx, err := live.Begin(ctx)
	if err != nil {
		return rep, fmt.Errorf("put rows back into %s: %w", diff.Table, err)
	}
	defer func() { // a no-op after a commit
		if rbErr := tx.Rollback(context.WithoutCancel(ctx)); rbErr != nil && !errors.Is(rbErr, pgx.ErrTxClosed) {
			err = errors.Join(err, rbErr)
		}
	}()
	if rep.Inserted, err = insert(ctx, tx, then, diff, columns); err != nil {
		return rep, fmt.Errorf("put rows back into %s: %w", diff.Table, err)
	}
	rep.Already = rep.Wanted - rep.Inserted
	// Rules that are checked at the end must be heard before anything is promised.
	if _, err := tx.Exec(ctx, "set constraints all immediate"); err != nil {
		return rep, fmt.Errorf("put rows back into %s: %w", diff.Table, err)
	}
	if dryRun {
		return rep, nil
	}
	if err := tx.Commit(ctx); err != nil {
		return rep, fmt.Errorf("put rows back into %s: %w", diff.Table, err)
	}
	return rep, nil
}

// insert copies the rows to a temporary table of the same transaction and from there to their own.
func insert(ctx context.Context, tx pgx.Tx, then *pgx.Conn, diff DiffReport, columns []string) (int, error) {
	list := strings.Join(columns, ", ")
	if _, err := tx.Exec(ctx, fmt.Sprintf("create temporary table holdfast_putback on commit drop as select %s from %s with no data", list, diff.Table)); err != nil {
		return 0, err
	}
	for keys := range slices.Chunk(diff.MissingKeys, keysAtOnce) {
		if err := transfer(ctx, tx, then, diff, keys, list); err != nil {
			return 0, err
		}
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf("insert into %s (%s) overriding system value select %s from holdfast_putback on conflict do nothing", diff.Table, list, list))
	if err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "drop table holdfast_putback"); err != nil {
		return 0, err
	}
	return int(tag.RowsAffected()), nil
}

// transfer streams rows from one server to the other in PostgreSQL's own text form.
func transfer(ctx context.Context, tx pgx.Tx, then *pgx.Conn, diff DiffReport, keys []string, list string) error {
	quoted := make([]string, len(keys))
	for i, k := range keys {
		quoted[i] = quoteLiteral(k)
	}
	out := fmt.Sprintf("copy (select %s from %s where %s = any (array[%s]::text[])) to stdout", list, diff.Table, keyText(diff.Key), strings.Join(quoted, ", "))
	r, w := io.Pipe()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := then.PgConn().CopyTo(gctx, w, out)
		return errors.Join(err, w.CloseWithError(err))
	})
	g.Go(func() error {
		_, err := tx.Conn().PgConn().CopyFrom(gctx, r, fmt.Sprintf("copy holdfast_putback (%s) from stdin", list))
		return errors.Join(err, r.CloseWithError(err))
	})
	return g.Wait()
}

// quoteLiteral quotes a text for PostgreSQL, whatever standard_conforming_strings says.
func quoteLiteral(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return " E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}
