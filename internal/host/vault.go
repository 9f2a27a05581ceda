package host

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// vaultKey remembers which vault a name stands for. It is written when the vault is made, so that a disk that is
// not mounted later is a problem and not a reason to begin an empty vault in its place.
func vaultKey(name string) cluster.Key[string] { return cluster.Key[string](agent.KeyVaults + name) }

// VaultConfig says how a vault of the plan is reached: its first copy, with its key.
func VaultConfig(ctx context.Context, p *plan.Plan, name string) (vault.Config, error) {
	v, ok := p.VaultNamed(name)
	if !ok || len(v.Copies) == 0 {
		return vault.Config{}, fmt.Errorf("open vault %s: the plan has no such vault", name)
	}
	return PlaceOf(ctx, p, v, v.Copies[0])
}

// openVault opens a vault of the plan, and makes it when the hosts have never agreed on one of this name.
func (h *Host) openVault(ctx context.Context, name string) (*vault.Vault, error) {
	conf, err := VaultConfig(ctx, h.cfg.Plan, name)
	if err != nil {
		return nil, err
	}
	conf.Host, conf.Log = h.cfg.Self, h.cfg.Log
	known, revision, err := vaultKey(name).Load(ctx, h.store)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	v, err := vault.Open(ctx, conf)
	if absent := (*problem.Problem)(nil); revision == 0 && errors.As(err, &absent) && absent.Code == "vault.absent" {
		v, err = vault.Create(ctx, conf)
	}
	if err != nil {
		return nil, err
	}
	if id := v.Identity().ID; revision == 0 {
		_, err = vaultKey(name).Swap(ctx, h.store, 0, id)
	} else if id != known {
		err = &problem.Problem{
			Code: "vault.exchanged", Subject: name, Severity: problem.Critical,
			Title:   "another vault lies where this one was: " + id + " instead of " + known,
			Meaning: "Nothing is written to it, so that neither loses anything.",
			Remedy:  "mount the right disk, or correct the copy's place in the plan",
		}
	}
	if err != nil {
		return nil, errors.Join(err, v.Close(ctx))
	}
	return v, nil
}
