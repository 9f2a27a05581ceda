package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// queryLeftOut names what of an SQL database does not come with its content: pg_dump is told to leave it out, for the live
// cluster may not have the tablespaces or the provider of labels, and a second subscription would take the first one's
// place. What is unlogged has no rows after a recovery.
const queryLeftOut = `select what from (
 select 1, 0, format('its default tablespace %I: it comes to the live cluster''s default', spcname) from pg_database d join pg_tablespace t on t.oid = dattablespace
  where datname = current_database() and spcname <> 'pg_default'
 union all select 2, t.oid::bigint, format('tablespace %I: %s tables and indexes in it come to the default one', spcname, count(*)) from pg_class c join pg_tablespace t on t.oid = reltablespace
  where spcname <> 'pg_global' group by t.oid, spcname
 union all select 3, s.oid::bigint, format('subscription %I is not made', subname) from pg_subscription s join pg_database d on d.oid = subdbid where datname = current_database()
 union all select 4, 0, format('%s security labels are not set', n) from (select (select count(*) from pg_seclabel) + (select count(*) from pg_shseclabel l
  join pg_database d on l.classoid = 'pg_database'::regclass and d.oid = l.objoid where datname = current_database()) n) x where n > 0
 union all select 5, oid::bigint, format('rows of %s: it is unlogged, and a backup holds none of them', oid::regclass) from pg_class where relpersistence = 'u' and relkind = 'r'
) y (kind, number, what) where not (kind in (1, 2) and $1) order by kind, number`

// leftOut asks the copy what of an SQL database does not come; spaces says that its tablespaces do.
func (n *Into) leftOut(ctx context.Context, inside string, spaces bool) ([]string, error) {
	then, err := n.then(ctx, inside)
	if err != nil {
		return nil, err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	rows, err := then.Query(ctx, queryLeftOut, spaces)
	if err != nil {
		return nil, fmt.Errorf("ask what of database %s would not come: %w", inside, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("ask what of database %s would not come: %w", inside, err)
	}
	return out, nil
}

// publications asks the copy for the publications of an SQL database, which a file of SQL does not hold.
func (n *Into) publications(ctx context.Context, inside string) ([]string, error) {
	then, err := n.then(ctx, inside)
	if err != nil {
		return nil, err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	rows, err := then.Query(ctx, "select format('publication %I is not made', pubname) from pg_publication order by oid")
	if err != nil {
		return nil, fmt.Errorf("ask for the publications of database %s: %w", inside, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("ask for the publications of database %s: %w", inside, err)
	}
	return out, nil
}
