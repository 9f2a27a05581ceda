package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Laid is what of an SQL database lies in one tablespace beside the default one, and comes to lie there again.
type Laid struct {
	Tablespace string `json:"tablespace"`
	Bytes      int64  `json:"bytes"` // indexes and the smaller forks too; 0 = what only leads to others, as a partitioned table
}

const queryLaid = `select spcname::text, sum(bytes)::bigint from (
 select case c.reltablespace when 0 then d.dattablespace else c.reltablespace end as space,
  pg_relation_size(c.oid, 'main') + pg_relation_size(c.oid, 'fsm') + pg_relation_size(c.oid, 'vm') as bytes
 from pg_class c join pg_database d on datname = current_database() where c.relkind in ('r', 'i', 't', 'm', 'S', 'p', 'I')
) x join pg_tablespace t on t.oid = space where spcname not in ('pg_default', 'pg_global') group by 1 order by 1`

// lay says which tablespaces an SQL database keeps, and what of it does not come with its content. It keeps all of its tablespaces,
// by their names, or none where the live cluster lacks one: a dump names each, or none.
func (n *Into) lay(ctx context.Context, inside string) (all []Laid, leftOut []string, err error) {
	if all, err = n.laidThen(ctx, inside); err != nil {
		return nil, nil, err
	}
	missing, err := n.missingSpaces(ctx, all)
	if err != nil {
		return nil, nil, err
	}
	if leftOut, err = n.leftOut(ctx, inside, len(missing) == 0); err != nil {
		return nil, nil, err
	}
	if len(missing) > 0 {
		why := fmt.Sprintf("its tablespaces are not used: the live cluster has no %s", strings.Join(missing, ", "))
		return nil, append(leftOut, why), nil
	}
	n.laid = append(n.laid, all...)
	return all, leftOut, nil
}

// laidThen asks the copy.
func (n *Into) laidThen(ctx context.Context, inside string) ([]Laid, error) {
	then, err := n.then(ctx, inside)
	if err != nil {
		return nil, err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	rows, err := then.Query(ctx, queryLaid)
	if err != nil {
		return nil, fmt.Errorf("ask which tablespaces database %s lies in: %w", inside, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Laid])
	if err != nil {
		return nil, fmt.Errorf("ask which tablespaces database %s lies in: %w", inside, err)
	}
	return all, nil
}

// missingSpaces are those that the live cluster does not have.
func (n *Into) missingSpaces(ctx context.Context, all []Laid) ([]string, error) {
	if len(all) == 0 {
		return nil, nil
	}
	live, err := pgx.Connect(ctx, n.o.Live("postgres"))
	if err != nil {
		return nil, fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = live.Close(ctx) }() // only asked
	var names []string
	for _, x := range all {
		names = append(names, x.Tablespace)
	}
	rows, err := live.Query(ctx, "select x from unnest($1::text[]) x where not exists (select from pg_tablespace where spcname = x) order by 1", names)
	if err != nil {
		return nil, fmt.Errorf("ask for the live tablespaces: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// dumpSpaces is what pg_dump is told of tablespaces.
func dumpSpaces(kept []Laid) []string {
	if len(kept) > 0 {
		return nil
	}
	return []string{"--no-tablespaces"}
}

// spaceNeeds is the room that the primary's tablespaces take.
func (n *Into) spaceNeeds(ctx context.Context, live *pgx.Conn, data string) ([]need, error) {
	var out []need
	for _, x := range n.laid {
		var dir string
		if err := live.QueryRow(ctx, "select pg_tablespace_location(oid) from pg_tablespace where spcname = $1", x.Tablespace).Scan(&dir); err != nil {
			return nil, fmt.Errorf("ask where tablespace %s lies: %w", x.Tablespace, err)
		}
		if !filepath.IsAbs(dir) { // within the data directory
			dir = filepath.Join(data, dir)
		}
		free, disk, err := roomAt(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, need{dir: "tablespace " + x.Tablespace, bytes: x.Bytes, free: free, disk: disk})
	}
	return out, nil
}

// inSpaces is how much of all goes to tablespaces.
func (n *Into) inSpaces() (sum int64) {
	for _, x := range n.laid {
		sum += x.Bytes
	}
	return sum
}
