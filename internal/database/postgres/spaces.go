package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
)

// A tablespace lies at the same path on every host: PostgreSQL's log names the path that the primary was told, and a standby
// that finds nothing there ends. Two servers on one directory would write into each other's files, and no server notices:
// so each one's agent leaves a claim in the directory, beside PostgreSQL's own folder, and touches nothing under another's.

// claimFile says whose a tablespace's directory is. By the beginning of its name pg_rewind takes it for a temporary file, and leaves
// it out; a server removes such files only deeper down (PostgreSQL's src/bin/pg_rewind/filemap.c, storage/file/fd.c).
const claimFile = "pgsql_tmp.holdfast"

// claim is its content.
type claim struct {
	Database string `json:"database"`
	Host     string `json:"host"`
	Dir      string `json:"dir"` // the database's own directory there
}

// space is one tablespace as a source tells of it.
type space struct {
	oid  string // the name of its link
	name string
	was  string // where it lies there
	dir  string // where it lies here
}

// askSpaces lists a server's tablespaces, and refuses those that a copy cannot hold.
func (s *Server) askSpaces(ctx context.Context, conn *pgx.Conn) ([]space, error) {
	rows, err := conn.Query(ctx, `SELECT oid::text, spcname::text, pg_tablespace_location(oid), starts_with(pg_tablespace_location(oid), current_setting('data_directory') || '/')
 FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 2`)
	if err != nil {
		return nil, fmt.Errorf("ask for the tablespaces: %w", err)
	}
	var all []space
	var inside []string
	var x space
	var within bool
	_, err = pgx.ForEachRow(rows, []any{&x.oid, &x.name, &x.was, &within}, func() error {
		x.dir = s.spaceDir(x.was)
		if within || !filepath.IsAbs(x.was) {
			inside = append(inside, x.name)
		}
		all = append(all, x)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the tablespaces: %w", err)
	}
	if len(inside) > 0 {
		return nil, &problem.Problem{
			Code: "database.tablespaces", Subject: s.cfg.Database, Severity: problem.Critical,
			Title:   "it has tablespaces within its data directory: " + strings.Join(inside, ", "),
			Meaning: "They would not be in a copy, so this host gets none. The copies that exist go on.",
			Remedy:  "move the objects to a tablespace in a directory of its own, or to the default one: ALTER TABLE ... SET TABLESPACE pg_default; then DROP TABLESPACE",
		}
	}
	return all, nil
}

// spaceDir is where a tablespace of another host lies here.
func (s *Server) spaceDir(location string) string {
	if s.cfg.SpaceDir != nil {
		return s.cfg.SpaceDir(location)
	}
	return location
}

// prepareSpaces makes the directories of tablespaces ready for this server, or refuses. It changes nothing that was there.
func (s *Server) prepareSpaces(all []space) error {
	if len(all) == 0 {
		return nil
	}
	links, err := s.spaceLinks()
	if err != nil {
		return err
	}
	for _, x := range all {
		if err := s.makeSpace(x.dir); err != nil {
			return err
		}
		if err := s.claimSpace(x.dir, slices.Contains(links, x.dir)); err != nil {
			return err
		}
	}
	return nil
}

// spaceLinks are where the links of our own data lead, sorted.
func (s *Server) spaceLinks() ([]string, error) {
	at := filepath.Join(s.at.data, pgdata.Spaces)
	entries, err := os.ReadDir(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the tablespaces: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := os.Readlink(filepath.Join(at, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list the tablespaces: %w", err)
		}
		out = append(out, filepath.Clean(to))
	}
	slices.Sort(out)
	return out, nil
}

// makeSpace makes a tablespace's directory, unless it is there. What lies above it is the operator's: a disk that is not
// mounted must not be filled in its place.
func (s *Server) makeSpace(dir string) error {
	missing := func(why string) error {
		return &problem.Problem{
			Code: "database.tablespace-missing", Subject: s.cfg.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("a tablespace has no directory on %s: %s", s.cfg.Host, why),
			Meaning: "Every host that holds the database needs that directory, for the log names its path. Without it the server on this host cannot go on, and the database has one copy less.",
			Remedy:  fmt.Sprintf("make it, or mount its disk: install -d -o %s -m 700 %s", s.owner.name, dir),
		}
	}
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return missing(dir + " is no directory")
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look at a tablespace's directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return missing(err.Error())
	}
	if err := s.owner.own(dir); err != nil {
		return err
	}
	s.log.Warn("directory of a tablespace made", "dir", dir)
	return durable.SyncDir(filepath.Dir(dir))
}

// claimSpace makes sure that a tablespace's directory is ours alone: ours by a claim, or by a link of our own data, or empty of
// PostgreSQL's files.
func (s *Server) claimSpace(dir string, linked bool) error {
	own := claim{s.cfg.Database, s.cfg.Host, s.at.dir}
	path := filepath.Join(dir, claimFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !linked {
			if err := s.free(dir); err != nil {
				return err
			}
		}
		return writeClaim(path, own)
	case err != nil:
		return fmt.Errorf("read whose tablespace %s is: %w", dir, err)
	}
	var c claim
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read whose tablespace %s is: %w", dir, err)
	}
	if c == own {
		return nil
	}
	lies, err := s.claimant(c)
	if err != nil {
		return err
	}
	if c.Database == s.cfg.Database && (lies == claimantUs || lies == claimantGone && linked) {
		s.log.Info("the data have moved, and a tablespace is claimed anew", "dir", dir, "before", c.Dir)
		return writeClaim(path, own)
	}
	return s.claimed(dir, c, lies)
}

// free refuses a directory that nobody has claimed and that holds a server's files.
func (s *Server) free(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look at a tablespace's directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), s.spaceVersion()) {
			return s.sharedSpace(fmt.Sprintf("the directory %s of a tablespace holds files of a PostgreSQL server (%s)", dir, e.Name()), ownPlace)
		}
	}
	return nil
}

// claimed says whose a directory is that is not ours.
func (s *Server) claimed(dir string, c claim, lies claimant) error {
	title := fmt.Sprintf("the directory %s of a tablespace is that of database %s on host %s, in %s", dir, c.Database, c.Host, c.Dir)
	switch lies {
	case claimantElsewhere:
		return s.sharedSpace(title, ownPlace)
	case claimantGone:
		return s.sharedSpace(title+", which is gone", fmt.Sprintf("find out whether the data that were in %s are to be used again: they lead to these tables, and nothing else does. If so, put them back there, "+
			"or to where the plan has them now. If they are lost, move the tables away: what lies in %s, with %s", c.Dir, dir, claimFile))
	default:
		return s.sharedSpace(title, "leave its tables where they are: they are this host's own. Go on with the data in "+c.Dir+
			"; if those are not to be used any more, and the data in "+s.at.dir+" have these tables, rename "+c.Dir+". Another database needs a directory of its own")
	}
}

const ownPlace = "give each host a disk or directory of its own at that path; what is left of a server that is gone: move it away"

func (s *Server) sharedSpace(title, remedy string) *problem.Problem {
	return &problem.Problem{
		Code: "database.tablespace-shared", Subject: s.cfg.Database, Severity: problem.Critical, Title: title,
		Meaning: "Two servers on one directory write into each other's files, and neither notices. This host leaves it alone: no copy is made there, and no server is started on it.",
		Remedy:  remedy,
	}
}

// claimant is what lies where a claim says that its server's data are.
type claimant int

const (
	claimantElsewhere claimant = iota // on another host
	claimantGone                      // nothing
	claimantUs                        // our own directory, by another path
	claimantThere                     // another directory; a server may be started on that
)

// claimant looks where a claim of this host leads, from before its directory was moved or was named by another path.
func (s *Server) claimant(c claim) (claimant, error) {
	if c.Host != s.cfg.Host {
		return claimantElsewhere, nil
	}
	then, err := os.Stat(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return claimantGone, nil
	}
	if err != nil {
		return claimantThere, fmt.Errorf("look whether the data of database %s have moved: %w", s.cfg.Database, err)
	}
	now, err := os.Stat(s.at.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // not made yet
	case err != nil:
		return claimantThere, fmt.Errorf("look whether the data of database %s have moved: %w", s.cfg.Database, err)
	case os.SameFile(then, now):
		return claimantUs, nil
	}
	return claimantThere, nil
}

func writeClaim(path string, own claim) error {
	text, err := json.Marshal(own)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("claim a tablespace's directory: %w", err)
	}
	return nil
}

// spaceVersion is how PostgreSQL's own folder in a tablespace begins.
func (s *Server) spaceVersion() string { return fmt.Sprintf("PG_%d_", s.cfg.Major) }

// checkSpaces sees to the directories of tablespaces before a server starts: those that its data lead to, and those that the
// log goes on to make, which ended its last start.
func (s *Server) checkSpaces() error {
	links, err := s.spaceLinks()
	if err != nil {
		return err
	}
	for _, dir := range links {
		if err := s.claimLink(dir); err != nil {
			return err
		}
	}
	if !strings.Contains(s.logTail(), "Tablespace/CREATE") {
		return nil
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	newest, err := walscan.Newest(s.at.wal(), c.Timeline, c.SegSize)
	if err != nil {
		return err
	}
	made, err := walscan.Tablespaces(walscan.Input{Dir: s.at.wal(), Start: walscan.LSN(c.Redo), Timeline: newest, SegSize: c.SegSize, SystemID: c.SystemID})
	if err != nil {
		return err
	}
	for _, m := range made {
		if err := s.makeSpace(m.Location); err != nil {
			return err
		}
	}
	return nil
}

// claimLink is claimSpace for a directory that our data lead to; one that is gone is a problem of its own, for an empty one in its
// place would hide that a disk is missing.
func (s *Server) claimLink(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return &problem.Problem{
			Code: "database.tablespace-missing", Subject: s.cfg.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("the directory %s of a tablespace is gone on %s", dir, s.cfg.Host),
			Meaning: "Tables lie there. No server is started without them.",
			Remedy:  "mount its disk. If its content is lost, have this host's copy made anew: move " + s.at.data + " away",
		}
	}
	return s.claimSpace(dir, true)
}

// TendSpaces looks whether the tablespaces are this server's alone, and claims those that nobody has claimed. It may be called
// beside everything else; [Server.SpaceProblem] tells what it found.
func (s *Server) TendSpaces() error {
	links, err := s.spaceLinks()
	if err != nil {
		return err
	}
	var found *problem.Problem
	for _, dir := range links {
		if err := s.claimLink(dir); err != nil && !errors.As(err, &found) {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.spaces = found
	return nil
}

// SpaceProblem is what the last [Server.TendSpaces] found; nil = nothing.
func (s *Server) SpaceProblem() *problem.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.spaces
}

// listSpace names every file of a tablespace at the source, by its path in the data directory.
func (s *source) listSpace(ctx context.Context, x space, version string) ([]replica.File, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*sourceWait)
	defer cancel()
	return s.files(ctx, `WITH RECURSIVE found AS (
  SELECT top || '/' || name AS path, (pg_stat_file(top || '/' || name, true)).size, (pg_stat_file(top || '/' || name, true)).isdir
  FROM (SELECT $1::text AS top) t, LATERAL pg_ls_dir(top, true, false) name WHERE starts_with(name, $2)
  UNION ALL
  SELECT f.path || '/' || name, (pg_stat_file(f.path || '/' || name, true)).size, (pg_stat_file(f.path || '/' || name, true)).isdir
  FROM found f, LATERAL pg_ls_dir(f.path, true, false) name WHERE f.isdir)
 SELECT path, size, isdir FROM found WHERE isdir IS NOT NULL`, pgdata.Spaces+"/"+x.oid, version)
}

// inSpace is a source whose paths begin in a tablespace.
type inSpace struct {
	source replica.Source
	top    string
}

// Hashes implements [replica.Source].
func (i inSpace) Hashes(ctx context.Context, p string, first, n int64) ([]byte, error) {
	return i.source.Hashes(ctx, i.top+"/"+p, first, n)
}

// Read implements [replica.Source].
func (i inSpace) Read(ctx context.Context, p string, offset int64, n int) ([]byte, error) {
	return i.source.Read(ctx, i.top+"/"+p, offset, n)
}

// linkSpaces makes the links of a copy, and removes those of tablespaces that the source does not have. What those led to stays.
func (s *Server) linkSpaces(all []space) error {
	at := filepath.Join(s.at.data, pgdata.Spaces)
	if err := s.makeOwned(at); err != nil {
		return err
	}
	want := map[string]string{}
	for _, x := range all {
		want[x.oid] = x.dir
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return fmt.Errorf("link the tablespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(at, e.Name())
		if to, err := os.Readlink(path); err == nil && want[e.Name()] == to {
			delete(want, e.Name())
		} else if err := os.RemoveAll(path); err != nil { // of a link only the link goes
			return fmt.Errorf("link the tablespaces: %w", err)
		}
	}
	for oid, dir := range want {
		path := filepath.Join(at, oid)
		if err := os.Symlink(dir, path); err != nil {
			return fmt.Errorf("link the tablespaces: %w", err)
		}
		if err := s.owner.own(path); err != nil {
			return err
		}
	}
	return durable.SyncDir(at)
}

// spaceFiles are those that a copy of a tablespace takes, by their paths in it.
func (s *Server) spaceFiles(ctx context.Context, main *source, x space) ([]replica.File, error) {
	listed, err := main.listSpace(ctx, x, s.spaceVersion())
	if err != nil {
		return nil, err
	}
	files := copied(listed)
	for i := range files {
		_, files[i].Path, _ = pgdata.InSpace(files[i].Path)
	}
	return files, nil
}

// copySpace makes a tablespace's directory a copy: PostgreSQL's own folder in it, and nothing beside that.
func (s *Server) copySpace(ctx context.Context, x space, main *source, o replica.Options) (err error) {
	files, err := s.spaceFiles(ctx, main, x)
	if err != nil {
		return err
	}
	o.Dir = x.dir
	all := o.Sources
	o.Sources = nil
	for _, from := range all {
		o.Sources = append(o.Sources, inSpace{from, pgdata.Spaces + "/" + x.oid})
	}
	c, err := replica.New(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	beside := func(p string) bool { return !strings.HasPrefix(p, s.spaceVersion()) }
	if err := c.Tidy(".", files, beside); err != nil {
		return fmt.Errorf("copy tablespace %s: %w", x.name, err)
	}
	if err := c.Fetch(ctx, files); err != nil {
		return fmt.Errorf("copy tablespace %s: %w", x.name, err)
	}
	if err := c.Sync(ctx); err != nil {
		return fmt.Errorf("copy tablespace %s: %w", x.name, err)
	}
	return nil
}

// spaceGrowth is how many bytes more than there are now a copy of tablespaces takes, by directory.
func (s *Server) spaceGrowth(ctx context.Context, main *source, all []space) (map[string]int64, error) {
	out := map[string]int64{}
	for _, x := range all {
		files, err := s.spaceFiles(ctx, main, x)
		if err != nil {
			return nil, err
		}
		more, err := replica.Growth(x.dir, files, func(p string) bool { return !strings.HasPrefix(p, s.spaceVersion()) })
		if err != nil {
			return nil, err
		}
		out[x.dir] = more
	}
	return out, nil
}
