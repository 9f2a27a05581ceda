package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/durable"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// salvor does with this host's own lost commits what the plan says: it writes their rows to a folder, or has a command
// of the application take them. It changes nothing that was put aside; the primary notes the outcome from our report,
// and only then may the data be made a copy again. What was cut short is begun anew.
type salvor struct {
	host *Host

	// run's alone
	named  map[string]string // by database: the list whose tables have names
	nameAt time.Time         // when that is tried again
	tidyAt time.Time         // when what was put aside is looked through again

	mu    sync.Mutex // guards what follows
	tried map[string]attempt
}

// attempt is how far one salvage is. It lives as long as the agent.
type attempt struct {
	policy string // that was tried
	tries  int
	next   time.Time // by the host's clock
	failed *problem.Problem
}

const (
	salvagePace     = time.Second
	tidyPace        = time.Minute
	salvageRetry    = 30 * time.Second // after the first failure; then twice as long each time
	salvageRetryMax = 30 * time.Minute
	// salvageMax bounds the writing of one bundle, whose host copies a whole data directory for it.
	salvageMax = 24 * time.Hour
)

const (
	listFile = "report.json" // names as salvage export writes them
	rowsFile = "rows.sql"
)

func newSalvor(h *Host) *salvor {
	return &salvor{host: h, tried: map[string]attempt{}, named: map[string]string{}}
}

// run works on one thing after the other until ctx ends.
func (s *salvor) run(ctx context.Context) error {
	for {
		snap := s.host.agent.Last()
		for _, d := range snap.Facts.Databases {
			if !snap.Facts.Stopping {
				s.name(ctx, d)
				s.look(ctx, d)
			}
		}
		s.tidy(ctx)
		if !s.host.sleep(ctx, salvagePace) {
			return nil
		}
	}
}

// tidy lets go of what was put aside and is not needed any more: by the driver's rule, and with nobody waiting for it.
func (s *salvor) tidy(ctx context.Context) {
	now := s.host.clock.Now()
	if now.Before(s.tidyAt) {
		return
	}
	s.tidyAt = now.Add(tidyPace)
	for name, server := range s.host.servers {
		if err := server.TidyPreserved(ctx); err != nil {
			s.host.cfg.Log.WarnContext(ctx, "kept logs not looked through", "database", name, "err", err)
		}
		if err := server.TendSpaces(); err != nil {
			s.host.cfg.Log.WarnContext(ctx, "tablespaces not looked at", "database", name, "err", err)
		}
	}
}

// look works on what waits in one database, when it is time.
func (s *salvor) look(ctx context.Context, d agent.DatabaseFacts) {
	p, known := s.host.applied.plan().DatabaseNamed(d.Name)
	if !known {
		return
	}
	k, ok := database.ToSalvage(s.host.policy(d.Name).Salvage, d.Record, s.host.cfg.Self, d.Local)
	if !ok {
		s.forget(d.Name)
		return
	}
	now := s.host.clock.Now()
	a := s.attempt(d.Name, k.ID, p.Salvage)
	if now.Before(a.next) || p.Salvage.Then == plan.SalvageCommand && a.tries >= p.Salvage.Tries {
		return
	}
	how, told, err := s.salvage(ctx, p, k)
	if err == nil {
		err = s.host.servers[d.Name].NoteSalvaged(k, how)
	}
	if ctx.Err() != nil {
		return // begun anew by the next agent
	}
	took := s.host.clock.Now().Sub(now)
	if err == nil {
		s.forget(d.Name)
		s.host.diary.Note("database", d.Name, fmt.Sprintf("lost commits of %s %s", k.ID, how), told, took)
		s.host.cfg.Log.Info("lost commits salvaged", "database", d.Name, "id", k.ID, "how", how, "took", took)
		return
	}
	a.tries++
	a.next = s.host.clock.Now().Add(min(salvageRetryMax, salvageRetry<<min(a.tries-1, 10)))
	a.failed = s.failure(p, k, a, err)
	s.host.diary.Note("database", d.Name, fmt.Sprintf("lost commits of %s not salvaged", k.ID), append([]string{err.Error()}, told...), took)
	s.host.cfg.Log.Warn("lost commits not salvaged", "database", d.Name, "id", k.ID, "tries", a.tries, "err", err)
	s.mu.Lock()
	s.tried[d.Name] = a
	s.mu.Unlock()
}

// attempt is what was tried of one thing by one policy; another policy begins anew.
func (s *salvor) attempt(name, id string, p plan.Salvage) attempt {
	words := id + " " + fmt.Sprint(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.tried[name]; a.policy == words {
		return a
	}
	return attempt{policy: words}
}

func (s *salvor) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tried, name)
}

// failure is what a person reads of an attempt that did not succeed.
func (s *salvor) failure(p plan.Database, k database.Kept, a attempt, err error) *problem.Problem {
	f := &problem.Problem{
		Code: "database.salvage-failed", Subject: p.Name, Severity: problem.Degraded,
		Title:   fmt.Sprintf("the %d lost commits of %s are not salvaged as the plan says: %v", k.Commits, k.ID, err),
		Meaning: fmt.Sprintf("They are put aside and listed on %s, which waits. It is tried again in %s (tries until now: %d).", s.host.cfg.Self, a.next.Sub(s.host.clock.Now()).Round(time.Second), a.tries),
		Remedy:  fmt.Sprintf("mend what it says; or export them by hand: holdfast database salvage export %s %s --to DIR, or waive them", p.Name, k.ID),
	}
	if p.Salvage.Then == plan.SalvageCommand && a.tries >= p.Salvage.Tries {
		f.Severity = problem.Critical
		f.Meaning = fmt.Sprintf("They are put aside and listed on %s, which waits for a person: the command was tried %d times, and is not tried again before the plan's salvage changes or the agent is restarted.", s.host.cfg.Self, a.tries)
	}
	return f
}

// problems are those of salvaging, for this host's report.
func (s *salvor) problems() []problem.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []problem.Problem
	for _, d := range s.host.cfg.Plan.Databases {
		if f := s.tried[d.Name].failed; f != nil {
			out = append(out, *f)
		}
	}
	return out
}

// salvage does what the plan says, and tells how it did and what there is to tell of it.
func (s *salvor) salvage(ctx context.Context, d plan.Database, k database.Kept) (how string, told []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, salvageMax)
	defer cancel()
	name := d.Name + "-" + k.ID
	if d.Salvage.Then == plan.SalvageExport {
		dir := filepath.Join(d.Salvage.To, name)
		if err := os.MkdirAll(d.Salvage.To, 0o700); err != nil {
			return "", nil, fmt.Errorf("make the folder: %w", err)
		}
		if err := s.bundle(ctx, d.Name, k, dir, account{}); err != nil {
			return "", nil, err
		}
		return "exported to " + dir + " on " + s.host.cfg.Self, nil, nil
	}
	dir := filepath.Join(s.host.cfg.Dir, "salvage", name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return "", nil, fmt.Errorf("make a folder for the rows: %w", err)
	}
	if err := s.bundle(ctx, d.Name, k, dir, s.host.services.user); err != nil {
		return "", nil, err
	}
	told, err = s.command(ctx, d, k, dir)
	if err != nil {
		return "", told, err
	}
	// What it took stays in the list that was put aside.
	how = "taken by " + d.Salvage.Run[0] + " on " + s.host.cfg.Self
	if err := removeWhole(dir); err != nil { // it was taken all the same, and must not be given a second time for that
		told = append(told, fmt.Sprintf("its rows still lie in %s: %v", dir, err))
	}
	return how, told, nil
}

// goneSuffix marks what is being removed.
const goneSuffix = ".gone"

// removeWhole takes a folder away at once, and then what is in it: one that is half removed is never met under its name.
func removeWhole(dir string) error {
	gone := dir + goneSuffix
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// bundle writes list and rows to dir, whole or not at all. A whole one is not made again: the commits are the same, and
// rows that were salvaged meanwhile by hand would only be missing in it.
func (s *salvor) bundle(ctx context.Context, name string, k database.Kept, dir string, owner account) error {
	report, err := s.host.salvages.Report(name, k.ID)
	if err != nil {
		return fmt.Errorf("read the list: %w", err)
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	switch had, err := os.ReadFile(filepath.Join(dir, listFile)); {
	case err == nil && sameList(had, report):
		return nil
	case err == nil:
		return fmt.Errorf("%s is there already and holds another list: it is not overwritten", dir)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for an earlier export: %w", err)
	}
	making := dir + ".part"
	if err := errors.Join(os.RemoveAll(making), os.MkdirAll(making, 0o700)); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	if err := s.rows(ctx, name, k, filepath.Join(making, rowsFile)); err != nil {
		return errors.Join(err, os.RemoveAll(making))
	}
	if err := durable.WriteFile(filepath.Join(making, listFile), text, 0o600); err != nil {
		return err
	}
	if owner.uid != 0 {
		for _, path := range []string{making, filepath.Join(making, listFile), filepath.Join(making, rowsFile)} {
			if err := os.Chown(path, owner.uid, owner.gid); err != nil {
				return fmt.Errorf("give the rows to the command's account: %w", err)
			}
		}
	}
	if err := errors.Join(durable.SyncDir(making), os.Rename(making, dir)); err != nil {
		return fmt.Errorf("bring the export to its place: %w", err)
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// sameList reports whether an exported list is of the same commits; the names in it may be others.
func sameList(exported []byte, report database.Salvage) bool {
	var had database.Salvage
	return json.Unmarshal(exported, &had) == nil && had.ID == report.ID && had.From == report.From && had.To == report.To && len(had.Commits) == len(report.Commits)
}

func (s *salvor) rows(ctx context.Context, name string, k database.Kept, path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the rows: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffered := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(s.host.salvages.Bundle(ctx, name, k.ID, buffered), buffered.Flush()); err != nil {
		if p, ok := errors.AsType[*problem.Problem](err); ok {
			return fmt.Errorf("write the rows: %s", p.Title)
		}
		return fmt.Errorf("write the rows: %w", err)
	}
	return f.Sync()
}

// lines are the last lines of a text, for the history.
func lines(text string, most int) []string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) == 1 && all[0] == "" {
		return nil
	}
	return all[max(0, len(all)-most):]
}
