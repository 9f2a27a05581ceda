package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

func filesPruneCommand() *cobra.Command {
	w := &pruneWords{room: "files", judge: application.judgeFiles}
	cmd := &cobra.Command{
		Use:   "prune NAME",
		Short: "Say of each backup of a file set why it stays or goes, and let go of what is not to stay",
		Long: `Judges every backup by the plan's tiers (keep: tiers, and all, half_daily, daily, weekly), pins and holds, and says why. Each
host's directory is judged by itself, and recovery points apart from other backups. Then the host that looks after the vault
carries it out, as it does by itself at the hours of upkeep: in two steps, with 72 hours between a backup's mark and its end.
The last backup of each host in which nothing is missing never goes. What a recovery point needs of its database stays for as
long as the point does.`,
		Example: `  holdfast files prune attachments --dry-run
  holdfast files prune attachments --dry-run --output json | jq '.judged.backups[] | select(.keep | not)'
  holdfast files prune attachments --yes`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: w.run,
	}
	w.add(cmd)
	return cmd
}

// judgeFiles judges from what the vault holds now, and changes nothing.
func (a application) judgeFiles(ctx context.Context, name string) (backup.Pruned, error) {
	s, err := a.fileSet(name)
	if err != nil {
		return backup.Pruned{}, err
	}
	policy, tiers := backup.FilesPolicyOf(s.Backup)
	if !tiers {
		return backup.Pruned{}, keptForEver(s)
	}
	v, err := a.openVault(ctx, s.Backup.Vault)
	if err != nil {
		return backup.Pruned{}, err
	}
	defer closeVault(ctx, v)
	return backup.PruneFiles(ctx, backup.PruneOptions{Vault: v, Database: name, Policy: policy, Now: time.Now(), Behind: backup.FilesBehindOf(s.Backup), DryRun: true, Catalogue: a.catalogue})
}

// catalogue is what the vault of a database's backups holds of it. One that the plan does not back up has none.
func (a application) catalogue(ctx context.Context, name string) (restore.Catalogue, error) {
	b, ok := a.plan.BackupOf(name)
	if !ok {
		return restore.Catalogue{}, nil
	}
	v, err := a.openVault(ctx, b.Vault)
	if err != nil {
		return restore.Catalogue{}, err
	}
	defer closeVault(ctx, v)
	return restore.Load(ctx, v, name)
}

func keptForEver(s plan.FileSet) error {
	return &problem.Problem{Code: "files.kept-forever", Subject: s.Name, Severity: problem.Note, Title: "the plan keeps its backups for ever",
		Meaning: "Every one stays, and nothing was changed.", Remedy: "give it keep: tiers below backup." + s.Name + " in the plan, with all, half_daily, daily and weekly where the defaults do not fit"}
}

// pointsOf are the recovery points of a database: those of the file sets that are joined with it as their vaults say now, others
// as the host that looks after the vault last heard of them. It notes nothing.
func (a application) pointsOf(ctx context.Context, v *vault.Vault, database string) ([]vault.Point, error) {
	o := backup.Elsewhere{Open: a.openVault}
	for _, s := range a.plan.Files {
		if s.Moment.Database == database && s.Backup.Vault != "" && !slices.Contains(o.Joined, s.Backup.Vault) {
			o.Joined = append(o.Joined, s.Backup.Vault)
		}
	}
	o.Vaults = o.Joined
	points, _, err := backup.PointsOf(ctx, v, database, o)
	return points, err
}
