package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// errNoAmcheck says that this host's PostgreSQL lacks the extension with which indexes and tables are checked.
var errNoAmcheck = errors.New("amcheck is not installed")

func databases(ctx context.Context, conn string) ([]string, error) {
	c, err := pgx.Connect(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // only asked
	rows, err := c.Query(ctx, "select datname from pg_database where datallowconn order by datname")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func loadAmcheck(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_available_extensions where name = 'amcheck')").Scan(&there); err != nil {
		return err
	}
	if !there {
		return errNoAmcheck
	}
	_, err := conn.Exec(ctx, "create extension if not exists amcheck schema pg_catalog")
	return err
}

type relation struct {
	oid  uint32
	name string
}

func relations(ctx context.Context, conn *pgx.Conn, query string, args ...any) ([]relation, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (relation, error) {
		var x relation
		err := r.Scan(&x.oid, &x.name)
		return x, err
	})
}

// checkIndexes proves every B-tree: its order, and that each row of its table is in it.
func checkIndexes(ctx context.Context, conn *pgx.Conn) (bad []string, n int, err error) {
	if err := loadAmcheck(ctx, conn); err != nil {
		return nil, 0, err
	}
	list, err := relations(ctx, conn, `
		select c.oid, c.oid::regclass::text from pg_class c join pg_index i on i.indexrelid = c.oid join pg_am a on a.oid = c.relam
		where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p' and i.indisvalid and i.indisready order by c.oid`)
	if err != nil {
		return nil, 0, err
	}
	for _, x := range list {
		if _, err := conn.Exec(ctx, "select pg_catalog.bt_index_check($1::oid::regclass, true)", x.oid); err != nil {
			says, ok := errors.AsType[*pgconn.PgError](err)
			if !ok {
				return bad, n, err
			}
			bad = append(bad, fmt.Sprintf("index %s: %s", x.name, says.Message))
		}
	}
	return bad, len(list), nil
}

// checkHeap proves every table's pages and rows, and what their long values point to.
func checkHeap(ctx context.Context, conn *pgx.Conn) (bad []string, n int, err error) {
	if err := loadAmcheck(ctx, conn); err != nil {
		return nil, 0, err
	}
	list, err := relations(ctx, conn, `
		select c.oid, c.oid::regclass::text from pg_class c join pg_am a on a.oid = c.relam
		where a.amname = 'heap' and c.relkind in ('r', 'm', 't') and c.relpersistence = 'p' order by c.oid`)
	if err != nil {
		return nil, 0, err
	}
	for _, x := range list {
		rows, err := conn.Query(ctx, "select blkno, coalesce(offnum, 0), msg from pg_catalog.verify_heapam($1::oid::regclass, check_toast => true) limit 20", x.oid)
		if err == nil {
			var found []string
			found, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (string, error) {
				var block int64
				var item int32
				var msg string
				err := r.Scan(&block, &item, &msg)
				return fmt.Sprintf("table %s block %d item %d: %s", x.name, block, item, msg), err
			})
			bad = append(bad, found...)
		}
		if says, ok := errors.AsType[*pgconn.PgError](err); ok {
			bad = append(bad, fmt.Sprintf("table %s: %s", x.name, says.Message))
		} else if err != nil {
			return bad, n, err
		}
	}
	return bad, len(list), nil
}

// compareCounts counts each table with a primary key twice: by its index alone, which trusts the visibility
// map, and by reading the table. A stale map shows nowhere else.
func compareCounts(ctx context.Context, conn *pgx.Conn, sizeMax int64) (bad []string, n int, err error) {
	list, err := relations(ctx, conn, `
		select c.oid, c.oid::regclass::text from pg_class c join pg_index i on i.indrelid = c.oid
		where i.indisprimary and c.relkind = 'r' and c.relpersistence = 'p' and c.relnamespace <> 'pg_catalog'::regnamespace
			and pg_relation_size(c.oid) <= $1 order by c.oid`, sizeMax)
	if err != nil {
		return nil, 0, err
	}
	for _, x := range list {
		byIndex, used, err := countWith(ctx, conn, x.name, "set enable_seqscan = off; set enable_bitmapscan = off; set enable_indexscan = off; set enable_indexonlyscan = on")
		if err != nil {
			return bad, n, err
		}
		if !used {
			continue // the planner found no way through an index alone
		}
		byHeap, _, err := countWith(ctx, conn, x.name, "set enable_seqscan = on; set enable_bitmapscan = off; set enable_indexscan = off; set enable_indexonlyscan = off")
		if err != nil {
			return bad, n, err
		}
		n++
		if byIndex != byHeap {
			bad = append(bad, fmt.Sprintf("table %s: %d rows by its index, %d by its pages", x.name, byIndex, byHeap))
		}
	}
	return bad, n, nil
}

// countWith counts a table's rows under planner settings, and says whether an index alone was read.
func countWith(ctx context.Context, conn *pgx.Conn, table, settings string) (rows int64, byIndex bool, err error) {
	if _, err := conn.Exec(ctx, settings); err != nil {
		return 0, false, err
	}
	query := "select count(*) from " + table // regclass::text is quoted by the server
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
