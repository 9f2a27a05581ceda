package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/problem"
	"holdfast/internal/receipt"
	"holdfast/internal/restore"
	"holdfast/internal/restore/point"
	"holdfast/internal/vault"
)

// pointSource is where recovery points are restored from: the vaults of a plan, or one that is named with its key.
type pointSource struct {
	app    *application // nil = a vault and its key alone
	vaults map[string]*vault.Vault
	open   func(name string) (*vault.Vault, error)
	hidden *problem.Problem // why the points that were listed may not be all
}

func (w *pointWords) openSource(ctx context.Context, cmd *cobra.Command) (*pointSource, error) {
	s := &pointSource{vaults: map[string]*vault.Vault{}}
	if w.from.url != "" {
		v, err := w.from.openAlone(ctx)
		if err != nil {
			return nil, err
		}
		s.vaults[""] = v
		return s, nil
	}
	a, err := findApplication(cmd, w.from.root)
	if err != nil {
		return nil, err
	}
	s.app = &a
	s.open = func(name string) (*vault.Vault, error) { return a.openVault(ctx, name) }
	return s, nil
}

// vault opens each vault once.
func (s *pointSource) vault(name string) (*vault.Vault, error) {
	if s.app == nil {
		return s.vaults[""], nil
	}
	if v, ok := s.vaults[name]; ok {
		return v, nil
	}
	v, err := s.open(name)
	if err == nil {
		s.vaults[name] = v
	}
	return v, err
}

func (s *pointSource) close(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(s.vaults)) {
		closeVault(ctx, s.vaults[name])
	}
}

// foundPoint is a backup that belongs to a point, and the vault that has it.
type foundPoint struct {
	backup vault.FileBackup
	in     *vault.Vault
}

// points lists all recovery points, newest first. s.hidden then says why some of a file set (empty = of any) may be missing.
func (s *pointSource) points(ctx context.Context, wanted string) ([]foundPoint, error) {
	sets := map[string]string{"": ""} // file set -> vault
	if s.app != nil {
		sets = map[string]string{}
		for _, f := range s.app.plan.Files {
			if f.Backup.Vault != "" {
				sets[f.Name] = f.Backup.Vault
			}
		}
	}
	var all []foundPoint
	for _, set := range slices.Sorted(maps.Keys(sets)) {
		v, err := s.vault(sets[set])
		if err != nil {
			return nil, err
		}
		found, err := v.ReadableFileBackups(ctx, set)
		if err != nil {
			return nil, err
		}
		hidden, err := v.Hides(ctx)
		if err != nil {
			return nil, err
		}
		if hidden != nil && (wanted == "" || set == "" || set == wanted) {
			s.hidden = hidden
		}
		for _, b := range found {
			if b.Point != nil {
				all = append(all, foundPoint{b, v})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b foundPoint) int { return b.backup.Point.At.Compare(a.backup.Point.At) })
	return all, nil
}

// find picks a point by its name, or the newest that can be restored, and the way to its database. While points may be hidden,
// which is the newest is not known.
func (s *pointSource) find(ctx context.Context, name, set string) (point.Options, []string, error) {
	all, err := s.points(ctx, set)
	if err != nil {
		return point.Options{}, nil, err
	}
	var fit []foundPoint
	sets := map[string]bool{}
	for _, p := range all {
		if (name == "latest" || p.backup.Point.ID == name) && (set == "" || p.backup.Set == set) {
			fit, sets[p.backup.Set] = append(fit, p), true
		}
	}
	switch {
	case s.hidden != nil && len(fit) == 0:
		return point.Options{}, nil, mayBeHidden(s.hidden, "None that is listed fits", "")
	case s.hidden != nil && name == "latest":
		at := fit[0].backup.Point
		return point.Options{}, nil, mayBeHidden(s.hidden, fmt.Sprintf("The newest that is listed is %s of %s", at.ID, momentText(at.At)), "holdfast recovery-point restore "+at.ID)
	case len(fit) == 0:
		return point.Options{}, nil, noSuchPoint(name, set, all)
	}
	if len(sets) > 1 {
		return point.Options{}, nil, fmt.Errorf("--files says which is meant, for there are points of %v: %w", slices.Sorted(maps.Keys(sets)), errUsage)
	}
	catalogues := map[string]restore.Catalogue{}
	var because []string
	var last error
	for _, p := range fit {
		if name == "latest" && !p.backup.Complete() {
			because = append(because, p.backup.Point.ID+" was passed over: its files are not complete")
			continue
		}
		o, err := s.wayTo(ctx, p, catalogues)
		if err == nil {
			return o, because, nil
		}
		told, ok := errors.AsType[*problem.Problem](err)
		if name != "latest" || !ok {
			return o, nil, err
		}
		because, last = append(because, p.backup.Point.ID+" was passed over: "+told.Title), err
	}
	if last != nil {
		return point.Options{}, nil, last
	}
	return point.Options{}, nil, noSuchPoint(name, set, all)
}

// wayTo finds the base backup and the log that lead to a point.
func (s *pointSource) wayTo(ctx context.Context, p foundPoint, known map[string]restore.Catalogue) (point.Options, error) {
	at := p.backup.Point
	v := p.in
	if s.app != nil {
		_, b, err := s.app.backupOf(at.Database)
		if err != nil {
			return point.Options{}, err
		}
		if v, err = s.vault(b.Vault); err != nil {
			return point.Options{}, err
		}
	}
	c, ok := known[at.Database]
	if !ok {
		var err error
		if c, err = restore.LoadReadable(ctx, v, at.Database); err != nil {
			return point.Options{}, err
		}
		known[at.Database] = c
	}
	choice, err := restore.ChoosePoint(c, *at)
	return point.Options{Tree: p.in.OpenTree(p.backup), Vault: v, Choice: choice}, err
}

func noSuchPoint(name, set string, all []foundPoint) error {
	var names []string
	for _, p := range all[:min(len(all), 5)] {
		names = append(names, p.backup.Point.ID)
	}
	title := "there is no such recovery point"
	if name == "latest" {
		title = "there is no recovery point that could be restored"
	}
	if set != "" {
		title += " of " + set
	}
	remedy := "make one: holdfast recovery-point create FILES"
	if len(names) > 0 {
		remedy = fmt.Sprintf("name one of those there are: %v; all of them: holdfast recovery-point list", names)
	}
	return &problem.Problem{Code: "restore.no-such-point", Subject: name, Severity: problem.Note, Title: title, Meaning: "Nothing was written.", Remedy: remedy}
}

// receipt writes the receipt of a restored point, and says where it is. Without a plan no host vouches for it.
func (s *pointSource) receipt(ctx context.Context, cmd *cobra.Command, o point.Options, r point.Record, took time.Duration) string {
	if s.app == nil {
		return restoredAlone(ctx, cmd, s.vaults[""], o.Dir, pointReceipt(o, r, took)) + "; what was found stands in " + point.RecordFile
	}
	set, _ := s.app.plan.FileSetNamed(r.Set)
	if err := s.app.restoredOrSay(ctx, cmd, set.Backup.Vault, pointReceipt(o, r, took)); err != nil {
		return "not in the vault: " + err.Error()
	}
	return "signed, in vault " + set.Backup.Vault
}

// receiptOutputMax is how much of what a command said a receipt carries, in bytes.
const receiptOutputMax = 4 << 10

// pointReceipt is evidence of a restored recovery point and of what it was found to be.
func pointReceipt(o point.Options, r point.Record, took time.Duration) receipt.Event {
	type ran struct {
		Argv   []string `json:"argv"`
		Status int      `json:"status"`
		Error  string   `json:"error,omitempty"`
		Output string   `json:"output,omitempty"`
	}
	short := func(x point.Ran) ran {
		return ran{x.Argv, x.Status, x.Error, x.Output[max(0, len(x.Output)-receiptOutputMax):]}
	}
	var after []ran
	for _, x := range r.After {
		after = append(after, short(x))
	}
	about := map[string]any{"point": r.Point.ID, "at": r.Point.At, "backup": r.Backup, "base_backup": r.Base, "database": r.Point.Database, "lsn": r.Point.LSN, "dir": o.Dir,
		"after_restore": after, "because": r.Because}
	if r.Check != nil {
		about["check"] = short(*r.Check)
	}
	e := receipt.Event{Kind: receipt.Restore, Subject: r.Set, Outcome: receipt.Passed,
		Figures: map[string]float64{"database_bytes": float64(o.Choice.Backup.Bytes), "took_seconds": took.Seconds()}}
	e.Says = fmt.Sprintf("recovery point %s (files %s and database %s of %s) was restored to %s", r.Point.ID, r.Set, r.Point.Database, r.Point.At.UTC().Format(time.RFC3339), o.Dir)
	if v := r.Verified; v != nil {
		e.Figures["files"], e.Figures["bytes"], e.Figures["wrong"] = float64(v.Files), float64(v.Bytes), float64(v.Wrong.Count)
		e.Says += fmt.Sprintf("; %d files were compared with what was stored", v.Files)
		about["wrong"] = v.Wrong.First[:min(len(v.Wrong.First), receiptNamesMax)]
	}
	if n := r.Lacks; n.Count > 0 {
		e.Figures["lacks"] = float64(n.Count)
		about["lacks"] = n.First[:min(len(n.First), receiptNamesMax)]
	}
	switch {
	case r.Outcome.Outcome != point.Passed:
		e.Outcome = receipt.Failed
		e.Says += ", and it did not pass: " + r.Because
	case r.Check != nil:
		e.Says += ", and the application found that database and files agree"
	default:
		e.Says += "; the application was not asked whether database and files agree"
	}
	if raw, err := json.Marshal(about); err == nil { // what is given here can be written
		e.Details = raw
	}
	return e
}
