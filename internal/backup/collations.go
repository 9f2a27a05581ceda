package backup

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// collation is one that sorts here by another version of its library than the one that its indexes were made with: they may
// be out of order, on this host and on every other one that sorts so.
type collation struct {
	name, made, here string
}

func (c collation) String() string {
	return fmt.Sprintf("collation %s, made with version %s, is sorted by version %s here", c.name, c.made, c.here)
}

// collations are those of other versions that indexes use.
type collations struct {
	used    []collation          // each once
	indexes map[uint32]collation // by the index
}

func (c collations) words() []string {
	var out []string
	for _, x := range c.used {
		out = append(out, x.String())
	}
	return out
}

// of is what to add to an index's name; "" = its order does not hang on a version.
func (c collations) of(index uint32) string {
	x, ok := c.indexes[index]
	if !ok {
		return ""
	}
	return " (" + x.String() + ": REINDEX may be all that it needs)"
}

// otherCollations finds indexes whose order may not be what this host's libraries say. Versions of whole databases are kept
// since PostgreSQL 15.
func otherCollations(ctx context.Context, conn *pgx.Conn) (collations, error) {
	c := collations{indexes: map[uint32]collation{}}
	var kept bool
	if err := conn.QueryRow(ctx, "select pg_catalog.current_setting('server_version_num')::int >= 150000").Scan(&kept); err != nil {
		return c, err
	}
	usual := "select null::text, null::text where false"
	if kept {
		usual = `select datcollversion::text, coalesce(pg_catalog.pg_database_collation_actual_version(oid), 'none')::text from pg_catalog.pg_database where datname = pg_catalog.current_database()`
	}
	rows, err := conn.Query(ctx, `
		with usual(made, here) as (`+usual+`),
		versions as (
			select c.oid, pg_catalog.format('%I.%I', n.nspname, c.collname) as name, c.collversion::text as made, coalesce(pg_catalog.pg_collation_actual_version(c.oid), 'none')::text as here
				from pg_catalog.pg_collation c join pg_catalog.pg_namespace n on n.oid = c.collnamespace where c.collprovider <> 'd'
			union all select c.oid, 'of the database', usual.made, usual.here from pg_catalog.pg_collation c, usual where c.collprovider = 'd')
		select i.indexrelid, v.name, v.made, v.here from pg_catalog.pg_index i join versions v on v.oid = any (i.indcollation::oid[])
			where v.made <> v.here order by 1, 2`)
	if err != nil {
		return c, fmt.Errorf("look at the versions of collations: %w", err)
	}
	var index uint32
	var x collation
	_, err = pgx.ForEachRow(rows, []any{&index, &x.name, &x.made, &x.here}, func() error {
		c.indexes[index] = x
		if !slices.Contains(c.used, x) {
			c.used = append(c.used, x)
		}
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("look at the versions of collations: %w", err)
	}
	return c, nil
}
