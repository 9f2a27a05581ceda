package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// DumpOptions say what of an earlier moment is to be written as SQL. No live server is asked, and none is needed.
type DumpOptions struct {
	Vault    *vault.Vault
	Choice   Choice // from Choose
	Inside   string // the SQL database that is meant, as it was called then; "" = the only one there is beside postgres
	Table    string // schema.name; "" = the whole SQL database
	Schema   string // with Table: the schema in which the file makes it and all that it needs
	File     string // that is written; it must not be there yet
	Dir      string // directory below which the scratch copy is made; PostgreSQL's user must reach it
	Owner    Owner
	BinDir   string // with pg_dump
	Progress func(Progress)
	Settings map[string]string // for the scratch server
}

// Dumped is a file of SQL that psql loads as one transaction. A table comes in a schema of its own, so that it can be loaded
// beside one of its name, and the file counts its rows before it lets the transaction end.
type Dumped struct {
	Inside  string   `json:"inside"` // the SQL database
	File    string   `json:"file"`
	Bytes   int64    `json:"bytes"`             // of the file
	Rows    int64    `json:"rows"`              // of the table with its partitions; 0 for a whole SQL database
	Objects []Object `json:"objects,omitempty"` // of a table: what the file makes, itself among it
	LeftOut []string `json:"left_out,omitempty"`
}

// Refusal is why [Dump] would not begin, as far as that can be known without writing: programs that are missing, a file that is
// there. It changes nothing.
func (o DumpOptions) Refusal() error {
	if err := hasPrograms(o.BinDir, "pg_dump"); err != nil {
		return err
	}
	_, err := os.Lstat(o.File)
	switch {
	case err == nil:
		return fileThere(o.File)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for %s: %w", o.File, err)
	}
	return nil
}

// Dump restores to the moment on a scratch server, writes what is wanted to a file, and removes the copy again, whatever
// happened. The file has its name once it is whole and on the disk; on an error there is none.
func Dump(ctx context.Context, o DumpOptions) (d Dumped, err error) {
	if err := o.Refusal(); err != nil { // before an hour of restoring
		return d, err
	}
	out, err := beginDump(o.File)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, out.end()) }()
	n := &Into{Choice: o.Choice, o: IntoOptions{Vault: o.Vault, Database: o.Choice.Backup.Database, At: o.Choice.Target, Inside: o.Inside, Table: o.Table,
		Into: o.Schema, Dir: o.Dir, Owner: o.Owner, BinDir: o.BinDir, Progress: o.Progress, Settings: o.Settings}, room: out.room}
	defer func() { err = errors.Join(err, n.Close(context.WithoutCancel(ctx))) }()
	if err := n.restore(ctx); err != nil {
		return d, err
	}
	if err := n.findInside(ctx); err != nil {
		return d, err
	}
	if o.Progress != nil {
		o.Progress(Progress{Phase: "writing " + o.File})
	}
	if err := n.dumpTo(ctx, out); err != nil {
		return d, err
	}
	d = Dumped{Inside: n.o.Inside, File: o.File, Objects: n.Objects, LeftOut: n.LeftOut}
	for _, c := range n.counts {
		d.Rows += c.rows
	}
	d.Bytes, err = out.keep()
	return d, err
}

// findInside makes sure that the SQL database was there then; without a name it is the only one beside postgres.
func (n *Into) findInside(ctx context.Context) error {
	then, err := n.then(ctx, "template1")
	if err != nil {
		return err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	rows, err := then.Query(ctx, "select datname::text from pg_database where not datistemplate and datallowconn order by 1")
	if err != nil {
		return fmt.Errorf("list the SQL databases: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the SQL databases: %w", err)
	}
	if slices.Contains(all, n.o.Inside) {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "postgres" })
	switch {
	case n.o.Inside == "" && len(others) == 1:
		n.o.Inside = others[0]
		return nil
	case n.o.Inside == "" && len(others) == 0:
		n.o.Inside = "postgres"
		return nil
	}
	title := "has several SQL databases, and none was named"
	if n.o.Inside != "" {
		title = fmt.Sprintf("had no SQL database %s at %s", n.o.Inside, n.o.At)
	}
	return &problem.Problem{Code: "restore.not-there-then", Subject: n.o.Database, Severity: problem.Note, Title: title,
		Meaning: "Nothing was written, and the scratch copy is removed.", Remedy: "name one of these with --database: " + strings.Join(all, ", ")}
}

// dumpTo finds out what belongs to what is wanted, and writes it.
func (n *Into) dumpTo(ctx context.Context, out *dumpFile) error {
	args := []string{"--no-owner", "--no-privileges", "--no-tablespaces", "--no-publications", "--no-subscriptions", "--no-security-labels"}
	var head, proof string
	var objects []string // arguments of a dump of the large objects; nil = there are none
	if n.o.Table == "" {
		large, err := n.lookAtWhole(ctx)
		if err != nil {
			return err
		}
		args = append(args, "--dbname="+n.scratch.ConnString(n.o.Inside))
		if large {
			objects = append(slices.Clone(args), "--data-only", "--blobs", "--exclude-schema=*")
		}
		args = append(args, "--no-blobs")
	} else {
		if err := n.lookAtTable(ctx); err != nil {
			return err
		}
		extensions, err := n.extensions(ctx)
		if err != nil {
			return err
		}
		n.notOwned(ownersOf(n.Objects))
		args = append(args, "--dbname="+n.scratch.ConnString(n.o.Inside), "--schema="+pattern(n.o.Into))
		head, proof = extensions, "reset search_path;\n"+n.counted()
	}
	if err := out.say(n.heading() + "\\set ON_ERROR_STOP on\nbegin;\n" + head); err != nil {
		return err
	}
	if err := out.dump(ctx, n.o.BinDir, args, out.f); err != nil {
		return err
	}
	if objects != nil {
		if err := out.largeObjects(ctx, n.o.BinDir, objects); err != nil {
			return err
		}
	}
	return out.say(proof + "commit;\n")
}

// lookAtWhole finds out what of an SQL database the file does not hold, and whether it has room; large = it has large objects.
func (n *Into) lookAtWhole(ctx context.Context) (large bool, err error) {
	then, err := n.then(ctx, n.o.Inside)
	if err != nil {
		return false, err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	if n.Bytes, err = sizeOf(ctx, then, n.o.Inside); err != nil {
		return false, err
	}
	if n.LeftOut, err = n.leftOut(ctx, n.o.Inside, false); err != nil {
		return false, err
	}
	publications, err := n.publications(ctx, n.o.Inside)
	if err != nil {
		return false, err
	}
	n.LeftOut = append(n.LeftOut, publications...)
	owners, err := rolesOf(ctx, then, n.o.Inside)
	if err != nil {
		return false, err
	}
	n.notOwned(owners)
	if err := then.QueryRow(ctx, "select exists (select from pg_largeobject_metadata)").Scan(&large); err != nil {
		return false, fmt.Errorf("look for large objects in database %s: %w", n.o.Inside, err)
	}
	return large, n.room(ctx, n.Bytes)
}

// notOwned says whose it was: the roles may not be where the file is loaded.
func (n *Into) notOwned(owners []string) {
	who := "owners and rights: all of it belongs to whoever loads it"
	if len(owners) > 0 {
		who += " (it was " + strings.Join(owners, ", ") + ")"
	}
	n.LeftOut = append(n.LeftOut, who)
}

func ownersOf(all []Object) []string {
	var out []string
	for _, x := range all {
		if x.Owner != "" && !slices.Contains(out, x.Owner) {
			out = append(out, x.Owner)
		}
	}
	return out
}

// heading says at the file's beginning what it is. Names are quoted: none of them ends the comment.
func (n *Into) heading() string {
	what := fmt.Sprintf("SQL database %q", n.o.Inside)
	how := "an empty SQL database"
	if n.o.Table != "" {
		what, how = fmt.Sprintf("table %q of %s", n.o.Table, what), fmt.Sprintf("an SQL database that has no schema %q yet", n.o.Into)
	}
	return fmt.Sprintf("-- %s of %q at %q, from base backup %q.\n-- Load it into %s: psql -X -d NAME -f THIS_FILE\n-- It is one transaction: all of it is there afterwards, or nothing.\n",
		what, n.o.Database, n.o.At.String(), n.Choice.Backup.ID, how)
}

// queryExtensions names the extensions of which the objects that the table needs use members, with their schemas.
const queryExtensions = `select distinct e.extname::text, s.nspname::text
	from need n join pg_depend d on d.classid = n.classid and d.objid = n.objid
	join pg_depend m on m.classid = d.refclassid and m.objid = d.refobjid and m.deptype = 'e'
	join pg_extension e on m.refclassid = 'pg_extension'::regclass and e.oid = m.refobjid join pg_namespace s on s.oid = e.extnamespace
	where e.extname <> 'plpgsql' order by 1`

// extensions are statements that make the extensions which the tables need, where they are not there yet.
func (n *Into) extensions(ctx context.Context) (string, error) {
	then, err := n.then(ctx, n.o.Inside)
	if err != nil {
		return "", err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	var names []string
	for _, c := range n.counts {
		names = append(names, c.name)
	}
	var tables []uint32
	err = then.QueryRow(ctx, "select array_agg(x::regclass::oid) from unnest($1::text[]) x", names).Scan(&tables)
	var b strings.Builder
	if err == nil {
		var name, schema string
		var rows pgx.Rows
		if rows, err = then.Query(ctx, withNeeds+queryExtensions, tables); err == nil {
			_, err = pgx.ForEachRow(rows, []any{&name, &schema}, func() error {
				if schema != "public" && schema != "pg_catalog" { // whoever loads it may not be allowed to make one that is there
					fmt.Fprintf(&b, "create schema if not exists %s;\n", quoteName(schema))
				}
				fmt.Fprintf(&b, "create extension if not exists %s with schema %s;\n", quoteName(name), quoteName(schema))
				return nil
			})
		}
	}
	if err != nil {
		return "", fmt.Errorf("ask which extensions %s needs: %w", n.o.Table, err)
	}
	return b.String(), nil
}

// dumpFile is the file before it has its name: what it is called says that it is not whole.
type dumpFile struct {
	name string
	f    *os.File
	kept bool
}

// dumpMark is the first line of a file of ours: one without it that has the name of an unfinished file is somebody's own.
const dumpMark = "-- written by holdfast restore --dump\n"

func beginDump(name string) (*dumpFile, error) {
	d, err := openDump(name)
	if err != nil {
		return nil, err
	}
	if err := d.claim(); err != nil {
		return nil, errors.Join(err, d.f.Close())
	}
	err = errors.Join(d.f.Truncate(0), d.f.Chmod(0o600))
	if err == nil {
		_, err = io.WriteString(d.f, dumpMark)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin the file: %w", err), d.end())
	}
	return d, nil
}

func openDump(name string) (*dumpFile, error) {
	f, err := os.OpenFile(name+".partial", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin the file: %w", err)
	}
	return &dumpFile{name: name, f: f}, nil
}

// claim makes sure that what was opened may be written anew: nobody else writes it, and it is new or was left by a kill. It changes
// nothing. Between being opened and locked it may have been finished by another, and then has another name.
func (d *dumpFile) claim() error {
	if err := unix.Flock(int(d.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s, which another restore may write: %w", d.f.Name(), err)
	}
	at, err := d.f.Stat()
	if err != nil {
		return fmt.Errorf("begin the file: %w", err)
	}
	named, err := os.Lstat(d.f.Name())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("begin the file: %w", err)
	}
	st, ok := at.Sys().(*syscall.Stat_t)
	if err != nil || !ok || !at.Mode().IsRegular() || !ownedHere(at) || st.Nlink != 1 || !os.SameFile(at, named) {
		return notLeft(d.f.Name())
	}
	first := make([]byte, min(at.Size(), int64(len(dumpMark))))
	if _, err := d.f.ReadAt(first, 0); err != nil {
		return fmt.Errorf("read %s: %w", d.f.Name(), err)
	}
	if !strings.HasPrefix(dumpMark, string(first)) { // a kill may leave it without any of it
		return notLeft(d.f.Name())
	}
	return nil
}

func notLeft(name string) error {
	return &problem.Problem{Code: "restore.name-taken", Subject: name, Severity: problem.Note, Title: "is there, and no restore that was killed has left it",
		Meaning: "Nothing was restored, and what is there was not touched.", Remedy: "name another file with --dump, or move this one"}
}

func fileThere(name string) error {
	return &problem.Problem{Code: "restore.name-taken", Subject: name, Severity: problem.Note, Title: "is the name of something that is there already",
		Meaning: "Nothing was restored, and what is there was not touched.", Remedy: "name another file with --dump"}
}

// end removes what did not become whole.
func (d *dumpFile) end() error {
	var err error
	if !d.kept {
		err = os.Remove(d.f.Name())
	}
	return errors.Join(err, d.f.Close())
}

// room refuses what surely does not fit: a dump is seldom larger than the tables with their indexes.
func (d *dumpFile) room(_ context.Context, bytes int64) error {
	free, _, err := roomAt(filepath.Dir(d.name))
	if err != nil || free >= bytes {
		return err
	}
	return &problem.Problem{Code: "restore.no-space", Subject: d.name, Severity: problem.Critical,
		Title:   fmt.Sprintf("its disk has %d MB free, and what is to be written takes about %d MB", free>>20, bytes>>20),
		Meaning: "Nothing was written, and the scratch copy is removed.", Remedy: "name a file on a larger disk with --dump"}
}

// say writes text. What stands behind the dumps is said after pg_dump has ended well: without its end the file is never committed.
func (d *dumpFile) say(text string) error {
	if _, err := io.WriteString(d.f, text); err != nil {
		return fmt.Errorf("write %s: %w", d.f.Name(), err)
	}
	return nil
}

// dump writes what pg_dump says.
func (d *dumpFile) dump(ctx context.Context, binDir string, args []string, to io.Writer) error {
	var said bytes.Buffer
	run := exec.CommandContext(ctx, filepath.Join(binDir, "pg_dump"), args...)
	run.Env, run.Stdout, run.Stderr = withoutPG(os.Environ()), to, &said
	return ended("pg_dump", run.Run(), &said)
}

// largeObjects writes the large objects of an SQL database. pg_dump puts a transaction of its own around their content, which would end
// the one of the whole file in its middle. They are dumped by themselves, so that no text of anybody's is looked through for that.
func (d *dumpFile) largeObjects(ctx context.Context, binDir string, args []string) error {
	inner := &withoutTransactions{to: d.f}
	if err := d.dump(ctx, binDir, args, inner); err != nil {
		return err
	}
	if err := inner.end(); err != nil {
		return fmt.Errorf("write the large objects to %s: %w", d.f.Name(), err)
	}
	return nil
}

// withoutTransactions passes on a dump of large objects without the transactions in it.
type withoutTransactions struct {
	to             io.Writer
	line, before   []byte // the line that has no end yet; the last one that is not empty
	begins, closes int    // that were left out
}

func (w *withoutTransactions) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		if end == 0 {
			w.line = append(w.line, rest...)
			break
		}
		w.line, rest = append(w.line, rest[:end]...), rest[end:]
		if err := w.pass(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *withoutTransactions) pass() error {
	switch text := string(bytes.TrimSuffix(w.line, []byte("\n"))); {
	case text == "BEGIN;" && string(w.before) == "--": // behind the heading of the objects' content
		w.begins++
		w.line = w.line[:0]
		return nil
	case text == "COMMIT;" && bytes.HasPrefix(w.before, []byte("SELECT pg_catalog.lo_close(")):
		w.closes++
		w.line = w.line[:0]
		return nil
	case text != "":
		w.before = append(w.before[:0], text...)
	}
	_, err := w.to.Write(w.line)
	w.line = w.line[:0]
	return err
}

// end passes on what has no end, and makes sure that the transactions were where they are known to be.
func (w *withoutTransactions) end() error {
	if w.begins == 0 || w.begins != w.closes {
		return fmt.Errorf("pg_dump writes them in a way that is not known: %d transactions begin and %d end", w.begins, w.closes)
	}
	_, err := w.to.Write(w.line)
	return err
}

// keep gives the whole file its name, and says how large it is. What came to be there meanwhile is not written over.
func (d *dumpFile) keep() (int64, error) {
	at, err := d.f.Stat()
	if err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", d.f.Name(), err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, d.f.Name(), unix.AT_FDCWD, d.name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return 0, fileThere(d.name)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // this file system does not know how
		err = os.Rename(d.f.Name(), d.name)
	}
	if err != nil {
		return 0, fmt.Errorf("name %s: %w", d.name, err)
	}
	d.kept = true
	return at.Size(), durable.SyncDir(filepath.Dir(d.name))
}
