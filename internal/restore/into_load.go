package restore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/internal/problem"
)

// hasPrograms refuses to begin without programs that only come with a full installation.
func hasPrograms(binDir string, names ...string) error {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(binDir, name)); err != nil {
			return &problem.Problem{Code: "restore.no-program", Subject: name, Severity: problem.Critical, Title: "is not in " + binDir,
				Meaning: "It carries tables from one server to the other. Nothing was restored and nothing was changed.",
				Remedy:  "install PostgreSQL's client programs of the same version (apt install postgresql-client-NN)"}
		}
	}
	return nil
}

// Write puts what OpenInto found into the live cluster. A table comes in one transaction; a database is loaded under a
// name of its own and gets the wanted one when it is whole. On an error nothing of it is left there.
func (n *Into) Write(ctx context.Context) error {
	if n.o.Table == "" {
		return n.writeDatabase(ctx)
	}
	owners := []string{}
	for _, x := range n.Objects {
		owners = append(owners, x.Owner)
	}
	missing, err := n.missingRoles(ctx, owners)
	if err != nil {
		return err
	}
	p := pipeline{
		binDir: n.o.BinDir, from: n.scratch.ConnString(n.o.Inside), to: n.o.Live(n.o.Inside),
		dump:   []string{"--schema=" + pattern(n.o.Into), "--no-owner", "--no-privileges", "--no-tablespaces", "--no-publications", "--no-subscriptions", "--no-security-labels"},
		before: "begin;\n", after: n.afterwards(missing) + "commit;\n",
	}
	if err := p.run(ctx); err != nil {
		return notWritten(n.o.Table, err)
	}
	return nil
}

func notWritten(subject string, err error) error {
	return &problem.Problem{Code: "restore.not-written", Subject: subject, Severity: problem.Critical, Title: "was not put into the live cluster: " + err.Error(),
		Meaning: "Nothing of it was kept, and what was live before is as it was.",
		Remedy:  "mend what the message names, for instance make an extension that it needs (create extension NAME), and give the same command again"}
}

// pattern is a name that pg_dump takes for itself alone.
func pattern(name string) string { return quoteName(name) }

func (n *Into) writeDatabase(ctx context.Context) (err error) {
	live, err := pgx.Connect(ctx, n.o.Live("postgres"))
	if err != nil {
		return fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = live.Close(context.WithoutCancel(ctx)) }() // each statement has its own error
	if err := sweepLoaded(ctx, live); err != nil {
		return err
	}
	interim, err := n.load(ctx, live, interimName, n.o.Inside, append(dumpSpaces(n.Tablespaces), "--no-publications")...)
	if err == nil {
		_, err = live.Exec(ctx, fmt.Sprintf("alter database %s rename to %s", quoteName(interim), quoteName(n.o.Into)))
		if err != nil {
			err = errors.Join(err, dropInterim(context.WithoutCancel(ctx), live, interim))
		}
	}
	if err != nil {
		return notWritten(n.o.Inside, err)
	}
	return nil
}

// interimName begins the name of a database that is being loaded to have a new name.
const interimName = "holdfast_restore_"

// load brings an SQL database into the live cluster under a name of its own. It is renamed on the scratch server for that,
// so that pg_dump writes that name with all that belongs to a database: its locale, its owner, its settings. On an error
// nothing of it is left.
func (n *Into) load(ctx context.Context, live *pgx.Conn, prefix, inside string, more ...string) (interim string, err error) {
	interim = prefix + strings.ToLower(rand.Text())
	if _, err := live.Exec(ctx, "select pg_advisory_lock($1, hashtext($2))", loadingOne, interim); err != nil { // until live ends
		return "", fmt.Errorf("lock the name %s: %w", interim, err)
	}
	then, err := n.then(ctx, "template1")
	if err != nil {
		return "", err
	}
	if n.o.Copy == "" {
		_, err = then.Exec(ctx, fmt.Sprintf("alter database %s rename to %s", quoteName(inside), quoteName(interim)))
	} else {
		err = renameNoted(ctx, then, inside, interim)
	}
	if err = errors.Join(err, then.Close(ctx)); err != nil {
		return "", fmt.Errorf("rename database %s of the copy: %w", inside, err)
	}
	p := pipeline{
		binDir: n.o.BinDir, from: n.scratch.ConnString(interim), to: n.o.Live("postgres"),
		dump:  append([]string{"--create", "--no-subscriptions", "--no-security-labels"}, more...),
		after: "analyze;\n", // nobody is to find it without statistics
	}
	if err = p.run(ctx); err != nil {
		return "", errors.Join(err, dropInterim(context.WithoutCancel(ctx), live, interim))
	}
	return interim, nil
}

// loadingOne is the first number of the lock that whoever loads a database holds on its name, in the SQL database postgres.
const loadingOne = int32(0x486f6c64)

// sweepLoaded removes the databases that loads into a new name have left which were killed: no living session holds their
// names, and nobody is in them.
func sweepLoaded(ctx context.Context, live *pgx.Conn) error {
	rows, err := live.Query(ctx, `select datname::text from pg_database d where datname ~ ('^' || $1::text || '[a-z2-7]{26}$')
		and not exists (select from pg_stat_activity a where a.datid = d.oid)`, interimName)
	if err != nil {
		return fmt.Errorf("look for unfinished databases: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for unfinished databases: %w", err)
	}
	for _, name := range names {
		if err := sweepOne(ctx, live, name); err != nil {
			return fmt.Errorf("remove the unfinished database %s: %w", name, err)
		}
	}
	return nil
}

func sweepOne(ctx context.Context, live *pgx.Conn, name string) error {
	var dead bool
	if err := live.QueryRow(ctx, "select pg_try_advisory_lock($1, hashtext($2))", loadingOne, name).Scan(&dead); err != nil || !dead {
		return err
	}
	_, err := live.Exec(ctx, "drop database if exists "+quoteName(name))
	if told, ok := errors.AsType[*pgconn.PgError](err); ok && told.Code == "55006" { // somebody has come to look at it
		err = nil
	}
	_, unlockErr := live.Exec(ctx, "select pg_advisory_unlock($1, hashtext($2))", loadingOne, name)
	return errors.Join(err, unlockErr)
}

func dropInterim(ctx context.Context, live *pgx.Conn, interim string) error {
	if _, err := live.Exec(ctx, fmt.Sprintf("drop database if exists %s with (force)", quoteName(interim))); err != nil {
		return fmt.Errorf("the unfinished database %s stays in the live cluster: %w", interim, err)
	}
	return nil
}

// pipeline carries a dump from one server to another without a file between.
type pipeline struct {
	binDir, from, to string
	dump             []string
	before, after    string // SQL around the dump
}

// run ends well only when both programs did. The statements behind the dump are sent after pg_dump has ended well: a dump
// that breaks off in the middle of a table looks to psql like its end, and must not be committed.
func (p pipeline) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var dumpSaid, loadSaid bytes.Buffer
	dump := exec.CommandContext(ctx, filepath.Join(p.binDir, "pg_dump"), append(p.dump, "--dbname="+p.from)...)
	load := exec.CommandContext(ctx, filepath.Join(p.binDir, "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output="+os.DevNull, "--dbname="+p.to)
	dump.Env, load.Env = withoutPG(os.Environ()), withoutPG(os.Environ())
	dump.Stderr, load.Stderr = &dumpSaid, &loadSaid
	sql, err := dump.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := load.StdinPipe()
	if err != nil {
		return err
	}
	if err := load.Start(); err != nil {
		return err
	}
	if err := dump.Start(); err != nil {
		stop()
		return errors.Join(err, ended("psql", load.Wait(), &loadSaid))
	}
	_, err = io.WriteString(in, p.before)
	if err == nil {
		_, err = io.Copy(in, sql)
	}
	if err != nil { // psql has gone: what it said tells why
		loadErr := load.Wait()
		stop()
		_ = dump.Wait() // it was cut off
		return errors.Join(ended("psql", loadErr, &loadSaid), err)
	}
	if err := dump.Wait(); err != nil {
		stop() // before psql hears of an end
		_ = load.Wait()
		return ended("pg_dump", err, &dumpSaid)
	}
	_, err = io.WriteString(in, p.after)
	err = errors.Join(err, in.Close())
	if loadErr := ended("psql", load.Wait(), &loadSaid); loadErr != nil {
		return loadErr
	}
	return err
}

// ended is what a program's end means, with its last words.
func ended(name string, err error, said *bytes.Buffer) error {
	if err == nil {
		return nil
	}
	words := strings.TrimSpace(said.String())
	if len(words) > 600 {
		words = words[:600] + "…"
	}
	return fmt.Errorf("%s: %w: %s", name, err, words)
}

// withoutPG leaves out what would lead libpq elsewhere.
func withoutPG(env []string) []string {
	out := []string{"LC_ALL=C"}
	for _, e := range env {
		if !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "LC_ALL=") {
			out = append(out, e)
		}
	}
	return out
}
