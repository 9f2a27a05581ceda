package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
)

// DiffReport is how one table in the live database differs from the same table at an earlier moment. Keys
// are the primary key's values as PostgreSQL prints an array of them.
type DiffReport struct {
	Table    string   `json:"table"`
	Key      []string `json:"key"`               // columns of the primary key
	Columns  []string `json:"columns"`           // compared: those that both have
	OnlyLive []string `json:"only_live_columns"` // added since
	OnlyThen []string `json:"only_then_columns"` // dropped since
	Same     int      `json:"same"`
	Missing  int      `json:"missing"`   // then there, not now
	Changed  int      `json:"different"` // there at both times, with other values
	New      int      `json:"new"`       // there now, not then
	Listed   bool     `json:"listed"`    // MissingKeys holds all of them
	// MissingKeys are the keys of rows that are missing now, at most KeysMax.
	MissingKeys []string `json:"missing_keys,omitempty"`
	ChangedKeys []string `json:"changed_keys,omitempty"` // a few, to look at
	NewKeys     []string `json:"new_keys,omitempty"`     // a few, to look at

	where string
}

// KeysMax bounds how many missing rows one put-back handles.
const KeysMax = 1_000_000

const samples = 20

// tableShape is what a diff needs to know of a table.
type tableShape struct {
	name    string // quoted and qualified
	key     []string
	columns []string
	plain   []string // columns that can be written: not generated
}

// Diff compares a table by its primary key: live against then, a scratch server at an earlier moment. where
// is an SQL condition on the rows to look at ("" = all). Both sides are read in the order of the key, so that
// memory does not grow with the table.
func Diff(ctx context.Context, live, then *pgx.Conn, table, where string) (DiffReport, error) {
	l, t, err := shapes(ctx, live, then, table)
	if err != nil {
		return DiffReport{}, err
	}
	r := DiffReport{Table: l.name, Key: l.key, Listed: true, where: where}
	for _, c := range l.columns {
		if slices.Contains(t.columns, c) {
			r.Columns = append(r.Columns, c)
		} else {
			r.OnlyLive = append(r.OnlyLive, c)
		}
	}
	for _, c := range t.columns {
		if !slices.Contains(l.columns, c) {
			r.OnlyThen = append(r.OnlyThen, c)
		}
	}
	if err := r.compare(ctx, live, then); err != nil {
		return r, fmt.Errorf("compare %s: %w", l.name, err)
	}
	return r, nil
}

func shapes(ctx context.Context, live, then *pgx.Conn, table string) (l, t tableShape, err error) {
	if l, err = liveShape(ctx, live, table); err != nil {
		return l, t, err
	}
	if t, err = shape(ctx, then, table); errors.Is(err, errNoTable) {
		return l, t, &problem.Problem{Code: "restore.not-there-then", Subject: table, Severity: problem.Note, Title: "the restored SQL database has no such table",
			Meaning: "It did not exist at that moment. Nothing in the live cluster was changed.", Remedy: "choose another moment with --at, or another name"}
	}
	if err != nil {
		return l, t, fmt.Errorf("look at %s in the restored database: %w", table, err)
	}
	if !slices.Equal(l.key, t.key) {
		return l, t, &problem.Problem{Code: "restore.key-changed", Subject: l.name, Severity: problem.Note,
			Title:   fmt.Sprintf("its primary key is (%s) now and was (%s)", strings.Join(l.key, ", "), strings.Join(t.key, ", ")),
			Meaning: "Rows of the two moments cannot be matched.", Remedy: "restore the database to a directory of its own and copy the rows by hand"}
	}
	return l, t, nil
}

// errNoTable says that an SQL database has no table of that name.
var errNoTable = errors.New("there is no such table")

// liveShape is the shape of a table that is to be compared; restore.no-table when it is not there (any more).
func liveShape(ctx context.Context, live *pgx.Conn, table string) (tableShape, error) {
	s, err := shape(ctx, live, table)
	switch {
	case errors.Is(err, errNoTable):
		return s, &problem.Problem{Code: "restore.no-table", Subject: table, Severity: problem.Note, Title: "SQL database " + live.Config().Database + " has no such table now",
			Meaning: "There is nothing to compare with, or to put rows back into. Nothing was restored or changed.",
			Remedy:  "see its name, with its schema where it is not public, and name its SQL database with --database; a table that was dropped comes back whole, beside what is live, with --into NEWSCHEMA instead of --diff or --put-back"}
	case err != nil:
		return s, fmt.Errorf("look at %s in the live database: %w", table, err)
	}
	return s, nil
}

func shape(ctx context.Context, conn *pgx.Conn, table string) (tableShape, error) {
	var s tableShape
	var oid uint32
	err := conn.QueryRow(ctx, "select c.oid, format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1) and c.relkind in ('r', 'p')", table).Scan(&oid, &s.name)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, errNoTable
	}
	if err != nil {
		return s, err
	}
	list := func(query string) ([]string, error) {
		rows, err := conn.Query(ctx, query, oid)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if s.columns, err = list("select quote_ident(attname) from pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped order by attnum"); err != nil {
		return s, err
	}
	if s.plain, err = list("select quote_ident(attname) from pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped and attgenerated = '' order by attnum"); err != nil {
		return s, err
	}
	s.key, err = list(`select quote_ident(a.attname) from pg_index i cross join unnest(i.indkey) with ordinality k(n, o) join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n
		where i.indrelid = $1 and i.indisprimary order by k.o`)
	if err == nil && len(s.key) == 0 {
		err = &problem.Problem{Code: "restore.no-key", Subject: s.name, Severity: problem.Note, Title: "has no primary key",
			Meaning: "Rows of two moments cannot be matched without one.", Remedy: "restore the database to a directory of its own and copy the rows by hand"}
	}
	return s, err
}

// keyText is an expression that gives a row's key as one text, the same on both sides.
func keyText(key []string) string {
	parts := make([]string, len(key))
	for i, k := range key {
		parts[i] = k + "::text"
	}
	return "array[" + strings.Join(parts, ", ") + "]::text"
}

func condition(where string) string {
	if where == "" {
		return ""
	}
	return " where (" + where + ")"
}

// compare walks both sides at once in the order of the key's bytes.
func (r *DiffReport) compare(ctx context.Context, live, then *pgx.Conn) error {
	texts := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		texts[i] = c + "::text"
	}
	query := fmt.Sprintf(`select k, h from (select %s as k, md5(array[%s]::text) as h from %s%s) x order by k collate "C"`,
		keyText(r.Key), strings.Join(texts, ", "), r.Table, condition(r.where))
	for _, c := range []*pgx.Conn{live, then} { // so that both print values alike
		if _, err := c.Exec(ctx, "set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 1; set bytea_output = 'hex'"); err != nil {
			return err
		}
	}
	a, err := openSide(ctx, live, query)
	if err != nil {
		return fmt.Errorf("read the live table: %w", err)
	}
	defer a.rows.Close()
	b, err := openSide(ctx, then, query)
	if err != nil {
		return fmt.Errorf("read the restored table: %w", err)
	}
	defer b.rows.Close()
	for a.ok || b.ok {
		switch {
		case !b.ok || a.ok && a.key < b.key:
			r.New++
			r.NewKeys = sample(r.NewKeys, a.key)
			a.next()
		case !a.ok || b.key < a.key:
			r.Missing++
			if len(r.MissingKeys) < KeysMax {
				r.MissingKeys = append(r.MissingKeys, b.key)
			} else {
				r.Listed = false
			}
			b.next()
		default:
			if a.hash == b.hash {
				r.Same++
			} else {
				r.Changed++
				r.ChangedKeys = sample(r.ChangedKeys, a.key)
			}
			a.next()
			b.next()
		}
	}
	return errors.Join(a.err, b.err)
}

func sample(list []string, key string) []string {
	if len(list) < samples {
		return append(list, key)
	}
	return list
}

// side is one table being read.
type side struct {
	rows      pgx.Rows
	key, hash string
	ok        bool
	err       error
}

func openSide(ctx context.Context, conn *pgx.Conn, query string) (*side, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	s := &side{rows: rows}
	s.next()
	return s, s.err
}

func (s *side) next() {
	if s.ok = s.rows.Next(); !s.ok {
		s.err = s.rows.Err()
		return
	}
	if err := s.rows.Scan(&s.key, &s.hash); err != nil {
		s.ok, s.err = false, err
	}
}
