package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// IntoOptions say what of an earlier moment is to stand in the live cluster again, under a new name.
type IntoOptions struct {
	Vault    *vault.Vault
	Database string // the plan's name
	At       Target
	Live     func(database string) string // connection strings to the live primary, for this program and for psql
	Inside   string                       // the SQL database that is meant, as it was called then
	Table    string                       // schema.name; "" = the whole SQL database
	Into     string                       // a schema that Inside does not have yet; without Table an SQL database
	Dir      string                       // directory below which the scratch copy is made; PostgreSQL's user must reach it
	Owner    Owner
	BinDir   string
	Progress func(Progress)
	Settings map[string]string // for the scratch server
	Members  []Member          // the standbys of the live cluster

	// Copy is the data directory of a database that was brought to the moment before, and on which no server runs: it is
	// taken instead of restoring, and stays. Way then is the way that led there. "" = restore, below Dir.
	Copy string
	Way  Choice
}

// Into is a part of an earlier moment that is ready to be put beside the live one. The live server has not been
// changed yet; [Into.Write] does that, in new names alone.
type Into struct {
	Choice  Choice
	Objects []Object // what is put there, of a table alone
	LeftOut []string // what is not: of a table what would act on others or needs them, of a database what its content does not hold
	Bytes   int64    // on the scratch server's disk, indexes too
	Dir     string   // of the copy; removed by Close
	Unknown []string // hosts of standbys whose room nobody has told

	Tablespaces []Laid // of a database, those that it keeps

	o       IntoOptions
	trial   *Trial
	scratch *Recovered
	counts  []tableCount
	laid    []Laid // what goes to the live cluster's tablespaces, of all databases
	owner   string // who is to own what has no owner in the live cluster

	room func(ctx context.Context, bytes int64) error // refuses what does not fit where it is to go
}

// Object is something that a table needs, as PostgreSQL names it: a type of object and an identity.
type Object struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Owner string `json:"-"`
}

// tableCount is how many rows a table has on the scratch server.
type tableCount struct {
	name string
	rows int64
}

// OpenInto restores to the moment beside the live cluster and finds out what belongs to what is wanted. It must end
// with Close.
func OpenInto(ctx context.Context, o IntoOptions) (n *Into, err error) {
	n = &Into{o: o}
	n.room = n.roomFor
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := n.choose(ctx); err != nil {
		return n, err
	}
	if err := n.nameIsFree(ctx); err != nil {
		return n, err
	}
	if err := n.restore(ctx); err != nil {
		return n, err
	}
	if o.Table == "" {
		return n, n.lookAtDatabase(ctx)
	}
	return n, n.lookAtTable(ctx)
}

// restore makes the scratch server.
func (n *Into) restore(ctx context.Context) error {
	var err error
	if n.o.Copy != "" {
		return n.serveCopy(ctx)
	}
	if n.trial, err = openTrial(ctx, n.o.Dir, ForInto, n.Choice.Backup.ID); err != nil {
		return err
	}
	n.Dir = n.trial.Dir
	data := n.trial.Data()
	if _, err := Run(ctx, Options{Vault: n.o.Vault, Choice: n.Choice, Dir: data, Owner: n.o.Owner, Throwaway: true, Progress: n.o.Progress}); err != nil {
		return err
	}
	if n.scratch, err = Recover(ctx, n.Choice, Promote, ScratchOptions{Dir: data, RunDir: n.trial.Run, BinDir: n.o.BinDir, Owner: n.o.Owner, Settings: n.o.Settings}); err != nil {
		return err
	}
	return nil
}

// choose finds the way to the moment, and the programs that it takes.
func (n *Into) choose(ctx context.Context) error {
	c, err := n.way(ctx)
	if err != nil {
		return err
	}
	n.Choice = c
	if n.o.BinDir, err = Programs(n.o.BinDir, n.Choice.Backup.ServerVersion/10000); err != nil {
		return err
	}
	return hasPrograms(n.o.BinDir, "pg_dump", "psql") // before an hour of restoring
}

func (n *Into) way(ctx context.Context) (Choice, error) {
	if n.o.Copy != "" {
		return n.o.Way, nil
	}
	c, err := Load(ctx, n.o.Vault, n.o.Database)
	if err != nil {
		return Choice{}, err
	}
	return Choose(c, n.o.At)
}

// Close ends the scratch server and removes the copy that it made.
func (n *Into) Close(ctx context.Context) error {
	var errs []error
	if n.scratch != nil {
		errs = append(errs, n.scratch.Stop(ctx))
	}
	if n.trial != nil {
		errs = append(errs, n.trial.Remove(ctx))
	}
	return errors.Join(errs...)
}

// nameIsFree refuses a name that the live cluster uses already: what is there is never touched.
func (n *Into) nameIsFree(ctx context.Context) error {
	inside, query := n.o.Inside, "select exists (select from pg_namespace where nspname = $1)"
	if n.o.Table == "" {
		inside, query = "postgres", "select exists (select from pg_database where datname = $1)"
	}
	live, err := pgx.Connect(ctx, n.o.Live(inside))
	if err != nil {
		return fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = live.Close(ctx) }() // only asked
	var taken bool
	if err := live.QueryRow(ctx, query, n.o.Into).Scan(&taken); err != nil {
		return fmt.Errorf("ask for the name %s: %w", n.o.Into, err)
	}
	if taken {
		return &problem.Problem{Code: "restore.name-taken", Subject: n.o.Into, Severity: problem.Note, Title: "is the name of something that is there already",
			Meaning: "Nothing was restored and nothing was changed: what is live is never written over.", Remedy: "choose another name with --into"}
	}
	err = live.QueryRow(ctx, "select pg_get_userbyid(datdba) from pg_database where datname = current_database()").Scan(&n.owner)
	if err != nil {
		return fmt.Errorf("ask who owns database %s: %w", inside, err)
	}
	return nil
}

// then opens a session on the scratch server in which the restored database's own triggers stay silent.
func (n *Into) then(ctx context.Context, database string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, n.scratch.ConnString(database))
	if err != nil {
		return nil, fmt.Errorf("reach the restored database: %w", err)
	}
	_, err = conn.Exec(ctx, "set session_replication_role = replica; set search_path = pg_catalog")
	if err != nil {
		_ = conn.Close(ctx) // nothing was done in it
		return nil, fmt.Errorf("prepare a session on the restored database: %w", err)
	}
	return conn, nil
}

func (n *Into) lookAtDatabase(ctx context.Context) error {
	then, err := n.then(ctx, "template1")
	if err != nil {
		return err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	if n.Bytes, err = sizeOf(ctx, then, n.o.Inside); err != nil {
		return err
	}
	if n.Bytes == 0 {
		return notThen(n.o.Inside, n.o.At)
	}
	if err := n.rolesExist(ctx, then, n.o.Inside); err != nil {
		return err
	}
	if n.Tablespaces, n.LeftOut, err = n.lay(ctx, n.o.Inside); err != nil {
		return err
	}
	return n.room(ctx, n.Bytes)
}

// sizeOf is how large a database is, 0 when there is none of that name.
func sizeOf(ctx context.Context, conn *pgx.Conn, name string) (int64, error) {
	var bytes int64
	if err := conn.QueryRow(ctx, "select coalesce(max(pg_database_size(oid)), 0) from pg_database where datname = $1 and not datistemplate", name).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("look for database %s: %w", name, err)
	}
	return bytes, nil
}

// rolesExist refuses a database whose owners and grants name roles that the live cluster does not have.
func (n *Into) rolesExist(ctx context.Context, then *pgx.Conn, inside string) error {
	names, err := rolesOf(ctx, then, inside)
	if err != nil {
		return err
	}
	missing, err := n.missingRoles(ctx, names)
	if err != nil || len(missing) == 0 {
		return err
	}
	return &problem.Problem{Code: "restore.roles-missing", Subject: inside, Severity: problem.Note, Title: fmt.Sprintf("belongs to roles that are not there any more: %v", missing),
		Meaning: "Nothing was changed in the live cluster.", Remedy: "make the roles first (create role NAME), or restore the whole cluster beside: holdfast restore database NAME --to DIR"}
}

// rolesOf are the roles that own something in a database or have rights there.
func rolesOf(ctx context.Context, then *pgx.Conn, inside string) ([]string, error) {
	rows, err := then.Query(ctx, `select distinct r.rolname::text from pg_shdepend d join pg_authid r on r.oid = d.refobjid join pg_database b on b.datname = $1
		where d.refclassid = 'pg_authid'::regclass and (d.dbid = b.oid or d.classid = 'pg_database'::regclass and d.objid = b.oid) order by 1`, inside)
	if err != nil {
		return nil, fmt.Errorf("ask for the roles of database %s: %w", inside, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("ask for the roles of database %s: %w", inside, err)
	}
	return names, nil
}

func (n *Into) missingRoles(ctx context.Context, names []string) ([]string, error) {
	live, err := pgx.Connect(ctx, n.o.Live("postgres"))
	if err != nil {
		return nil, fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = live.Close(ctx) }() // only asked
	rows, err := live.Query(ctx, "select x from unnest($1::text[]) x where not exists (select from pg_roles where rolname = x)", names)
	if err != nil {
		return nil, fmt.Errorf("ask for the live roles: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func notThen(name string, at Target) error {
	return &problem.Problem{Code: "restore.not-there-then", Subject: name, Severity: problem.Note, Title: "was not there at " + at.String(),
		Meaning: "Nothing was changed in the live cluster.", Remedy: "choose another moment with --at, or another name"}
}
