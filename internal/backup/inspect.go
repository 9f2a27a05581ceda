package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// findings are what one look at one database came to.
type findings struct {
	bad     []string // exactly what is damaged, without the database's name
	looked  int      // objects that were looked at
	missed  []string // what could not be looked at, and why
	warned  []string // what is no damage, and a person should know
	missing string   // the extension that this host's PostgreSQL lacks; "" = none
}

// look is one way of looking at a database from inside.
type look func(ctx context.Context, conn *pgx.Conn) (findings, error)

// openForLook connects so that nothing that an application has set for its database or its roles stands in the way:
// neither read-only defaults, nor time limits, nor triggers on what is done here.
func openForLook(ctx context.Context, conn string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(conn)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"default_transaction_read_only": "off", "session_replication_role": "replica", "row_security": "off",
		"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "datestyle": "ISO", "timezone": "UTC",
	} {
		cfg.RuntimeParams[name] = value
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // each statement is run once
	return pgx.ConnectConfig(ctx, cfg)
}

// databases lists those that can be looked into; closed ones are opened for that, which the scratch server may.
func databases(ctx context.Context, conn string) (names, missed []string, err error) {
	c, err := openForLook(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // only asked
	if _, err := c.Exec(ctx, "update pg_catalog.pg_database set datallowconn = true where not datallowconn and datconnlimit <> -2"); err != nil {
		return nil, nil, err
	}
	rows, err := c.Query(ctx, "select datname, datconnlimit = -2 from pg_catalog.pg_database order by datname")
	if err != nil {
		return nil, nil, err
	}
	var name string
	var dropped bool
	_, err = pgx.ForEachRow(rows, []any{&name, &dropped}, func() error {
		if dropped {
			missed = append(missed, "database "+name+": its dropping was begun and never ended")
		} else {
			names = append(names, name)
		}
		return nil
	})
	return names, missed, err
}

// extension makes an extension's functions callable and gives the schema they are in, quoted; there is false when this
// host's PostgreSQL does not have it.
func extension(ctx context.Context, conn *pgx.Conn, name string) (schema string, there bool, err error) {
	if err := conn.QueryRow(ctx, "select exists (select from pg_catalog.pg_available_extensions where name = $1)", name).Scan(&there); err != nil || !there {
		return "", false, err
	}
	for _, q := range []string{"create extension if not exists " + name + " schema pg_catalog", "alter extension " + name + " update"} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return "", false, fmt.Errorf("load %s: %w", name, err)
		}
	}
	err = conn.QueryRow(ctx, "select pg_catalog.quote_ident(n.nspname) from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = $1", name).Scan(&schema)
	return schema, true, err
}

// relation is a table or an index.
type relation struct {
	oid  uint32
	name string // schema and name, quoted as SQL needs them
}

// qualified gives a relation's name whatever the search path is.
const qualified = "pg_catalog.format('%I.%I', n.nspname, c.relname)"

func relations(ctx context.Context, conn *pgx.Conn, from string, args ...any) ([]relation, error) {
	rows, err := conn.Query(ctx, "select c.oid, "+qualified+" from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "+from+" order by c.oid", args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (relation, error) {
		var x relation
		err := r.Scan(&x.oid, &x.name)
		return x, err
	})
}

// note sorts what the server said about one object: damage, or that it cannot be looked at here (a function that an
// index needs is gone, say). An error that says nothing about the data is returned.
func (f *findings) note(object string, err error) error {
	says, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("%s: %w", object, err)
	}
	text := object + ": " + says.Message
	if says.Detail != "" {
		text += " (" + says.Detail + ")"
	}
	switch class := says.Code[:min(2, len(says.Code))]; class {
	case "53", "57", "25", "40": // this host's lack, a stop, or a state of the session
		return fmt.Errorf("%s: %w", object, err)
	case "42", "0A", "3F": // names that are not found, rights, what is not supported
		f.missed = append(f.missed, text)
	default:
		f.bad = append(f.bad, text)
	}
	return nil
}

// checkIndexes proves every B-tree: its order, and that each row of its table is in it.
func checkIndexes(ctx context.Context, conn *pgx.Conn) (f findings, err error) {
	schema, there, err := extension(ctx, conn, "amcheck")
	if err != nil || !there {
		return findings{missing: "amcheck"}, err
	}
	list, err := relations(ctx, conn, `join pg_catalog.pg_index i on i.indexrelid = c.oid join pg_catalog.pg_am a on a.oid = c.relam
		where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p' and i.indisvalid and i.indisready`)
	if err != nil {
		return f, err
	}
	sorts, err := otherCollations(ctx, conn)
	if err != nil {
		return f, err
	}
	f.warned = sorts.words()
	for _, x := range list {
		f.looked++
		if _, err := conn.Exec(ctx, "select "+schema+".bt_index_check($1::oid::regclass, true)", x.oid); err != nil {
			if err := f.note("index "+x.name+sorts.of(x.oid), err); err != nil {
				return f, err
			}
		}
	}
	return f, nil
}

const ordinaryTables = `join pg_catalog.pg_am a on a.oid = c.relam where a.amname = 'heap' and c.relkind in ('r', 'm', 't') and c.relpersistence = 'p'`

// foundMax is how many places one table is told of.
const foundMax = 20

// checkHeap proves every table's pages and rows, and what their long values point to.
func checkHeap(ctx context.Context, conn *pgx.Conn) (f findings, err error) {
	schema, there, err := extension(ctx, conn, "amcheck")
	if err != nil || !there {
		return findings{missing: "amcheck"}, err
	}
	return inTables(ctx, conn, "select pg_catalog.format('block %s item %s: %s', blkno, coalesce(offnum::text, '-'), msg) from "+schema+".verify_heapam($1::oid::regclass, check_toast => true) limit $2")
}

// checkVisibility proves the visibility map: no row on a page that it calls visible to all is not, none on a page that it
// calls frozen is not. An index-only read trusts it.
func checkVisibility(ctx context.Context, conn *pgx.Conn) (f findings, err error) {
	schema, there, err := extension(ctx, conn, "pg_visibility")
	if err != nil || !there {
		return findings{missing: "pg_visibility"}, err
	}
	return inTables(ctx, conn, `select pg_catalog.format('visibility map, row %s is not visible to all', t) from `+schema+`.pg_check_visible($1::oid::regclass) t
		union all select pg_catalog.format('visibility map, row %s is not frozen', t) from `+schema+`.pg_check_frozen($1::oid::regclass) t limit $2`)
}

// inTables asks a question of each table that answers with what is wrong.
func inTables(ctx context.Context, conn *pgx.Conn, question string) (f findings, err error) {
	list, err := relations(ctx, conn, ordinaryTables)
	if err != nil {
		return f, err
	}
	for _, x := range list {
		f.looked++
		rows, err := conn.Query(ctx, question, x.oid, foundMax)
		if err == nil {
			var found []string
			found, err = pgx.CollectRows(rows, pgx.RowTo[string])
			for _, text := range found {
				f.bad = append(f.bad, "table "+x.name+" "+text)
			}
		}
		if err != nil {
			if err := f.note("table "+x.name, err); err != nil {
				return f, err
			}
		}
	}
	return f, nil
}

// compareCounts counts each table that has an index which allows it twice: by an index alone, which trusts the visibility
// map, and by reading the table. It needs no extension. Tables larger than sizeMax bytes (0 = no limit) are passed over,
// and told.
func compareCounts(ctx context.Context, conn *pgx.Conn, sizeMax int64) (f findings, err error) {
	list, err := relations(ctx, conn, ordinaryTables+` and exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisvalid and i.indpred is null)`)
	if err != nil {
		return f, err
	}
	large := 0
	for _, x := range list {
		if sizeMax > 0 {
			var size int64
			if err := conn.QueryRow(ctx, "select pg_catalog.pg_relation_size($1::oid)", x.oid).Scan(&size); err != nil {
				if err := f.note("table "+x.name, err); err != nil {
					return f, err
				}
				continue
			}
			if size > sizeMax {
				large++
				continue
			}
		}
		if err := countTwice(ctx, conn, x, &f); err != nil {
			return f, err
		}
	}
	if large > 0 {
		f.missed = append(f.missed, fmt.Sprintf("%d tables larger than %d MB", large, sizeMax>>20))
	}
	return f, nil
}

func countTwice(ctx context.Context, conn *pgx.Conn, x relation, f *findings) error {
	// enable_indexscan stays on: off, it prices index-only scans out too, and small tables are read whole instead.
	byIndex, used, err := countWith(ctx, conn, x.name, "set enable_seqscan = off; set enable_bitmapscan = off; set enable_indexscan = on; set enable_indexonlyscan = on")
	var byHeap int64
	if err == nil && used {
		byHeap, _, err = countWith(ctx, conn, x.name, "set enable_seqscan = on; set enable_bitmapscan = off; set enable_indexscan = off; set enable_indexonlyscan = off")
	}
	switch {
	case err != nil:
		return f.note("table "+x.name, err)
	case !used:
		return nil // its indexes are of kinds that do not hold every row's key
	}
	f.looked++
	if byIndex != byHeap {
		f.bad = append(f.bad, fmt.Sprintf("table %s: %d rows by its index, %d by its pages", x.name, byIndex, byHeap))
	}
	return nil
}

// countWith counts a table's rows under planner settings, and says whether an index alone was read.
func countWith(ctx context.Context, conn *pgx.Conn, table, settings string) (rows int64, byIndex bool, err error) {
	if _, err := conn.PgConn().Exec(ctx, settings).ReadAll(); err != nil {
		return 0, false, err
	}
	query := "select pg_catalog.count(*) from only " + table
	lines, err := conn.Query(ctx, "explain "+query)
	if err != nil {
		return 0, false, err
	}
	plan, err := pgx.CollectRows(lines, pgx.RowTo[string])
	if err != nil {
		return 0, false, err
	}
	err = conn.QueryRow(ctx, query).Scan(&rows)
	return rows, strings.Contains(strings.Join(plan, "\n"), "Index Only Scan"), err
}
