package restore

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
)

// Names are what the numbers in a list of lost commits stand for, as far as the live database can tell.
type Names struct {
	Databases map[uint32]string `json:"databases"`
	Tables    []NamedTable      `json:"tables"`
}

// NamedTable is a table by its file.
type NamedTable struct {
	Space    uint32 `json:"tablespace"`
	Database uint32 `json:"database"`
	Node     uint32 `json:"node"`
	Name     string `json:"name"` // schema.table
}

// The live database and the lost one were one until they parted, so a file's number is the same on both, if its table
// is older than that. Numbers that were given out afterwards may stand for different tables: a catalog row that was
// written since names nothing.
const nameOfFile = `select case when o.oid is null then format('%I.%I', n.nspname, c.relname)
 else format('%I.%I (large values)', m.nspname, o.relname) end, c.xmin::text::bigint
 from pg_class c join pg_namespace n on n.oid = c.relnamespace
 left join pg_class o on o.reltoastrelid = c.oid and o.oid <> 0 left join pg_namespace m on m.oid = o.relnamespace
 where c.oid = pg_filenode_relation($1, $2) and c.relkind in ('r', 't', 'm', 'S')`

// FindNames asks the live database what the files in a report are. What it does not know stays without a name.
func FindNames(ctx context.Context, report database.Salvage, live func(database string) string) (Names, error) {
	out := Names{Databases: map[uint32]string{}, Tables: []NamedTable{}}
	b := Bundle{Report: report, Lost: live}
	var err error
	if out.Databases, err = b.databases(ctx); err != nil {
		return out, err
	}
	for _, number := range b.numbers() {
		name, ok := out.Databases[number]
		if !ok {
			continue // dropped since
		}
		found, err := b.namesIn(ctx, number, live(name))
		if err != nil {
			return out, fmt.Errorf("name the tables of database %s: %w", name, err)
		}
		out.Tables = append(out.Tables, found...)
	}
	return out, nil
}

func (b Bundle) namesIn(ctx context.Context, number uint32, dsn string) ([]NamedTable, error) {
	conn, err := reach(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	var out []NamedTable
	seen := map[NamedTable]bool{}
	for _, c := range b.Report.Commits {
		for _, t := range c.Tables {
			x := NamedTable{Space: t.Space, Database: t.Database, Node: t.Node}
			if t.Catalog || t.Database != number || seen[x] {
				continue
			}
			seen[x] = true
			var xmin int64
			err := conn.QueryRow(ctx, nameOfFile, t.Space, t.Node).Scan(&x.Name, &xmin)
			if errors.Is(err, pgx.ErrNoRows) || err == nil && b.changedSince(uint32(xmin)) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// Put writes the names into a report.
func (n Names) Put(r *database.Salvage) {
	databases, tables := map[string]string{}, map[[3]uint32]string{}
	for number, name := range n.Databases {
		databases[strconv.FormatUint(uint64(number), 10)] = name
	}
	for _, x := range n.Tables {
		tables[[3]uint32{x.Space, x.Database, x.Node}] = x.Name
	}
	for i := range r.Commits {
		c := &r.Commits[i]
		if name, ok := databases[c.Database]; ok {
			c.Database = name
		}
		for k, t := range c.Tables {
			if name, ok := tables[[3]uint32{t.Space, t.Database, t.Node}]; ok {
				c.Tables[k].Name = name
			}
		}
	}
}
