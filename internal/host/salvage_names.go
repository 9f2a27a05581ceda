package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/durable"
	"holdfast/internal/restore"
)

// namesFile lies beside a report: what its numbers stand for, as the primary knew soon after the return. It may be
// missing, and is never older than the report's first list.
const namesFile = "names.json"

// namesMax bounds the asking of the primary.
const namesMax = time.Minute

// name has the tables of what is kept of a database named, once: while the primary still knows its files by the same
// numbers.
func (s *salvor) name(ctx context.Context, d agent.DatabaseFacts) {
	k := d.Local.Kept
	server := s.host.servers[d.Name]
	if k == nil || k.Commits == 0 || server == nil || d.Record.Phase != database.Steady || d.Record.Primary == "" {
		return
	}
	path := filepath.Join(server.PreservedDir(), k.ID, namesFile)
	if s.named[d.Name] == namedOf(*k) {
		return
	}
	if _, err := os.Lstat(path); err == nil && s.named[d.Name] == "" {
		s.named[d.Name] = namedOf(*k) // by an earlier agent
		return
	}
	if now := s.host.clock.Now(); now.Before(s.nameAt) {
		return
	}
	if err := s.findNames(ctx, d, *k, path); err != nil {
		s.nameAt = s.host.clock.Now().Add(salvageRetry)
		s.host.cfg.Log.DebugContext(ctx, "tables of lost commits not named", "database", d.Name, "id", k.ID, "err", err)
		return
	}
	s.named[d.Name] = namedOf(*k)
}

// namedOf tells one list from a longer one that was made later.
func namedOf(k database.Kept) string { return fmt.Sprintf("%s %s %s", k.ID, k.Parted.LSN, k.End) }

func (s *salvor) findNames(ctx context.Context, d agent.DatabaseFacts, k database.Kept, path string) error {
	ctx, cancel := context.WithTimeout(ctx, namesMax)
	defer cancel()
	p, ok := s.host.applied.plan().DatabaseNamed(d.Name)
	if !ok {
		return fs.ErrNotExist
	}
	report, err := s.host.salvages.Report(d.Name, k.ID)
	if err != nil {
		return err
	}
	live, err := s.host.liveDSN(p, d.Record.Primary)
	if err != nil {
		return err
	}
	names, err := restore.FindNames(ctx, report, live)
	if err != nil {
		return err
	}
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600)
}

// putNames writes the names that are known into a report.
func putNames(dir string, r *database.Salvage) error {
	text, err := os.ReadFile(filepath.Join(dir, namesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var names restore.Names
	if err := json.Unmarshal(text, &names); err != nil {
		return fmt.Errorf("read the names of tables: %w", err)
	}
	names.Put(r)
	return nil
}
