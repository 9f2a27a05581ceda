package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/backup/retention"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// PruneOptions say what of one database's backups may go.
type PruneOptions struct {
	Vault    *vault.Vault
	Database string
	Policy   retention.Policy
	Grace    time.Duration // between a backup's mark and its end; 0 = [vault.Grace]
	Now      time.Time
	By       string // the host that does it
	DryRun   bool   // judge and change nothing
	// May is asked before each step that takes something away; an error says that another host has the duty. nil = nobody else has.
	May func(context.Context) error
	// Behind is how old the newest that the vault holds of it may be before nothing is let go: who receives nothing must
	// not shed, and a clock that has jumped ahead looks the same. 0 = three days.
	Behind time.Duration
	// Points are the recovery points that some file set's backup still belongs to: the base backup and the log that lead to one
	// stay for as long.
	Points []vault.Point
	// Catalogue is what the vault of a database holds: of a file set's recovery points the newest to which it leads stays.
	// nil = every point counts as one that can be restored.
	Catalogue func(ctx context.Context, database string) (restore.Catalogue, error)
	Log       *slog.Logger // nil = silent

	asPlanned bool // judge by the policy alone, whatever two persons agreed to; with DryRun
	unagreed  bool // two must agree, and never agreed about this one: all of it stays
}

// Fate is what becomes of one backup, and why.
type Fate struct {
	ID      string    `json:"id"`
	Host    string    `json:"host,omitempty"`  // of files: whose directory it is
	Point   string    `json:"point,omitempty"` // of files: the recovery point that it belongs to
	At      time.Time `json:"at"`
	Keep    bool      `json:"keep"`
	Because string    `json:"because"`
	Marked  time.Time `json:"marked,omitzero"` // since when it is marked to go
	Goes    time.Time `json:"goes,omitzero"`   // not before; zero with Keep
	Gone    bool      `json:"gone"`            // this run took it off the list
}

// due reports whether a run at this moment takes it off the list.
func (f Fate) due(now time.Time) bool { return !f.Keep && !f.Marked.IsZero() && !now.Before(f.Goes) }

// Pruned is what one run judged and did.
type Pruned struct {
	Database string        `json:"database"`
	At       time.Time     `json:"at"`
	DryRun   bool          `json:"dry_run"`
	Grace    time.Duration `json:"grace"`
	Fates    []Fate        `json:"backups"`  // newest first
	Segments int           `json:"segments"` // pieces of log that no backup and no moment of the window needs
	Because  string        `json:"log_because"`
	Freed    vault.Freed   `json:"freed"`            // of the log
	Agreed   string        `json:"agreed,omitempty"` // what counts instead of the plan, as two persons agreed
	// Waits is why nothing would go now, of a dry run, whatever the fates say; "" = nothing is known to be in the way. The clock of
	// the place and the right to delete are not tried, for that is done by writing.
	Waits string `json:"waits,omitempty"`
}

// PolicyOf is the plan's say on how long backups stay.
func PolicyOf(b plan.Backup) retention.Policy {
	none := func(d time.Duration) time.Duration { // the plan's none is none there too, and not the default
		if d == 0 {
			return -1
		}
		return d
	}
	return retention.Policy{All: none(b.All), HalfDaily: none(b.HalfDaily), Daily: none(b.Daily), Weekly: none(b.Weekly), PITR: none(b.PITR)}
}

// behindMax is the default of [PruneOptions].Behind.
const behindMax = 3 * 24 * time.Hour

// Prune lets old backups go in two steps, and the log that nothing needs any more. A backup that the tiers do not keep
// is marked; when it still is unwanted after the grace it is taken off the list, and its chunks are freed by
// [vault.Vault.Reclaim]. A run that ends anywhere is gone on with by the next.
func Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	o = o.withDefaults()
	out := Pruned{Database: o.Database, At: o.Now.UTC(), DryRun: o.DryRun, Grace: o.Grace}
	done := func() {}
	if !o.DryRun {
		done = o.Vault.Insist() // from the first look on: what only a copy that is away holds must be judged too
	}
	defer done()
	c, err := restore.Load(ctx, o.Vault, o.Database)
	if err != nil && !o.DryRun {
		done()
		if why := o.Vault.MayDelete(ctx); why != nil { // it says better what is in the way
			return out, why
		}
	}
	if err != nil {
		return out, fmt.Errorf("prune backups of %s: %w", o.Database, err)
	}
	notes, err := o.Vault.Notes(ctx)
	if err != nil {
		return out, fmt.Errorf("prune backups of %s: %w", o.Database, err)
	}
	if !o.asPlanned || !o.DryRun {
		if out.Agreed, err = o.agreed(ctx); err != nil {
			return out, err
		}
	}
	ways := waysTo(c, o.Points)
	out.Fates = fates(o, c.Backups, notes)
	keepWays(out.Fates, ways)
	changed, _ := StandingChange(c.Backups, notes)
	keepChanged(out.Fates, changed)
	if o.unagreed {
		keepAll(out.Fates)
	}
	behind := current(c, o.Now, cmp.Or(o.Behind, behindMax))
	if o.DryRun {
		if out.Waits, err = o.waits(ctx, behind); err != nil {
			return out, fmt.Errorf("prune backups of %s: %w", o.Database, err)
		}
	} else {
		if behind != nil {
			return out, behind
		}
		if err := o.Vault.MayLetGo(ctx); err != nil {
			return out, err
		}
		if err := o.carryOut(ctx, out.Fates, o.provenBeside); err != nil {
			return out, fmt.Errorf("prune backups of %s: %w", o.Database, err)
		}
	}
	gone := func(b vault.Backup) bool {
		return slices.ContainsFunc(out.Fates, func(f Fate) bool { return f.ID == b.ID && (f.Gone || o.DryRun && f.due(o.Now)) })
	}
	c.Backups = slices.DeleteFunc(c.Backups, gone)
	if o.unagreed {
		return out, nil
	}
	if err := o.pruneLog(ctx, c, ways, changed, &out); err != nil {
		return out, fmt.Errorf("prune the log of %s: %w", o.Database, err)
	}
	return out, nil
}

// waits is why nothing would go now, though it is only judged; behind is why the vault does not seem current, or nil.
func (o PruneOptions) waits(ctx context.Context, behind error) (string, error) {
	if o.asPlanned {
		return "", nil
	}
	why := cmp.Or(behind, o.Vault.MayDelete(ctx))
	if p, ok := errors.AsType[*problem.Problem](why); ok {
		return p.Code + ": " + p.Title, nil
	}
	return "", why
}

// BehindOf is how old the newest thing of a database in a vault may be before nothing of it is let go.
func BehindOf(b plan.Backup) time.Duration { return max(behindMax, 2*b.Gap()+24*time.Hour) }

// FilesBehindOf is [BehindOf] of a file set.
func FilesBehindOf(b plan.FileBackup) time.Duration {
	return max(behindMax, 2*b.Every.Longest()+24*time.Hour)
}

func (o PruneOptions) withDefaults() PruneOptions {
	o.Grace = cmp.Or(o.Grace, vault.Grace)
	if o.May == nil {
		o.May = func(context.Context) error { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// fates judges each backup. Pure.
func fates(o PruneOptions, backups []vault.Backup, notes []vault.Note) []Fate {
	noted := map[[2]string]vault.Note{}
	for _, n := range notes {
		noted[[2]string{n.Backup, n.Kind}] = n
	}
	at := map[string]time.Time{}
	list := make([]retention.Backup, len(backups))
	for i, b := range backups {
		_, pinned := noted[[2]string{b.ID, vault.Pin}]
		_, held := noted[[2]string{b.ID, vault.Hold}]
		list[i] = retention.Backup{ID: b.ID, At: b.Stopped, Validated: b.Validated(), Bad: b.Validation != nil && !b.Validation.Passed, Pinned: pinned, Held: held}
		at[b.ID] = b.Stopped
	}
	return o.judge(list, at, noted)
}

// judge asks the tiers, and says since when what is to go is marked, and when it goes.
func (o PruneOptions) judge(list []retention.Backup, at map[string]time.Time, noted map[[2]string]vault.Note) []Fate {
	var out []Fate
	for _, v := range retention.Keep(o.Policy, list, o.Now) {
		f := Fate{ID: v.ID, At: at[v.ID], Keep: v.Keep, Because: v.Because}
		if n, ok := noted[[2]string{v.ID, vault.Doomed}]; ok {
			f.Marked = n.At
		}
		if !v.Keep {
			since := o.Now
			if !f.Marked.IsZero() {
				since = f.Marked
			}
			f.Goes = since.Add(o.Grace).UTC()
		}
		out = append(out, f)
	}
	return out
}

// current refuses to let anything go of a database that has received nothing for long.
func current(c restore.Catalogue, now time.Time, behind time.Duration) error {
	var newest time.Time
	for _, b := range c.Backups {
		newest = later(newest, b.Stopped)
	}
	for _, l := range c.Logs {
		for _, m := range l.Covered {
			newest = later(newest, m.At)
		}
	}
	if len(c.Backups) == 0 {
		return nil
	}
	return behindBy(c.Database, newest, now, behind)
}

func behindBy(subject string, newest, now time.Time, behind time.Duration) error {
	if now.Sub(newest) <= behind {
		return nil
	}
	return &problem.Problem{Code: "backup.not-pruned", Subject: subject, Severity: problem.Degraded,
		Title:   "the newest that the vault holds of it is from " + newest.UTC().Format("2006-01-02 15:04 UTC"),
		Meaning: fmt.Sprintf("Nothing is let go, for the clock here shows %s: either the archive stands still, or the clock is wrong.", now.UTC().Format("2006-01-02 15:04 UTC")),
		Remedy:  "see that log and backups reach the vault: holdfast status; and that this host's clock is right"}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// carryOut marks what is unwanted, takes the mark off what is wanted again, and takes off the list what has been
// unwanted for the grace. The last proven backup has been kept by the judgement; here it is counted once more.
func (o PruneOptions) carryOut(ctx context.Context, all []Fate, beside besides) error {
	for i := range all {
		f := &all[i]
		marked := !f.Marked.IsZero()
		if f.Keep && !marked || !f.Keep && marked && o.Now.Before(f.Goes) {
			continue
		}
		if err := o.May(ctx); err != nil {
			return err
		}
		switch {
		case f.Keep:
			if err := o.Vault.DropNotes(ctx, f.ID, vault.Doomed); err != nil {
				return err
			}
			f.Marked = time.Time{}
			o.Log.InfoContext(ctx, "backup is wanted again", "database", o.Database, "backup", f.ID, "because", f.Because)
		case !marked:
			n := vault.Note{Backup: f.ID, Kind: vault.Doomed, By: o.By, At: o.Now, Reason: f.Because}
			if err := o.Vault.PutNote(ctx, n); err != nil {
				return err
			}
			f.Marked = o.Now.UTC()
			o.Log.InfoContext(ctx, "backup marked to go", "database", o.Database, "backup", f.ID, "because", f.Because, "goes", f.Goes)
		default:
			if err := o.sweep(ctx, f, beside); err != nil {
				return err
			}
		}
	}
	return nil
}

// besides looks once more, right before a backup goes, whether a good one is there besides it; why says that there is none.
type besides func(ctx context.Context, f Fate) (why string, err error)

func (o PruneOptions) provenBeside(ctx context.Context, f Fate) (string, error) {
	now, err := o.Vault.Backups(ctx, o.Database)
	if err != nil || slices.ContainsFunc(now, func(b vault.Backup) bool { return b.ID != f.ID && b.Validated() }) {
		return "", err
	}
	return "no other backup is proven by a restore now", nil
}

// sweep takes one backup off the list, if a good one besides it is there.
func (o PruneOptions) sweep(ctx context.Context, f *Fate, beside besides) error {
	why, err := beside(ctx, *f)
	if err != nil {
		return err
	}
	if why != "" {
		f.Keep, f.Because = true, why
		return nil
	}
	f.Gone, err = o.Vault.Forget(ctx, f.ID)
	if errors.Is(err, vault.ErrNoBackup) {
		return nil // another hand was quicker
	}
	if err != nil {
		return err
	}
	if !f.Gone {
		f.Keep, f.Because = true, "pinned meanwhile"
		return nil
	}
	o.Log.InfoContext(ctx, "backup let go", "database", o.Database, "backup", f.ID, "because", f.Because)
	return nil
}

// pruneLog lets go of log that neither a backup on the list nor a moment of the window needs.
func (o PruneOptions) pruneLog(ctx context.Context, c restore.Catalogue, ways []wayTo, changed Changed, out *Pruned) error {
	all, err := o.Vault.Backups(ctx, "")
	if err != nil {
		return err
	}
	window := o.Policy.WithDefaults().PITR + o.Grace
	for _, id := range slices.Sorted(maps.Keys(c.Logs)) {
		log, another := c.Logs[id], func(b vault.Backup) bool { return b.SystemID != id }
		own := slices.DeleteFunc(slices.Clone(c.Backups), another)
		others := slices.DeleteFunc(slices.Clone(all), func(b vault.Backup) bool { return another(b) || b.Database == o.Database })
		pieces, because := needless(own, out.Fates, log, window, o.Now)
		if len(own)+len(others) == 0 && c.Unseen == nil {
			pieces, because = formerLog(c.Backups, log, window, o.Now)
		}
		pieces = changed.withoutLog(withoutWays(pieces, ways), own, log.SegmentSize)
		pieces = slices.DeleteFunc(pieces, func(p wal.Held) bool { return neededWithin(others, p, log.SegmentSize) })
		if len(c.Logs) > 1 {
			because = fmt.Sprintf("of system %d: %s", id, because)
		}
		out.Because = strings.TrimPrefix(out.Because+"; "+because, "; ")
		out.Segments += len(pieces)
		if o.DryRun { // else even when nothing is to go: what a lock kept before may be wanted again
			continue
		}
		freed, err := o.Vault.Log(id, log.SegmentSize).Drop(ctx, pieces, o.Now.Add(-o.Grace), o.May)
		out.Freed.Objects += freed.Objects
		out.Freed.Locked += freed.Locked
		if err != nil {
			return err
		}
	}
	return nil
}

// needless are the pieces of log that no backup of the list needs to become consistent, and that lead to no moment
// younger than window. What follows [logBase] stays whole, and so does what follows any backup made since, wherever in
// the log that lies: a restore to the past begins anew at a lower position, and on a timeline of its own, all of which
// stays. Pure.
func needless(backups []vault.Backup, all []Fate, log restore.HeldLog, window time.Duration, now time.Time) (pieces []wal.Held, because string) {
	base, ok := logBase(backups, all, window, now)
	if !ok {
		return nil, "all of it is needed: no proven backup that stays is older than the window and the grace"
	}
	from := base.Start
	for _, b := range backups {
		if !b.Stopped.Before(base.Stopped) {
			from = min(from, b.Start)
		}
	}
	needed := map[string]bool{} // objects; one that holds several pieces stays for each of them
	for _, p := range log.Held {
		if p.Timeline > base.Timeline || p.End > from.SegmentStart(log.SegmentSize) || neededWithin(backups, p, log.SegmentSize) {
			needed[p.Object] = true
		}
	}
	for _, p := range log.Held {
		if !needed[p.Object] {
			pieces = append(pieces, p)
		}
	}
	return pieces, fmt.Sprintf("what follows %s at %s is needed for every moment of the window, and of what is older the log within each backup", base.ID, from)
}

// neededWithin reports whether one of the backups needs a piece of log to become consistent. Pure.
func neededWithin(backups []vault.Backup, p wal.Held, segment uint64) bool {
	return slices.ContainsFunc(backups, func(b vault.Backup) bool { return p.Start <= b.Stop && p.End > b.Start.SegmentStart(segment) })
}

// formerLog are all pieces of the log of a cluster that was made anew, and whose last base backup this run takes off the list: nothing
// can be restored with them any more. rest are the backups of the database that stay, all of other systems. The log stays while none
// of them is proven, and while it is not known to be older than window: a cluster that was restored writes to its log again before
// it has a backup. Pure.
func formerLog(rest []vault.Backup, log restore.HeldLog, window time.Duration, now time.Time) (pieces []wal.Held, because string) {
	if !slices.ContainsFunc(rest, vault.Backup.Validated) {
		return nil, "all of it stays: no backup of another system is proven"
	}
	for _, p := range log.Held {
		if at := log.Covered[p.Timeline].At; at.IsZero() || now.Sub(at) < window {
			return nil, "all of it stays: it is not known to be older than the window and the grace"
		}
	}
	return slices.Clone(log.Held), "it is a former one, and its last base backup goes: nothing can be restored with it"
}

// logBase is the backup from which the log is needed: the newest proven one older than window that the judgement keeps.
// It is the first of its day, for of one day the judgement takes no other as the way to the moments of the window: a later
// one that stays for a pin alone may go while the window still begins at the first. Pure.
func logBase(backups []vault.Backup, all []Fate, window time.Duration, now time.Time) (vault.Backup, bool) {
	stays := map[string]bool{}
	for _, f := range all {
		stays[f.ID] = f.Keep && f.Marked.IsZero()
	}
	var base vault.Backup
	for _, b := range backups {
		if !b.Validated() || !stays[b.ID] || now.Sub(b.Stopped) < window || !b.Stopped.After(base.Stopped) {
			continue
		}
		second := slices.ContainsFunc(backups, func(x vault.Backup) bool {
			return x.ID != b.ID && retention.SameDay(x.Stopped, b.Stopped) && !x.Stopped.After(b.Stopped)
		})
		if !second {
			base = b
		}
	}
	return base, base.ID != ""
}
