package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/agent"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// vaultKey remembers which vault a name stands for. It is written when the vault is made, so that a disk that is
// not mounted later is a problem and not a reason to begin an empty vault in its place.
func vaultKey(name string) cluster.Key[string] { return cluster.Key[string](agent.KeyVaults + name) }

// copyKey remembers that a copy of a vault has held all of it: when nothing is there later, a disk is not mounted.
func copyKey(name, copied string) cluster.Key[string] {
	return cluster.Key[string](agent.KeyCopies + name + "/" + copied)
}

// VaultConfig says how a vault of the plan is reached: all its copies, with its key. A copy that cannot be reached for
// want of a secret is away; the others go on.
func VaultConfig(ctx context.Context, p *plan.Plan, name string) (vault.Config, error) {
	v, ok := p.VaultNamed(name)
	if !ok || len(v.Copies) == 0 {
		return vault.Config{}, fmt.Errorf("open vault %s: the plan has no such vault", name)
	}
	key, err := Secret(ctx, v.Key)
	if err != nil {
		return vault.Config{}, err
	}
	conf := vault.Config{Name: v.Name, Key: key, Application: p.Application, Deletions: vault.Deletions{TwoPersons: v.TwoPersons}}
	for i, c := range v.Copies {
		place := copyPlace(ctx, v, c)
		if i == 0 {
			first(&conf, place)
		} else {
			conf.Others = append(conf.Others, place)
		}
	}
	return conf, nil
}

// Authority is the certificate by which persons are known, from the directory of a certificate; nil = there is none, and what
// two persons agreed to cannot be told then.
func Authority(certificates string) []byte {
	raw, err := os.ReadFile(filepath.Join(certificates, auth.CACertFile))
	if err != nil {
		return nil
	}
	return raw
}

// first makes a place the one that is asked first.
func first(conf *vault.Config, p vault.Place) {
	conf.Copy, conf.URL, conf.S3, conf.Azure, conf.Trash, conf.Reserve, conf.Unready = p.Copy, p.URL, p.S3, p.Azure, p.Trash, p.Reserve, p.Unready
}

func copyPlace(ctx context.Context, v plan.Vault, c plan.Copy) vault.Place {
	place := vault.Place{Copy: c.Name, URL: c.URL, Trash: v.Undelete, Reserve: v.Reserve}
	if v.Undelete == 0 {
		place.Trash = -1 // the plan's none is none there too, and not the default
	}
	var err error
	if strings.HasPrefix(c.URL, "azblob:") {
		place.Azure, err = azure(ctx, c.URL, c.Azure)
	} else {
		place.S3, err = bucket(ctx, c.S3)
	}
	if err != nil {
		place.Unready = fmt.Errorf("reach copy %s of vault %s: %w", c.Name, v.Name, err)
	}
	return place
}

// openVault opens a vault of the plan, and makes it when the hosts have never agreed on one of this name.
func (h *Host) openVault(ctx context.Context, name string) (*vault.Vault, error) {
	conf, err := h.vaultConfig(ctx, name)
	if err != nil {
		return nil, err
	}
	known, revision, err := vaultKey(name).Load(ctx, h.store)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	conf.ID = known
	v, err := vault.Open(ctx, conf)
	if revision == 0 && isAbsent(err) {
		return founder{h.store, h.cfg.Self, h.clock, h.cfg.Log, h.sleep}.found(ctx, name, conf)
	}
	if err != nil {
		return nil, err
	}
	if revision == 0 {
		_, err = vaultKey(name).Swap(ctx, h.store, 0, v.Identity().ID)
	}
	if err != nil {
		return nil, errors.Join(err, v.Close(ctx))
	}
	return v, nil
}

// vaultConfig is how this host reaches a vault of the plan.
func (h *Host) vaultConfig(ctx context.Context, name string) (vault.Config, error) {
	conf, err := VaultConfig(ctx, h.cfg.Plan, name)
	if err != nil {
		return conf, err
	}
	conf.Host, conf.Log, conf.Keys = h.cfg.Self, h.cfg.Log, &h.keys
	if now, ok := h.plan().VaultNamed(name); ok {
		conf.Deletions.TwoPersons = conf.Deletions.TwoPersons || now.TwoPersons
	}
	conf.Deletions.Authority = Authority(certDir(h.cfg.Dir))
	if len(conf.Others) > 0 {
		err = h.markFilled(ctx, &conf)
	}
	return conf, err
}

// markFilled says of each place whether the vault lay there once.
func (h *Host) markFilled(ctx context.Context, conf *vault.Config) error {
	filled := func(copied string, is *bool) error {
		_, revision, err := copyKey(conf.Name, copied).Load(ctx, h.store)
		if err != nil {
			return fmt.Errorf("open vault %s: %w", conf.Name, err)
		}
		*is = revision > 0
		return nil
	}
	err := filled(conf.Copy, &conf.Filled)
	for i := range conf.Others {
		err = errors.Join(err, filled(conf.Others[i].Copy, &conf.Others[i].Filled))
	}
	return err
}
