package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/problem"
)

// move is one SQL database that gets another name.
type move struct {
	from, to string
	keep     *kept // it is set aside
	back     bool  // it was set aside and comes back
}

// endEvery is how often sessions are ended while names are exchanged: PostgreSQL waits five seconds for them.
const endEvery = 50 * time.Millisecond

// exchange renames SQL databases in one transaction. PostgreSQL lets nobody into a database whose name is being changed,
// and takes the change back if somebody stays; so sessions are ended beside it until it is done. If this program dies,
// nothing was renamed.
func exchange(ctx context.Context, live *pgx.Conn, dsn func(string) string, moves []move) error {
	names := []string{}
	for _, m := range moves {
		names = append(names, m.from)
	}
	beside, err := pgx.Connect(ctx, dsn("postgres"))
	if err != nil {
		return fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = beside.Close(context.WithoutCancel(ctx)) }() // it only ends sessions
	ending, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return endSessions(ending, beside, names) })
	committing, err := rename(ctx, live, moves)
	stop()
	if endErr := g.Wait(); endErr != nil && err != nil {
		err = errors.Join(err, endErr)
	}
	if err == nil {
		return nil
	}
	if _, told := errors.AsType[*pgconn.PgError](err); committing && !told {
		return &problem.Problem{Code: "restore.exchange-unknown", Subject: strings.Join(names, ", "), Severity: problem.Critical, Title: "it is not known whether the names were exchanged: " + err.Error(),
			Meaning: "It is one transaction: all of them were, or none. Both contents are there, whichever has the name.",
			Remedy:  "look which SQL databases there are (psql -l): with one that ends in _kept_ and today's time they were"}
	}
	return &problem.Problem{Code: "restore.not-exchanged", Subject: strings.Join(names, ", "), Severity: problem.Critical, Title: "the names were not exchanged: " + err.Error(),
		Meaning: "What was live is live under its name, as it was.", Remedy: "mend what the message names and give the same command again"}
}

// rename is the transaction; committing tells that its end was asked for.
func rename(ctx context.Context, live *pgx.Conn, moves []move) (committing bool, err error) {
	tx, err := live.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // a no-op after the commit
	for _, m := range moves {
		if _, err := tx.Exec(ctx, fmt.Sprintf("alter database %s rename to %s", quoteName(m.from), quoteName(m.to))); err != nil {
			return false, err
		}
		if err := m.comment(ctx, tx); err != nil {
			return false, err
		}
	}
	return true, tx.Commit(ctx)
}

// comment writes into a database's comment that it was set aside, with what its comment was, or puts that back.
func (m move) comment(ctx context.Context, tx pgx.Tx) error {
	if m.keep == nil && !m.back {
		return nil
	}
	var now *string
	if err := tx.QueryRow(ctx, "select shobj_description(oid, 'pg_database') from pg_database where datname = $1", m.to).Scan(&now); err != nil {
		return err
	}
	text := "null"
	if m.keep != nil {
		k := *m.keep
		k.Comment = now
		raw, err := json.Marshal(k)
		if err != nil {
			return err
		}
		text = quoteLiteral(string(raw))
	} else if now != nil {
		var was kept
		if err := json.Unmarshal([]byte(*now), &was); err != nil {
			return fmt.Errorf("read the comment of database %s: %w", m.to, err)
		}
		if was.Comment != nil {
			text = quoteLiteral(*was.Comment)
		}
	}
	_, err := tx.Exec(ctx, fmt.Sprintf("comment on database %s is %s", quoteName(m.to), text))
	return err
}

// endSessions ends whoever is in one of the databases, until ctx ends.
func endSessions(ctx context.Context, conn *pgx.Conn, names []string) error {
	for {
		if _, err := conn.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = any ($1) and pid <> pg_backend_pid()", names); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("end sessions: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(endEvery):
		}
	}
}
