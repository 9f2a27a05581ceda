package host

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// copyVault is the plan's vault of a database as a source of copies. It is opened for each copy and only read.
type copyVault struct {
	host     *Host
	database string
}

// Replica implements [postgres.Vault].
func (c copyVault) Replica(ctx context.Context, w postgres.Wanted) (postgres.Replica, error) {
	d, known := c.host.plan().DatabaseNamed(c.database)
	b, ok := c.host.plan().BackupOf(c.database)
	if !known || !ok {
		return nil, fmt.Errorf("restore a copy of %s: the plan backs it up to no vault", c.database)
	}
	v, err := c.open(ctx, b.Vault)
	if err != nil {
		return nil, c.away(b.Vault, err)
	}
	found, err := restore.FindReplica(ctx, v, restore.Wanted{
		Database: c.database, SystemID: w.SystemID, Major: d.Postgres, SegmentSize: w.SegmentSize, Chain: w.Chain,
	})
	if err != nil {
		if p := (*problem.Problem)(nil); !errors.As(err, &p) {
			err = c.away(b.Vault, err)
		}
		return nil, errors.Join(err, v.Close(context.WithoutCancel(ctx)))
	}
	return vaultReplica{found, v, b.Vault}, nil
}

func (c copyVault) open(ctx context.Context, name string) (*vault.Vault, error) {
	conf, err := VaultConfig(ctx, c.host.cfg.Plan, name)
	if err != nil {
		return nil, err
	}
	conf.Host, conf.Log, conf.ReadOnly = c.host.cfg.Self, c.host.cfg.Log, true
	known, revision, err := vaultKey(name).Load(ctx, c.host.store)
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", name, err)
	}
	if revision == 0 {
		return nil, fmt.Errorf("vault %s has not been made yet", name)
	}
	if conf.ID = known; len(conf.Others) > 0 {
		if err := c.host.markFilled(ctx, &conf); err != nil {
			return nil, err
		}
	}
	return vault.Open(ctx, conf)
}

// away says that a vault cannot be read from this host now.
func (c copyVault) away(name string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &problem.Problem{
		Code: "database.no-copy-in-vault", Subject: c.database, Severity: problem.Degraded,
		Title:   fmt.Sprintf("the vault %s cannot give a copy: %s cannot read it: %v", name, c.host.cfg.Self, err),
		Meaning: "Nothing was touched. The next source that copy_from names is asked; the database has one copy less meanwhile.",
		Remedy:  "see what is wrong with it from this host: holdfast vault status " + name,
	}
}

// vaultReplica is a replica with the vault that it is read from.
type vaultReplica struct {
	*restore.Replica
	vault *vault.Vault
	name  string
}

// String implements [postgres.Replica].
func (r vaultReplica) String() string {
	b, proven := r.Backup(), "not proven yet"
	if b.Validated() {
		proven = "proven"
	}
	return fmt.Sprintf("the vault %s (%s, %s)", r.name, b.ID, proven)
}

// Fill implements [postgres.Replica].
func (r vaultReplica) Fill(ctx context.Context, o postgres.FillOrder) error {
	var owner restore.Owner
	if o.UID >= 0 {
		owner = restore.Owner{Set: true, UID: uint32(o.UID), GID: uint32(o.GID)}
	}
	_, err := r.Run(ctx, restore.ReplicaOptions{
		Dir: o.Dir, Owner: owner, Pace: func(ctx context.Context, n int) error { return o.Pay(ctx, int64(n)) }, Histories: o.Histories, Furnish: o.Furnish,
		Spaces: o.Spaces, Made: o.Made,
		Until: func(ctx context.Context) (database.LSN, error) { return o.Until(ctx) },
		Progress: func(p restore.Progress) {
			if p.Phase == "files" {
				o.Progress(replica.Progress{Total: p.Total, Settled: p.Done, Moved: p.Done - p.Kept})
			}
		},
	})
	return err
}

// Close implements [postgres.Replica].
func (r vaultReplica) Close(ctx context.Context) error { return r.vault.Close(ctx) }
