package postgres

import (
	"cmp"
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
	"holdfast/internal/durable"
)

// What stays of what was put aside and decided about; docs/handbook/forced-failover.md tells it.
const (
	asideLogs  = 3  // newest logs of each sort: with commits that were given up, and with commits that nobody was told of
	asideEmpty = 1  // newest without a commit
	asideLists = 50 // newest lists of commits that nobody was told of
)

// replacedFile says in the folder of a kept log that its data were made a copy again by order of an epoch. That is ordered
// only once whatever an operator gave up has been decided about, and is bound to the list of then.
const replacedFile = "replaced.json"

// goneMark begins the name of a folder that is being removed: the rename is the decision, the rest is repeated.
const goneMark = ".gone-"

// aside is one folder of preserved, as the rule sees it.
type aside struct {
	id      string
	epoch   int64
	here    bool // it is of the data that are there now
	listed  bool // its list is whole
	given   bool // an operator gave its commits up
	commits int
	unread  int  // the list may lack as many
	decided bool // its data were made a copy again, or the plan's salvage has it
	log     bool // its log is still there
}

// removal is what the rule lets go of.
type removal struct {
	id    string
	whole bool // else the log alone, and the list stays
	why   string
}

// surplus is what may go of all that was put aside on a host for one database. What has no list, what is of the data that
// are there, and what holds commits that were given up and not decided about stays whole, whatever room it takes. Pure.
func surplus(all []aside) []removal {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b aside) int { return cmp.Or(cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.id, a.id)) }) // newest first
	var out []removal
	empty, given, told, lists := 0, 0, 0, 0
	for _, x := range all {
		nothing := x.commits == 0 && x.unread == 0
		if x.here || !x.listed || x.given && !nothing && !x.decided {
			continue
		}
		if nothing {
			if empty++; empty > asideEmpty {
				out = append(out, removal{x.id, true, "it holds no commit that the database lacks, and a newer one is complete"})
			}
			continue
		}
		logs, why := &told, fmt.Sprintf("nobody was told of its commits, and %d newer ones are complete; its list stays", asideLogs)
		if x.given {
			logs, why = &given, fmt.Sprintf("its commits were decided about, and %d newer ones are complete; its list stays", asideLogs)
		} else if lists++; lists > asideLists {
			out = append(out, removal{x.id, true, fmt.Sprintf("nobody was told of its commits, and there are %d newer lists", asideLists)})
			continue
		}
		if *logs++; *logs > asideLogs && x.log {
			out = append(out, removal{x.id, false, why})
		}
	}
	return out
}

// noteReplaced notes that an order made data a copy again, if something was put aside of them.
func (s *Server) noteReplaced(incarnation string, job database.Kind, epoch int64) error {
	if incarnation == "" {
		return nil
	}
	id, err := s.preservedOf(incarnation)
	if err != nil || id == "" {
		return err
	}
	dir := filepath.Join(s.at.preserved, id)
	k, err := readKept(dir)
	if err != nil || k == nil {
		return err // what has no list stays
	}
	text, err := json.Marshal(salvaged{k.Parted, k.End, fmt.Sprintf("%s in epoch %d", job, epoch)})
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, replacedFile), append(text, '\n'), 0o600)
}

// TidyPreserved lets go of what was put aside and is not needed any more, and logs each. Killed anywhere, the next call goes
// on: a folder is renamed before it is removed, and one whose log is half gone still has its list.
func (s *Server) TidyPreserved(ctx context.Context) error {
	s.tidying.Lock()
	defer s.tidying.Unlock()
	all, err := s.asides()
	if err != nil {
		return err
	}
	var failed []error
	for _, x := range surplus(all) {
		if ctx.Err() != nil {
			break
		}
		freed, err := s.remove(x)
		if err != nil {
			failed = append(failed, fmt.Errorf("let go of %s, which was put aside: %w", x.id, err))
			continue
		}
		s.log.Info("kept log let go", "id", x.id, "whole", x.whole, "bytes", freed, "why", x.why)
	}
	return errors.Join(failed...)
}

// asides reads what was put aside, and ends removals that were cut short.
func (s *Server) asides() ([]aside, error) {
	entries, err := os.ReadDir(s.at.preserved)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at what was kept: %w", err)
	}
	now, err := readIncarnation(s.at.data)
	if err != nil {
		return nil, err // nobody knows which of it is still needed
	}
	before, err := s.replaces()
	if err != nil {
		return nil, err
	}
	var out []aside
	for _, e := range entries {
		path := filepath.Join(s.at.preserved, e.Name())
		if strings.HasPrefix(e.Name(), goneMark) {
			if err := os.RemoveAll(path); err != nil {
				return nil, fmt.Errorf("remove what was let go of: %w", err)
			}
			continue
		}
		x, ok := asideNamed(e.Name())
		if !ok || !e.IsDir() {
			continue // on its way, or no work of ours
		}
		if err := readAside(path, &x); err != nil {
			s.log.Warn("kept log cannot be judged, and stays", "id", x.id, "err", err)
			continue
		}
		for _, incarnation := range []string{now, before} {
			x.here = x.here || incarnation != "" && strings.HasSuffix(x.id, "-"+incarnation)
		}
		out = append(out, x)
	}
	return out, nil
}

// asideNamed reads the name of a folder that keepWhole or Preserve made.
func asideNamed(name string) (aside, bool) {
	rest, ok := strings.CutPrefix(name, "epoch-")
	number, incarnation, cut := strings.Cut(rest, "-")
	epoch, err := strconv.ParseInt(number, 10, 64)
	return aside{id: name, epoch: epoch}, ok && cut && incarnation != "" && err == nil
}

func readAside(dir string, x *aside) error {
	k, err := readKept(dir)
	if err != nil {
		return err
	}
	if k == nil || k.End == 0 { // a list of nothing that was read is none
		return nil
	}
	x.listed, x.given, x.commits = true, k.Parted.Given, k.Commits
	how, err := readDeed(dir, replacedFile, *k)
	if err != nil {
		return err
	}
	x.decided = how != "" || k.Salvaged != ""
	if x.commits == 0 { // and the list is as short
		text, err := os.ReadFile(filepath.Join(dir, ReportFile))
		if err != nil {
			return err
		}
		var r database.Salvage
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("read the list: %w", err)
		}
		x.unread = r.Unread
	}
	files, err := logAside(dir)
	x.log = len(files) > 0
	return err
}

// logAside names all in a folder that is not about the list: the log, its histories, pg_control.
func logAside(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasSuffix(e.Name(), ".json") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// remove does what the rule says, and tells how many bytes that freed.
func (s *Server) remove(x removal) (int64, error) {
	dir := filepath.Join(s.at.preserved, x.id)
	files, err := logAside(dir)
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, name := range files {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			bytes += info.Size()
		}
	}
	if x.whole {
		gone := filepath.Join(s.at.preserved, goneMark+x.id)
		if err := errors.Join(os.RemoveAll(gone), os.Rename(dir, gone), durable.SyncDir(s.at.preserved)); err != nil {
			return 0, err
		}
		return bytes, os.RemoveAll(gone)
	}
	for _, name := range files {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return 0, err
		}
	}
	return bytes, durable.SyncDir(dir)
}
