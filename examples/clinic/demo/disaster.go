package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// findMax is how long the log of a delete may take into the vault, and be found there.
	findMax = time.Minute
	// quoted is how many lines of a command's answer are shown.
	quoted = 12
)

// rowsOf is what the table of appointments holds of one practice: how many, and a digest over every column.
type rowsOf struct {
	count  int
	digest string
}

// disaster deletes what a person deletes by mistake: it is replicated to each standby at once, so that only the
// vault remembers. Then it does what the operator would do, by the operator's commands.
func (d *demo) disaster(ctx context.Context) (o outcome, err error) {
	db := d.plan.Databases[0].Name
	practice := d.seeded[len(d.seeded)/2]
	dsn, err := d.anyDSN()
	if err != nil {
		return o, err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return o, fmt.Errorf("open a session: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	was, err := appointments(ctx, conn, practice.ID)
	if err != nil {
		return o, err
	}
	if was.count != appointmentsEach {
		return o, fmt.Errorf("count the appointments of practice %d: %d of %d are there", practice.ID, was.count, appointmentsEach)
	}
	all, err := total(ctx, conn)
	if err != nil {
		return o, err
	}

	d.say.tell("psql> DELETE FROM appointments WHERE practice_id = %d;   -- it was meant to be another one", practice.ID)
	o.began = d.fault()
	tag, err := conn.Exec(ctx, `DELETE FROM appointments WHERE practice_id = $1`, practice.ID)
	if err != nil {
		return o, fmt.Errorf("delete the appointments: %w", err)
	}
	gone := int(tag.RowsAffected())
	// Life goes on: what is written after the mistake must be there afterwards.
	const later = 3
	if _, err := d.load.Seed(ctx, 1, later); err != nil {
		return o, err
	}
	d.say.tell("%d rows are gone, on every standby too. Others go on working: %d new appointments since.", gone, later)

	at, err := d.findDelete(ctx, db, gone)
	if err != nil {
		return o, err
	}
	where := fmt.Sprintf("practice_id = %d", practice.ID)
	text, err := d.command(ctx, "restore", db, "--table", "appointments", "--at", at, "--where", where, "--diff", "--rows", "2")
	if err != nil {
		return o, err
	}
	d.say.quote(firstLines(text, quoted))
	if err := d.putBack(ctx, db, at, where, gone); err != nil {
		return o, err
	}
	return o, d.compareBack(ctx, conn, &o, practice.ID, was, all+later)
}

// findDelete waits until the log of the delete is in the vault, and returns the moment just before it.
func (d *demo) findDelete(ctx context.Context, db string, gone int) (at string, err error) {
	args := []string{"restore", db, "--table", "appointments", "--find-deletes", "--since", "1h"}
	d.say.command(shown(args))
	began := time.Now()
	err = until(ctx, findMax, "the vault's log tells of the delete", func() (bool, error) {
		text, err := d.quietly(ctx, append(args, "--output", "json")...)
		if err != nil {
			return false, err
		}
		var found struct {
			Deletes []struct {
				Committed time.Time
				XID       uint32
				Table     string
				Rows      int
				At        string
			}
		}
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			return false, fmt.Errorf("read what was found: %w", err)
		}
		for _, one := range found.Deletes {
			if one.Rows == gone && at == "" {
				at = one.At
				d.say.tell("  %s: transaction %d deleted %d rows of %s (found in %s)",
					one.Committed.Local().Format("15:04:05.000"), one.XID, one.Rows, one.Table, seconds(time.Since(began)))
			}
		}
		return at != "", nil
	})
	return at, err
}

// putBack inserts the rows that are missing and looks at the report.
func (d *demo) putBack(ctx context.Context, db, at, where string, gone int) error {
	began := time.Now()
	args := []string{"restore", db, "--table", "appointments", "--at", at, "--where", where, "--put-back", "--yes"}
	d.say.command(shown(args))
	text, err := d.quietly(ctx, append(args, "--output", "json")...)
	if err != nil {
		return err
	}
	var report struct {
		Diff struct {
			Missing, Changed, New int
		}
		PutBack struct {
			Inserted int
		} `json:"put_back"`
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		return fmt.Errorf("read what was put back: %w", err)
	}
	if report.Diff.Missing != gone || report.Diff.Changed != 0 || report.Diff.New != 0 || report.PutBack.Inserted != gone {
		d.broke("%d rows were deleted; found missing %d, changed %d, new %d; put back %d",
			gone, report.Diff.Missing, report.Diff.Changed, report.Diff.New, report.PutBack.Inserted)
		return nil
	}
	d.say.tell("  %d rows were put back in one transaction, in %s with the restore beside the live one", report.PutBack.Inserted, seconds(time.Since(began)))
	return nil
}

// compareBack looks with the application's own eyes whether all is as it was.
func (d *demo) compareBack(ctx context.Context, conn *pgx.Conn, o *outcome, practice int64, was rowsOf, wantAll int) error {
	now, err := appointments(ctx, conn, practice)
	if err != nil {
		return err
	}
	all, err := total(ctx, conn)
	if err != nil {
		return err
	}
	o.whole = time.Now()
	switch {
	case now != was:
		d.broke("the practice's appointments are not as they were: %d rows with digest %s, before %d with %s", now.count, now.digest, was.count, was.digest)
	case all != wantAll:
		d.broke("there are %d appointments, and %d are expected", all, wantAll)
	default:
		d.say.tell("The practice has its %d appointments again, equal in every column, and nothing newer was touched.", now.count)
	}
	return nil
}

// appointments reads one practice's rows through the listener.
func appointments(ctx context.Context, conn *pgx.Conn, practice int64) (r rowsOf, err error) {
	err = conn.QueryRow(ctx, `SELECT count(*), coalesce(encode(sha256(convert_to(string_agg(a::text, E'\n' ORDER BY id), 'UTF8')), 'hex'), '')
		FROM appointments a WHERE practice_id = $1`, practice).Scan(&r.count, &r.digest)
	if err != nil {
		return r, fmt.Errorf("read the appointments of practice %d: %w", practice, err)
	}
	return r, nil
}

func total(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM appointments`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the appointments: %w", err)
	}
	return n, nil
}

// firstLines shortens a text, and says by how much.
func firstLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) <= n {
		return text
	}
	return strings.Join(append(lines[:n:n], fmt.Sprintf("... %d more lines", len(lines)-n)), "\n")
}
