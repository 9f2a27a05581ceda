package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/consent"
	"holdfast/internal/vault/store"
)

// skewMax is by how much the clock here and the one of a copy's place may differ.
const skewMax = 5 * time.Minute

// rightFile is the one blob that a test of deleting stores and deletes.
const rightFile = "check.delete"

// MayLetGo is nil when this host may let go of what is no longer wanted: the clocks agree, [Vault.MayDelete] has nothing
// against it, two persons agreed for how long things stay where two must, and the credentials have the right to delete. Without
// that right everything stays, listed as it is.
func (v *Vault) MayLetGo(ctx context.Context) error {
	ctx = store.LettingGo(ctx)
	if v.guard == nil {
		return fmt.Errorf("let go of what is old in vault %s: %w", v.name, ErrReadOnly)
	}
	if err := v.MayDelete(ctx); err != nil {
		return err
	}
	terms, err := v.Terms(ctx)
	if err == nil && terms != nil {
		err = v.undeletes(terms.Undelete)
	}
	if err != nil {
		return err
	}
	open, _ := v.copiesAlone() // each answers, or MayDelete had refused
	for _, c := range slices.Sorted(maps.Keys(open)) {
		if err := v.mayLetGoIn(ctx, open[c]); err != nil {
			return err
		}
	}
	return nil
}

// undeletes refuses where two persons agreed that what is deleted can be brought back, and a directory here would keep nothing. One
// that keeps it for a shorter time does not end it sooner: see emptyTrash.
func (v *Vault) undeletes(agreed time.Duration) error {
	for c, place := range v.rawPlaces() {
		if e, ok := place.(store.Expunger); !ok || agreed <= 0 || e.Keeps() > 0 {
			continue
		}
		p := NotAgreed(v.name, consent.Deed{Kind: consent.Retention})
		p.Title = fmt.Sprintf("undelete is none in the plan (copy %q), and two persons agreed that what is deleted can be brought back for %s", c, agreed)
		return p
	}
	return nil
}

// mayLetGoIn asks one copy: what it is tried with belongs to that copy alone.
func (v *Vault) mayLetGoIn(ctx context.Context, place store.Store) error {
	if err := place.Replace(ctx, rightFile, store.Bytes("may this be deleted?")); err != nil {
		return fmt.Errorf("write to vault %s: %w", v.name, err)
	}
	now := time.Now()
	info, err := place.Stat(ctx, rightFile)
	if err != nil {
		return fmt.Errorf("ask vault %s for its time: %w", v.name, err)
	}
	if err := v.compareClocks(now, info.ModTime); err != nil {
		return err
	}
	err = place.Delete(ctx, rightFile)
	if errors.Is(err, store.ErrDenied) {
		return &problem.Problem{Code: "vault.no-right-to-delete", Subject: v.name, Severity: problem.Degraded,
			Title:   "the credentials have no right to delete: " + err.Error(),
			Meaning: "Nothing is let go and the vault grows. Backups and the log go on.",
			Remedy:  "give the copy credentials below delete in the plan"}
	}
	if err != nil {
		return fmt.Errorf("try to delete in vault %s: %w", v.name, err)
	}
	return nil
}

// compareClocks compares the clock here with the one by which a place dates what it stores.
func (v *Vault) compareClocks(here, there time.Time) error {
	if skew := here.Sub(there).Abs(); skew > skewMax {
		return &problem.Problem{Code: "vault.clock", Subject: v.name, Severity: problem.Degraded,
			Title:   fmt.Sprintf("the clock here and the vault's differ by %s", skew.Round(time.Second)),
			Meaning: "Nothing is let go: what is old by a wrong clock may be new. Backups and the log go on.",
			Remedy:  "set the clock of this host right (chronyc tracking), or that of the vault's machine"}
	}
	return nil
}
