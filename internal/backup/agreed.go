package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/consent"
)

// agreed makes the policy keep at least what two persons agreed to, in a vault where two must agree, and says what of the
// plan waits for that. A run that only judges goes on where they have not agreed, and says so.
func (o *PruneOptions) agreed(ctx context.Context) (string, error) {
	terms, err := o.Vault.Terms(ctx)
	if err == nil && terms == nil {
		return "", nil
	}
	var tiers map[string]time.Duration
	if err == nil {
		var known bool
		if tiers, known = terms.Keeps[o.Database]; !known { // the plan has it since then
			o.unagreed = true
			return "two persons have not agreed how long backups of " + o.Database + " stay: all of them do, and all of its log", nil
		}
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok && o.DryRun && p.Code == "vault.paper-lost" {
		return p.Title + ": nothing goes until two persons set them aside", nil
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok && o.DryRun && p.Code == "vault.needs-two-persons" {
		return "two persons have not agreed how long backups of " + o.Database + " stay: none goes until they do", nil
	}
	if err != nil {
		return "", err
	}
	var shorter []string
	o.Policy, shorter = o.Policy.AtLeast(tiers)
	if len(shorter) == 0 {
		return "", nil
	}
	own := o.Policy.Tiers()
	for i, name := range shorter {
		shorter[i] = name + " " + plan.FormatDuration(own[name])
	}
	return "the plan is shorter than what two persons agreed to, which counts until they agree to less: " + strings.Join(shorter, ", "), nil
}

// keepAll keeps what nobody agreed may go. Pure.
func keepAll(all []Fate) {
	for i := range all {
		if f := &all[i]; !f.Keep {
			f.Keep, f.Because, f.Goes = true, "two persons have not agreed how long it stays", time.Time{}
		}
	}
}

// TermsOf is for how long the plan keeps what goes to one of its vaults.
func TermsOf(p *plan.Plan, v plan.Vault) consent.Terms {
	t := consent.Terms{Undelete: v.Undelete, Keeps: map[string]map[string]time.Duration{}}
	for _, b := range p.Backups {
		if b.Vault == v.Name {
			t.Keeps[b.Of] = PolicyOf(b).Tiers()
		}
	}
	for _, s := range p.Files {
		if policy, tiers := FilesPolicyOf(s.Backup); tiers && s.Backup.Vault == v.Name {
			t.Keeps[s.Name] = policy.Tiers()
		}
	}
	return t
}

// RetentionDeed is that the vault keeps things as the plan says from now on: what that changes, and which backups are not kept
// any more by it, one by one.
func RetentionDeed(ctx context.Context, v *vault.Vault, p *plan.Plan, now time.Time) (consent.Deed, error) {
	of, ok := p.VaultNamed(v.Name())
	if !ok {
		return consent.Deed{}, fmt.Errorf("the plan has no vault %s", v.Name())
	}
	asked, err := v.Requested(ctx, now)
	if err != nil {
		return consent.Deed{}, err
	}
	terms := TermsOf(p, of)
	before := consent.Terms{}
	if asked.Terms != nil {
		before = *asked.Terms
	}
	items := changes(before, terms)
	for _, b := range p.Backups {
		if b.Vault != v.Name() {
			continue
		}
		points, _, err := PointsOf(ctx, v, b.Of, Elsewhere{}) // in other vaults as they were last asked
		if err != nil {
			return consent.Deed{}, err
		}
		judged, err := Prune(ctx, PruneOptions{Vault: v, Database: b.Of, Policy: PolicyOf(b), Points: points, Now: now, DryRun: true, asPlanned: true})
		if err != nil {
			return consent.Deed{}, err
		}
		items = append(items, going(judged)...)
	}
	for _, s := range p.Files {
		policy, tiers := FilesPolicyOf(s.Backup)
		if s.Backup.Vault != v.Name() || !tiers {
			continue
		}
		judged, err := PruneFiles(ctx, PruneOptions{Vault: v, Database: s.Name, Policy: policy, Now: now, DryRun: true, asPlanned: true})
		if err != nil {
			return consent.Deed{}, err
		}
		items = append(items, going(judged)...)
	}
	return consent.NewDeed(consent.Retention, "", items, &terms), nil
}

// going names what is not kept any more.
func going(judged Pruned) []string {
	var out []string
	for _, f := range judged.Fates {
		if !f.Keep {
			out = append(out, fmt.Sprintf("backup %s of %s goes: %s", f.ID, judged.Database, f.Because))
		}
	}
	return out
}

// changes says in words how terms differ. Pure.
func changes(old, now consent.Terms) []string {
	var out []string
	if old.Undelete != now.Undelete || len(old.Keeps) == 0 {
		out = append(out, fmt.Sprintf("what is deleted can be brought back for %s (was %s)", agreedText(now.Undelete, true), agreedText(old.Undelete, len(old.Keeps) > 0)))
	}
	for _, name := range slices.Sorted(maps.Keys(now.Keeps)) {
		before, known := old.Keeps[name]
		for _, tier := range slices.Sorted(maps.Keys(now.Keeps[name])) {
			if !known || before[tier] != now.Keeps[name][tier] {
				out = append(out, fmt.Sprintf("%s: %s %s (was %s)", name, tier, agreedText(now.Keeps[name][tier], true), agreedText(before[tier], known)))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old.Keeps)) {
		if _, still := now.Keeps[name]; !still {
			out = append(out, name+": the plan does not back it up any more, or keeps it for ever, and nothing of it goes")
		}
	}
	return out
}

func agreedText(d time.Duration, known bool) string {
	switch {
	case !known:
		return "not agreed"
	case d == 0:
		return "none"
	}
	return plan.FormatDuration(d)
}
