package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A table is taken out of its database on the scratch server, which is thrown away afterwards: what ties it to others is
// dropped there, and it moves with all that it needs into a schema of the new name. PostgreSQL itself then keeps every
// reference right, and pg_dump writes that schema and nothing else.

// movable are the types of objects, as pg_identify_object names them, that a table can depend on and that lie in a
// schema, each with the word by which ALTER knows it.
var movable = map[string]string{
	"table": "table", "sequence": "sequence", "type": "type", "function": "function", "procedure": "procedure", "aggregate": "aggregate",
	"collation": "collation", "operator": "operator", "operator class": "operator class", "operator family": "operator family",
	"text search configuration": "text search configuration", "text search dictionary": "text search dictionary", "statistics object": "statistics",
}

// withNeeds begins a query over what the tables in $1 need, themselves included: what they depend on, and what is part of
// them. Members of extensions are not followed; the extension must be there.
const withNeeds = `with recursive need(classid, objid) as (
	select 'pg_class'::regclass::oid, oid from unnest($1::oid[]) oid
	union
	select x.classid, x.objid from need n cross join lateral (
		select d.refclassid, d.refobjid from pg_depend d where d.classid = n.classid and d.objid = n.objid
		union all
		select d.classid, d.objid from pg_depend d where d.refclassid = n.classid and d.refobjid = n.objid and d.deptype in ('a', 'i', 'P', 'S')
	) x(classid, objid)
	where x.classid not in ('pg_namespace'::regclass, 'pg_extension'::regclass, 'pg_language'::regclass, 'pg_am'::regclass)
		and x.objid >= 16384
		and not exists (select from pg_depend e where e.classid = x.classid and e.objid = x.objid and e.deptype = 'e'))
`

const needed = withNeeds + `select i.type, i.identity, n.classid, n.objid, coalesce((select pg_get_userbyid(s.refobjid) from pg_shdepend s
		where s.classid = n.classid and s.objid = n.objid and s.objsubid = 0 and s.deptype = 'o' and s.dbid = (select oid from pg_database where datname = current_database()) limit 1), '')
	from need n cross join lateral pg_identify_object(n.classid, n.objid, 0) i
	where not (n.classid = 'pg_class'::regclass and exists (select from pg_class c where c.oid = n.objid and c.relkind not in ('r', 'p', 'S')))
	and not (n.classid = 'pg_type'::regclass and exists (select from pg_type t left join pg_class c on c.oid = t.typrelid where t.oid = n.objid and (t.typtype = 'b' and t.typcategory = 'A' and t.typelem <> 0 or c.relkind <> 'c')))
	and not (n.classid = 'pg_proc'::regclass and exists (select from pg_depend d where d.classid = n.classid and d.objid = n.objid and d.deptype = 'i'))
	order by n.classid, n.objid`

// found is one object of the list.
type found struct {
	Object
	class, id uint32
}

func (n *Into) lookAtTable(ctx context.Context) error {
	then, err := n.then(ctx, n.o.Inside)
	if err != nil {
		return err
	}
	defer func() { _ = then.Close(context.WithoutCancel(ctx)) }() // committed or not
	tx, err := then.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // a no-op after the commit; else the copy goes anyway
	tables, err := n.tables(ctx, tx)
	if err != nil {
		return err
	}
	if err := n.cutLoose(ctx, tx, tables); err != nil {
		return fmt.Errorf("take %s out of the restored database: %w", n.o.Table, err)
	}
	if err := n.move(ctx, tx, tables); err != nil {
		return fmt.Errorf("take %s out of the restored database: %w", n.o.Table, err)
	}
	if err := n.measure(ctx, tx); err != nil {
		return fmt.Errorf("count the rows of %s: %w", n.o.Table, err)
	}
	if err := n.room(ctx, n.Bytes); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// tables are the wanted table and, if it is divided, its partitions.
func (n *Into) tables(ctx context.Context, tx pgx.Tx) ([]uint32, error) {
	var oid uint32
	if _, err := tx.Exec(ctx, "set local search_path = pg_catalog, public"); err != nil {
		return nil, err
	}
	err := tx.QueryRow(ctx, `select c.oid from pg_class c where c.oid = to_regclass($1) and c.relkind in ('r', 'p') and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid and deptype = 'e')`, n.o.Table).Scan(&oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notThen("table "+n.o.Table, n.o.At)
	}
	if err != nil {
		return nil, fmt.Errorf("look for table %s: %w", n.o.Table, err)
	}
	if _, err := tx.Exec(ctx, "set local search_path = pg_catalog"); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `with recursive t(oid) as (select $1::oid union select i.inhrelid from t join pg_inherits i on i.inhparent = t.oid join pg_class c on c.oid = i.inhrelid and c.relispartition) select oid from t`, oid)
	if err != nil {
		return nil, fmt.Errorf("look for the partitions of %s: %w", n.o.Table, err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

// cuts take away what would act on other tables or cannot be without them. Each query gives a text for people and a
// statement, for the tables in $1. A partition is detached first: what it has from its parent is its own then.
var cuts = []string{
	`select format('%s is a part of %s and comes alone', inhrelid::regclass, inhparent::regclass),
		case when c.relispartition then format('alter table %s detach partition %s', inhparent::regclass, inhrelid::regclass) else format('alter table %s no inherit %s', inhrelid::regclass, inhparent::regclass) end
		from pg_inherits join pg_class c on c.oid = inhrelid where inhrelid = any ($1) and inhparent <> all ($1) order by 1`,
	`select format('foreign key %s of %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid)), format('alter table %s drop constraint %I', conrelid::regclass, conname)
		from pg_constraint where contype = 'f' and conparentid = 0 and conrelid = any ($1) and confrelid <> all ($1) order by 1`,
	`select format('trigger %s of %s', tgname, tgrelid::regclass), format('drop trigger %I on %s', tgname, tgrelid::regclass)
		from pg_trigger where not tgisinternal and tgparentid = 0 and tgrelid = any ($1) order by 1`,
	`select format('rule %s of %s', rulename, ev_class::regclass), format('drop rule %I on %s', rulename, ev_class::regclass) from pg_rewrite where ev_class = any ($1) order by 1`,
	`select format('row policy %s of %s', polname, polrelid::regclass), format('drop policy %I on %s', polname, polrelid::regclass) from pg_policy where polrelid = any ($1) order by 1`,
	`select '', format('alter table %s disable row level security', oid::regclass) from pg_class where relrowsecurity and oid = any ($1)`,
	`select format('rows of %s: it is unlogged, and a backup holds none of them', oid::regclass), '' from pg_class where relpersistence = 'u' and relkind = 'r' and oid = any ($1) order by 1`,
}

func (n *Into) cutLoose(ctx context.Context, tx pgx.Tx, tables []uint32) error {
	for _, query := range cuts {
		rows, err := tx.Query(ctx, query, tables)
		if err != nil {
			return err
		}
		var text, statement string
		var todo []string
		if _, err := pgx.ForEachRow(rows, []any{&text, &statement}, func() error {
			if text != "" {
				n.LeftOut = append(n.LeftOut, text)
			}
			if statement != "" {
				todo = append(todo, statement)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, s := range todo {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownedBy tells of sequences that belong to a column: those of the tables move with them, others must be let go first.
const ownedBy = `select d.objid, d.refobjid from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S'
	where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.objid = any ($1)`

// move puts everything that the tables need into the schema of the new name.
func (n *Into) move(ctx context.Context, tx pgx.Tx, tables []uint32) error {
	all, err := listNeeded(ctx, tx, tables)
	if err != nil {
		return err
	}
	relations := []uint32{}
	for _, f := range all {
		relations = append(relations, f.id)
	}
	owned := map[uint32]uint32{}
	var sequence, table uint32
	rows, err := tx.Query(ctx, ownedBy, relations)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&sequence, &table}, func() error { owned[sequence] = table; return nil })
	}
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "create schema "+quoteName(n.o.Into)); err != nil {
		return err
	}
	for _, f := range all {
		of, mine := owned[f.id]
		if mine && slices.ContainsFunc(all, func(x found) bool { return x.Type == "table" && x.id == of }) {
			continue
		}
		if mine {
			if _, err := tx.Exec(ctx, fmt.Sprintf("alter sequence %s owned by none", f.Name)); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("alter %s %s set schema %s", movable[f.Type], f.Name, quoteName(n.o.Into))); err != nil {
			return err
		}
	}
	for _, f := range all { // by their new names
		if err := tx.QueryRow(ctx, "select identity from pg_identify_object($1, $2, 0)", f.class, f.id).Scan(&f.Name); err != nil {
			return err
		}
		if _, mine := owned[f.id]; mine {
			f.Owner = "" // its table's
		}
		n.Objects = append(n.Objects, f.Object)
	}
	return nil
}

func listNeeded(ctx context.Context, tx pgx.Tx, tables []uint32) ([]found, error) {
	rows, err := tx.Query(ctx, needed, tables)
	if err != nil {
		return nil, err
	}
	var all []found
	var f found
	_, err = pgx.ForEachRow(rows, []any{&f.Type, &f.Name, &f.class, &f.id, &f.Owner}, func() error {
		if movable[f.Type] != "" {
			all = append(all, f)
		}
		return nil
	})
	return all, err
}

// measure counts what must be there afterwards.
func (n *Into) measure(ctx context.Context, tx pgx.Tx) error {
	for _, x := range n.Objects {
		if x.Type != "table" {
			continue
		}
		c := tableCount{name: x.Name}
		var bytes int64
		if err := tx.QueryRow(ctx, fmt.Sprintf("select (select count(*) from only %s), pg_total_relation_size(%s::regclass)", x.Name, quoteLiteral(x.Name))).Scan(&c.rows, &bytes); err != nil {
			return err
		}
		n.Bytes += bytes
		n.counts = append(n.counts, c)
	}
	return nil
}

// afterwards are the statements behind the dump, in the same transaction: owners, and the proof that nothing is missing.
func (n *Into) afterwards(missing []string) string {
	var b strings.Builder
	b.WriteString("reset search_path;\n")
	schemaOwner := n.owner
	for _, x := range n.Objects {
		if x.Owner == "" {
			continue
		}
		owner := x.Owner
		if slices.Contains(missing, owner) {
			owner = n.owner
		}
		if x.Type == "table" {
			schemaOwner = owner
		}
		fmt.Fprintf(&b, "alter %s %s owner to %s;\n", movable[x.Type], x.Name, quoteName(owner))
	}
	fmt.Fprintf(&b, "alter schema %s owner to %s;\n", quoteName(n.o.Into), quoteName(schemaOwner))
	b.WriteString(n.counted())
	return b.String()
}

// counted are statements that fail unless each table has all of its rows.
func (n *Into) counted() string {
	var b strings.Builder
	for _, c := range n.counts {
		check := fmt.Sprintf("begin if (select count(*) from only %s) <> %d then raise exception 'the copy of %% does not have its %d rows', %s; end if; end", c.name, c.rows, c.rows, quoteLiteral(c.name))
		fmt.Fprintf(&b, "do %s;\n", quoteLiteral(check))
	}
	return b.String()
}
