package restore

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// DeleteOptions say where to look for rows that were deleted.
type DeleteOptions struct {
	Vault    *vault.Vault
	Database string    // the plan's name
	From, To time.Time // commits between these; zero From = the last 24 h of log, zero To = the end
	AtLeast  int       // rows that one transaction deleted from one table; 0 = 1
	BinDir   string    // "" = found by version
	Dir      string    // for the fetched log; "" = the system's temporary directory
	// Catalog leads to the SQL database whose tables are meant, live or scratch: it names them.
	Catalog *pgx.ConnConfig
}

// Delete is one transaction that deleted rows of one table.
type Delete struct {
	XID       uint32    `json:"xid"`
	Committed time.Time `json:"committed"`
	LSN       wal.LSN   `json:"lsn"` // of its first deleted row
	Table     string    `json:"table"`
	Rows      int       `json:"rows"`
}

// Before is the target that restores to just before the delete.
func (d Delete) Before() Target {
	return Target{Kind: AtXID, XID: d.XID, LSN: d.LSN, Exclusive: true}
}

// FindDeletes reads the log in the vault and lists what was deleted and committed, most rows first.
func FindDeletes(ctx context.Context, o DeleteOptions) (out []Delete, err error) {
	c, err := Load(ctx, o.Vault, o.Database)
	if err != nil {
		return nil, err
	}
	// The earliest position that matters: that of the newest backup that ended before From.
	from := o.From
	choice, err := Choose(c, Target{Kind: Latest})
	if err != nil {
		return nil, err
	}
	if from.IsZero() && !choice.Covered.IsZero() {
		from = choice.Covered.Add(-24 * time.Hour)
	}
	for _, b := range slices.Backward(c.Backups) {
		older, why := try(Catalogue{Backups: []vault.Backup{b}, Logs: c.Logs}, b, Target{Kind: Latest})
		if why != "" {
			continue
		}
		choice = older
		if !b.Stopped.After(from) {
			break
		}
	}
	if o.BinDir, err = Programs(o.BinDir, choice.Backup.ServerVersion/10000); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(o.BinDir, logProgram)); err != nil {
		return nil, &problem.Problem{Code: "restore.no-waldump", Subject: o.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("%s is not in %s", logProgram, o.BinDir),
			Meaning: "The log of a database is searched for deletes with PostgreSQL's own reader of it. Nothing was read or changed.",
			Remedy:  "install PostgreSQL's own packages of that version, or compare with a moment that you name (--table, --at, --diff)"}
	}
	dir, err := os.MkdirTemp(o.Dir, "hf-deletes-")
	if err != nil {
		return nil, fmt.Errorf("find deletes: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	found, err := scanLog(ctx, o, choice, dir)
	if err != nil {
		return nil, fmt.Errorf("find deletes in the log of %s: %w", o.Database, err)
	}
	names, err := tableNames(ctx, o.Catalog, found)
	if err != nil {
		return nil, fmt.Errorf("name the tables of %s: %w", o.Database, err)
	}
	for _, d := range found {
		name, ok := names[d.rel]
		if !ok || d.rows < max(o.AtLeast, 1) || d.committed.Before(from) || !o.To.IsZero() && d.committed.After(o.To) {
			continue
		}
		out = append(out, Delete{XID: d.xid, Committed: d.committed, LSN: d.lsn, Table: name, Rows: d.rows})
	}
	slices.SortFunc(out, func(a, b Delete) int {
		return cmp.Or(cmp.Compare(b.Rows, a.Rows), b.Committed.Compare(a.Committed), cmp.Compare(a.Table, b.Table))
	})
	return out, nil
}

// relID names a relation's file as the log does.
type relID struct{ space, database, node uint32 }

type deleted struct {
	xid       uint32
	rel       relID
	rows      int
	lsn       wal.LSN
	committed time.Time
}

// logProgram reads the log in words. It comes with every package of the server but the npm one.
const logProgram = "pg_waldump"

// scanLog puts the log into dir and reads it with pg_waldump, timeline by timeline.
func scanLog(ctx context.Context, o DeleteOptions, choice Choice, dir string) ([]deleted, error) {
	log := o.Vault.Log(choice.Backup.SystemID, choice.Backup.SegmentSize)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, p := range choice.Pieces {
		g.Go(func() error {
			content, err := log.Fetch(gctx, p)
			if err != nil {
				return err
			}
			full := append(content[:min(int(p.End-p.Start), len(content))], make([]byte, int(log.SegmentSize())-min(int(p.End-p.Start), len(content)))...)
			// One name per position, on one timeline: pg_waldump then reads through a switch of timelines.
			return os.WriteFile(filepath.Join(dir, wal.SegmentName(choice.Timeline, p.Start, log.SegmentSize())), full, 0o600)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(o.BinDir, logProgram), "-p", dir, "-t", fmt.Sprint(choice.Timeline), "-s", choice.Backup.Start.String())
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	var said strings.Builder
	cmd.Stderr = &said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	found, scanErr := parseDump(pipe)
	err = cmd.Wait()
	// It always ends with an error where the log ends; only one at the very beginning means that it read nothing.
	if err != nil && !strings.Contains(said.String(), "error in WAL record at") && !strings.Contains(said.String(), "could not find file") {
		return nil, errors.Join(scanErr, fmt.Errorf("pg_waldump: %w: %s", err, strings.TrimSpace(said.String())))
	}
	return found, scanErr
}

var (
	dumpLine   = regexp.MustCompile(`^rmgr: (\S+)\s+len.*?, tx:\s*(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), prev \S+, desc: (.*)$`)
	dumpRel    = regexp.MustCompile(`blkref #0: rel (\d+)/(\d+)/(\d+)`)
	dumpCommit = regexp.MustCompile(`^COMMIT (?:PREPARED )?(?:\d+: )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ UTC)`)
	dumpSubs   = regexp.MustCompile(`subxacts: ([\d ]+)`)
)

// parseDump counts deleted rows by transaction and relation, and keeps what committed.
func parseDump(r io.Reader) ([]deleted, error) {
	type key struct {
		xid uint32
		rel relID
	}
	open := map[key]*deleted{}
	byXID := map[uint32][]*deleted{}
	var out []deleted
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 16<<20)
	for sc.Scan() {
		m := dumpLine.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		xid, err := strconv.ParseUint(m[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read pg_waldump's line %q: %w", sc.Text(), err)
		}
		switch {
		case m[1] == "Heap" && strings.HasPrefix(m[4], "DELETE"):
			rel, ok := parseRel(m[4])
			if !ok {
				continue
			}
			k := key{uint32(xid), rel}
			if open[k] == nil {
				lsn, err := wal.ParseLSN(m[3])
				if err != nil {
					return nil, err
				}
				open[k] = &deleted{xid: uint32(xid), rel: rel, lsn: lsn}
				byXID[k.xid] = append(byXID[k.xid], open[k])
			}
			open[k].rows++
		case m[1] == "Transaction" && strings.HasPrefix(m[4], "COMMIT"):
			c := dumpCommit.FindStringSubmatch(m[4])
			if c == nil {
				continue
			}
			at, err := time.Parse("2006-01-02 15:04:05.999999 UTC", c[1])
			if err != nil {
				return nil, fmt.Errorf("read pg_waldump's line %q: %w", sc.Text(), err)
			}
			xids := []uint32{uint32(xid)}
			if s := dumpSubs.FindStringSubmatch(m[4]); s != nil {
				for _, f := range strings.Fields(s[1]) {
					if sub, err := strconv.ParseUint(f, 10, 32); err == nil {
						xids = append(xids, uint32(sub))
					}
				}
			}
			for _, d := range merge(xids, byXID) {
				d.xid, d.committed = uint32(xid), at
				out = append(out, d)
			}
			for _, x := range xids {
				for _, d := range byXID[x] {
					delete(open, key{x, d.rel})
				}
				delete(byXID, x)
			}
		}
	}
	return out, sc.Err()
}

// merge adds up what a transaction and its subtransactions deleted, by relation.
func merge(xids []uint32, byXID map[uint32][]*deleted) []deleted {
	var out []deleted
	for _, x := range xids {
		for _, d := range byXID[x] {
			i := slices.IndexFunc(out, func(o deleted) bool { return o.rel == d.rel })
			if i < 0 {
				out = append(out, *d)
				continue
			}
			out[i].rows += d.rows
			out[i].lsn = min(out[i].lsn, d.lsn)
		}
	}
	return out
}

func parseRel(desc string) (relID, bool) {
	m := dumpRel.FindStringSubmatch(desc)
	if m == nil {
		return relID{}, false
	}
	var n [3]uint32
	for i := range n {
		v, err := strconv.ParseUint(m[i+1], 10, 32)
		if err != nil {
			return relID{}, false
		}
		n[i] = uint32(v)
	}
	return relID{n[0], n[1], n[2]}, true
}

// tableNames asks one SQL database which ordinary tables the files belong to now. Tables that were rewritten
// since (VACUUM FULL, TRUNCATE) have other files: ask a scratch server at that time about those.
func tableNames(ctx context.Context, cfg *pgx.ConnConfig, found []deleted) (map[relID]string, error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // only asked
	var database, space uint32
	if err := conn.QueryRow(ctx, "select oid, dattablespace from pg_database where datname = current_database()").Scan(&database, &space); err != nil {
		return nil, err
	}
	names := map[relID]string{}
	for _, d := range found {
		if d.rel.database != database || names[d.rel] != "" {
			continue
		}
		asked := d.rel.space
		if asked == space {
			asked = 0
		}
		var name *string
		err := conn.QueryRow(ctx, `select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
			where c.oid = pg_filenode_relation($1, $2) and c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema')`, asked, d.rel.node).Scan(&name)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if name != nil {
			names[d.rel] = *name
		}
	}
	return names, nil
}
