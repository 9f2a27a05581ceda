package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
)

// salvages reads what this host's servers put aside.
type salvages struct {
	servers map[string]*postgres.Server
	host    *Host
	one     chan struct{} // one bundle at a time, for each needs a whole copy: holds one element while one is made
}

// List implements api.Salvages.
func (s salvages) List() ([]api.Salvaged, error) {
	out := []api.Salvaged{}
	var bad []error
	for name, server := range s.servers {
		entries, err := os.ReadDir(server.PreservedDir())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad = append(bad, err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				continue // on its way
			}
			r, err := s.Report(name, e.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue // likewise
			}
			if err != nil {
				bad = append(bad, err)
				continue
			}
			out = append(out, api.Salvaged{
				Database: name, Host: r.Host, ID: r.ID, Made: r.Made, Given: r.Given, Bytes: r.Bytes, Commits: len(r.Commits), Acknowledged: r.Acknowledged(),
			})
		}
	}
	return out, errors.Join(bad...)
}

// Report implements api.Salvages.
func (s salvages) Report(name, id string) (database.Salvage, error) {
	server, ok := s.servers[name]
	if !ok || id == "" || strings.HasPrefix(id, ".") || id != filepath.Base(id) {
		return database.Salvage{}, fs.ErrNotExist
	}
	text, err := os.ReadFile(filepath.Join(server.PreservedDir(), id, postgres.ReportFile))
	if err != nil {
		return database.Salvage{}, err
	}
	var r database.Salvage
	if err := json.Unmarshal(text, &r); err != nil {
		return database.Salvage{}, fmt.Errorf("read the report %s: %w", id, err)
	}
	if err := putNames(filepath.Join(server.PreservedDir(), id), &r); err != nil {
		s.host.cfg.Log.Warn("tables of lost commits shown by number", "database", name, "id", id, "err", err)
	}
	return r, nil
}

// Rows implements api.Salvages.
func (s salvages) Rows(ctx context.Context, name, id string) (_ *os.File, err error) {
	if _, err := s.Report(name, id); err != nil {
		return nil, err
	}
	scratch := filepath.Join(s.host.cfg.Dir, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(scratch, "rows-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := os.Remove(f.Name()); err != nil { // the open file lives on
		return nil, err
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(s.Bundle(ctx, name, id, buffered), buffered.Flush()); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// Bundle writes the rows of a report's commits as SQL: it starts a copy of the data, reachable by nobody else, and compares its rows with the
// primary's. The data themselves are not touched.
func (s salvages) Bundle(ctx context.Context, name, id string, out io.Writer) (err error) {
	report, err := s.Report(name, id)
	if err != nil {
		return err
	}
	select {
	case s.one <- struct{}{}:
		defer func() { <-s.one }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another export of rows on this host: %w", context.Cause(ctx))
	}
	server := s.servers[name]
	d, ok := s.host.cfg.Plan.DatabaseNamed(name)
	if !ok {
		return fs.ErrNotExist
	}
	if err := s.room(name, server); err != nil {
		return err
	}
	scratch := filepath.Join(s.host.cfg.Dir, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	trial, err := restore.NewTrial(scratch, restore.ForSalvage, id) // killed with this agent, it is removed by the next one
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trial.Remove(context.WithoutCancel(ctx))) }()
	if err := server.CopyData(ctx, report.Incarnation, trial.Data()); err != nil {
		return err
	}
	owner, err := restore.DefaultOwner()
	if err != nil {
		return err
	}
	copied, err := restore.StartScratch(ctx, restore.ScratchOptions{Dir: trial.Data(), RunDir: trial.Run, BinDir: server.BinDir(), Owner: owner, Superuser: postgres.Superuser, Log: s.host.cfg.Log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, copied.Stop(context.WithoutCancel(ctx))) }()
	if _, err := copied.WaitReady(ctx); err != nil {
		return err
	}
	live, err := s.host.liveDSN(d, s.primary(name))
	if err != nil {
		return err
	}
	return restore.Bundle{
		Report: report, Lost: copied.ConnString, Out: out,
		Live: live,
	}.Write(ctx)
}

// liveDSN leads to any database of the primary.
func (h *Host) liveDSN(d plan.Database, primary string) (func(database string) string, error) {
	live, err := h.primaryDSN(d, primary)
	if err != nil {
		return nil, err
	}
	return func(database string) string {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database)
		return strings.Replace(live, "dbname=postgres", "dbname='"+quoted+"'", 1)
	}, nil
}

func (s salvages) primary(name string) string {
	for _, d := range s.host.agent.Last().Facts.Databases {
		if d.Name == name {
			return d.Record.Primary
		}
	}
	return ""
}

// room refuses a copy that would leave too little space.
func (s salvages) room(name string, server *postgres.Server) error {
	need, err := server.DataBytes()
	if err != nil {
		return err
	}
	free, err := diskFree(s.host.cfg.Dir)
	if err != nil {
		return err
	}
	return roomForCopy(name, s.host.cfg.Self, need, free)
}

// roomForCopy refuses a copy of so many bytes on a disk with so many free: it grows as it is read, and the server that answers
// for it must not stand before a disk that is nearly full.
func roomForCopy(name, host string, need, free int64) error {
	if all := need + need/10 + diskStart; free < all {
		return &problem.Problem{Code: "database.salvage-no-room", Subject: name, Severity: problem.Note,
			Title: fmt.Sprintf("%d MiB are free on %s, and %d MiB are needed: %d for a copy of the data, %d for what it grows by, and %d that stay free",
				free>>20, host, all>>20, need>>20, need/10>>20, int64(diskStart)>>20),
			Meaning: "The rows are read from a copy, so that the data stay as they are. Nothing was changed; the list of commits needs no copy.",
			Remedy:  "make room, then export again; or decide by the list: holdfast database salvage show " + name}
	}
	return nil
}
