package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/database/postgres"
	"holdfast/internal/local"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// liveDatabase is what a table is taken out of a backup for: a database of the plan, with the vault of its backups.
type liveDatabase struct {
	app   application
	db    plan.Database
	vault string
	dsn   string // leads to the SQL database inside it
}

// beside finds the live database that the words are about.
func (w *tableWords) beside(ctx context.Context, cmd *cobra.Command, name string) (l liveDatabase, err error) {
	if l.app, err = findApplication(cmd, w.from.root); err != nil {
		return l, err
	}
	d, b, err := l.app.backupOf(name)
	if err != nil {
		return l, err
	}
	l.db, l.vault = d, b.Vault
	inside, err := databaseInside(d, w.database)
	if err != nil {
		return l, err
	}
	l.dsn, err = l.app.livePrimary(ctx, d, inside)
	return l, err
}

// livePrimary is a connection string to a database inside the live cluster, through the primary's private
// socket on this machine: there and by certificates between hosts alone may one be Holdfast's own role.
func (a application) livePrimary(ctx context.Context, d plan.Database, database string) (string, error) {
	primary, _, err := a.livePrimaryHost(ctx, d)
	if err != nil {
		return "", err
	}
	lead, err := a.sockets(d, primary)
	if err != nil {
		return "", err
	}
	return lead(database), nil
}

// livePrimaryHost is the host on which the open primary runs, with the standbys beside it.
func (a application) livePrimaryHost(ctx context.Context, d plan.Database) (string, []restore.Member, error) {
	client, err := operator(a.Context)
	if err != nil {
		return "", nil, err
	}
	defer client.Close()
	st, err := client.Status(ctx)
	if err != nil {
		return "", nil, err
	}
	for _, s := range st.Databases {
		if s.Name != d.Name {
			continue
		}
		if s.Primary == "" || !s.Open {
			return "", nil, &problem.Problem{Code: "restore.no-primary", Subject: d.Name, Severity: problem.Critical,
				Title: "no primary is open just now", Meaning: "Live rows cannot be compared, and nothing was changed.",
				Remedy: "see why: holdfast status; the whole database can be restored meanwhile: holdfast restore database " + d.Name + " --to DIR"}
		}
		return s.Primary, a.members(d, s), nil
	}
	return "", nil, fmt.Errorf("find the primary of %s: the agents know no such database", d.Name)
}

// members are the standbys of a database, with where they lie on this machine or what is free where they do.
func (a application) members(d plan.Database, st api.DatabaseStatus) (out []restore.Member) {
	for _, s := range st.Servers {
		if s.Host == st.Primary {
			continue
		}
		m := restore.Member{Host: s.Host, Known: s.DiskBytes > 0, Free: s.FreeBytes}
		if dir := filepath.Join(local.HostDir(a.Root, s.Host), "db", d.Name); isDir(dir) {
			m.Dir = dir
		}
		out = append(out, m)
	}
	return out
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// sockets gives connection strings to the databases inside the server of a host of this machine.
func (a application) sockets(d plan.Database, primary string) (func(database string) string, error) {
	run := filepath.Join(local.HostDir(a.Root, primary), "db", d.Name, "run")
	port := a.plan.Ports.Server + d.Index
	if _, err := os.Stat(filepath.Join(run, fmt.Sprintf(".s.PGSQL.%d", port))); err != nil {
		return nil, &problem.Problem{Code: "restore.primary-elsewhere", Subject: d.Name, Severity: problem.Note,
			Title: fmt.Sprintf("its primary runs on %s, whose private socket is not reachable from here: %v", primary, err), Meaning: "Nothing was restored and nothing was changed.",
			Remedy: "run the command on that host, as root"}
	}
	return func(database string) string {
		return fmt.Sprintf("host=%s port=%d user=%s dbname=%s connect_timeout=5 application_name=holdfast-restore", quoteConn(run), port, postgres.Superuser, quoteConn(database))
	}, nil
}

// quoteConn quotes a value of a connection string (PostgreSQL manual, "Keyword/Value Connection Strings").
func quoteConn(s string) string {
	var out []byte
	for i := range len(s) {
		if s[i] == '\'' || s[i] == '\\' {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return "'" + string(out) + "'"
}

// databaseInside is the SQL database that is meant.
func databaseInside(d plan.Database, asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	_, name, ok := d.Login()
	if !ok {
		return "", fmt.Errorf("no role of %s owns a database in the plan; name one with --database: %w", d.Name, errUsage)
	}
	return name, nil
}

// scratchDir is a directory for a copy, with nothing in the way of PostgreSQL's user.
func (a application) scratchDir(asked string) (string, error) {
	dir := filepath.Join(a.Root, "scratch")
	if asked != "" {
		var err error
		if dir, err = filepath.Abs(asked); err != nil {
			return "", fmt.Errorf("find the scratch directory: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the scratch directory: %w", err)
	}
	return dir, nil
}
