package backup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/backup/retention"
	"holdfast/internal/plan"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// FilesPolicyOf is the plan's say on how long backups of a file set stay; false = for ever.
func FilesPolicyOf(b plan.FileBackup) (retention.Policy, bool) {
	p := PolicyOf(plan.Backup{All: b.All, HalfDaily: b.HalfDaily, Daily: b.Daily, Weekly: b.Weekly})
	p.Files = true
	return p, b.Keep == plan.KeepTiers
}

// PruneFiles lets old backups of a file set go in two steps, as [Prune] does for a database: what the tiers do not keep is
// marked, and taken off the list when it still is unwanted after the grace. Each host's directory is judged by itself, and
// recovery points apart from other backups. One counts when nothing is missing in it, and the last such of each kind is never
// let go, nor is the newest point to which the log of its database leads. Of a host from which nothing has come for
// long nothing goes. PruneOptions.Database is the set's name; Points is not used.
func PruneFiles(ctx context.Context, o PruneOptions) (Pruned, error) {
	o = o.withDefaults()
	out := Pruned{Database: o.Database, At: o.Now.UTC(), DryRun: o.DryRun, Grace: o.Grace}
	done := func() {}
	if !o.DryRun {
		done = o.Vault.Insist() // as in Prune
	}
	defer done()
	all, err := o.Vault.FileBackups(ctx, o.Database)
	if err != nil && !o.DryRun {
		done()
		if why := o.Vault.MayDelete(ctx); why != nil {
			return out, why
		}
	}
	if err != nil {
		return out, fmt.Errorf("prune backups of files %s: %w", o.Database, err)
	}
	notes, err := o.Vault.Notes(ctx)
	if err != nil {
		return out, fmt.Errorf("prune backups of files %s: %w", o.Database, err)
	}
	if !o.asPlanned || !o.DryRun {
		if out.Agreed, err = o.agreed(ctx); err != nil {
			return out, err
		}
	}
	reached, err := o.reached(ctx, all)
	if err != nil {
		return out, fmt.Errorf("prune backups of files %s: %w", o.Database, err)
	}
	out.Fates = fileFates(o, all, notes)
	keepReached(out.Fates, all, reached)
	if o.unagreed {
		keepAll(out.Fates)
	}
	if len(all) == 0 {
		return out, nil
	}
	var newest time.Time
	for _, b := range all {
		newest = later(newest, b.Ended)
	}
	behind := behindBy(o.Database, newest, o.Now, cmp.Or(o.Behind, behindMax))
	if !o.asPlanned { // what two persons are asked is what goes by the plan, once it comes again
		keepSilent(out.Fates, all, o.Now, cmp.Or(o.Behind, behindMax))
	}
	if o.DryRun {
		if out.Waits, err = o.waits(ctx, behind); err != nil {
			return out, fmt.Errorf("prune backups of files %s: %w", o.Database, err)
		}
		return out, nil
	}
	if behind != nil {
		return out, behind
	}
	if err := o.Vault.MayLetGo(ctx); err != nil {
		return out, err
	}
	if err := o.carryOut(ctx, out.Fates, o.completeBeside); err != nil {
		return out, fmt.Errorf("prune backups of files %s: %w", o.Database, err)
	}
	return out, nil
}

// series are backups that are judged together.
type series struct {
	host  string
	point bool
}

func seriesOf(b vault.FileBackup) series { return series{b.Host, b.Point != nil} }

// fileFates judges each backup among those of its host and kind, newest first in the end. Pure.
func fileFates(o PruneOptions, all []vault.FileBackup, notes []vault.Note) []Fate {
	noted := map[[2]string]vault.Note{}
	for _, n := range notes {
		noted[[2]string{n.Backup, n.Kind}] = n
	}
	at, by := map[string]time.Time{}, map[string]vault.FileBackup{}
	lists := map[series][]retention.Backup{}
	for _, b := range all {
		_, pinned := noted[[2]string{b.ID, vault.Pin}]
		_, held := noted[[2]string{b.ID, vault.Hold}]
		at[b.ID], by[b.ID] = b.Ended, b
		s := seriesOf(b)
		lists[s] = append(lists[s], retention.Backup{ID: b.ID, At: b.Ended, Validated: b.Complete(), Pinned: pinned, Held: held})
	}
	var out []Fate
	for _, s := range slices.SortedFunc(maps.Keys(lists), func(a, b series) int { return cmp.Compare(a.host, b.host) }) {
		for _, f := range o.judge(lists[s], at, noted) {
			b := by[f.ID]
			if f.Host = b.Host; b.Point != nil {
				f.Point = b.Point.ID
			}
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b Fate) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.ID, a.ID)) })
	return out
}

// reached says of which backups the recovery point can be restored: the log of its database leads to it.
func (o PruneOptions) reached(ctx context.Context, all []vault.FileBackup) (map[string]bool, error) {
	known, out := map[string]restore.Catalogue{}, map[string]bool{}
	for _, b := range all {
		if b.Point == nil {
			continue
		}
		if o.Catalogue == nil {
			out[b.ID] = true
			continue
		}
		c, ok := known[b.Point.Database]
		if !ok {
			var err error
			if c, err = o.Catalogue(ctx, b.Point.Database); err != nil {
				return nil, fmt.Errorf("look whether recovery points can be restored: %w", err)
			}
			known[b.Point.Database] = c
		}
		_, err := restore.ChoosePoint(c, *b.Point)
		out[b.ID] = err == nil
	}
	return out, nil
}

// keepReached keeps of each host the newest complete point that can be restored: a newer one whose log has not arrived, and
// may never arrive, does not stand for it. Pure.
func keepReached(fates []Fate, all []vault.FileBackup, reached map[string]bool) {
	newest := map[string]vault.FileBackup{}
	for _, b := range all {
		if n, ok := newest[b.Host]; b.Complete() && reached[b.ID] && (!ok || b.Ended.After(n.Ended)) {
			newest[b.Host] = b
		}
	}
	for i := range fates {
		if f := &fates[i]; f.Point != "" && !f.Keep && newest[f.Host].ID == f.ID {
			f.Keep, f.Because, f.Goes = true, "the last recovery point that can be restored", time.Time{}
		}
	}
}

// keepSilent keeps what is there of a host from which nothing has come for longer than behind. Pure.
func keepSilent(fates []Fate, all []vault.FileBackup, now time.Time, behind time.Duration) {
	newest := map[string]time.Time{}
	for _, b := range all {
		newest[b.Host] = later(newest[b.Host], b.Ended)
	}
	for i := range fates {
		if f := &fates[i]; !f.Keep && now.Sub(newest[f.Host]) > behind {
			f.Keep, f.Because, f.Goes = true, "nothing has come from "+f.Host+" since "+newest[f.Host].UTC().Format("2006-01-02 15:04 UTC"), time.Time{}
		}
	}
}

func (o PruneOptions) completeBeside(ctx context.Context, f Fate) (string, error) {
	now, err := o.Vault.FileBackups(ctx, o.Database)
	if err != nil || slices.ContainsFunc(now, func(b vault.FileBackup) bool {
		return b.ID != f.ID && b.Complete() && seriesOf(b) == series{f.Host, f.Point != ""}
	}) {
		return "", err
	}
	return "no other one of " + f.Host + " is complete now", nil
}

// UnmarkFiles takes the marks off the backups of a file set that is kept for ever now: else they would count from the first
// look on when it is given tiers again.
func UnmarkFiles(ctx context.Context, v *vault.Vault, set string, may func(context.Context) error) error {
	notes, err := v.Notes(ctx)
	if err != nil {
		return err
	}
	all, err := v.FileBackups(ctx, set)
	if err != nil {
		return err
	}
	for _, n := range notes {
		if n.Kind != vault.Doomed || !slices.ContainsFunc(all, func(b vault.FileBackup) bool { return b.ID == n.Backup }) {
			continue
		}
		if err := may(ctx); err != nil {
			return err
		}
		if err := v.DropNotes(ctx, n.Backup, vault.Doomed); err != nil {
			return err
		}
	}
	return nil
}
