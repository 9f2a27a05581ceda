package postgres

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"holdfast/internal/problem"
)

// layout is where things lie in Config.Dir. Only data, run and tls belong to PostgreSQL's user.
type layout struct {
	dir       string
	data      string // PostgreSQL's data directory
	fresh     string // what an older version left of a copy on its way
	old       string // and of what that replaced
	promise   string // database.Promise, JSON
	partial   string // exists while data is being made or remade
	followed  string // timeline that the data were last seen to follow, JSON
	votes     string // exists once names of this life of the server held votes of the vault
	recovery  string // how fast the server replayed, JSON
	reserve   string // a file that holds space back for a full disk
	preserved string // WAL that a rewind would have lost, one folder for each
	run       string // Unix socket, 0700
	tls       string // copies of the certificates for PostgreSQL's user, 0700
	keep      string // the keeper's directory
	output    string // PostgreSQL's log
}

func layoutOf(dir string) layout {
	in := func(name string) string { return filepath.Join(dir, name) }
	return layout{
		dir: dir, data: in("pgdata"), fresh: in("pgdata.new"), old: in("pgdata.old"),
		promise: in("promise.json"), partial: in("partial"), preserved: in("preserved"),
		run: in("run"), tls: in("tls"), keep: in("keep"), reserve: in("reserve"), recovery: in("recovery.json"), followed: in("followed.json"), votes: in("votes"), output: in("postgres.log"),
	}
}

func (l layout) wal() string { return filepath.Join(l.data, "pg_wal") }

// socketPathMax is the room for a Unix socket's path (sockaddr_un, with its final zero).
const socketPathMax = 107

// checkPlace finds what would make every later step fail: a path too long for a socket, or a folder on the
// way that PostgreSQL's user may not enter.
func (s *Server) checkPlace() error {
	if n := len(filepath.Join(s.at.run, ".s.PGSQL.65535")); n > socketPathMax {
		return &problem.Problem{
			Code: "database.path-too-long", Subject: s.cfg.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("the directory %s is too long for a Unix socket in it", s.at.dir),
			Meaning: fmt.Sprintf("PostgreSQL's private socket would have a path of %d bytes; the system allows %d. The server cannot be started.", n, socketPathMax),
			Remedy:  "give Holdfast a state directory with a shorter path",
		}
	}
	for dir := s.at.dir; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case os.IsNotExist(err): // will be made, and made passable
		case err != nil:
			return fmt.Errorf("look at %s: %w", dir, err)
		case !info.IsDir():
			return fmt.Errorf("look at %s: it is no directory", dir)
		case !s.owner.enters(info):
			return &problem.Problem{
				Code: "database.directory-closed", Subject: s.cfg.Database, Severity: problem.Critical,
				Title:   fmt.Sprintf("the user %s may not enter %s", s.owner.name, dir),
				Meaning: fmt.Sprintf("PostgreSQL runs as %s and cannot reach its data in %s.", s.owner.name, s.at.data),
				Remedy:  "chmod a+x " + dir,
			}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// enters reports whether the owner may pass through the directory.
func (o owner) enters(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || o.uid == 0 {
		return true
	}
	mode := info.Mode().Perm()
	switch {
	case int(st.Uid) == o.uid:
		return mode&0o100 != 0
	case o.inGroup(int(st.Gid)):
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// makePlace creates the folders around the data directory, with their owners. Repeating it is harmless.
func (s *Server) makePlace() error {
	if err := os.MkdirAll(s.at.dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", s.at.dir, err)
	}
	for _, dir := range []string{s.at.run, s.at.tls} {
		if err := s.makeOwned(dir); err != nil {
			return err
		}
	}
	return nil
}

// makeOwned makes a directory that only PostgreSQL's user may enter.
func (s *Server) makeOwned(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return s.owner.own(dir)
}
