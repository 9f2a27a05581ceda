package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
)

// stateWait bounds a look at a server's state: it opens a session in each database.
const stateWait = 20 * time.Second

// State tells what this host's server has that others must have too. The server must answer; a standby tells it too.
func (s *Server) State(ctx context.Context) (database.ServerState, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWait)
	defer cancel()
	out := database.ServerState{Host: s.cfg.Host, Settings: map[string]string{}}
	hba, err := os.ReadFile(filepath.Join(s.at.data, "pg_hba.conf"))
	if err != nil {
		return out, fmt.Errorf("look at the server's state: %w", err)
	}
	out.Rules = string(hba) == s.access(false) || string(hba) == s.access(true)
	auto, err := os.ReadFile(autoConf(s.at.data))
	if err != nil {
		return out, fmt.Errorf("look at the server's state: %w", err)
	}
	out.ByHand = byHand(string(auto))
	var names []string
	err = s.within(ctx, func(conn *pgx.Conn) error {
		var err error
		names, err = s.generalState(ctx, conn, &out)
		return err
	})
	if err != nil {
		return out, fmt.Errorf("look at the server's state: %w", err)
	}
	for _, name := range names {
		if err := s.extensions(ctx, name, &out); err != nil {
			return out, fmt.Errorf("look at the extensions of database %s: %w", name, err)
		}
	}
	return out, nil
}

// byHand names the settings of postgresql.auto.conf that Holdfast never writes there.
func byHand(auto string) []string {
	own, out := dynamic{readOnly: true}.text(), []string(nil) // it holds all of them
	for line := range strings.Lines(auto) {
		name, _, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.HasPrefix(name, "#") || strings.Contains(own, "\n"+name+" = ") {
			continue
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// What a look asks for. Zone data are compared by what they say of two instants, one in each half of a year, for
// their release is told nowhere.
const (
	askSettings = `SELECT name, setting FROM pg_settings WHERE source = 'configuration file' ORDER BY name`
	askZones    = `SELECT md5(string_agg(name || to_char(timestamp '2026-01-15 12:00' AT TIME ZONE name, 'HH24:MI') ||
		to_char(timestamp '2026-07-15 12:00' AT TIME ZONE name, 'HH24:MI'), ',' ORDER BY name))
		FROM pg_timezone_names WHERE name NOT LIKE 'posix%' AND name <> 'localtime' AND name <> 'Factory'`
	askRoles = `SELECT r.rolname || ' ' || concat_ws(',', CASE WHEN rolcanlogin THEN 'login' END, CASE WHEN rolsuper THEN 'superuser' END,
		CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolcreaterole THEN 'createrole' END, CASE WHEN rolreplication THEN 'replication' END,
		CASE WHEN rolbypassrls THEN 'bypassrls' END, 'limit ' || rolconnlimit,
		'in ' || coalesce((SELECT string_agg(g.rolname, '+' ORDER BY g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid), 'none'))
		FROM pg_roles r WHERE r.rolname NOT LIKE 'pg\_%' ORDER BY 1`
	askDatabases = `SELECT datname, pg_get_userbyid(datdba), datcollate, coalesce(datcollversion, ''),
		coalesce(pg_database_collation_actual_version(oid), ''), datallowconn, pg_encoding_to_char(encoding)
		FROM pg_database WHERE datname <> 'template0' ORDER BY datname`
	askExtensions = `SELECT e.extname, e.extversion, EXISTS (SELECT FROM pg_available_extension_versions v WHERE v.name = e.extname AND v.version = e.extversion)
		FROM pg_extension e ORDER BY e.extname`
)

// generalState fills in all but the extensions, and names the databases that have any.
func (s *Server) generalState(ctx context.Context, conn *pgx.Conn, out *database.ServerState) ([]string, error) {
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&out.Version); err != nil {
		return nil, err
	}
	if err := conn.QueryRow(ctx, askZones).Scan(&out.TimeZones); err != nil {
		return nil, fmt.Errorf("read the time zones: %w", err)
	}
	rows, err := conn.Query(ctx, askSettings)
	if err != nil {
		return nil, err
	}
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		if !slices.Contains(reserved, name) && !strings.Contains(value, s.at.dir) {
			out.Settings[name] = value
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	if rows, err = conn.Query(ctx, askRoles); err == nil {
		out.Roles, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, fmt.Errorf("read the roles: %w", err)
	}
	return s.databaseState(ctx, conn, out)
}

func (s *Server) databaseState(ctx context.Context, conn *pgx.Conn, out *database.ServerState) ([]string, error) {
	rows, err := conn.Query(ctx, askDatabases)
	if err != nil {
		return nil, err
	}
	var names []string
	owners := map[string]string{}
	var name, owner, collate, recorded, actual, encoding string
	var connects bool
	_, err = pgx.ForEachRow(rows, []any{&name, &owner, &collate, &recorded, &actual, &connects, &encoding}, func() error {
		owners[name] = owner
		out.Databases = append(out.Databases, fmt.Sprintf("%s of %s, %s, %s", name, owner, encoding, collate))
		out.Collations = append(out.Collations, database.Collation{Database: name, Name: collate, Recorded: recorded, Actual: actual})
		if connects {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the databases: %w", err)
	}
	for _, r := range s.wishedRoles().roles {
		i := slices.IndexFunc(out.Roles, func(line string) bool { return strings.HasPrefix(line, r.Name+" ") })
		switch {
		case i < 0:
			out.Unplanned = append(out.Unplanned, "the role "+r.Name+" of the plan is missing")
		case !strings.HasPrefix(out.Roles[i], r.Name+" login"):
			out.Unplanned = append(out.Unplanned, "the role "+r.Name+" may not log in")
		}
		for _, db := range r.Owns {
			if is, ok := owners[db]; !ok {
				out.Unplanned = append(out.Unplanned, "the database "+db+" of the plan is missing")
			} else if is != r.Name {
				out.Unplanned = append(out.Unplanned, fmt.Sprintf("the database %s belongs to %s, in the plan to %s", db, is, r.Name))
			}
		}
	}
	return names, nil
}

func (s *Server) extensions(ctx context.Context, name string, out *database.ServerState) error {
	conn, err := s.connect(ctx, name)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	rows, err := conn.Query(ctx, askExtensions)
	if err != nil {
		return err
	}
	e := database.Extension{Database: name}
	_, err = pgx.ForEachRow(rows, []any{&e.Name, &e.Version, &e.Here}, func() error {
		out.Extensions = append(out.Extensions, e)
		return nil
	})
	return err
}
