package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
)

// Bundle writes the rows of lost commits as SQL to replay on the live database: a row is inserted only if its key is
// absent, and updated only if it is still as it was where the histories parted. What was changed on both sides, and
// deletes, stand there as comments for a person. lost leads to a copy of the server that held the commits.
type Bundle struct {
	Report database.Salvage
	Lost   func(database string) string // connection strings
	Live   func(database string) string
	Out    io.Writer
}

// reachMax is how long a server may take to let us in: the hour after a failover is a busy one.
const reachMax = 30 * time.Second

// reach opens a session, and tries again for a while: only reading follows.
func reach(ctx context.Context, dsn string) (*pgx.Conn, error) {
	limit, cancel := context.WithTimeout(ctx, reachMax)
	defer cancel()
	for {
		conn, err := pgx.Connect(limit, dsn)
		if err == nil || limit.Err() != nil {
			return conn, err
		}
		select {
		case <-limit.Done():
			return nil, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// bundled counts what one table came to.
type bundled struct{ inserted, updated, same, conflicts int }

// Write writes the whole bundle, database by database.
func (b Bundle) Write(ctx context.Context) error {
	names, err := b.databases(ctx)
	if err != nil {
		return err
	}
	if err := b.say("-- Rows of %s, which %s alone holds of %s, for psql: every \\connect is one database.\n-- Read it before it is run. Nothing that was changed since is overwritten.\n\\set ON_ERROR_STOP on\n",
		b.Report.ID, b.Report.Host, b.Report.Database); err != nil {
		return err
	}
	for _, number := range b.numbers() {
		name, ok := names[number]
		if ok && inComment(name) != name {
			if err := b.say("\n-- Database %d has a name of several lines, which psql cannot connect to; its rows are not listed.\n", number); err != nil {
				return err
			}
			continue
		}
		if !ok {
			if err := b.say("\n-- Database %d is not there any more; its rows are not listed.\n", number); err != nil {
				return err
			}
			continue
		}
		if err := b.database(ctx, number, name); err != nil {
			return fmt.Errorf("write the rows of database %s: %w", name, err)
		}
	}
	return nil
}

func (b Bundle) say(format string, args ...any) error {
	_, err := fmt.Fprintf(b.Out, format, args...)
	return err
}

// numbers are the databases that lost commits changed rows in.
func (b Bundle) numbers() []uint32 {
	var out []uint32
	for _, c := range b.Report.Commits {
		for _, t := range c.Tables {
			if !t.Catalog && t.Database != 0 && !slices.Contains(out, t.Database) {
				out = append(out, t.Database)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (b Bundle) databases(ctx context.Context) (map[uint32]string, error) {
	conn, err := reach(ctx, b.Lost("postgres"))
	if err != nil {
		return nil, fmt.Errorf("reach the copy: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	out := map[uint32]string{}
	var number uint32
	var name string
	rows, err := conn.Query(ctx, "select oid, datname from pg_database")
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&number, &name}, func() error { out[number] = name; return nil })
	}
	return out, err
}

const plainText = "set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC'; set extra_float_digits = 1; set bytea_output = 'hex'; set search_path = pg_catalog"

func (b Bundle) database(ctx context.Context, number uint32, name string) error {
	lost, err := reach(ctx, b.Lost(name))
	if err != nil {
		return fmt.Errorf("reach the copy: %w", err)
	}
	defer func() { _ = lost.Close(ctx) }() // only asked
	live, err := reach(ctx, b.Live(name))
	if err != nil {
		return fmt.Errorf("reach the primary: %w", err)
	}
	defer func() { _ = live.Close(ctx) }() // likewise
	for _, c := range []*pgx.Conn{lost, live} {
		if _, err := c.Exec(ctx, plainText); err != nil {
			return err
		}
	}
	if err := b.say("\n\\connect %s\n%s;\nbegin;\n", quoteName(name), plainText); err != nil {
		return err
	}
	tables, err := b.tables(ctx, lost, number)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := b.table(ctx, lost, live, t); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return b.say("commit;\n")
}

// lostTable is a table of the copy that lost commits changed.
type lostTable struct {
	name    string
	xids    []int64
	deleted int
}

func (b Bundle) tables(ctx context.Context, lost *pgx.Conn, number uint32) ([]lostTable, error) {
	byName := map[string]*lostTable{}
	named := map[[2]uint32]string{}
	for _, c := range b.Report.Commits {
		for _, t := range c.Tables {
			if t.Catalog || t.Database != number || t.Dropped {
				continue
			}
			file := [2]uint32{t.Space, t.Node}
			name, ok := named[file]
			if !ok {
				var found *string
				err := lost.QueryRow(ctx, `select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
					where c.oid = pg_filenode_relation($1, $2) and c.relkind = 'r' and n.nspname not in ('pg_catalog', 'pg_toast')`, t.Space, t.Node).Scan(&found)
				if err != nil && !errors.Is(err, pgx.ErrNoRows) {
					return nil, err
				}
				if found != nil {
					name = *found
				}
				named[file] = name
			}
			if name == "" {
				continue // a table's large values, or one that was rewritten or dropped later
			}
			x := byName[name]
			if x == nil {
				x = &lostTable{name: name}
				byName[name] = x
			}
			x.deleted += t.Deleted
			for _, xid := range append([]uint32{c.XID}, c.Subs...) {
				x.xids = append(x.xids, int64(xid))
			}
		}
	}
	var out []lostTable
	for _, x := range byName {
		slices.Sort(x.xids)
		x.xids = slices.Compact(x.xids)
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, c lostTable) int { return strings.Compare(a.name, c.name) })
	return out, nil
}

func (b Bundle) table(ctx context.Context, lost, live *pgx.Conn, t lostTable) error {
	s, err := shape(ctx, lost, t.name)
	if err == nil {
		_, err = shape(ctx, live, t.name)
	}
	if err != nil {
		return b.say("\n-- %s: its rows are not listed: %s\n", inComment(t.name), inComment(err.Error()))
	}
	if err := b.say("\n-- %s\n", inComment(t.name)); err != nil {
		return err
	}
	literals := make([]string, len(s.plain))
	for i, c := range s.plain {
		literals[i] = "quote_nullable(x." + c + "::text)"
	}
	rows, err := lost.Query(ctx, fmt.Sprintf("select %s, x::text, array[%s]::text[] from %s x where xmin::text::bigint = any ($1) order by 1",
		keyText(s.key), strings.Join(literals, ", "), t.name), t.xids)
	if err != nil {
		return err
	}
	var n bundled
	var key, text string
	var values []string
	_, err = pgx.ForEachRow(rows, []any{&key, &text, &values}, func() error { return b.row(ctx, live, s, key, text, values, &n) })
	if err != nil {
		return err
	}
	if t.deleted > 0 {
		if err := b.say("-- REVIEW: the lost commits deleted %d rows of %s; which ones the log does not say. Compare by key if that matters.\n", t.deleted, inComment(t.name)); err != nil {
			return err
		}
	}
	return b.say("-- %s: %d to insert, %d to update, %d there already, %d changed on both sides\n", inComment(t.name), n.inserted, n.updated, n.same, n.conflicts)
}

// row writes what must be done for one row of the copy.
func (b Bundle) row(ctx context.Context, live *pgx.Conn, s tableShape, key, text string, values []string, n *bundled) error {
	var now string
	var xmin int64
	err := live.QueryRow(ctx, fmt.Sprintf("select x::text, x.xmin::text::bigint from %s x where %s = $1", s.name, keyText(s.key)), key).Scan(&now, &xmin)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		n.inserted++
		return b.say("insert into %s (%s) overriding system value values (%s) on conflict do nothing;\n", s.name, strings.Join(s.plain, ", "), strings.Join(values, ", "))
	case err != nil:
		return err
	case now == text:
		n.same++
		return nil
	case b.changedSince(uint32(xmin)):
		n.conflicts++
		return b.say("-- REVIEW: changed on both sides, now %s, lost %s\n", oneLine(now), oneLine(text))
	}
	n.updated++
	set := make([]string, len(s.plain))
	for i, c := range s.plain {
		set[i] = c + " = " + values[i]
	}
	return b.say("update %s x set %s where %s = %s and x::text = %s;\n", s.name, strings.Join(set, ", "), keyText(s.key), quoteLiteral(key), quoteLiteral(now))
}

// changedSince reports whether a transaction of the live database came after the parting. Where that is not known, it did.
func (b Bundle) changedSince(xid uint32) bool {
	return b.Report.NextXID == 0 || xid >= 3 && int32(xid-b.Report.NextXID) >= 0
}

func oneLine(s string) string { return strconv.Quote(s) }

// inComment is a text that ends no comment: names may hold any character, and psql would carry out what follows a new
// line, commands of the shell among it.
func inComment(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, s)
}

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
