package postgres

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
)

// sourceWait bounds one question to the server that is copied: 16 MiB to read and to hash on a disk that is busy.
const sourceWait = 60 * time.Second

// source is one session with the server that is copied. Files are read by that server's own functions, so a copy
// needs nobody on the other host but PostgreSQL, and works on a primary and on a standby alike.
type source struct {
	conn   *pgx.Conn
	pages  bool         // its pages carry checksums
	begins database.LSN // where the replay of this copy begins: pages changed later may be torn, and are mended by it
}

var _ replica.Source = (*source)(nil)

// Close ends the session.
func (s *source) Close() { closeSession(s.conn) }

// ask puts one question with binary answers: a bytea as text would travel twice as long.
func (s *source) ask(ctx context.Context, sql string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sourceWait)
	defer cancel()
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	r := s.conn.PgConn().ExecParams(ctx, sql, values, nil, nil, []int16{pgx.BinaryFormatCode}).Read()
	if r.Err != nil {
		return nil, fmt.Errorf("ask the source: %w", r.Err)
	}
	if len(r.Rows) != 1 || len(r.Rows[0]) != 1 {
		return nil, fmt.Errorf("ask the source: it answered %d rows", len(r.Rows))
	}
	return r.Rows[0][0], nil
}

// Hashes implements [replica.Source].
func (s *source) Hashes(ctx context.Context, p string, first, n int64) ([]byte, error) {
	return s.ask(ctx, `SELECT string_agg(sha256(pg_read_binary_file($1::text, g * $4::bigint, $4::bigint, true)), ''::bytea ORDER BY g)
 FROM generate_series($2::bigint, $3::bigint) g`,
		p, strconv.FormatInt(first, 10), strconv.FormatInt(first+n-1, 10), strconv.Itoa(replica.BlockSize))
}

// Read implements [replica.Source]. Pages of relations are judged: a copy must not carry damage on.
func (s *source) Read(ctx context.Context, p string, offset int64, n int) ([]byte, error) {
	data, err := s.read(ctx, p, offset, n)
	if r, ok := pgdata.ParseRelation(p); err == nil && ok && s.pages {
		err = s.verify(ctx, p, r, offset, data)
	}
	return data, err
}

func (s *source) read(ctx context.Context, p string, offset int64, n int) ([]byte, error) {
	return s.ask(ctx, "SELECT pg_read_binary_file($1::text, $2::bigint, $3::bigint, true)", p, strconv.FormatInt(offset, 10), strconv.Itoa(n))
}

const (
	rereads     = 5 // a page that is being written settles within these
	rereadPause = 10 * time.Millisecond
)

// verify judges whole pages. One whose checksum stays wrong, and that replay does not write anew, is damaged.
func (s *source) verify(ctx context.Context, p string, r pgdata.Relation, offset int64, data []byte) error {
	for at := 0; at+pgdata.PageSize <= len(data); at += pgdata.PageSize {
		page := data[at : at+pgdata.PageSize]
		where := offset + int64(at)
		block := uint32(where/pgdata.PageSize) + r.Segment*pgdata.SegmentPages
		for try := 0; !pgdata.Good(page, block); try++ {
			if try > 0 && database.LSN(pgdata.PageLSN(page)) >= s.begins {
				break
			}
			if try == rereads {
				return &problem.Problem{
					Code: "database.source-damaged", Severity: problem.Critical,
					Title:   fmt.Sprintf("the server that was to be copied holds a damaged page: %s block %d", p, block),
					Meaning: "A copy would carry the damage on, so none was made of it. Holdfast tries another source.",
					Remedy:  "look at the disk of that host; restore from a proven backup if every copy has the damage",
				}
			}
			if err := pause(ctx, rereadPause); err != nil {
				return err
			}
			again, err := s.read(ctx, p, where, pgdata.PageSize)
			if err != nil {
				return err
			}
			if len(again) < pgdata.PageSize {
				return nil // truncated meanwhile; the log repeats that
			}
			copy(page, again)
		}
	}
	return nil
}

// list names every file of the source, as deep as they lie. What is below a tablespace's link is not entered.
func (s *source) list(ctx context.Context) ([]replica.File, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*sourceWait)
	defer cancel()
	return s.files(ctx, `WITH RECURSIVE found AS (
  SELECT name AS path, (pg_stat_file(name, true)).size, (pg_stat_file(name, true)).isdir FROM pg_ls_dir('.', true, false) name
  UNION ALL
  SELECT f.path || '/' || name, (pg_stat_file(f.path || '/' || name, true)).size, (pg_stat_file(f.path || '/' || name, true)).isdir
  FROM found f, LATERAL pg_ls_dir(f.path, true, false) name WHERE f.isdir AND f.path NOT LIKE 'pg_tblspc/%')
 SELECT path, size, isdir FROM found WHERE isdir IS NOT NULL`)
}

// files are what a question for paths, sizes, and whether they are directories brings.
func (s *source) files(ctx context.Context, sql string, args ...any) ([]replica.File, error) {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list the source's files: %w", err)
	}
	files, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (replica.File, error) {
		var f replica.File
		err := row.Scan(&f.Path, &f.Size, &f.Dir)
		if f.Dir {
			f.Size = 0
		}
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the source's files: %w", err)
	}
	return files, nil
}

// wanted are those of a source's files that a copy takes before its log and pg_control; tablespaces come by themselves.
func wanted(files []replica.File) []replica.File {
	out := slices.DeleteFunc(copied(files), func(f replica.File) bool { return strings.HasPrefix(f.Path, pgdata.Spaces+"/") })
	return append(out, replica.File{Path: "pg_wal/archive_status", Dir: true})
}

// copied leaves out what no copy needs.
func copied(files []replica.File) []replica.File {
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	unlogged := pgdata.Unlogged(names)
	var out []replica.File
	for _, f := range files {
		r, relation := pgdata.ParseRelation(f.Path)
		switch {
		case ours(f.Path), emptiedAbove(f.Path), !f.Dir && pgdata.LeftOut(f.Path):
		case relation && (r.Temporary || pgdata.DropUnlogged(f.Path, unlogged)):
		case path.Base(f.Path) == "pgsql_tmp": // made when needed
		default:
			out = append(out, f)
		}
	}
	return out
}

// emptiedAbove reports whether a path lies in a directory whose content is not copied.
func emptiedAbove(p string) bool {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if pgdata.Emptied(dir) {
			return true
		}
	}
	return false
}

// ours are the files that Holdfast writes into every data directory itself.
func ours(p string) bool {
	switch p {
	case "postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf", "standby.signal", incarnationFile:
		return true
	}
	return false
}

// about is what is asked of a server before it is copied, and of the primary that the copy will follow.
type about struct {
	system     uint64
	version    int
	recovering bool
	pages      bool
	segment    uint64
}

func (s *Server) askAbout(ctx context.Context, conn *pgx.Conn, host string) (about, error) {
	var a about
	var system, segment int64
	err := conn.QueryRow(ctx, `SELECT (SELECT system_identifier FROM pg_control_system()), current_setting('server_version_num')::int,
 pg_is_in_recovery(), current_setting('data_checksums') = 'on', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')`).
		Scan(&system, &a.version, &a.recovering, &a.pages, &segment)
	if err != nil {
		return a, fmt.Errorf("ask the server on %s: %w", host, err)
	}
	a.system, a.segment = uint64(system), uint64(segment)
	if a.version/10000 != s.cfg.Major {
		return a, &problem.Problem{
			Code: "database.other-version", Subject: s.cfg.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("the server on %s is PostgreSQL %d, this host has %d", host, a.version/10000, s.cfg.Major),
			Meaning: "The files of one major version mean nothing to another, so nothing was copied and nothing was touched.",
			Remedy:  fmt.Sprintf("install PostgreSQL %d on this host, or correct postgres in the plan", a.version/10000),
		}
	}
	return a, nil
}
