package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/vault/store"
	"holdfast/internal/vault/tiers"
)

// pageGrowth is by how much a page grows at least that is merged into another. What is long forgotten goes when all pages are merged,
// so that the catalog is at most about as many times as large as it need be.
const pageGrowth = 4

// mergeCatalog puts small pages into one when they are many, and lets go of them. A large one waits until those that are smaller
// are large enough together: a year of deletions would else be written again with every few backups.
func (v *Vault) mergeCatalog(ctx context.Context) error {
	names, err := v.files.Names(ctx, catalogDir)
	if err != nil || len(names) <= pagesMax {
		return err
	}
	p, err := v.readPages(ctx)
	if err != nil {
		return err
	}
	if len(p.damaged) > 0 {
		return errors.Join(p.damaged...) // they may come back from another copy
	}
	chosen := p.toMerge()
	if len(chosen) == 0 {
		return nil
	}
	merged := p.merged(chosen, time.Now())
	name, err := v.putPage(ctx, merged)
	if err != nil {
		return err
	}
	if err := v.standsEverywhere(ctx, name); err != nil {
		return err
	}
	if err := v.letGoOfCovered(ctx, p.sizes, merged); err != nil {
		return err
	}
	for n, one := range p.live { // of an earlier merge that was cut off, or while a copy was away
		if slices.Contains(chosen, n) || !slices.ContainsFunc(one.Covers, func(of string) bool { _, ok := p.sizes[of]; return ok }) {
			continue
		}
		if err := v.standsEverywhere(ctx, n); err != nil {
			return err
		}
		if err := v.letGoOfCovered(ctx, p.sizes, one); err != nil {
			return err
		}
	}
	return nil
}

// letGoOfCovered lets go of the pages that one covers, where they are listed still.
func (v *Vault) letGoOfCovered(ctx context.Context, listed map[string]int64, by page) error {
	for _, n := range by.Covers {
		if _, ok := listed[n]; !ok {
			continue // an earlier merge has let go of it
		}
		if err := v.letGo(ctx, n); err != nil {
			return err
		}
		delete(listed, n)
	}
	return nil
}

// toMerge names the pages that are made into one; none while few count.
func (p pages) toMerge() []string {
	if len(p.live) <= pagesMax {
		return nil
	}
	names := slices.Sorted(maps.Keys(p.live))
	sizes := make([]int64, len(names))
	for i, n := range names {
		sizes[i] = p.sizes[n]
	}
	var out []string
	for _, i := range tiers.Joined(sizes, pageGrowth) {
		out = append(out, names[i])
	}
	return out
}

// doneKept is for how long a row stays in its page that outdoes others and is not needed without them: another host may be merging
// pages at this moment that have those, and not have seen it. One that has seen it leaves those out, in whichever page it is. What a
// row says may have been long ago when it is written.
const doneKept = 24 * time.Hour

// merged is the page that takes the place of those chosen. All pages that count say the same with it as they did with them.
// What was merged is named for as long as a copy may bring it back that was away since: a large page may have lain there for long
// before it was.
func (p pages) merged(chosen []string, now time.Time) page {
	old := now.Add(-goneKept)
	all := p.catalog()
	some := catalog{rows: map[string]row{}, intents: map[string]row{}}
	var out page
	since, fresh := map[string]int64{}, map[row]bool{}
	for _, n := range chosen {
		some.add(p.live[n].rows)
		if madeAt(n).After(now.Add(-doneKept)) {
			for _, r := range p.live[n].rows {
				fresh[r] = true
			}
		}
		since[n] = now.Unix()
		for of, at := range p.live[n].covered(n) {
			if _, listed := p.sizes[of]; listed || time.Unix(at, 0).After(old) {
				since[of] = max(since[of], at)
			}
		}
	}
	out.covering(since)
	elsewhere := p.elsewhere(chosen, some)
	done := func(r row) bool {
		return !elsewhere[r.Name] && !fresh[r] && !time.Unix(r.At, 0).After(now.Add(-doneKept))
	}
	for n, r := range some.rows {
		forgotten := r.Gone && done(r) && (!time.Unix(r.At, 0).After(old) || all.bundles.covers(n))
		if r == all.rows[n] && !forgotten {
			out.rows = append(out.rows, r)
		}
	}
	for n, i := range some.intents {
		r, ok := all.rows[n]
		outdone := i != all.intents[n] || ok && (r.At > i.At || r.Gone && r.At == i.At)
		if !outdone && (all.mayBeGone(n) || !done(i)) {
			out.rows = append(out.rows, i)
		}
	}
	slices.SortFunc(out.rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Intent, b.Intent)) })
	return out
}

// elsewhere are those blobs of some of which pages speak too that are not chosen: there it may stand that one is there, which what the
// chosen pages say must go on to outdo.
func (p pages) elsewhere(chosen []string, some catalog) map[string]bool {
	out := map[string]bool{}
	for n, one := range p.live {
		if slices.Contains(chosen, n) {
			continue
		}
		for _, r := range one.rows {
			_, row := some.rows[r.Name]
			_, intent := some.intents[r.Name]
			if row || intent {
				out[r.Name] = true
			}
		}
	}
	return out
}

// standsEverywhere errs unless a page can be read back, and is listed, in each copy that answers; where it lacks, it is stored. What
// cannot be read back stands for nothing.
func (v *Vault) standsEverywhere(ctx context.Context, name string) error {
	raw, err := store.Read(ctx, v.files, name)
	if err == nil {
		_, err = v.openPage(name, raw)
	}
	if err != nil {
		return err
	}
	if err := v.isListed(ctx, v.files, name); err != nil {
		return err
	}
	v.pages.put(name, raw)
	if v.members == nil {
		return nil
	}
	for _, m := range v.members.Members() {
		if m.Away != nil {
			continue
		}
		if err := m.Store.Put(ctx, name, store.Bytes(raw)); err != nil {
			return fmt.Errorf("copy %s: %w", m.Name, err)
		}
		if err := v.isListed(ctx, m.Store, name); err != nil {
			return fmt.Errorf("copy %s: %w", m.Name, err)
		}
	}
	return nil
}
