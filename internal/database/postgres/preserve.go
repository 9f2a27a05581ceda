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
	"strconv"
	"strings"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/durable"
	"holdfast/internal/pgcontrol"
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
	s.setProgress("keeping the diverged log")
	if err := s.preserve(p.Epoch); err != nil {
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
	dir := filepath.Join(s.at.preserved, id)
	if k, err := readKept(dir); err != nil || k != nil && k.Covers(parted) {
		return err
	}
	s.setProgress("listing the commits of the diverged log")
	report, kept, err := s.report(dir, id, incarnation, parted)
	if err != nil {
		return err
	}
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

// report lists the commits of a kept log.
func (s *Server) report(dir, id, incarnation string, parted database.Parting) (database.Salvage, database.Kept, error) {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return database.Salvage{}, database.Kept{}, err
	}
	tli, err := walscan.Newest(dir, c.Timeline, c.SegSize)
	if err != nil {
		return database.Salvage{}, database.Kept{}, err
	}
	in := walscan.Input{Dir: dir, Timeline: tli, SegSize: c.SegSize, SystemID: c.SystemID}
	if in.Start, err = readFrom(in, c.Redo, parted.LSN); err != nil {
		return database.Salvage{}, database.Kept{}, err
	}
	found, err := walscan.Commits(in, walscan.LSN(parted.LSN))
	if err != nil {
		return database.Salvage{}, database.Kept{}, err
	}
	end := database.LSN(found.End.LSN)
	r := database.Salvage{
		ID: id, Database: s.cfg.Database, Host: s.cfg.Host, Incarnation: incarnation, SystemID: c.SystemID, Made: s.clock.Now().UTC(),
		Given: parted.Given, Timeline: parted.Timeline, From: parted.LSN.String(), To: end.String(), NextXID: found.NextXID, Unread: found.Unknown,
		Commits: []database.LostCommit{},
	}
	if end > parted.LSN {
		r.Bytes = uint64(end - parted.LSN)
	}
	for _, t := range found.Transactions {
		r.Commits = append(r.Commits, lostCommit(t, parted))
	}
	return r, database.Kept{
		ID: id, Incarnation: incarnation, Parted: parted, End: end, Commits: len(r.Commits), Acknowledged: r.Acknowledged(),
	}, nil
}

// readFrom is where to begin to read: at the redo position if that is early enough, so that transactions that were
// under way are counted whole; else as far back as the log files go, or at the parting itself.
func readFrom(in walscan.Input, redo, parted database.LSN) (walscan.LSN, error) {
	if redo <= parted {
		return walscan.LSN(redo), nil
	}
	segments, err := walscan.Segments(in.Dir, in.SegSize)
	if err != nil {
		return 0, err
	}
	first := uint64(parted) / in.SegSize
	for first > 0 && slices.ContainsFunc(segments, func(x walscan.Segment) bool { return x.Number == first-1 }) {
		first--
	}
	start, err := walscan.FirstRecord(in, first)
	if err != nil || start > walscan.LSN(parted) {
		return walscan.LSN(parted), nil // what cannot be counted is marked so
	}
	return start, nil
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

// readSalvaged tells what was done with the commits of k, "" = nothing.
func readSalvaged(dir string, k database.Kept) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, salvagedFile))
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
	k.Salvaged, err = readSalvaged(dir, k)
	return &k, err
}

// PreservedDir is where the logs of diverged incarnations are kept, one folder for each.
func (s *Server) PreservedDir() string { return s.at.preserved }
