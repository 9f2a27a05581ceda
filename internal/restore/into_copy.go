package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// serveCopy runs a server that nobody else can reach on a copy that was restored before, and gives its SQL databases their
// names of then: a load that died may have left them with names of its own.
func (n *Into) serveCopy(ctx context.Context) error {
	s, err := StartScratch(ctx, ScratchOptions{Dir: n.o.Copy, BinDir: n.o.BinDir, Owner: n.o.Owner, Superuser: n.Choice.Backup.Superuser, Settings: map[string]string{"fsync": "on"}})
	if err != nil {
		return err
	}
	n.scratch = &Recovered{Scratch: s, Choice: n.Choice, Reached: true}
	if _, err := s.WaitReady(ctx); err != nil {
		return err
	}
	then, err := n.then(ctx, "template1")
	if err != nil {
		return err
	}
	if err := errors.Join(namesOfThen(ctx, then), then.Close(ctx)); err != nil {
		return fmt.Errorf("give the databases of the copy their names: %w", err)
	}
	return nil
}

// notedNames is where a copy keeps what its SQL databases were called: in template1, of which nothing is loaded anywhere.
const notedNames = "holdfast_copy.names"

// renameNoted renames an SQL database of a copy that stays, so that [namesOfThen] can take it back.
func renameNoted(ctx context.Context, then *pgx.Conn, inside, interim string) error {
	return pgx.BeginFunc(ctx, then, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "create schema if not exists holdfast_copy; create table if not exists "+notedNames+" (interim text primary key, name text not null)")
		if err == nil {
			_, err = tx.Exec(ctx, "insert into "+notedNames+" values ($1, $2)", interim, inside)
		}
		if err == nil {
			_, err = tx.Exec(ctx, fmt.Sprintf("alter database %s rename to %s", quoteName(inside), quoteName(interim)))
		}
		return err
	})
}

// namesOfThen takes back what [renameNoted] did.
func namesOfThen(ctx context.Context, then *pgx.Conn) error {
	var noted bool
	if err := then.QueryRow(ctx, "select to_regclass($1) is not null", notedNames).Scan(&noted); err != nil || !noted {
		return err
	}
	return pgx.BeginFunc(ctx, then, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "delete from "+notedNames+" returning interim, name")
		if err != nil {
			return err
		}
		type name struct{ Interim, Name string }
		names, err := pgx.CollectRows(rows, pgx.RowToStructByPos[name])
		for _, x := range names {
			if err == nil {
				_, err = tx.Exec(ctx, fmt.Sprintf("alter database %s rename to %s", quoteName(x.Interim), quoteName(x.Name)))
			}
		}
		return err
	})
}
