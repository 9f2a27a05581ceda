package host

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/plan"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// retainFiles lets go of what the tiers do not keep of the file sets of a vault. A set that is kept for ever is left alone.
func (h *Host) retainFiles(ctx context.Context, v *vault.Vault, r *choreRun) ([]Retained, error) {
	var all []Retained
	var failed []error
	for _, s := range h.plan().Files {
		policy, tiers := backup.FilesPolicyOf(s.Backup)
		if s.Backup.Vault != v.Name() || r.only != "" && r.only != s.Name {
			continue
		}
		if !tiers {
			failed = append(failed, backup.UnmarkFiles(ctx, v, s.Name, r.may))
			continue
		}
		done, err := backup.PruneFiles(ctx, backup.PruneOptions{
			Vault: v, Database: s.Name, Policy: policy, Now: time.Now(), By: h.cfg.Self, May: r.may, Behind: filesBehindMax(s), Log: h.cfg.Log,
			Catalogue: h.catalogue,
		})
		if err != nil {
			failed = append(failed, err)
			continue
		}
		x := retained(done)
		x.Database, x.Files = "", s.Name
		all = append(all, x)
	}
	return all, errors.Join(failed...)
}

// catalogue is all that the vault of a database's backups holds of it. One that the plan does not back up has none.
func (h *Host) catalogue(ctx context.Context, name string) (c restore.Catalogue, err error) {
	b, ok := h.plan().BackupOf(name)
	if !ok {
		return c, nil
	}
	v, err := h.openVault(ctx, b.Vault)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, v.Close(context.WithoutCancel(ctx))) }()
	if c, err = restore.Load(ctx, v, name); err == nil && c.Unseen != nil { // what leads to a point may be where nobody looked
		err = c.Unseen
	}
	return c, err
}

// filesBehindMax is how old the newest backup of a file set in a vault may be before nothing of it is let go.
func filesBehindMax(s plan.FileSet) time.Duration {
	return backup.FilesBehindOf(s.Backup)
}

// pointsOf are the recovery points of a database, in whatever vault they lie, and notes in the vault of its backups what the
// others said: who looks when one of them is in the plan no more knows it from there. When one that may have some cannot be
// asked nothing is known, and nothing may go.
func (h *Host) pointsOf(ctx context.Context, v *vault.Vault, database string, may func(context.Context) error) ([]vault.Point, error) {
	o := backup.Elsewhere{Open: h.openVault}
	for _, s := range h.plan().Files {
		if s.Moment.Database == database && s.Backup.Vault != "" {
			o.Joined = append(o.Joined, s.Backup.Vault)
		}
	}
	for _, x := range h.cfg.Plan.Vaults {
		_, revision, err := vaultKey(x.Name).Load(ctx, h.store)
		if err != nil {
			return nil, err
		}
		if revision > 0 { // else nobody has made it yet, and it is not made for that
			o.Vaults = append(o.Vaults, x.Name)
		}
	}
	for _, name := range o.Joined {
		if !slices.Contains(o.Vaults, name) {
			o.Vaults = append(o.Vaults, name)
		}
	}
	points, note, err := backup.PointsOf(ctx, v, database, o)
	if err == nil {
		err = may(ctx)
	}
	if err == nil {
		err = v.NotePoints(ctx, note)
	}
	if err != nil {
		return nil, err
	}
	return points, nil
}
