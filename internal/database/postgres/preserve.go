package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
)

// ReportFile is the whole list (database.Salvage) in a folder below [Server.PreservedDir].
const ReportFile = "report.json"

const (
	keptFile = "kept.json" // database.Kept: written last, so a folder without it is not finished
)

// firstOwnFile is the lowest file number that is not a system catalog's (FirstNormalObjectId).
const firstOwnFile = 16384

// Preserve stops the server, keeps its log beside the data and lists what was committed behind the parting.
func (s *Server) Preserve(ctx context.Context, parted database.Parting) error {
	s.op.Lock()
	defer s.op.Unlock()
	return s.long(database.KindPreserve, func() error { return s.keep(ctx, parted) })
}

func (s *Server) keep(ctx context.Context, parted database.Parting) error {
	if err := s.present("keep the diverged log"); err != nil {
		return err
	}
	if l := s.look(ctx); !l.gone {
		primary, err := s.isPrimary(ctx)
		if err != nil {
			return err
		}
		if primary {
			return errors.New("our server runs as a primary")
		}
	}
	if err := s.stop(ctx); err != nil {
		return err
	}
	p, _, err := s.readPromise()
	if err != nil {
		return err
	}
	incarnation, err := readIncarnation(s.at.data)
	if err != nil {
		return err
	}
	id, err := s.preservedOf(incarnation)
	if err != nil {
		return err
	}
	if id != "" {
		if k, err := readKept(filepath.Join(s.at.preserved, id)); err != nil || k != nil && k.Covers(parted) {
			return err
		}
	}
	s.setProgress("listing the commits of the diverged log")
	l, err := s.list(id, parted)
	if err != nil {
		return err
	}
	s.setProgress("keeping the diverged log")
	if id, err = s.putAside(id, p.Epoch, incarnation, l); err != nil {
		return err
	}
	dir := filepath.Join(s.at.preserved, id)
	report, kept := s.report(id, incarnation, parted, l)
	for _, f := range []struct {
		name string
		what any
	}{{ReportFile, report}, {keptFile, kept}} {
		text, err := json.MarshalIndent(f.what, "", " ")
		if err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, f.name), append(text, '\n'), 0o600); err != nil {
			return err
		}
	}
	s.log.Info("diverged log kept", "id", id, "commits", kept.Commits, "acknowledged", kept.Acknowledged, "from", parted.LSN, "to", kept.End)
	return nil
}

// preservedOf is the name of the folder that keeps an incarnation's log, "" when there is none.
func (s *Server) preservedOf(incarnation string) (string, error) {
	entries, err := os.ReadDir(s.at.preserved)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at what was kept: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), "-"+incarnation) {
			return e.Name(), nil
		}
	}
	return "", nil
}

// report is the list of a kept log, and its short form.
func (s *Server) report(id, incarnation string, parted database.Parting, l diverged) (database.Salvage, database.Kept) {
	end := database.LSN(l.end.LSN)
	r := database.Salvage{
		ID: id, Database: s.cfg.Database, Host: s.cfg.Host, Incarnation: incarnation, SystemID: l.control.SystemID, Made: s.clock.Now().UTC(),
		Given: parted.Given, Timeline: parted.Timeline, From: parted.LSN.String(), To: end.String(), NextXID: l.nextXID, Unread: l.unread,
		Commits: []database.LostCommit{},
	}
	if end > parted.LSN {
		r.Bytes = uint64(end - parted.LSN)
	}
	for _, t := range l.commits {
		r.Commits = append(r.Commits, lostCommit(t, parted))
	}
	return r, database.Kept{
		ID: id, Incarnation: incarnation, Parted: parted, End: end, Commits: len(r.Commits), Acknowledged: r.Acknowledged(),
	}
}

func lostCommit(t walscan.Transaction, parted database.Parting) database.LostCommit {
	c := database.LostCommit{
		XID: t.XID, Subs: t.Subs, Outcome: string(t.Outcome), GID: t.GID, LSN: t.LSN.String(), At: t.At, State: database.LostInDoubt,
		AtLeast: t.Partial, Tables: []database.LostTable{},
	}
	if parted.Given && database.LSN(t.End) <= parted.Acknowledged {
		c.State = database.LostAcknowledged
	}
	if t.Database != 0 {
		c.Database = strconv.FormatUint(uint64(t.Database), 10)
	}
	for _, x := range t.Counts {
		if c.Database == "" && x.Database != 0 {
			c.Database = strconv.FormatUint(uint64(x.Database), 10)
		}
		c.Tables = append(c.Tables, database.LostTable{
			Name: fmt.Sprintf("file %d", x.Node), Space: x.Tablespace, Database: x.Database, Node: x.Node, Catalog: x.Node < firstOwnFile,
			Inserted: x.Inserted, Updated: x.Updated, Deleted: x.Deleted, Truncated: x.Truncated,
		})
	}
	for _, x := range t.Dropped {
		c.Tables = append(c.Tables, database.LostTable{
			Name: fmt.Sprintf("file %d", x.Node), Space: x.Tablespace, Database: x.Database, Node: x.Node, Catalog: x.Node < firstOwnFile, Dropped: true,
		})
	}
	return c
}

// observeKept learns what is kept of the incarnation that is here.
func (s *Server) observeKept(l *database.Local) error {
	if l.Incarnation == "" {
		return nil
	}
	id, err := s.preservedOf(l.Incarnation)
	if err != nil || id == "" {
		return err
	}
	l.Kept, err = readKept(filepath.Join(s.at.preserved, id))
	return err
}

// salvagedFile says in the folder of a kept log what was done with its commits.
const salvagedFile = "salvaged.json"

// salvaged is bound to the list that it was done with: a longer one made later has not been salvaged.
type salvaged struct {
	Parted database.Parting `json:"parted"`
	End    database.LSN     `json:"end"`
	How    string           `json:"how"`
}

// NoteSalvaged notes durably what was done with the commits of k. Observe tells it as Kept.Salvaged.
func (s *Server) NoteSalvaged(k database.Kept, how string) error {
	dir := filepath.Join(s.at.preserved, k.ID)
	now, err := readKept(dir)
	if err != nil {
		return err
	}
	if now == nil || now.Parted != k.Parted || now.End != k.End {
		return fmt.Errorf("note what was done with %s: the list has been made anew since: %w", k.ID, database.ErrStale)
	}
	text, err := json.Marshal(salvaged{k.Parted, k.End, how})
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, salvagedFile), append(text, '\n'), 0o600)
}

// readDeed tells what a note in the folder of k says was done with it, "" = nothing.
func readDeed(dir, file string, k database.Kept) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read what was done with what was kept: %w", err)
	}
	var x salvaged
	if err := json.Unmarshal(text, &x); err != nil {
		return "", fmt.Errorf("read what was done with what was kept: %w", err)
	}
	if x.Parted != k.Parted || x.End != k.End {
		return "", nil
	}
	return x.How, nil
}

// readKept is the short form of what a folder holds; nil = its list is not finished.
func readKept(dir string) (*database.Kept, error) {
	text, err := os.ReadFile(filepath.Join(dir, keptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was kept: %w", err)
	}
	var k database.Kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, fmt.Errorf("read what was kept: %w", err)
	}
	k.Salvaged, err = readDeed(dir, salvagedFile, k)
	return &k, err
}

// PreservedDir is where the logs of diverged incarnations are kept, one folder for each.
func (s *Server) PreservedDir() string { return s.at.preserved }
